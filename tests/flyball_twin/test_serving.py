"""The serving fleet, its load and the policies on it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flyball_twin.load_shape import busiest_hour, noisy, read_trace, sample_trace
from flyball_twin.maxlps import WARM_S, Experiment, RunFigures, run_policy
from flyball_twin.maxlps_study import REFERENCE_RATE, budget_of, mix_of
from flyball_twin.policies import POLICIES
from flyball_twin.serving import LogHistogram, ServingFleet, Setting
from flyball_twin.serving_plants import H100, SERVING_PLANTS, TOKEN_MIXES
from flyball_twin.workloads import TraceError

SHAPE = busiest_hour(sample_trace(), 400, WARM_S)
CHAT = TOKEN_MIXES["chat"]


def make_experiment(accounting: str = "gpu", more: float = 1.4, replicas: int = 60) -> Experiment:
    kind = "gpu" if accounting == "gpu" else "nameplate"
    budget_w = budget_of(H100, "gpu" if kind == "gpu" else "nameplate") * replicas / 250.0
    return Experiment(H100, CHAT, SHAPE, "gpu" if kind == "gpu" else "nameplate", round(replicas * more), budget_w, 0)


def run_at(policy: str, per_board: float, accounting: str = "gpu") -> RunFigures:
    experiment = make_experiment(accounting)
    return run_policy(experiment, policy, REFERENCE_RATE * experiment.replicas / 250.0 * per_board)


def test_a_cap_never_makes_a_replica_draw_more_than_it() -> None:
    fleet = ServingFleet(H100, CHAT, 40, 1, spread_ratio=0.0)

    most = max(fleet.step(180.0, Setting.uniform(40, 450.0)).board_w.max() for _ in range(200))

    assert most <= 450.0 + 1e-9


def test_locked_clocks_slow_both_phases_and_caps_the_hungrier_one_first() -> None:
    fleet = ServingFleet(H100, CHAT, 10, 1)
    fleet.in_flight[:] = 100.0
    full_w = fleet.full_decode_w()

    locked, capped = Setting.uniform(10, 700.0, 0.8), Setting.uniform(10, 560.0)

    assert fleet.decode_power_w(capped, full_w)[0] == full_w[0]
    assert fleet.decode_power_w(locked, full_w)[0] < full_w[0]
    assert fleet.prefill_power_w(capped)[0] < fleet.prefill_power_w(locked)[0]


def test_requests_are_neither_lost_nor_made_up() -> None:
    fleet = ServingFleet(H100, CHAT, 50, 2)
    setting = Setting.uniform(50, 700.0)

    arrived = generated = 0.0
    for _ in range(600):
        served = fleet.step(150.0, setting)
        arrived += served.arrivals.sum()
        generated += served.tokens.sum()

    waiting = fleet.queue_tokens.sum() / CHAT.prompt_tokens + fleet.in_flight.sum()
    assert generated / CHAT.generated_tokens + waiting == pytest.approx(arrived, rel=0.01)


def test_quantiles_of_the_histogram_are_within_a_third_of_a_percent() -> None:
    values = np.random.default_rng(3).lognormal(0.0, 1.0, 50_000)
    histogram = LogHistogram()

    histogram.add(values, np.ones(len(values)))

    for share in (0.01, 0.5, 0.99):
        assert histogram.quantile(share) == pytest.approx(float(np.quantile(values, share)), rel=0.004)


def test_an_empty_histogram_has_no_quantile_but_zero() -> None:
    assert LogHistogram().quantile(0.5) == 0.0


def test_the_busiest_hour_has_mean_one_wherever_the_trace_starts() -> None:
    trace = sample_trace()
    late = replace(trace, at_s=trace.at_s + 123_456.0)

    assert busiest_hour(late, 3600, 600) == pytest.approx(busiest_hour(trace, 3600, 600))
    assert busiest_hour(trace, 3600, 600)[600:].mean() == pytest.approx(1.0)


def test_a_short_trace_is_held_at_its_end() -> None:
    trace = replace(sample_trace(), at_s=np.arange(0.0, 960.0, 5.0))

    assert len(busiest_hour(trace, 3600, 600)) == 4200


def test_the_noise_is_the_same_for_a_seed() -> None:
    assert (noisy(SHAPE, 4) == noisy(SHAPE, 4)).all()
    assert (noisy(SHAPE, 4) != noisy(SHAPE, 5)).any()


def test_a_rate_series_and_a_request_list_are_both_read(tmp_path: Path) -> None:
    series, requests = tmp_path / "series.csv", tmp_path / "requests.csv"
    series.write_text("# note\nt_s,req_per_min_mid,lo,hi\n866,600,1,2\n1299,1200,1,2\n")
    rows = "".join(f"{second}.5,1000,{100 + second % 3}\n" for second in range(300))
    requests.write_text("t_s,ContextTokens,GeneratedTokens\n" + rows)

    rates, listed = read_trace(series), read_trace(requests)

    assert rates.rate.tolist() == [10.0, 20.0]
    assert listed.rate.mean() == pytest.approx(1.0, rel=0.02)
    assert mix_of(listed, CHAT).prompt_tokens == 1000.0
    assert mix_of(rates, CHAT) is CHAT


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("t_s,rate\n1,2\nx,3\n", "line 3"),
        ("t_s,rate\n1,2\n1,3\n", "line 3"),
        ("t_s,rate\n1,2\n2,-3\n", "line 3"),
        ("when,rate\n1,2\n2,3\n", "line 1"),
        ("t_s,rate\n1,nan\n2,3\n", "line 2"),
        ("", "line 1"),
    ],
)
def test_a_wrong_trace_names_file_and_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)

    with pytest.raises(TraceError, match=rf"trace\.csv: {line}"):
        read_trace(path)


def test_a_missing_trace_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="nowhere"):
        read_trace(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_runs_and_counts_its_seconds(policy: str) -> None:
    run = run_at(policy, 0.5)

    assert 0.0 < run.mean_load < 1.6
    assert run.seconds_over_1pct <= run.seconds_over <= 400


def test_ours_stays_under_the_budget_where_the_uncapped_fleet_does_not() -> None:
    uncapped, ours = run_at("maxp", 1.0), run_at("ours", 1.0)

    assert uncapped.seconds_over > 200
    assert ours.seconds_over_1pct == 0


def test_ours_is_faster_than_the_static_cap_at_the_same_load() -> None:
    assert run_at("ours", 0.9).end_to_end_p50_s < run_at("static", 0.9).end_to_end_p50_s


def test_polca_collapses_where_demand_is_above_the_budget() -> None:
    assert run_at("polca_fast", 1.0).end_to_end_p50_s > 2.0 * run_at("static", 1.0).end_to_end_p50_s


def test_the_oracle_passes_the_budget_by_no_more_than_its_arrivals_surprise() -> None:
    assert run_at("oracle", 1.0).max_overshoot < 0.03


@pytest.mark.parametrize("name", sorted(SERVING_PLANTS))
def test_wall_and_board_watts_of_a_plant_are_each_others_inverse(name: str) -> None:
    plant = SERVING_PLANTS[name]

    wall_w = plant.wall_w(5e5, 1000.0)

    assert plant.boards_w(wall_w, 1000.0) == pytest.approx(5e5)
    assert plant.wall_w(8 * plant.board_w, 8.0) < 8 * plant.nameplate_w
