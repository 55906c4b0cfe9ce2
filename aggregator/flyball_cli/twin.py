"""`flyball twin`: try a policy on a simulated site, faster than time."""

import argparse

from flyball_cli import twin_evidence, twin_flex, twin_maxlps, twin_run, twin_size, twin_speed

EXPERIMENTS = (twin_run, twin_maxlps, twin_flex, twin_size, twin_speed, twin_evidence)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand and its experiments."""
    parser = subparsers.add_parser("twin", help="try a policy on a simulated site", description=__doc__)
    nested = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    for experiment in EXPERIMENTS:
        experiment.add_parser(nested)
