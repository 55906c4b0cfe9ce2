"""Drills are facts like others, marked from end to end; and every decision can be explained."""

import argparse
from pathlib import Path
from typing import Any

import pytest
from tests.flyball_agent.health_bench import CATALOGUE, GPU, Bench

from flyball_agent.explain import explain_incident
from flyball_agent.fault_keeper import Decision
from flyball_agent.health_inputs import Intent
from flyball_agent.health_record import State
from flyball_agent.inject import DrillError, add_parser, drill_facts, run, take_drills
from flyball_agent.isolation import StepResult
from flyball_agent.isolation_guard import Verdict


@pytest.mark.parametrize(
    ("kind", "value", "state"),
    [
        ("line", "NVRM: Xid (PCI:0000:9b:00): 48, DBE", State.QUARANTINED),
        ("return_code", "15", State.QUARANTINED),
        ("recovery", "1", State.QUARANTINED),
        ("gauge", "gauge.power_brake", State.DEGRADED),
    ],
)
def test_a_drill_moves_the_states_and_is_marked(tmp_path: Path, kind: str, value: str, state: State) -> None:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    words = ["inject", kind, value, "--gpu", GPU.name, "--folder", str(tmp_path)]
    assert run(parser.parse_args(words)) == 0
    (drill,) = take_drills(tmp_path)
    assert list(take_drills(tmp_path)) == []
    bench = Bench()
    for fact in drill_facts(drill, CATALOGUE, at_s=bench.now_s, boot_id="boot-1"):
        bench.give(fact)
    assert bench.state() is state
    assert all(intent.is_injected for intent in bench.intents)
    assert bench.machine.healths[GPU].isolations == []


@pytest.mark.parametrize(
    "drill",
    [
        {},
        {"kind": "line", "value": "all is well"},
        {"kind": "gauge", "value": "gauge.nonsense", "gpu": GPU.name},
        {"kind": "recovery", "value": "9", "gpu": GPU.name},
        {"kind": "return_code", "value": "15", "gpu": "nowhere"},
        {"kind": "return_code", "value": "15"},
    ],
)
def test_a_drill_of_nothing_known_is_an_error(drill: dict[str, Any]) -> None:
    with pytest.raises(DrillError, match="expected"):
        drill_facts(drill, CATALOGUE, at_s=0.0, boot_id="b")


def test_a_broken_drill_file_is_removed_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"{")
    (tmp_path / "b.json").write_bytes(b"[]")
    assert list(take_drills(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_an_incident_is_explained_by_evidence_rule_and_what_is_missing() -> None:
    bench = Bench()
    bench.xid(48, "DBE")
    (incident,) = bench.machine.healths[GPU].incidents
    intent = Intent("isolate", GPU, incident.id, "xid.48")
    decisions = [Decision(bench.now_s, intent, Verdict(True, "within all limits"), (StepResult("slurm", "applied"),))]
    text = "\n".join(explain_incident(bench.machine, decisions, incident.id, bench.now_s))
    for part in ("cause xid.48 x1", "evidence: NVRM: Xid", "did isolate", "within all limits", "slurm: applied"):
        assert part in text
    assert "not released: the cause is not cleared" in text
    assert explain_incident(bench.machine, [], "nonsense", bench.now_s) == []


def test_a_closed_incident_is_explained_too() -> None:
    bench = Bench()
    bench.xid(48)
    (incident,) = bench.machine.healths[GPU].incidents
    bench.order("resume")
    assert explain_incident(bench.machine, [], incident.id, bench.now_s)[-1].startswith("closed at")
