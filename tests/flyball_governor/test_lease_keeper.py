"""The lease keeper: what it allows, reports and persists, event by event."""

from dataclasses import replace

from flyball_governor.lease_keeper import (
    BoundChanged,
    DeviceFacts,
    HostLimitChanged,
    KeeperEffect,
    KeeperRecord,
    KeeperSettings,
    KeeperState,
    LeaseReceived,
    OpenGate,
    Persist,
    QuiesceEnded,
    QuiesceStarted,
    ReleaseReceived,
    RestorePriors,
    SendReport,
    SetBudget,
    ShutGate,
    Started,
    Stopping,
    Tick,
    start,
    step,
)
from flyball_wire.lease import Fence, Lease, Report

ME = "a" * 32
FACTS = DeviceFacts(bound_milliwatts=1_600_000, minimum_milliwatts=1_600_000, maximum_milliwatts=5_600_000)
SETTINGS = KeeperSettings("host", ("gpu",), mode="enforce", ramp_milliwatts_per_s=100_000)


def started(
    settings: KeeperSettings = SETTINGS, record: KeeperRecord | None = None, facts: DeviceFacts = FACTS
) -> KeeperState:
    return start(Started(settings, ME, "boot", 1_000, record, facts))[0]


def lease(watts: int | None, seq: int, *, stamp_ms: int = 1_000, to: str = ME, safe: int = 2_000_000) -> Lease:
    return Lease("host", to, Fence(1, seq), watts, safe, stamp_ms, 10_000, 30_000, 100_000)


def leased(watts: int = 4_000_000) -> KeeperState:
    return step(started(), LeaseReceived(lease(watts, 1), 1_100))[0]


def report_in(effects: tuple[KeeperEffect, ...]) -> Report:
    return next(effect.report for effect in effects if isinstance(effect, SendReport))


def budget_in(effects: tuple[KeeperEffect, ...]) -> int | None:
    return next((effect.milliwatts for effect in effects if isinstance(effect, SetBudget)), None)


def test_a_booted_host_stays_gated_at_its_minimum_until_a_lease_names_it() -> None:
    state = started(facts=replace(FACTS, bound_milliwatts=5_600_000))

    assert not state.is_gate_open
    assert state.allowed_milliwatts == 1_600_000
    assert not step(state, LeaseReceived(lease(4_000_000, 1, to="b" * 32), 1_100))[0].is_gate_open


def test_a_lease_is_on_disk_before_the_budget_moves_and_the_report_goes_last() -> None:
    _, effects = step(started(), LeaseReceived(lease(4_000_000, 1), 1_100))

    assert [type(effect) for effect in effects] == [Persist, SetBudget, OpenGate, SendReport]
    report = report_in(effects)
    assert (report.fence, report.bound_milliwatts, report.is_gated) == (Fence(1, 1), 4_000_000, False)


def test_an_equal_or_older_lease_is_answered_and_changes_nothing() -> None:
    state = leased()
    after, effects = step(state, LeaseReceived(lease(5_000_000, 1), 1_200))

    assert (after.allowed_milliwatts, after.fence) == (state.allowed_milliwatts, state.fence)
    assert report_in(effects).bound_milliwatts == 4_000_000


def test_a_lowering_is_reported_at_the_read_back_bound_until_it_has_come_down() -> None:
    state, _ = step(leased(), BoundChanged(replace(FACTS, bound_milliwatts=4_000_000), 1_200))
    state, effects = step(state, LeaseReceived(lease(3_000_000, 2, stamp_ms=1_100), 1_300))

    assert report_in(effects).bound_milliwatts == 4_000_000
    state, effects = step(state, BoundChanged(replace(FACTS, bound_milliwatts=2_900_000), 1_400))
    assert report_in(effects).bound_milliwatts == 3_000_000


def test_stamps_of_an_incarnation_strictly_rise() -> None:
    state, first = step(leased(), Tick(50_000))
    _, second = step(state, LeaseReceived(lease(4_000_000, 1), 50_000))

    assert report_in(second).stamp_ms > report_in(first).stamp_ms


def test_a_lease_past_its_life_or_with_a_stamp_never_sent_is_dead_on_arrival() -> None:
    state = leased()

    assert step(state, LeaseReceived(lease(5_000_000, 2), 11_001))[0].fence == Fence(1, 1)
    assert step(state, LeaseReceived(lease(5_000_000, 2, stamp_ms=9_000), 1_200))[0].fence == Fence(1, 1)


def test_an_expired_lease_holds_then_ramps_to_the_safe_share_and_never_rises() -> None:
    state = leased(2_400_000)
    seen = []
    for now_ms in range(10_000, 60_000, 1_000):
        state, _ = step(state, Tick(now_ms))
        seen.append(state.allowed_milliwatts)

    assert seen == sorted(seen, reverse=True)
    assert state.phase == "safe"
    assert (seen[30], seen[-1]) == (2_400_000, 2_000_000)


def test_a_safe_share_above_what_is_held_raises_nothing() -> None:
    state = step(started(), LeaseReceived(lease(1_700_000, 1, safe=3_000_000), 1_100))[0]

    assert step(state, Tick(100_000))[0].allowed_milliwatts == 1_700_000


def test_a_lease_below_the_minimum_leaves_a_gated_host_gated_and_a_running_one_at_its_minimum() -> None:
    gated = step(started(), LeaseReceived(lease(1_000_000, 1), 1_100))[0]
    running = step(leased(), LeaseReceived(lease(1_000_000, 2), 1_200))[0]

    assert (gated.is_gate_open, gated.allowed_milliwatts) == (False, 1_600_000)
    assert (running.is_gate_open, running.allowed_milliwatts) == (True, 1_600_000)


