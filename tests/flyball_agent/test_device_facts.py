"""Facts from devices: recovery action, return codes, counters, links and silence; unknown says nothing."""

from dataclasses import replace

import pytest
from tests.flyball_agent.health_bench import GPU

from flyball_agent.device_facts import DeviceFacts, DeviceSample
from flyball_agent.facts import Fact, Level
from flyball_agent.health_inputs import Progress

GOOD = DeviceSample(
    0.0,
    return_code=0,
    recovery=0,
    clock_reasons=0x4,
    thermal_margin_celsius=20.0,
    uncorrected_errors=0,
    corrected_errors=0,
    is_remap_pending=False,
    is_remap_failed=False,
    pcie_replays=0,
    pcie_width=16,
    pcie_width_max=16,
    pcie_generation=5,
    utilisation_ratio=0.9,
    nvlink_crc_errors=0,
    nvlinks_up=18,
    is_fabric_ready=True,
    speed_to_peers_ratio=1.0,
)


def facts(device: DeviceFacts, *samples: DeviceSample) -> list[Fact]:
    found = [fact for at_s, sample in enumerate(samples) for fact in device.of_sample(GPU, replace(sample, at_s=at_s))]
    return [fact for fact in found if isinstance(fact, Fact) and not (fact.code == "recovery" and fact.is_over)]


def test_a_good_device_gives_no_fact_but_that_it_was_seen() -> None:
    device = DeviceFacts("b")
    assert facts(device, *[GOOD] * 200) == []
    first = list(DeviceFacts("b").of_sample(GPU, GOOD))
    assert Progress(0.0, GPU, "observed") in first


def test_unknown_values_give_no_fact_and_no_sight() -> None:
    assert list(DeviceFacts("b").of_sample(GPU, DeviceSample(0.0))) == []


@pytest.mark.parametrize(
    ("change", "code", "level", "action"),
    [
        ({"return_code": 15}, "lost", Level.QUARANTINED, "reboot_node"),
        ({"return_code": 16}, "reset_required", Level.QUARANTINED, "reset_gpu"),
        ({"recovery": 2}, "recovery", Level.QUARANTINED, "reboot_node"),
        ({"recovery": 4}, "recovery", Level.QUARANTINED, "drain_and_reset"),
        ({"is_remap_failed": True}, "remap_failed", Level.QUARANTINED, "support"),
        ({"is_remap_pending": True}, "remap_pending", Level.DEGRADED, "reset_gpu_when_idle"),
    ],
)
def test_hard_words_of_the_device_count_at_once(change: dict[str, int], code: str, level: Level, action: str) -> None:
    (fact,) = facts(DeviceFacts("b"), replace(GOOD, **change))  # type: ignore[arg-type]
    assert (fact.code, fact.level, fact.action) == (code, level, action)
    assert fact.is_hard is (level is Level.QUARANTINED)


@pytest.mark.parametrize(
    ("change", "polls", "code"),
    [
        ({"clock_reasons": 0x40}, 60, "gauge.thermal"),
        ({"clock_reasons": 0x80}, 60, "gauge.power_brake"),
        ({"thermal_margin_celsius": 0.0}, 30, "gauge.no_thermal_margin"),
        ({"pcie_width": 8}, 3, "gauge.pcie_narrow"),
        ({"is_fabric_ready": False}, 3, "absence.fabric"),
        ({"speed_to_peers_ratio": 0.8}, 30, "gauge.slower_than_peers"),
    ],
)
def test_a_condition_counts_after_its_polls_and_not_before(change: dict[str, float], polls: int, code: str) -> None:
    bad = replace(GOOD, **change)  # type: ignore[arg-type]
    assert code not in [fact.code for fact in facts(DeviceFacts("b"), *[bad] * (polls - 1))]
    assert code in [fact.code for fact in facts(DeviceFacts("b"), *[bad] * polls)]


def test_a_narrow_link_at_rest_and_a_sinking_counter_are_no_fault() -> None:
    idle = replace(GOOD, pcie_width=8, utilisation_ratio=0.0)
    assert facts(DeviceFacts("b"), *[idle] * 20) == []
    samples = [replace(GOOD, pcie_replays=10**9), replace(GOOD, pcie_replays=0)] * 5
    assert all(fact.code == "gauge.pcie_replays" for fact in facts(DeviceFacts("b"), *samples))


def test_new_uncorrected_errors_are_suspicious_and_old_ones_are_not() -> None:
    found = facts(DeviceFacts("b"), *[replace(GOOD, uncorrected_errors=count) for count in (7, 7, 9)])
    assert [(fact.code, fact.level, fact.evidence) for fact in found] == [("ecc.uncorrected", Level.SUSPECT, "2 new")]


def test_a_link_is_missed_against_the_best_count_of_this_gpu() -> None:
    assert facts(DeviceFacts("b"), *[replace(GOOD, nvlinks_up=0)] * 10) == []
    found = facts(DeviceFacts("b"), GOOD, *[replace(GOOD, nvlinks_up=17)] * 3)
    assert [fact.code for fact in found] == ["absence.nvlink"]


def test_a_missing_gpu_is_told_after_three_counts() -> None:
    device = DeviceFacts("b", gpu_count=8)
    found = [fact for at_s in range(3) for fact in device.of_count(7, at_s)]
    assert [(fact.code, fact.evidence) for fact in found] == [("absence.gpu", "7 of 8")]
    assert list(device.of_count(None, 4)) == []


def test_a_silent_sampler_is_slow_then_hung_then_over() -> None:
    device = DeviceFacts("b")
    found = [fact for second in (0, 4, 5, 6, 15, 16, 0) for fact in device.of_silence(float(second), second)]
    assert [(fact.code, fact.is_over) for fact in found] == [
        ("driver.slow", False), ("driver.hung", False), ("driver.slow", True), ("driver.hung", True)
    ]  # fmt: skip
