"""`flyball-agent check [--gpu N]`: exit 0 when new work may run, 1 when it must not, 2 when nobody knows."""

import argparse
import sys
import time
from pathlib import Path

from flyball_agent.state_file import DEFAULT_PATH, check_gpu


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = subparsers.add_parser("check", help="exit 0 when new work may run here, 1 when not, 2 when unknown")
    parser.add_argument("--gpu", action="append", help="index, UUID or PCI address; may be given again (default: host)")
    parser.add_argument("--file", type=Path, default=DEFAULT_PATH, help="health file of the agent (%(default)s)")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check the host or some GPUs; the worst answer counts, and refusal is worse than not knowing."""
    try:
        raw: bytes | None = arguments.file.read_bytes()
    except OSError:
        raw = None
    answers = [check_gpu(raw, wanted, time.time()) for wanted in (arguments.gpu or [None])]
    if not arguments.quiet:
        for wanted, (_, text) in zip(arguments.gpu or ["host"], answers, strict=True):
            sys.stdout.write(f"{wanted}: {text}\n")
    codes = [code for code, _ in answers]
    return 1 if 1 in codes else max(codes)