def test_a_restart_in_the_same_boot_takes_the_lower_of_disk_and_hardware_and_stays_gated() -> None:
    record = KeeperRecord("boot", Fence(1, 7), 3_000_000, 2_000_000, 9_000)
    low = started(record=record, facts=replace(FACTS, bound_milliwatts=2_500_000))
    high = started(record=record, facts=replace(FACTS, bound_milliwatts=5_600_000))

    assert (low.allowed_milliwatts, high.allowed_milliwatts) == (2_500_000, 3_000_000)
    assert not low.is_gate_open
    assert low.fence == Fence(0, 0)


def test_a_record_of_another_boot_says_nothing() -> None:
    record = KeeperRecord("before", Fence(1, 7), 3_000_000, 2_000_000, 9_000)

    assert started(record=record).allowed_milliwatts == 1_600_000


def test_a_boot_share_opens_the_gate_without_a_lease() -> None:
    state = started(replace(SETTINGS, boot_share_milliwatts=2_000_000))

    assert (state.is_gate_open, state.allowed_milliwatts) == (True, 2_000_000)


def test_a_reset_shuts_the_gate_until_caps_are_read_back_and_keeps_the_promise_meanwhile() -> None:
    state, effects = step(leased(), QuiesceStarted("gpu reset", is_idle=True, now_ms=1_200))
    assert isinstance(effects[0], ShutGate)
    assert report_in(effects).bound_milliwatts == 4_000_000

    state, effects = step(state, QuiesceEnded(replace(FACTS, bound_milliwatts=5_600_000), 1_300))
    assert (state.is_gate_open, budget_in(effects)) == (False, 4_000_000)
    state, effects = step(state, BoundChanged(replace(FACTS, bound_milliwatts=4_000_000), 1_400))
    assert state.is_gate_open


def test_a_reset_with_work_on_the_devices_is_reported_at_the_hardware_maximum() -> None:
    _, effects = step(leased(), QuiesceStarted("driver reload", is_idle=False, now_ms=1_200))

    assert report_in(effects).bound_milliwatts == 5_600_000


def test_a_bound_that_rises_by_itself_is_reported_shuts_the_gate_and_is_written_down_again() -> None:
    state, effects = step(leased(), BoundChanged(replace(FACTS, bound_milliwatts=5_600_000), 1_200))

    assert report_in(effects).bound_milliwatts == 5_600_000
    assert (state.is_gate_open, budget_in(effects)) == (False, 4_000_000)


def test_persistence_off_or_no_permission_is_reported_and_admits_no_work() -> None:
    for facts in (replace(FACTS, is_persistent=False), replace(FACTS, can_write=False)):
        state, effects = step(leased(), BoundChanged(facts, 1_200))
        assert not report_in(effects).can_write
        assert not state.is_gate_open


def test_observe_writes_nothing_keeps_the_gate_open_and_reports_the_maximum() -> None:
    state = started(replace(SETTINGS, mode="observe"))
    _, effects = step(state, LeaseReceived(lease(4_000_000, 1), 1_100))

    assert state.is_gate_open
    assert (report_in(effects).mode, report_in(effects).bound_milliwatts) == ("observe", 5_600_000)


def test_prior_values_return_under_a_release_only() -> None:
    state, effects = step(leased(), ReleaseReceived(ME, Fence(1, 2), 1_000, 10_000, 1_200))
    assert any(isinstance(effect, RestorePriors) for effect in effects)
    assert report_in(effects).bound_milliwatts == 5_600_000

    for event in (Stopping(2_000), ReleaseReceived(ME, Fence(1, 1), 1_000, 10_000, 1_200)):
        assert not any(isinstance(effect, RestorePriors) for effect in step(leased(), event)[1])
    assert state.is_released


def test_an_older_key_generation_is_left_alone_and_an_expired_key_may_only_lower() -> None:
    state = step(started(), LeaseReceived(lease(3_000_000, 1), 1_100, key_generation=2))[0]

    old = step(state, LeaseReceived(lease(1_700_000, 2), 1_200, key_generation=1))[0]
    assert old.fence == Fence(1, 1)
    up = step(state, LeaseReceived(lease(5_000_000, 2), 1_200, key_generation=2, is_key_expired=True))[0]
    down = step(state, LeaseReceived(lease(2_000_000, 2), 1_200, key_generation=2, is_key_expired=True))[0]
    assert (up.allowed_milliwatts, down.allowed_milliwatts) == (3_000_000, 2_000_000)


def test_the_hosts_own_limit_lowers_a_leased_host_and_rules_a_standalone_one() -> None:
    lowered, effects = step(leased(), HostLimitChanged(2_000_000, 1_200))
    assert (lowered.allowed_milliwatts, budget_in(effects)) == (2_000_000, 2_000_000)
    assert step(lowered, HostLimitChanged(None, 1_300))[0].allowed_milliwatts == 2_000_000

    alone = started(replace(SETTINGS, is_standalone=True, host_limit_milliwatts=3_000_000))
    assert (alone.phase, alone.allowed_milliwatts, alone.is_gate_open) == ("local", 3_000_000, True)
    assert step(alone, HostLimitChanged(4_000_000, 1_200))[0].allowed_milliwatts == 4_000_000


def test_the_split_may_use_the_lease_less_the_cap_error() -> None:
    state = started(replace(SETTINGS, error_ppm=50_000))
    _, effects = step(state, LeaseReceived(lease(2_100_000, 1), 1_100))

    assert budget_in(effects) == 2_000_000
