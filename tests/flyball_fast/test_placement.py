"""The compiled scorer and its pure twin decide alike on any fleet."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_fast import _placement_c, _placement_py
from flyball_fast.placement import POLICIES

TWINS = [pytest.param(_placement_py.Scorer, id="py"), pytest.param(_placement_c.Scorer, id="c")]


def columns(seed: int, hosts: int = 12, width: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    count = rng.integers(0, width + 1, hosts).astype(np.int32)
    left = rng.choice([0, 250, 300, 460, 1000], (hosts, width)).astype(np.int64)
    left[np.arange(width)[None, :] >= count[:, None]] = 0
    total = rng.integers(8, 97, hosts).astype(np.int64) * 1000
    return {
        "cpu_left": (total * rng.random(hosts)).astype(np.int64),
        "cpu_total": total,
        "memory_left": rng.integers(1000, 9000, hosts).astype(np.int64),
        "gpu_left": left,
        "gpu_memory_left": left * 80,
        "gpu_count": count,
        "model": rng.integers(0, 2, hosts).astype(np.int32),
        "kind_cpu": np.array([4000, 8000, 32000], np.int64),
        "kind_gpus": np.array([1, 1, 2], np.int32),
        "kind_milli": np.array([460, 1000, 1000], np.int64),
        "kind_share": np.array([0.5, 0.3, 0.2]),
        "kind_models": np.array([[1, 1], [1, 0], [1, 1]], np.uint8),
        "idle_w": np.array([30.0, 60.0]),
        "busy_w": np.array([300.0, 700.0]),
        "cpu_scale": 96000.0,
        "gpu_scale": 4000.0,
        "seed": seed,
    }


def surroundings(hosts: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "allowed": (rng.random(hosts) < 0.9).astype(np.uint8),
        "penalty": rng.random(hosts) * 0.01,
        "rows": rng.integers(-1, 3, (hosts, 2)).astype(np.int32),
        "share": rng.random((hosts, 2)),
        "room_w": np.array([150.0, 400.0, 900.0]),
        "need_w": np.array([270.0, 640.0]),
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(sorted(POLICIES.values())), st.integers(0, 3))
def test_twins_choose_the_same_host_and_gpu(seed: int, policy: int, shape: int) -> None:
    asked = [(2000, 100, 1, 250, 0), (1000, 100, 1, 1000, 60000), (4000, 500, 2, 1000, 0), (9000, 100, 0, 0, 0)][shape]
    fleet, around = columns(seed), surroundings(12, seed)
    answers = []
    for twin in (_placement_py.Scorer, _placement_c.Scorer):
        scorer = twin(**fleet)
        request = scorer.add_request(*asked, [1, 1])
        host, gpu = scorer.pick(policy, request, **around, alpha=0.1)
        terms = scorer.terms(policy, request, host, 0.1) if host >= 0 else ()
        answers.append((host, gpu, terms, scorer.fragmentation_milli(), scorer.power_w()))

    assert answers[0][:2] == answers[1][:2]
    assert answers[0][2] == pytest.approx(answers[1][2])
    assert answers[0][3:] == pytest.approx(answers[1][3:])


@pytest.mark.parametrize("twin", TWINS)
def test_full_row_excludes_its_hosts_only(twin: type[_placement_py.Scorer]) -> None:
    fleet = columns(3)
    fleet["gpu_left"][:], fleet["gpu_count"][:], fleet["cpu_left"][:] = 1000, 4, 90000
    scorer = twin(**fleet)
    request = scorer.add_request(0, 0, 1, 1000, 0, [1, 1])
    rows = np.array([[0]] * 6 + [[1]] * 6, np.int32)
    room, need = np.array([100.0, 700.0]), np.array([640.0, 640.0])

    host, _ = scorer.pick(1, request, np.ones(12, np.uint8), np.zeros(12), rows, np.ones((12, 1)), room, need)

    assert host >= 6


@pytest.mark.parametrize("twin", TWINS)
def test_scores_follow_the_columns_after_refresh(twin: type[_placement_py.Scorer]) -> None:
    fleet = columns(5)
    scorer = twin(**fleet)
    before = scorer.fragmentation_milli()
    fleet["gpu_left"][:] = 0
    scorer.refresh_all()

    assert before > 0
    assert scorer.fragmentation_milli() == 0


@pytest.mark.parametrize("twin", TWINS)
def test_wrong_sizes_are_refused_by_name(twin: type[_placement_py.Scorer]) -> None:
    scorer = twin(**columns(1))

    with pytest.raises(ValueError, match="one flag for each of 2"):
        scorer.add_request(0, 0, 1, 1000, 0, [1])
    with pytest.raises(IndexError, match=r"expected 0\.\.11"):
        scorer.refresh(12)
    with pytest.raises(IndexError, match="request 4"):
        scorer.warm(4)
