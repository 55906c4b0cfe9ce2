"""What every twin command shares: a JSON object or aligned lines on stdout, progress with an estimate on stderr."""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the switch between lines for people and one JSON object."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def print_result(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print figures under their names."""
    if as_json:
        print(json.dumps(result, sort_keys=False))
        return
    width = max(len(name) for name in result)
    for name, value in result.items():
        print(f"{name:<{width}}  {value}")


class ProgressLine:
    """One line on stderr that is written over; silent where stderr is not a terminal."""

    def __init__(self, what: str) -> None:
        """Start the clock."""
        self._what, self._started_s = what, time.monotonic()
        self._is_shown = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is and how long the rest takes."""
        if not self._is_shown:
            return
        gone_s = time.monotonic() - self._started_s
        left_s = gone_s / max(done, 1) * (total - done)
        end = "\n" if done >= total else ""
        bar = "#" * (30 * done // max(total, 1))
        print(f"\r{self._what} [{bar:<30}] {done}/{total}, {left_s:.0f} s left ", end=end, file=sys.stderr, flush=True)
