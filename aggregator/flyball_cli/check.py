"""`flyball check leases|host`: run the lease protocol's own checks, on the code that governs."""

import argparse
import json
import os
from typing import TYPE_CHECKING

from flyball_twin.lease_check import LeaseCheck, RuleCheck, check_leases, check_rule
from flyball_twin.lease_check_rules import RULE_NAMES
from flyball_twin.lease_check_scopes import SIZES, HostCheck, check_host

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

FAILED = 1


def add_parser(subparsers: "Subparsers") -> None:
    """Add `check` and what it can check."""
    parser = subparsers.add_parser("check", help="check the lease protocol within stated bounds")
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    leases = what.add_parser("leases", help="random fleets under many faults; or one rule left out")
    leases.add_argument("--runs", type=_count, default=100, help="fleets to play (default 100)")
    leases.add_argument("--seed", type=int, default=0, help="seed of the first; the others count up (default 0)")
    leases.add_argument("--without", type=int, choices=sorted(RULE_NAMES), metavar="RULE", help="leave one rule out")
    host = what.add_parser("host", help="every state of one host and its ledger")
    host.add_argument("--size", choices=sorted(SIZES), default="full", help="how far to go (default full)")
    for one in (leases, host):
        one.add_argument("--jobs", type=_count, default=os.cpu_count() or 1, help="processes (default: one a core)")
        one.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check, print, and return 0 if it came out as it must.

    With a rule left out that means: harm was seen, and the same steps do none with the rule in.
    """
    if arguments.what == "host":
        return _print_host(check_host(SIZES[arguments.size], arguments.jobs), as_json=arguments.json)
    if arguments.without is None:
        checked = check_leases(arguments.runs, arguments.seed, jobs=arguments.jobs)
        return _print_leases(checked, as_json=arguments.json)
    rule = check_rule(arguments.without, arguments.runs, arguments.seed, jobs=arguments.jobs)
    return _print_rule(rule, as_json=arguments.json)


def _print_leases(checked: LeaseCheck, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(checked.as_json()))
    else:
        print(
            f"{checked.runs} runs of {checked.seconds_per_run} s, {checked.hosts} hosts: "
            f"{checked.runs_over_limit} over a limit, {checked.late_seconds} late seconds, "
            f"worst {checked.worst_ratio:.4f} of a limit; "
            f"use {checked.mean_use_of_limit:.3f}, with no delay {checked.use_of_zero_delay:.3f}"
        )
    is_sound = not (checked.runs_over_limit or checked.late_seconds or checked.host_seconds_over_commitment)
    return 0 if is_sound else FAILED


def _print_rule(rule: RuleCheck, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(rule.as_json()))
    else:
        print(f"without rule {rule.rule} ({rule.name}): {rule.random.runs_over_limit} of {rule.random.runs} runs over")
        print(f"counterexample, broken: {rule.breaks}; with the rule: {rule.breaks_with_rule or 'nothing'}")
        for number, act in enumerate(rule.counterexample, start=1):
            print(f"  {number}. {act}")
    return 0 if rule.breaks is not None and rule.breaks_with_rule is None else FAILED


def _print_host(checked: HostCheck, *, as_json: bool) -> int:
    plain = checked.as_json()
    if as_json:
        print(json.dumps(plain))
    else:
        print(f"checked within stated bounds: {plain['states']} states, {plain['violations']} violations")
        for scope, found in checked.searches:
            cut = "" if found.is_complete else ", cut at its bound"
            print(f"  {scope.name}: {found.states} states{cut}; {found.violation or 'no violation'}")
            for number, act in enumerate(found.trace, start=1):
                print(f"    {number}. {act}")
    return FAILED if plain["violations"] else 0


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return count
