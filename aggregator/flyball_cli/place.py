"""`flyball place`: replay a published trace against the placement engine."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from flyball_aggregator.placement.errors import RequestError
from flyball_aggregator.placement.replay import replay
from flyball_aggregator.placement.trace import read_hosts, read_jobs
from flyball_fast.placement import POLICIES

FIRST_SEED = 42  # the published runs are numbered from here
BAD_INPUT = 2


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `place` and its subcommands."""
    parser = subparsers.add_parser("place", help="try placements without touching any host")
    commands = parser.add_subparsers(dest="place_command", required=True)
    replayed = commands.add_parser("replay", help="replay a trace of jobs on a list of hosts")
    replayed.add_argument("--nodes", type=Path, required=True, metavar="CSV", help="hosts: sn, cpu_milli, ..., model")
    replayed.add_argument("--jobs", type=Path, required=True, metavar="CSV", help="jobs: name, cpu_milli, ...")
    replayed.add_argument("--policy", choices=sorted(POLICIES), default="qfgd-bestfit")
    replayed.add_argument("--demand", type=float, default=1.3, help="requested GPUs over the fleet's (default 1.3)")
    replayed.add_argument("--seeds", type=int, default=10, help="runs, each with its own host order (default 10)")
    replayed.add_argument("--first-seed", type=int, default=FIRST_SEED, help="number of the first seed (default 42)")
    replayed.add_argument("--json", action="store_true", help="print one JSON object")
    replayed.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the replay and print its means; return 0, or 2 where the input is at fault."""
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    try:
        summary = replay(
            read_hosts(arguments.nodes), read_jobs(arguments.jobs), arguments.policy, arguments.demand, seeds
        )
    except (RequestError, OSError, ValueError) as error:
        print(f"flyball place replay: {error}", file=sys.stderr)
        return BAD_INPUT
    figures = asdict(summary)
    if arguments.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:24} {value:9.2f}" for name, value in figures.items()))
    return 0
