"""`flyball power`: hold hosts still: freeze their leases, hand their devices back, or lead them again."""

import argparse
import json
import urllib.parse
from typing import Any

from flyball_cli.api_client import ApiClient, add_url, client_of

HOLDS = {"freeze": "frozen", "release": "released"}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `power` and what it can do."""
    parser = subparsers.add_parser("power", help="freeze hosts, hand their devices back, or lead them again")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    told = {
        "freeze": "keep the lease of each host as it is; no cap changes by it",
        "release": "put prior caps back, once every row has room for the host at its maximum",
        "lead": "lead frozen or released hosts again",
    }
    for action, text in told.items():
        one = actions.add_parser(action, help=text)
        one.add_argument("name", metavar="SITE|RACK|HOST", help="the site, an element, a group or a host")
        add_url(one)
        one.set_defaults(run=run)
    shown = actions.add_parser("holds", help="hosts that are held still")
    add_url(shown)
    shown.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it and print which hosts are held now.

    Raises:
        ApiError: no aggregator answers, it refuses, or the name is not known.
    """
    answer = _ask(client_of(arguments), arguments)
    print(json.dumps(answer, indent=2) if arguments.json else render(answer))
    return 0


def _ask(client: ApiClient, arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.action == "holds":
        return client.get("/v1/holds")
    path = f"/v1/holds/{urllib.parse.quote(arguments.name, safe='')}"
    if arguments.action == "lead":
        return client.delete(path)
    return client.put(path, {"hold": HOLDS[arguments.action]})


def render(answer: dict[str, Any]) -> str:
    """Return who is held, and how far releases are."""
    waiting = sorted(set(answer["released"]) - set(answer["handed_back"]))
    lines = [
        f"frozen: {', '.join(answer['frozen']) or 'none'}",
        f"handed back: {', '.join(answer['handed_back']) or 'none'}",
    ]
    if waiting:
        lines.append(f"release waits for room or an answer: {', '.join(waiting)}")
    return "\n".join(lines)
