"""Fleet health: permits and their pools, careful mode, offenders, host lives, repairs, merged words and power order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_aggregator.health.lifecycle import MOVES, HostLife, Life, LifecycleError
from flyball_aggregator.health.merged_health import Override, Word, merge_health
from flyball_aggregator.health.mode import CAREFUL_S, CorrelationGuard, FleetMode
from flyball_aggregator.health.offenders import DAY_S, OffenderBook
from flyball_aggregator.health.permits import GRANT_S, PermitAnswer, PermitOffice, PermitRequest, Pool, PoolLimits
from flyball_aggregator.health.power_tasks import Gate, PowerTask, next_tasks
from flyball_aggregator.health.repair_ladder import LadderLimits, RepairLadder, Rung

HOSTS = [f"host-{number}" for number in range(64)]
FLEET = Pool("fleet", frozenset(HOSTS), PoolLimits(ratio=0.1))


def ask(office: PermitOffice, host: str, *, at_s: float = 0.0, mode: FleetMode = FleetMode.NORMAL) -> PermitAnswer:
    return office.ask(PermitRequest(host, f"c-{host}", "xid.79", at_s), mode)


def test_case_15_half_a_fleet_at_once_gets_its_budget_and_the_rest_stays() -> None:
    office = PermitOffice([FLEET])
    answers = [ask(office, host) for host in HOSTS[:32]]
    assert sum(answer.is_granted for answer in answers) == 6
    assert {answer.rule for answer in answers[6:]} == {"pool fleet: 6 of 64 hosts may be out"}


def test_case_15_releases_still_work_and_nothing_is_replayed() -> None:
    office = PermitOffice([FLEET])
    for host in HOSTS[:32]:
        ask(office, host)
        office.note_isolated(host)
    assert office.usage()["fleet"] == (32, 6)
    for host in HOSTS[:32]:
        office.release(host)
    assert office.usage()["fleet"] == (0, 6)
    assert not ask(office, "host-40", mode=FleetMode.CAREFUL).is_granted
    assert office.usage()["fleet"] == (0, 6)


def test_case_20_five_thousand_hosts_are_answered_and_counted() -> None:
    hosts = [f"h{number}" for number in range(5000)]
    pools = [Pool("fleet", frozenset(hosts), PoolLimits(ratio=0.02))]
    pools += [Pool(f"rack-{r}", frozenset(hosts[r * 20 : r * 20 + 20]), PoolLimits(ratio=0.1)) for r in range(250)]
    office = PermitOffice(pools)
    granted = [host for host in hosts[:500] if ask(office, host).is_granted]
    assert len(granted) == 50  # two of each of the 25 racks hit
    assert office.usage()["fleet"] == (50, 100)


def test_every_pool_of_a_host_must_have_a_place() -> None:
    rack = Pool("rack-1", frozenset(HOSTS[:8]), PoolLimits(ratio=0.25, hosts=1))
    office = PermitOffice([FLEET, rack])
    assert ask(office, HOSTS[0]).is_granted
    assert ask(office, HOSTS[1]).rule == "pool rack-1: 1 of 8 hosts may be out"
    assert ask(office, HOSTS[20]).is_granted


def test_a_partition_keeps_its_minimum_though_its_share_would_allow_more() -> None:
    office = PermitOffice([Pool("p", frozenset(HOSTS[:10]), PoolLimits(ratio=0.5, minimum_healthy=9))])
    assert [ask(office, host).is_granted for host in HOSTS[:3]] == [True, False, False]


def test_a_pool_of_one_has_a_place_and_a_host_of_no_pool_has_none() -> None:
    office = PermitOffice([Pool("lone", frozenset(["a"]))])
    assert ask(office, "a").is_granted
    assert ask(office, "b").rule == "b is in no pool"


def test_asking_twice_is_one_grant_and_an_unused_one_expires() -> None:
    office = PermitOffice([Pool("p", frozenset(HOSTS[:10]), PoolLimits(hosts=1))])
    assert ask(office, HOSTS[0]).is_granted
    assert ask(office, HOSTS[0], at_s=10).rule == "granted before"
    assert not ask(office, HOSTS[1], at_s=10).is_granted
    assert ask(office, HOSTS[1], at_s=GRANT_S).is_granted


def test_a_used_grant_lasts_until_its_release() -> None:
    office = PermitOffice([Pool("p", frozenset(HOSTS[:10]), PoolLimits(hosts=1))])
    ask(office, HOSTS[0])
    office.note_isolated(HOSTS[0])
    assert not ask(office, HOSTS[1], at_s=1e6).is_granted
    office.release(HOSTS[0])
    assert ask(office, HOSTS[1], at_s=1e6).is_granted


def test_a_new_generation_voids_grants_that_were_not_used() -> None:
    office = PermitOffice([FLEET])
    ask(office, HOSTS[0])
    ask(office, HOSTS[1])
    office.note_isolated(HOSTS[0])
    office.new_generation()
    assert office.usage()["fleet"] == (1, 6)
    assert ask(office, HOSTS[2]).generation == 1


def test_an_operator_lifts_a_limit_once() -> None:
    office = PermitOffice([FLEET])
    office.approve(HOSTS[0], "ann")
    assert ask(office, HOSTS[0], mode=FleetMode.OBSERVE).rule == "approved by ann"
    office.release(HOSTS[0])
    assert not ask(office, HOSTS[0], mode=FleetMode.OBSERVE).is_granted


steps = st.lists(
    st.tuples(st.sampled_from(["ask", "use", "release", "generation"]), st.integers(0, 19), st.floats(0, 400)),
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(steps, st.integers(1, 6), st.integers(0, 20))
def test_no_pool_ever_grants_more_than_its_places(
    moves: list[tuple[str, int, float]], places: int, minimum: int
) -> None:
    pool = Pool("p", frozenset(HOSTS[:20]), PoolLimits(ratio=1.0, hosts=places, minimum_healthy=minimum))
    office, now_s = PermitOffice([pool]), 0.0
    for act, number, wait_s in moves:
        now_s += wait_s
        host = HOSTS[number]
        if act == "ask":
            before = office.usage()["p"][0]
            answer = ask(office, host, at_s=now_s)
            if answer.is_granted and answer.rule != "granted before":
                taken = office.usage()["p"][0]
                assert taken <= max(places, before)
                assert 20 - taken >= minimum
        elif act == "use":
            office.note_isolated(host)
        elif act == "release":
            office.release(host)
            assert host not in office._taken(pool)
        else:
            office.new_generation()


def test_one_code_on_many_hosts_makes_the_fleet_careful_until_it_stays_away() -> None:
    guard = CorrelationGuard(64)
    turned = [guard.note_fault(host, "xid.119", number * 10.0) for number, host in enumerate(HOSTS[:4])]
    assert turned == [False, False, False, True]
    assert guard.mode(31) is FleetMode.CAREFUL
    assert guard.mode(30 + CAREFUL_S) is FleetMode.NORMAL
    assert "xid.119 on 4 of 64 hosts" in guard.why


def test_many_codes_of_one_host_or_slow_ones_are_no_correlation() -> None:
    guard = CorrelationGuard(64)
    assert not any(guard.note_fault("host-1", f"xid.{number}", 1.0) for number in range(50))
    assert not any(guard.note_fault(host, "xid.48", number * 61.0) for number, host in enumerate(HOSTS))


def test_two_hosts_after_a_change_are_enough() -> None:
    guard = CorrelationGuard(1000)
    for host in HOSTS[:5]:
        guard.note_change(host, 0.0)
    assert not guard.note_fault(HOSTS[0], "xid.119", 100.0)
    assert guard.note_fault(HOSTS[1], "xid.119", 101.0)
    assert "after a change" in guard.why


def test_an_operators_mode_stands_above_the_guards() -> None:
    guard = CorrelationGuard(64, chosen=FleetMode.OBSERVE)
    assert guard.mode(0.0) is FleetMode.OBSERVE
    for host in HOSTS[:8]:
        guard.note_fault(host, "xid.119", 1.0)
    guard.choose(FleetMode.NORMAL, "ann")
    assert guard.mode(2.0) is FleetMode.NORMAL


def test_a_repeat_offender_goes_to_support_and_drills_do_not_count() -> None:
    book = OffenderBook()
    for day in range(5):
        book.note_repair("host-1", day * DAY_S)
        book.note_fault("host-2", "xid.79", "fatal", day * 3600.0, is_injected=True)
        book.note_fault("host-3", "xid.94", "warn", day * 3600.0)
    assert book.verdict("host-1", 5 * DAY_S) == "5 repairs in 7 days"
    assert book.verdict("host-1", 9 * DAY_S) is None
    assert book.risk("host-2", 5 * DAY_S) == book.risk("host-3", 5 * DAY_S) == 0.0


def test_a_burst_of_fatal_faults_counts_once_and_risk_fades() -> None:
    book = OffenderBook()
    for second in range(50):
        book.note_fault("h", "xid.79", "fatal", float(second))
    assert book.verdict("h", 100.0) is None
    assert 0.99 < book.risk("h", 100.0) <= 1.0
    assert book.risk("h", 60 * DAY_S) < 0.01


def test_a_host_walks_its_life_by_legal_moves_with_evidence() -> None:
    host = HostLife("node7")
    host.move(Life.ENROLLED, at_s=1, by="ca", why="enrolled", evidence={"certificate": "x", "inventory": "y"})
    with pytest.raises(LifecycleError, match="node7: enrolled -> validated without burn_in"):
        host.move(Life.VALIDATED, at_s=2, by="a", why="b")
    host.move(Life.VALIDATED, at_s=2, by="burn-in", why="passed", evidence={"burn_in": "report 1"})
    with pytest.raises(LifecycleError, match="validated -> assigned, expected one of: ready, quarantined"):
        host.move(Life.ASSIGNED, at_s=3, by="a", why="b", evidence={"tenant": "t"})
    with pytest.raises(LifecycleError, match="expected not before 2"):
        host.move(Life.READY, at_s=1, by="a", why="b", evidence={"golden_record": "g"})
    assert not host.takes_work


def test_every_place_of_a_life_can_be_left_and_reached() -> None:
    reached = {Life.DISCOVERED} | {after for moves in MOVES.values() for after in moves}
    assert reached == set(Life)
    assert all(MOVES[life] for life in Life)


def test_no_host_returns_to_work_from_quarantine_without_proof_or_operator() -> None:
    ways = {before: moves[Life.READY] for before, moves in MOVES.items() if Life.READY in moves}
    assert ways[Life.QUARANTINED] == ("operator",)
    assert ways[Life.VALIDATING] == ("five_proofs",)
    assert Life.REPAIRING not in ways


def climb(ladder: RepairLadder, now_s: float) -> Rung | None:
    step = ladder.next_step("h", now_s)
    if step.rung is not None:
        ladder.start("h", step.rung, now_s)
        ladder.end("h", is_cured=False)
    return step.rung


def test_a_repair_that_does_not_cure_is_followed_by_the_next_never_the_same() -> None:
    ladder = RepairLadder(LadderLimits(interval_s=0))
    ladder.open("h", "reset_gpu")
    rungs = [climb(ladder, float(number)) for number in range(6)]
    assert rungs == [Rung.RESET_GPU, Rung.RELOAD_DRIVER, Rung.REBOOT, Rung.POWER_CYCLE, Rung.TICKET, None]


def test_repairs_are_spaced_and_limited_by_host_and_fleet() -> None:
    ladder = RepairLadder(LadderLimits(fleet_at_once=1))
    ladder.open("h", "reset_gpu")
    ladder.open("g", "reboot_node")
    ladder.start("h", Rung.RESET_GPU, 0.0)
    assert ladder.next_step("g", 1.0).why == "1 repairs are running in the fleet"
    assert ladder.next_step("h", 1.0).why == "RESET_GPU is running"
    ladder.end("h", is_cured=True)
    assert ladder.next_step("g", 1.0).rung is Rung.REBOOT
    ladder.open("h", "reset_gpu")
    assert ladder.next_step("h", 1.0).why == "too soon after the last repair"
    assert ladder.next_step("h", 601.0).is_gated


def test_a_day_of_repairs_ends_with_a_ticket() -> None:
    ladder = RepairLadder(LadderLimits(interval_s=0))
    for number in range(4):
        ladder.open("h", "reset_gpu")
        ladder.start("h", Rung.RESET_GPU, float(number))
        ladder.end("h", is_cured=True)
    ladder.open("h", "reset_gpu")
    assert ladder.next_step("h", 10.0).rung is Rung.TICKET
    assert not ladder.next_step("h", 10.0).is_gated


def test_the_worst_fresh_word_counts_and_old_words_are_unknown() -> None:
    words = [Word("agent", "healthy", 95, 30), Word("bmc", "degraded", 80, 60, "fan"), Word("old", "failed", 0, 30)]
    assert merge_health(words, None, 100) == ("degraded", "bmc: fan")
    assert merge_health(words, None, 500) == ("unknown", "no source spoke lately")


def test_an_override_holds_until_it_expires() -> None:
    words = [Word("agent", "quarantined", 95, 600)]
    override = Override("healthy", "ann", "known false alarm", 200)
    assert merge_health(words, override, 100) == ("healthy", "override by ann: known false alarm")
    assert merge_health(words, override, 200)[0] == "quarantined"


def rack(*, is_on: bool) -> list[PowerTask]:
    return [
        PowerTask("h1", "host", "r1", is_on),
        PowerTask("s1", "switch", "r1", is_on),
        PowerTask("p1", "shelf", "r1", is_on),
    ]


@pytest.mark.parametrize(("is_on", "order"), [(True, ["p1", "s1", "h1"]), (False, ["h1", "s1", "p1"])])
def test_a_rack_is_switched_in_order(is_on: bool, order: list[str]) -> None:
    done: frozenset[str] = frozenset()
    for device in order:
        ready, _ = next_tasks(rack(is_on=is_on), done, Gate())
        assert [task.device for task in ready] == [device]
        done |= {device}


def test_a_leak_or_no_leak_reading_lets_nothing_rise_and_everything_fall() -> None:
    for gate in (Gate(leaking=frozenset(["r1"])), Gate(unread=frozenset(["r1"]))):
        assert next_tasks(rack(is_on=True), frozenset(), gate)[0] == []
        assert next_tasks(rack(is_on=False), frozenset(), gate)[0] != []


def test_a_host_with_work_is_not_switched_off() -> None:
    ready, waiting = next_tasks(rack(is_on=False), frozenset(), Gate(working=frozenset(["h1"])))
    assert (ready, waiting["h1"]) == ([], "h1 still has work")
