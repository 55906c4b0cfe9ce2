"""The ledger: commitments, grants and refusals; property L over random transactions."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_aggregator.power.ledger import (
    Alarm,
    ConflictCleared,
    Deposed,
    EpochStarted,
    GrantWanted,
    HostEnrolled,
    HostLedger,
    HostRemoved,
    HostSilent,
    LedgerEffect,
    LedgerEvent,
    LedgerSettings,
    LedgerState,
    LogAbility,
    LogGrant,
    LogMembers,
    OutletLocked,
    OutletUnlockWanted,
    OutOfBandCap,
    Refused,
    ReleaseWanted,
    ReportReceived,
    Row,
    RowLimitChanged,
    RowsChanged,
    SendLease,
    SendRelease,
    TakeEpoch,
    UnlockOutlet,
    commitment_milliwatts,
    headroom_milliwatts,
    largest_grant_milliwatts,
    restore,
    step,
)
from flyball_aggregator.power.ledger_host import MAX_STAIRS, counted_milliwatts, with_grant
from flyball_wire.lease import Fence, Lease, Report

MAXIMUM, MINIMUM = 5_600_000, 1_600_000
HOSTS = ("a", "b", "c")


def report(host: str = "a", **changes: object) -> Report:
    made = Report(
        host=host, incarnation=f"{host}1", boot_id="boot", gpu_uuids=(f"gpu-{host}",), fence=Fence(0, 0),
        bound_milliwatts=MINIMUM, minimum_milliwatts=MINIMUM, maximum_milliwatts=MAXIMUM, stamp_ms=1, mode="enforce",
        is_gated=True, has_foreign_cap=False, can_write=True, lease_watts_milliwatts=None,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


class Site:
    """A ledger with its events applied one after another."""

    def __init__(self, limit: int = 12_000_000, **settings: int) -> None:
        self.state = LedgerState(settings=LedgerSettings(**settings))
        self.now_ms = 0
        self.tell(EpochStarted(1))
        for host in HOSTS:
            self.tell(HostEnrolled(host, MAXIMUM))
        self.rows = (Row("site", limit, 0, tuple((host, 1_000_000) for host in HOSTS)),)
        self.tell(RowsChanged(self.rows))

    def tell(self, event: LedgerEvent) -> tuple[LedgerEffect, ...]:
        self.state, effects = step(self.state, event)
        return effects

    def hear(self, made: Report) -> tuple[LedgerEffect, ...]:
        return self.tell(ReportReceived(made, is_authenticated=True))

    def want(self, host: str, milliwatts: int) -> tuple[LedgerEffect, ...]:
        self.now_ms += 3_000
        return self.tell(GrantWanted(host, milliwatts, MINIMUM, self.now_ms))

    def enrol(self, host: str = "a", bound: int = MINIMUM) -> None:
        self.hear(report(host))
        (lease,) = leases(self.want(host, MINIMUM))
        self.hear(report(host, fence=lease.fence, stamp_ms=2, bound_milliwatts=bound))

    def commitment(self, host: str = "a") -> int:
        return commitment_milliwatts(self.state, host)

    def host(self, name: str = "a") -> HostLedger:
        return self.state.hosts[name]


def leases(effects: tuple[LedgerEffect, ...]) -> list[Lease]:
    return [effect.lease for effect in effects if isinstance(effect, SendLease)]


def refusal(effects: tuple[LedgerEffect, ...]) -> Refused:
    return next(effect for effect in effects if isinstance(effect, Refused))


def ready(limit: int = 12_000_000, **settings: int) -> Site:
    site = Site(limit, **settings)
    for host in HOSTS:
        site.enrol(host)
    return site


def test_a_host_counts_at_its_maximum_until_it_acks_a_probe_that_names_it() -> None:
    site = Site()
    site.hear(report())
    assert site.commitment() == MAXIMUM

    effects = site.want("a", MINIMUM)
    assert leases(effects)[0].watts_milliwatts is None
    assert isinstance(effects[0], LogGrant)
    site.hear(report(fence=leases(effects)[0].fence, stamp_ms=2))
    assert site.commitment() == MINIMUM


def test_a_raise_counts_from_the_log_on_and_a_lowering_from_its_ack() -> None:
    site = ready()
    (up,) = leases(site.want("a", 4_000_000))
    assert site.commitment() == 4_000_000

    site.hear(report(fence=up.fence, stamp_ms=3, bound_milliwatts=4_000_000))
    (down,) = leases(site.want("a", 2_000_000))
    assert site.commitment() == 4_000_000
    site.hear(report(fence=down.fence, stamp_ms=4, bound_milliwatts=2_000_000))
    assert site.commitment() == 2_000_000


def test_a_full_row_refuses_the_raise_and_names_itself() -> None:
    site = ready(limit=6_000_000)
    assert largest_grant_milliwatts(site.state, "a") == 6_000_000 - 2 * MINIMUM

    refused = refusal(site.want("a", 4_000_000))
    assert (refused.reason, refused.row) == ("row_full", "site")
    assert site.commitment() == MINIMUM
    assert leases(site.want("a", 6_000_000 - 2 * MINIMUM))


def test_an_older_report_that_comes_late_changes_nothing() -> None:
    site = ready()
    (up,) = leases(site.want("a", 4_000_000))
    site.hear(report(fence=up.fence, stamp_ms=3, bound_milliwatts=4_000_000))

    assert site.hear(report(fence=Fence(1, 1), stamp_ms=2)) == ()
    assert site.commitment() == 4_000_000


def test_among_equal_fences_the_newest_counts_and_among_equal_stamps_the_lowest() -> None:
    site = ready()
    fence = site.host().fence
    site.hear(report(fence=fence, stamp_ms=9, bound_milliwatts=2_000_000))
    assert site.commitment() == 2_000_000
    site.hear(report(fence=fence, stamp_ms=9, bound_milliwatts=1_700_000))
    site.hear(report(fence=fence, stamp_ms=9, bound_milliwatts=1_900_000))
    assert site.commitment() == 1_700_000


def test_a_report_that_nobody_signed_is_an_alarm_and_nothing_more() -> None:
    site = ready()
    site.want("a", 4_000_000)
    made = report(fence=Fence(1, site.state.seq), stamp_ms=99)

    effects = site.tell(ReportReceived(made, is_authenticated=False))
    assert [type(effect) for effect in effects] == [Alarm]
    assert site.commitment() == 4_000_000


@pytest.mark.parametrize(("field", "value"), [("mode", "observe"), ("has_foreign_cap", True), ("can_write", False)])
def test_a_host_whose_caps_are_not_ours_counts_at_its_maximum_until_they_are(field: str, value: object) -> None:
    site = ready()
    fence = site.host().fence

    site.hear(replace(report(fence=fence, stamp_ms=5), **{field: value}))  # type: ignore[arg-type]
    assert site.commitment() == MAXIMUM
    site.hear(report(fence=fence, stamp_ms=6))
    assert site.commitment() == MINIMUM


def test_a_grant_is_never_logged_below_the_minimum_or_above_the_maximum() -> None:
    site = ready()

    assert refusal(site.want("a", MINIMUM - 1)).reason == "below_minimum"
    assert refusal(site.want("a", MAXIMUM + 1)).reason == "above_maximum"


def test_a_restarted_governor_keeps_the_commitment_until_it_acks_its_own_probe() -> None:
    site = ready()
    site.want("a", 4_000_000)
    site.hear(report(incarnation="a2", stamp_ms=50))
    assert site.commitment() == 4_000_000

    probe = leases(site.want("a", 4_000_000))[0]
    assert (probe.incarnation, probe.watts_milliwatts) == ("a2", None)
    site.hear(report(incarnation="a2", stamp_ms=51, fence=Fence(1, site.state.seq)))
    assert site.host().incarnation == "a2"


def test_a_governor_that_shows_more_than_is_committed_counts_at_what_it_shows() -> None:
    site = ready()
    site.hear(report(incarnation="a2", stamp_ms=50, bound_milliwatts=3_000_000))

    assert site.commitment() == 3_000_000


def test_a_late_report_of_a_dead_governor_is_forgotten_when_the_current_one_acks() -> None:
    site = ready()
    site.hear(report(incarnation="a0", stamp_ms=50, bound_milliwatts=3_000_000))
    site.want("a", 2_000_000)
    site.hear(report(fence=Fence(1, site.state.seq), stamp_ms=9, bound_milliwatts=2_000_000))

    assert site.host().candidate is None
    assert site.commitment() == 2_000_000


def test_two_sets_of_gpus_under_one_id_both_count_at_their_maximum_and_get_no_lease() -> None:
    site = ready(limit=40_000_000)
    effects = site.hear(report(incarnation="x", gpu_uuids=("other",)))

    assert any(isinstance(effect, Alarm) for effect in effects)
    assert site.commitment() == 2 * MAXIMUM
    assert refusal(site.want("a", MINIMUM)).reason == "conflict"
    site.tell(ConflictCleared("a", "operator", ("gpu-a",)))
    assert site.commitment() == MAXIMUM


def test_a_superseded_governor_that_acks_a_new_probe_is_alive_beside_its_successor() -> None:
    site = ready(limit=40_000_000)
    for stamp_ms in (50, 52):
        site.hear(report(incarnation="a2", stamp_ms=stamp_ms))
        site.want("a", MINIMUM)
        site.hear(report(incarnation="a2", stamp_ms=stamp_ms + 1, fence=Fence(1, site.state.seq - stamp_ms % 50 // 2)))
    site.hear(report(stamp_ms=60))
    probe = leases(site.want("a", MINIMUM))[0]
    assert probe.incarnation == "a1"

    site.hear(report(stamp_ms=61, fence=probe.fence))
    assert site.host().conflict is not None


def test_a_governor_that_finds_fewer_gpus_counts_the_missing_ones_at_their_maximum() -> None:
    site = ready()
    site.tell(HostEnrolled("a", MAXIMUM, gpu_uuids=("gpu-a", "gpu-lost")))
    site.hear(report(fence=site.host().fence, stamp_ms=5, maximum_milliwatts=MAXIMUM - 700_000))

    assert site.commitment() == MINIMUM + 700_000


def test_neither_time_nor_a_reading_frees_a_silent_hosts_watts() -> None:
    site = ready()
    site.want("a", 4_000_000)

    assert [type(effect) for effect in site.tell(HostSilent("a", 100_000))] == [Alarm]
    assert site.commitment() == 4_000_000


def test_an_out_of_band_cap_counts_at_that_cap_and_is_lifted_only_where_there_is_room() -> None:
    site = ready(limit=10_000_000)
    site.want("a", 4_000_000)
    site.tell(OutOfBandCap("a", 2_000_000))
    assert site.commitment() == 2_000_000

    site.want("b", 5_000_000)
    assert refusal(site.tell(OutOfBandCap("a", None))).row == "site"
    assert site.commitment() == 2_000_000


def test_a_locked_outlet_frees_everything_and_opens_only_where_the_minimum_fits() -> None:
    site = ready(limit=8_000_000)
    site.want("a", 4_000_000)
    site.tell(OutletLocked("a"))
    assert site.commitment() == 0

    site.want("b", 5_600_000)
    assert refusal(site.tell(OutletUnlockWanted("a"))).row == "site"
    site.tell(RowLimitChanged("site", 12_000_000, 0))
    assert any(isinstance(effect, UnlockOutlet) for effect in site.tell(OutletUnlockWanted("a")))
    assert site.commitment() == MINIMUM


def test_a_report_from_behind_a_locked_outlet_is_believed_only_after_a_probe() -> None:
    site = ready(limit=40_000_000)
    site.tell(OutletLocked("a"))
    site.hear(report(incarnation="a2", stamp_ms=3, bound_milliwatts=4_000_000))
    assert site.commitment() == 0

    probe = leases(site.want("a", MINIMUM))[0]
    effects = site.hear(report(incarnation="a2", stamp_ms=4, bound_milliwatts=4_000_000, fence=probe.fence))
    assert any(isinstance(effect, Alarm) for effect in effects)
    assert site.commitment() == 4_000_000


def test_a_host_that_left_a_row_counts_there_until_its_release_is_acked_and_an_operator_takes_it_out() -> None:
    site = ready(limit=40_000_000)
    site.tell(RowsChanged((Row("site", 40_000_000, 0, (("b", 1_000_000), ("c", 1_000_000))),)))
    assert headroom_milliwatts(site.state, "site") == 40_000_000 - 3 * MINIMUM
    gone = HostRemoved("a", "site", "signed_release", "anna")
    assert refusal(site.tell(gone)).reason == "not_released"

    release = next(effect for effect in site.tell(ReleaseWanted("a", 0)) if isinstance(effect, SendRelease))
    assert site.commitment() == MAXIMUM
    site.hear(report(fence=release.fence, stamp_ms=8, mode="observe"))
    site.tell(gone)
    assert headroom_milliwatts(site.state, "site") == 40_000_000 - 2 * MINIMUM


def test_a_host_that_left_a_row_while_no_ledger_ran_counts_there_all_the_same() -> None:
    site = ready()
    members = next(e.members for e in site.tell(RowsChanged(site.rows)) if isinstance(e, LogMembers))
    state = restore(LedgerSettings(), EpochStarted(2, {1: site.state.seq}), site.state.hosts.values(), members)
    state, _ = step(state, RowsChanged((Row("site", 12_000_000, 0, (("b", 1_000_000), ("c", 1_000_000))),)))

    assert state.carried == (("site", "a"),)
    assert headroom_milliwatts(state, "site") == 12_000_000 - 3 * MINIMUM


def test_a_write_off_needs_a_name_and_ends_all_trust() -> None:
    site = ready()
    assert refusal(site.tell(HostRemoved("a", None, "write_off", ""))).reason == "not_released"

    site.tell(HostRemoved("a", None, "write_off", "anna"))
    site.hear(report(stamp_ms=99, bound_milliwatts=MAXIMUM))
    assert site.commitment() == 0
    assert refusal(site.want("a", MINIMUM)).reason == "revoked"


def test_a_fence_without_a_record_stops_all_grants_until_a_new_epoch_fences_every_host() -> None:
    site = ready(limit=40_000_000)
    effects = site.hear(report(fence=Fence(7, 3), stamp_ms=20))
    assert any(effect == TakeEpoch(7) for effect in effects)
    assert refusal(site.want("b", MINIMUM)).reason == "no_epoch"

    site.tell(EpochStarted(8, {1: 3}, is_restored=True))
    assert [site.commitment(host) for host in HOSTS] == [MAXIMUM] * 3
    site.hear(report(fence=Fence(7, 3), stamp_ms=21))
    site.want("a", MINIMUM)
    site.hear(report(fence=Fence(8, site.state.seq), stamp_ms=22))
    assert site.commitment() == MINIMUM


def test_a_deposed_leader_grants_nothing() -> None:
    site = ready()
    site.tell(Deposed())

    assert refusal(site.want("a", MINIMUM)).reason == "no_epoch"


def test_a_store_without_room_stops_raises_and_lets_lowers_go_on() -> None:
    site = ready()
    site.want("a", 3_000_000)
    site.tell(LogAbility(can_log=False))
    site.hear(report(stamp_ms=40, fence=Fence(1, site.state.seq), bound_milliwatts=3_000_000))

    assert refusal(site.want("a", 4_000_000)).reason == "cannot_log"
    effects = site.want("a", 2_000_000)
    assert [effect.kind for effect in effects if isinstance(effect, LogGrant)] == ["lower"]


def test_a_small_raise_is_left_and_a_small_lowering_is_granted() -> None:
    site = ready(dead_band_milliwatts=50_000)
    site.want("a", 3_000_000)
    site.hear(report(stamp_ms=40, fence=Fence(1, site.state.seq), bound_milliwatts=3_000_000))

    assert leases(site.want("a", 3_040_000))[0].watts_milliwatts == 3_000_000
    assert leases(site.want("a", 2_999_999))[0].watts_milliwatts == 2_999_999


def test_an_unchanged_lease_is_renewed_no_sooner_than_due_and_only_with_a_stamp_to_echo() -> None:
    site = ready()
    site.want("a", 3_000_000)
    assert not site.want("a", 3_000_000)

    site.hear(report(stamp_ms=40, fence=Fence(1, site.state.seq), bound_milliwatts=3_000_000))
    assert not site.tell(GrantWanted("a", 3_000_000, MINIMUM, site.now_ms - 2_000))
    assert leases(site.want("a", 3_000_000))[0].stamp_ms == 40


def test_a_report_of_a_stranger_is_an_alarm_and_a_row_with_one_an_error() -> None:
    site = Site()

    assert [type(effect) for effect in site.hear(report("stranger"))] == [Alarm]
    with pytest.raises(ValueError, match="stranger"):
        site.tell(RowsChanged((Row("site", 1, 0, (("stranger", 1),)),)))


@given(st.lists(st.integers(1, 100), min_size=1, max_size=80), st.integers(0, 80))
@settings(max_examples=60)
def test_the_staircase_counts_like_the_whole_list_of_grants(watts: list[int], fenced: int) -> None:
    host = HostLedger("a", 1000, bound_milliwatts=0)
    for seq, each in enumerate(watts, start=1):
        host = with_grant(host, Fence(1, seq), each)
    left = [grant.milliwatts for grant in host.outstanding if grant.fence > Fence(1, fenced)]

    assert len(host.outstanding) <= MAX_STAIRS
    assert counted_milliwatts(host) == max(watts)
    assert max(left, default=0) >= max(watts[fenced:], default=0)


EVENTS = st.one_of(
    st.tuples(st.just("want"), st.sampled_from(HOSTS), st.integers(MINIMUM, MAXIMUM)),
    st.tuples(st.just("ack"), st.sampled_from(HOSTS), st.integers(MINIMUM, MAXIMUM)),
    st.tuples(st.just("restart"), st.sampled_from(HOSTS), st.integers(2, 5)),
    st.tuples(st.just("flag"), st.sampled_from(HOSTS), st.integers(0, 1)),
    st.tuples(st.just("limit"), st.sampled_from(("site", "ab")), st.integers(5_000_000, 14_000_000)),
    st.tuples(st.just("outlet"), st.sampled_from(HOSTS), st.integers(0, 1)),
    st.tuples(st.just("cap"), st.sampled_from(HOSTS), st.integers(0, MAXIMUM)),
)


@given(st.lists(EVENTS, max_size=60))
@settings(max_examples=80, deadline=None)
def test_no_transaction_lets_a_row_rise_over_its_limit(events: list[tuple[str, str, int]]) -> None:
    """Property L: whatever is asked and heard, a grant never takes a row over; and the running sums are right."""
    site = ready()
    rows = (
        Row("site", 12_000_000, 500_000, tuple((host, 1_000_000) for host in HOSTS)),
        Row("ab", 8_000_000, 100_000, (("a", 1_270_000), ("b", 1_060_000))),
    )
    site.tell(RowsChanged(rows))
    stamp_ms = 100
    for what, name, value in events:
        stamp_ms += 1
        before = site.state
        match what:
            case "want":
                site.want(name, value)
            case "ack":
                site.hear(report(name, fence=Fence(1, site.state.seq), stamp_ms=stamp_ms, bound_milliwatts=value))
            case "restart":
                site.hear(report(name, incarnation=f"{name}{value}", stamp_ms=stamp_ms))
            case "flag":
                fence = site.host(name).fence
                site.hear(report(name, fence=fence, stamp_ms=stamp_ms, has_foreign_cap=value == 1))
            case "limit":
                site.tell(RowLimitChanged(name, value, 100_000))
            case "outlet":
                site.tell(OutletLocked(name) if value else OutletUnlockWanted(name))
            case _:
                site.tell(OutOfBandCap(name, value or None))
        for row in rows:
            total = sum(ppm * site.commitment(host) for host, ppm in row.coefficients_ppm)
            assert total == site.state.rows[row.name].committed_ppm
            rose = total > before.rows[row.name].committed_ppm
            if rose and what in ("want", "outlet", "cap"):
                assert headroom_milliwatts(site.state, row.name) >= 0
