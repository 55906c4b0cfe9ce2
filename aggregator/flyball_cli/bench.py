"""`flyball bench`: measure this machine on one subject; figures are JSON with --json, and never a gate."""

import argparse

from flyball_cli import bench_budget, bench_host, bench_ingest, bench_isolation, bench_place, bench_reaction

SUBJECTS = (bench_budget, bench_host, bench_ingest, bench_isolation, bench_place, bench_reaction)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `bench` and its subjects."""
    parser = subparsers.add_parser("bench", help="measure this machine on one subject")
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    for subject in SUBJECTS:
        subject.add_parser(subjects)
