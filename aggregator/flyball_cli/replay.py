"""`flyball replay`: make journalled decisions again from their recorded input, and compare."""

import argparse
import json
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from flyball_aggregator.power.journal import hash_input, replay
from flyball_cli.api_client import ApiClient, add_url, client_of

TOLERANCE_W: Final = 0.0005  # orders are integer milliwatts


@dataclass(frozen=True, slots=True)
class Replayed:
    """One decision: whether its input is what was recorded, and whether the same orders came of it."""

    decision: int
    code_version: str
    rule: str
    is_input_intact: bool
    is_same: bool
    orders: int


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `replay`."""
    parser = subparsers.add_parser("replay", help="make journalled decisions again and compare")
    parser.add_argument("decision", type=int, nargs="?", help="its number (default: the newest ones)")
    parser.add_argument("--last", type=int, default=10, help="how many of the newest (default 10)")
    add_url(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Replay and print; 1 where one differs.

    Raises:
        ApiError: no aggregator answers, or the decision is not in its journal.
        WireError: the recorded input is of another version of this program.
    """
    client = client_of(arguments)
    numbers = [arguments.decision] if arguments.decision is not None else newest(client, arguments.last)
    found = [replay_record(client.get(f"/v1/decisions/{number}")) for number in numbers]
    if arguments.json:
        print(json.dumps({"decisions": [asdict(item) for item in found]}, indent=2))
    else:
        print("\n".join(line_of(item) for item in found) or "the journal is empty")
    return 0 if all(item.is_same and item.is_input_intact for item in found) else 1


def newest(client: ApiClient, count: int) -> list[int]:
    """Return the numbers of the newest decisions."""
    return [int(item["id"]) for item in client.get("/v1/decisions", limit=count)["decisions"]]


def replay_record(record: dict[str, Any]) -> Replayed:
    """Make one journalled decision again.

    Raises:
        WireError: its input is not of this version.
    """
    packed = bytes.fromhex(record["input"])
    order = replay(packed).order_milliwatts
    again = sorted(float(order[index]) / 1000 for index in np.flatnonzero(order >= 0))
    recorded = sorted(float(watts) for watts in json.loads(record["orders"]).values())
    is_same = len(again) == len(recorded) and all(
        abs(one - other) < TOLERANCE_W for one, other in zip(again, recorded, strict=True)
    )
    return Replayed(
        decision=int(record["id"]),
        code_version=str(record["code_version"]),
        rule=str(record["rule"]),
        is_input_intact=hash_input(packed) == record["input_hash"],
        is_same=is_same,
        orders=len(recorded),
    )


def line_of(item: Replayed) -> str:
    """Return one decision in a line."""
    verdict = "same" if item.is_same else "DIFFERS"
    intact = "" if item.is_input_intact else ", its input was altered"
    return f"decision {item.decision}: {verdict}, {item.orders} orders, version {item.code_version}{intact}"
