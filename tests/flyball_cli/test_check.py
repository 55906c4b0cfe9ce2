"""`flyball check`: what it prints and how it exits."""

import argparse
import json

import pytest

from flyball_cli import check


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    check.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["check", *words, "--jobs", "1"])
    code: int = arguments.run(arguments)
    return code


def test_a_rule_left_out_prints_its_counterexample_and_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("leases", "--runs", "1", "--without", "3", "--json") == 0

    told = json.loads(capsys.readouterr().out)
    assert told["rule"] == 3
    assert told["counterexample"][-1] == "write 0 0"
    assert told["property_broken"]


def test_leases_in_words_say_what_was_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("leases", "--runs", "1", "--seed", "3") == 0

    assert "0 over a limit, 0 late seconds" in capsys.readouterr().out


def test_host_prints_states_violations_and_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("host", "--size", "smoke", "--json") == 0

    told = json.loads(capsys.readouterr().out)
    assert told["states"] > 500
    assert (told["violations"], told["complete"]) == (0, True)
    assert {"grants", "epochs", "incarnations", "faults"} <= set(told["bounds"][0])


def test_a_rule_that_does_not_exist_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("leases", "--without", "19")

    assert caught.value.code == 2
    assert "19" in capsys.readouterr().err
