"""Run every benchmark and print one JSON line for each: `make bench`, or `python -m tests.bench budget place`."""

import json
import subprocess
import sys
import time
from typing import Final

BENCHES: Final[dict[str, tuple[str, ...]]] = {
    "budget": ("bench", "budget", "--gpus", "10368", "--json"),
    "budget-large": ("bench", "budget", "--gpus", "103680", "--runs", "10", "--json"),
    "place": ("bench", "place", "--hosts", "10000", "--gpus", "8", "--json"),
    "host": ("bench", "host", "--gpus", "8", "--hz", "100", "--seconds", "20", "--json"),
    "ingest": ("bench", "ingest", "--hosts", "3000", "--seconds", "30", "--json"),
    "isolation": ("bench", "isolation", "--json"),
    "reaction": ("bench", "reaction", "--json"),
    "leases": ("check", "leases", "--runs", "100", "--json"),
    "twin-speed": ("twin", "speed", "--json"),
    "twin-maxlps": ("twin", "maxlps", "--more", "1.4", "--seconds", "900", "--seeds", "1", "--json"),
    "twin-flex": ("twin", "flex", "--json"),
    "up-greedy": ("up", "--simulated-only", "--port", "0", "--broker-port", "0", "--for", "60", "--json"),
}


def main(names: list[str]) -> int:
    """Run the named benches, or all; returns 1 when one could not run."""
    unknown = sorted(set(names) - set(BENCHES))
    if unknown:
        print(f"no bench {', '.join(unknown)}; there are: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    codes = [run_bench(name) for name in names or BENCHES]
    return int(any(codes))


def run_bench(name: str) -> int:
    """Run one bench and print its figures, its name and how long it took."""
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "flyball_cli", *BENCHES[name]], stdout=subprocess.PIPE, text=True, check=False
    )
    figures = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None
    took_s = round(time.monotonic() - began_s, 1)
    print(json.dumps({"bench": name, "exit_code": done.returncode, "took_s": took_s, "figures": figures}), flush=True)
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
