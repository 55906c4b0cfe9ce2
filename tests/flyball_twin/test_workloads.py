from pathlib import Path

import numpy as np
import pytest

from flyball_twin.plant import make_boards
from flyball_twin.workloads import Greedy, Requests, TraceError, TraceReplay, read_requests, scale_trace, work_by_second

BOARDS = make_boards(["h100"] * 4, 8)
RUNNING = np.ones(32, bool)


def requests(count: int = 2000, seconds: float = 300.0) -> Requests:
    random = np.random.default_rng(1)
    at_s = np.sort(random.random(count) * seconds)
    at_s[0] = 0.0
    return Requests(at_s, random.integers(10, 4000, count).astype(float), random.integers(1, 600, count).astype(float))


def test_greedy_wants_the_peak_on_running_gpus_only() -> None:
    running = RUNNING.copy()
    running[3] = False

    demand = Greedy(BOARDS).demand(0.0, running)

    assert demand.compute.sum() == 31.0
    assert demand.compute[3] == 0.0
    assert not demand.is_resident[3]


def test_work_is_conserved_when_it_is_spread_over_seconds() -> None:
    trace = requests()
    prefill, decode = work_by_second(trace)

    assert prefill.sum() == pytest.approx(trace.context_tokens.sum() / 10_000)
    # What would be generated after the last second is cut off.
    assert decode.sum() == pytest.approx(trace.generated_tokens.sum() * 0.0254 / 96, rel=0.05)


def test_one_factor_brings_the_uncapped_fleet_to_the_demanded_mean() -> None:
    replay = scale_trace(BOARDS, requests(), seed=1, mean_site_w=24_000.0, window_s=200)
    full = np.ones(32)
    watts = []
    for second in range(200):
        demand = replay.demand(float(second), RUNNING)
        replay.serve(float(second), 1.0, full, full)
        idle = 1.0 - demand.compute - demand.decode
        gpu_w = demand.compute * demand.compute_w + demand.decode * demand.decode_w + idle * 120.0
        watts.append(1.27 * gpu_w.sum() + 180.0 * 32)

    assert np.mean(watts) == pytest.approx(24_000.0, rel=0.005)
    assert max(watts) > 1.03 * min(watts)


def test_work_that_capped_gpus_could_not_do_waits() -> None:
    replay = TraceReplay(BOARDS, requests(), seed=1, factor=3.0)
    for second in range(30):
        replay.demand(float(second), RUNNING)
        replay.serve(float(second), 1.0, np.full(32, 0.1), np.full(32, 0.1))

    assert replay.prefill_s.sum() > 1.0


def test_the_same_seed_replays_the_same_way() -> None:
    first = TraceReplay(BOARDS, requests(), seed=5, factor=2.0).demand(7.0, RUNNING)
    second = TraceReplay(BOARDS, requests(), seed=5, factor=2.0).demand(7.0, RUNNING)

    assert np.array_equal(first.compute, second.compute)


def test_an_impossible_demand_is_refused_with_the_bound() -> None:
    with pytest.raises(TraceError, match=r"below the .* W that the idle fleet draws"):
        scale_trace(BOARDS, requests(), seed=1, mean_site_w=5_000.0, window_s=60)
    with pytest.raises(TraceError, match=r"brings the fleet to .* W at most"):
        scale_trace(BOARDS, requests(), seed=1, mean_site_w=50_000.0, window_s=60)


def test_a_request_list_is_read_from_its_first_row(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    rows = ["2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.9951690,396,109"]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))

    trace = read_requests(path)

    assert trace.at_s == pytest.approx([0.0, 4.314579])
    assert trace.context_tokens.tolist() == [374.0, 396.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\n1,2,3\n", "line 1: expected the columns"),
        ("t_s,ContextTokens,GeneratedTokens\n", "line 2: expected at least one request"),
        ("t_s,ContextTokens,GeneratedTokens\n0,1,1\nx,2,3\n", "line 3: expected a time and two token counts"),
        ("t_s,ContextTokens,GeneratedTokens\n0,1,1\n1,2\n", "line 3: expected a time and two token counts"),
        ("t_s,ContextTokens,GeneratedTokens\n0,1,nan\n", "line 2: expected finite counts"),
        ("t_s,ContextTokens,GeneratedTokens\n5,1,1\n4,1,1\n", "line 3: is earlier than the line before"),
    ],
)
def test_a_bad_trace_names_file_line_and_expectation(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)

    with pytest.raises(TraceError, match=f"trace.csv: {message}"):
        read_requests(path)


def test_a_missing_trace_is_named() -> None:
    with pytest.raises(TraceError, match=r"/none/trace\.csv: cannot be read: No such file"):
        read_requests("/none/trace.csv")
