"""`flyball bench place` measures decisions and prints one JSON object."""

import argparse
import json

import pytest

from flyball_cli import bench_place


def test_bench_prints_figures_of_a_small_site(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    bench_place.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(
        ["place", "--hosts", "512", "--gpus", "8", "--reclaim-hosts", "16", "--rehearse", "1", "--json"]
    )

    assert arguments.run(arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["reclaim_stops"] == 64
    assert figures["single_p99_ms"] > 0
    assert figures["broken"] == 0
