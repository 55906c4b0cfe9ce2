"""`flyball explain host|gpu|row|incident NAME`: cap, limiting row, tier, who has the watts; an incident's story."""

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from flyball_cli.api_client import ApiError, add_url, client_of
from flyball_cli.table import render_table, show_watts


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("explain", help="why a host, GPU or row stands where it stands")
    parser.add_argument("what", choices=("host", "gpu", "row", "incident"))
    parser.add_argument("name", help="of the host or row; HOST/INDEX for a GPU; HOST/ID for an incident")
    add_url(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the explanation.

    Raises:
        ApiError: no aggregator answers, or there is no such thing.
    """
    if arguments.what == "gpu" and "/" not in arguments.name:
        raise ApiError(f"gpu {arguments.name!r}: expected HOST/INDEX, such as host-0/3")
    if arguments.what == "incident" and "/" not in arguments.name:
        raise ApiError(f"incident {arguments.name!r}: expected HOST/ID, as `flyball incidents` names it")
    answer = client_of(arguments).get(f"/v1/explain/{arguments.what}/{arguments.name}")
    print(json.dumps(answer, indent=2) if arguments.json else render(arguments.what, answer))
    return 0


def render(what: str, answer: dict[str, Any]) -> str:
    """Return the explanation as text."""
    if what == "incident":
        return "\n".join(answer["sentences"])
    if what == "row":
        return _row(answer)
    if what == "gpu":
        cap, drawn = show_watts(answer["cap_watts"]), show_watts(answer["power_watts"])
        head = f"{answer['host']} GPU {answer['gpu']}: draws {drawn}, cap {cap}, split by {answer['split_by']}"
        return f"{head}\n{_host(answer['host_lease'])}"
    return _host(answer)


def _host(answer: dict[str, Any]) -> str:
    since = answer["since"]
    shown = "unknown" if since is None else datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds")
    lines = [
        f"{answer['host']}: {answer['sentence']}",
        f"  lease      {show_watts(answer['lease_watts'])} since {shown}",
        f"  committed  {show_watts(answer['committed_watts'])}; safe share {show_watts(answer['safe_watts'])}",
        f"  wants      {show_watts(answer['demand_watts'])}, draws {show_watts(answer['measured_watts'])}",
        f"  may have   {show_watts(answer['floor_watts'])} to {show_watts(answer['ceiling_watts'])}",
        f"  tier       {answer['tier']}, weight {answer['weight']:g}",
        f"  limited by {answer['limiting_row'] or 'nothing'}",
    ]
    return "\n".join([*lines, *_holders(answer["holders"])])


def _row(answer: dict[str, Any]) -> str:
    lines = [
        f"{answer['row']}: {show_watts(answer['committed_watts'])} of {show_watts(answer['limit_watts'])} committed",
        f"  limit by   {answer['limit_source']}",
        f"  leased     {show_watts(answer['leased_watts'])}",
        f"  unmanaged  {show_watts(answer['unmanaged_watts'])}",
        f"  reserve    {show_watts(answer['reserve_watts'])}",
        f"  slack      {show_watts(answer['slack_watts'])}",
        f"  draw       {show_watts(answer['draw_watts'])} by its {answer['draw_source']}",
    ]
    return "\n".join([*lines, *_holders(answer["holders"])])


def _holders(holders: list[dict[str, Any]]) -> list[str]:
    if not holders:
        return []
    lines = [(f"  {holder['host']}", _tier(holder["tier"]), show_watts(holder["wall_watts"])) for holder in holders]
    return ["who has the watts there:", render_table(("  host", "tier", "at the wall"), lines)]


def _tier(tier: int | None) -> str:
    return "-" if tier is None else str(tier)
