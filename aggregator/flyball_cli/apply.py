"""`flyball apply SITE.toml`: make the declared site the led one, without a stop."""

import argparse
import getpass
import json
from pathlib import Path
from typing import Any

from flyball_cli.api_client import add_url, client_of
from flyball_wire.errors import ConfigError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `apply`."""
    parser = subparsers.add_parser("apply", help="make a SITE.toml the running site, without a stop")
    parser.add_argument("site", type=Path, metavar="SITE.toml")
    parser.add_argument("--dry-run", action="store_true", help="only say what would change")
    parser.add_argument("--operator", help="who applies it, for the record (default: the user's name)")
    add_url(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Apply and print what changed.

    Raises:
        ConfigError: the file cannot be read.
        ApiError: the aggregator refuses the site, naming the mistake.
    """
    operator = arguments.operator or getpass.getuser()
    body = {"toml": read_text(arguments.site), "operator": operator, "is_dry_run": arguments.dry_run}
    answer = client_of(arguments).put("/v1/site", body)
    print(json.dumps(answer, indent=2) if arguments.json else render(answer))
    return 0


def read_text(path: Path) -> str:
    """Return the text of a site file.

    Raises:
        ConfigError: it cannot be read as text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def render(answer: dict[str, Any]) -> str:
    """Return the changes, one a line, and what became of them."""
    if not answer["changes"]:
        return "nothing differs from the running site"
    done = f"applied as version {answer['version']}" if answer["is_applied"] else "nothing was applied"
    return "\n".join([*answer["changes"], done])
