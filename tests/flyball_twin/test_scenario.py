"""Scenarios: mistakes, the same bytes for a seed, resuming, events, and speed in the small."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from flyball_cli.__main__ import main
from flyball_twin.html_report import render_report
from flyball_twin.scenario import FleetPart, Goals, Scenario, ScenarioEvent, SitePart, WorkPart, load_scenario
from flyball_twin.scenario_run import ScenarioRun, figures, resume
from flyball_wire.errors import ConfigError

SMALL = Scenario(
    seed=4,
    seconds=150,
    site=SitePart(limit_ratio=0.7, rack_hosts=3),
    fleet=(FleetPart("h100", 4), FleetPart("b200", 2)),
    work=(WorkPart("training", 2, job_hosts=2), WorkPart("serving", 2), WorkPart("greedy", 2, load=1.0)),
)
TEXT = """seed = 4
seconds = 60

[[fleet]]
model = "h100"
hosts = 2

[[work]]
kind = "greedy"
hosts = 2
"""


def run_all(scenario: Scenario) -> ScenarioRun:
    run = ScenarioRun(scenario, Path())
    while not run.is_done:
        run.advance()
    return run


def test_the_same_seed_gives_the_same_bytes_and_another_does_not() -> None:
    first, again, other = run_all(SMALL), run_all(SMALL), run_all(replace(SMALL, seed=5))

    assert json.dumps(figures(first)) == json.dumps(figures(again))
    assert str(first.series) == str(again.series)
    assert figures(first)["mean_w"] != figures(other)["mean_w"]


def test_a_run_taken_up_in_the_middle_ends_the_same(tmp_path: Path) -> None:
    half = ScenarioRun(SMALL, Path())
    while half.second < 70:
        half.advance()
    half.save(tmp_path / "half")

    later = resume(tmp_path / "half")
    while not later.is_done:
        later.advance()

    assert figures(later) == figures(run_all(SMALL))


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "other").write_bytes(pickle.dumps((99, "hello")))

    for name in ("text", "other", "nothing"):
        with pytest.raises(ConfigError, match=name):
            resume(tmp_path / name)


def test_no_row_is_passed_while_the_real_control_leads() -> None:
    result = figures(run_all(SMALL))

    assert result["seconds_over"] == 0
    assert result["over_commitment"] == 0
    assert result["certificate_failures"] == 0
    assert result["goals_missed"] == []


def test_without_control_the_limit_is_passed_and_static_caps_do_less_work() -> None:
    uneven = replace(SMALL, work=SMALL.work[:2])  # two hosts are idle: their watts can work elsewhere
    ours, static = (figures(run_all(replace(uneven, control=name))) for name in ("ours", "static"))
    free = figures(run_all(replace(SMALL, control="none")))

    assert free["seconds_over_1pct"] > 30
    assert static["seconds_over"] == 0
    assert static["work_ratio"] < ours["work_ratio"] - 0.02


@pytest.mark.parametrize(
    "event",
    [
        ScenarioEvent("silent", 50.0, 60.0, hosts=2),
        ScenarioEvent("aggregator_dead", 50.0, 60.0),
        ScenarioEvent("write_failure", 50.0, 60.0, hosts=1),
        ScenarioEvent("meter_loss", 50.0, 60.0),
    ],
    ids=lambda event: event.kind,
)
def test_lost_messages_and_writes_never_pass_the_limit(event: ScenarioEvent) -> None:
    result = figures(run_all(replace(SMALL, event=(event,))))

    assert result["seconds_over_1pct"] == 0
    assert result["over_commitment"] == 0


def test_hosts_are_under_a_dropped_limit_within_seconds() -> None:
    drop = ScenarioEvent("limit", 60.0, 80.0, ratio=0.85)

    run = run_all(replace(SMALL, event=(drop,)))

    over = [second for second, share in enumerate(run.series.over_row) if second >= 60 and share > 1.0]
    assert all(second < 66 for second in over)


def test_watts_that_nobody_owns_are_taken_from_the_hosts() -> None:
    leak = ScenarioEvent("leak", 60.0, 80.0, watts=2000.0)

    run = run_all(replace(SMALL, event=(leak,)))

    assert max(run.series.over_row[70:140]) <= 1.0


def test_a_grid_event_is_followed_at_the_meter() -> None:
    event = ScenarioEvent("grid", 60.0, 90.0, ratio=0.85, within_s=10.0)

    assert figures(run_all(replace(SMALL, event=(event,))))["compliance"] >= 0.95


def test_a_missed_goal_is_named() -> None:
    goals = Goals(work_ratio_least=1.0)

    assert "work_ratio" in figures(run_all(replace(SMALL, goals=goals)))["goals_missed"][0]


def test_the_page_holds_everything_itself() -> None:
    run = run_all(SMALL)

    page = render_report("a <title>", run, [figures(run)])

    assert page.startswith("<!doctype html>")
    assert "a &lt;title&gt;" in page
    assert "<svg" in page
    assert "http" not in page
    assert "What was assumed" in page


@pytest.mark.parametrize(
    ("old", "new", "line", "expected"),
    [
        ("hosts = 2\n\n", "hostss = 2\n\n", 6, "unknown key"),
        ('"h100"', '"h900"', 5, "expected one of a100"),
        ('kind = "greedy"', 'kind = "serving"\ntrace = "none.csv"', 10, "no file beside"),
        ("seconds = 60", "seconds = 1", 2, "seconds"),
        ('kind = "greedy"\nhosts = 2', 'kind = "greedy"\nhosts = 9', 8, "at most the 2"),
        ("seconds = 60", "seconds = [", None, "not TOML"),
        ("[[fleet]]", "[site]\nlimit_w = 5.0\n[[fleet]]", 5, "at least"),
    ],
)
def test_a_mistake_names_file_line_and_what_was_expected(
    tmp_path: Path, old: str, new: str, line: int | None, expected: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(TEXT.replace(old, new, 1))

    with pytest.raises(ConfigError) as caught:
        load_scenario(path)

    assert str(path) in str(caught.value)
    assert expected in str(caught.value)
    assert line is None or f"line {line}:" in str(caught.value)


def test_a_missing_scenario_is_a_configuration_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["twin", "run", str(tmp_path / "gone.toml")]) == 78
    assert "gone.toml" in capsys.readouterr().err


def test_the_command_prints_one_object_and_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, page = tmp_path / "small.toml", tmp_path / "out.html"
    path.write_text(TEXT)

    code = main(["twin", "run", str(path), "--json", "--report", str(page)])

    result = json.loads(capsys.readouterr().out)
    assert code == 0
    assert result["hosts"] == 2
    assert page.read_text().count("<svg") == 3


def test_a_site_file_gives_the_network(tmp_path: Path) -> None:
    hosts = "".join(f'[[hosts]]\nname = "h{number}"\nelement = "feed"\ngpu_model = "h100"\n' for number in range(2))
    (tmp_path / "SITE.toml").write_text('name = "own"\n[[elements]]\nname = "feed"\nrating_w = 9000.0\n' + hosts)
    path = tmp_path / "own.toml"
    path.write_text(TEXT + '\n[site]\nfile = "SITE.toml"\n')

    run = ScenarioRun(load_scenario(path), tmp_path)

    assert run.site.name == "own"
    assert [row.name for row in run.loop.rows] == ["feed"]
