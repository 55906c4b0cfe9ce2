"""`flyball exchange mcp`: the MCP server over an aggregator's API, on stdio or streamable HTTP."""

import argparse
import asyncio
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flyball_aggregator.exchange.mcp_guard import SCOPES, McpGuard, McpLimits
from flyball_cli.api_client import add_url, client_of
from flyball_wire.errors import ConfigError

if TYPE_CHECKING:
    from flyball_aggregator.exchange.mcp_server import McpToken

LEAST_TOKEN: Final = 16  # characters


def add_parser(parts: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the part."""
    parser = parts.add_parser("mcp", help="serve agents by the Model Context Protocol")
    parser.add_argument("--http-port", type=int, help="streamable HTTP on 127.0.0.1 at /mcp; without it stdio")
    parser.add_argument("--tokens", type=Path, help='JSON file for HTTP: {"TOKEN": {"caller": "...", "scopes": [...]}}')
    parser.add_argument("--scopes", default="read", help="of the caller on stdio, such as read,propose (default read)")
    parser.add_argument("--audit", type=Path, default=Path("flyball-mcp-audit.jsonl"), help="every call, a line each")
    parser.add_argument("--read-only-file", type=Path, help="while this file exists nothing is written")
    add_url(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    """Serve until stopped.

    Raises:
        ConfigError: the tokens or scopes cannot be used.
    """
    from flyball_aggregator.exchange.mcp_server import build_mcp  # noqa: PLC0415 - the SDK takes a second to load

    guard = McpGuard(McpLimits(), arguments.audit, arguments.read_only_file)
    tokens = _read_tokens(arguments)
    port = arguments.http_port
    server = build_mcp(
        client_of(arguments),
        guard,
        tokens=tokens,
        local_scopes=_scopes(arguments.scopes.split(",")),
        url=f"http://127.0.0.1:{port}/mcp",
        version=version("flyball"),
    )
    if port is None:
        asyncio.run(server.run_stdio_async())
    else:
        asyncio.run(server.run_streamable_http_async(host="127.0.0.1", port=port, stateless_http=True))
    return 0


def _read_tokens(arguments: argparse.Namespace) -> "tuple[McpToken, ...]":
    from flyball_aggregator.exchange.mcp_server import McpToken  # noqa: PLC0415

    if arguments.http_port is None:
        return ()
    path = arguments.tokens
    if path is None:
        raise ConfigError("--tokens: expected with --http-port; nobody is served without one")
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        tokens = tuple(McpToken(token, str(item["caller"]), _scopes(item["scopes"])) for token, item in plain.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: expected tokens with caller and scopes: {error}") from None
    if not tokens or any(len(item.token) < LEAST_TOKEN for item in tokens):
        raise ConfigError(f"{path}: expected tokens of at least {LEAST_TOKEN} characters")
    return tokens


def _scopes(names: list[str]) -> frozenset[str]:
    unknown = set(names) - set(SCOPES)
    if unknown:
        raise ConfigError(f"scope {min(unknown)!r}: expected some of {', '.join(SCOPES)}")
    return frozenset(names)
