"""`flyball place replay` prints one JSON object and refuses bad input with a sentence."""

import argparse
import json
from pathlib import Path

import pytest

from flyball_cli import place

NODES = "sn,cpu_milli,memory_mib,gpu,model\na,64000,262144,4,T4\nb,64000,262144,4,T4\n"
JOBS = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\n" + "".join(f"j{n},4000,1024,1,1000\n" for n in range(6))


def parsed(folder: Path, *extra: str) -> argparse.Namespace:
    (folder / "nodes.csv").write_text(NODES)
    (folder / "jobs.csv").write_text(JOBS)
    parser = argparse.ArgumentParser()
    place.add_parser(parser.add_subparsers())
    return parser.parse_args(
        ["place", "replay", "--nodes", str(folder / "nodes.csv"), "--jobs", str(folder / "jobs.csv"), *extra]
    )


def test_replay_prints_the_four_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parsed(tmp_path, "--policy", "fgd", "--demand", "1.3", "--seeds", "2", "--json")

    assert arguments.run(arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == {"allocation_percent_mean", "allocation_percent_sd", "kw_at_half_load", "seconds"}
    assert figures["allocation_percent_mean"] == pytest.approx(100)


def test_bad_demand_is_refused_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parsed(tmp_path, "--demand", "0")

    assert arguments.run(arguments) == 2
    assert "demand above 0" in capsys.readouterr().err
