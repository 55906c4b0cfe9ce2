"""The published placement experiment is reproduced within its own spread."""

import csv
import random
from pathlib import Path
from statistics import fmean

import pytest

from flyball_aggregator.placement.errors import RequestError
from flyball_aggregator.placement.fleet import HostShape
from flyball_aggregator.placement.replay import arrivals, replay, run_seed
from flyball_aggregator.placement.trace import TraceJob, expected_kinds, read_hosts, read_jobs

SEEDS = (42, 43)  # two here; the bench runs the published ten


def published(openb: Path, policy: str) -> float:
    with (openb / "published_allocation.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["workload"] == "openb_pod_list_default"]
    return fmean(float(row["130"]) for row in rows if row["sc_policy"] == policy)


def jobs(count: int = 60) -> list[TraceJob]:
    shapes = [(4000, 1, 460), (8000, 1, 1000), (16000, 2, 1000), (2000, 0, 0)]
    return [TraceJob(f"j{n:03}", c, 1000, g, m, ()) for n in range(count) for c, g, m in [shapes[n % 4]]]


@pytest.mark.parametrize(("policy", "name", "tolerance"), [("fgd", "06-FGD", 0.4), ("bestfit", "05-BestFit", 0.4)])
def test_default_trace_allocates_as_published(openb: Path, policy: str, name: str, tolerance: float) -> None:
    trace = read_jobs(openb / "openb_pod_list_default.csv")
    summary = replay(read_hosts(openb / "openb_node_list_gpu_node.csv"), trace, policy, 1.3, SEEDS)

    assert summary.allocation_percent_mean == pytest.approx(published(openb, name), abs=tolerance)
    assert summary.seconds < 2


def test_power_policy_saves_a_tenth_for_at_most_a_point(openb: Path) -> None:
    trace = read_jobs(openb / "openb_pod_list_default.csv")
    fleet = read_hosts(openb / "openb_node_list_gpu_node.csv")
    plain, saving = (replay(fleet, trace, policy, 1.3, SEEDS[:1]) for policy in ("fgd", "qfgd-bestfit-power"))

    assert saving.kw_at_half_load <= 0.9 * plain.kw_at_half_load
    assert saving.allocation_percent_mean >= plain.allocation_percent_mean - 1


def test_arrivals_hold_every_job_once_before_clones(hosts: list[HostShape]) -> None:
    stream = arrivals(jobs(20), 32_000, 1.3, random.Random(1))

    assert sorted(job.name for job in stream[:20]) == [job.name for job in jobs(20)]
    assert sum(job.total_milli for job in stream) <= 1.3 * 32_000


def test_arrivals_of_a_trace_above_the_demand_are_thinned() -> None:
    stream = arrivals(jobs(200), 32_000, 1.3, random.Random(1))

    assert sum(job.total_milli for job in stream) <= 1.3 * 32_000


@pytest.mark.parametrize("policy", ["fgd", "qfgd-bestfit", "spread", "random"])
def test_equal_seeds_give_equal_runs(hosts: list[HostShape], policy: str) -> None:
    runs = [run_seed(hosts, jobs(), policy, 1.3, 7) for _ in range(2)]

    assert runs[0].allocation_percent == runs[1].allocation_percent
    assert runs[0].dropped == runs[1].dropped


def test_expected_kinds_cover_the_frequent_specs_and_sum_to_one() -> None:
    kinds = expected_kinds([*jobs(400), TraceJob("rare", 1, 1, 8, 1000, ())])

    assert len(kinds) == 4
    assert sum(kind.share for kind in kinds) == pytest.approx(1)


def test_unknown_policy_and_missing_columns_are_named(hosts: list[HostShape], tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("name,cpu_milli\na,1\n")

    with pytest.raises(RequestError, match="policy 'tetris' is unknown"):
        replay(hosts, jobs(), "tetris", 1.3, [1])
    with pytest.raises(RequestError, match=r"bad.csv: columns .*num_gpu.* are missing"):
        read_jobs(tmp_path / "bad.csv")
