"""The health machine: what isolates, what does not, what comes back, and what an operator may always do."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.flyball_agent.health_bench import ADDRESS, CATALOGUE, GPU, Bench

from flyball_agent.facts import NODE, Entity, Fact, Level
from flyball_agent.gauges import RULES, Gauge, GaugeRule
from flyball_agent.health import HealthMachine
from flyball_agent.health_inputs import Boot, Input, Order, Progress
from flyball_agent.health_journal import HealthJournal, encode_line, input_from_plain, input_to_plain
from flyball_agent.health_record import HealthSettings, State, hold_down_s
from flyball_agent.release import missing_proofs

OTHER = Entity("gpu", "0000:1a:00.0")
MIG = Entity("mig", "0000:9b:00.0/05")


@pytest.mark.parametrize("number", [48, 64, 74, 79, 95, 109, 119, 120, 140, 143, 158, 169, 172])
def test_hard_evidence_isolates_its_gpu_at_the_first_line(number: int) -> None:
    bench = Bench()
    bench.xid(number)
    assert bench.state() is State.QUARANTINED
    assert "isolate" in bench.kinds()
    assert bench.state(OTHER) is State.UNKNOWN


@pytest.mark.parametrize("number", [8, 13, 14, 31, 32, 43, 45, 51, 63, 69, 92, 94, 121, 154, 157, 163, 175, 999])
def test_a_number_that_is_not_hard_never_isolates(number: int) -> None:
    bench = Bench()
    for _ in range(50):
        bench.xid(number)
        bench.wait(20)
    assert "isolate" not in bench.kinds()
    assert not bench.state().refuses_work


def test_every_policy_of_the_catalogue_isolates_only_when_fatal() -> None:
    for number, policy in CATALOGUE.xids.items():
        bench = Bench()
        bench.xid(number)
        assert bench.state().refuses_work is (policy.severity == "fatal"), number


def test_a_lost_gpu_asks_for_a_permit_before_the_host_is_isolated() -> None:
    bench = Bench()
    bench.xid(79)
    assert (bench.state(), bench.state(NODE)) == (State.QUARANTINED, State.SUSPECT)
    assert bench.kinds(NODE) == ["ask_permit"]
    bench.progress("permit_granted", entity=NODE)
    assert (bench.state(NODE), bench.kinds(NODE)[-1]) == (State.QUARANTINED, "isolate")


def test_a_refused_permit_is_asked_again_later_and_keeps_the_host_working() -> None:
    bench = Bench()
    bench.xid(79)
    bench.progress("permit_refused", entity=NODE)
    bench.wait(59)
    assert bench.kinds(NODE) == ["ask_permit"]
    bench.wait(10)
    assert bench.kinds(NODE) == ["ask_permit", "ask_permit"]
    assert bench.state(NODE) is State.SUSPECT


def test_several_isolated_gpus_concern_the_host_and_stop_doing_so() -> None:
    bench = Bench()
    bench.xid(48)
    assert bench.state(NODE) is State.UNKNOWN
    bench.xid(48, address="PCI:0000:1a:00")
    assert bench.state(NODE) is State.SUSPECT
    bench.order("resume", entity=OTHER)
    bench.wait(10)
    assert bench.state(NODE) is State.HEALTHY


def test_the_steps_from_fault_to_release_are_walked_in_order() -> None:
    bench = Bench()
    bench.xid(48)
    bench.repair()
    assert bench.state() is State.VALIDATING
    bench.wait(290)
    assert bench.state() is State.VALIDATING
    bench.wait(30)
    assert bench.state() is State.HEALTHY
    assert bench.kinds() == ["isolate", "drain", "repair", "validate", "release"]


@pytest.mark.parametrize("broken", ["recovery", "proof", "check", "hold", "quiet"])
def test_each_missing_proof_alone_keeps_an_entity_isolated(broken: str) -> None:
    bench = Bench()
    bench.xid(48)
    bench.drain()
    if broken != "proof":
        bench.progress("repaired", "reset seen")
    bench.recovery(1 if broken == "recovery" else 0)
    if broken != "check":
        bench.progress("validated")
    if broken == "hold":
        bench.order("hold")
    bench.wait(10 if broken == "quiet" else 7200)
    assert bench.state().refuses_work
    assert missing_proofs(bench.machine.healths[GPU], bench.now_s, HealthSettings())


def test_a_relapse_during_validation_is_a_new_isolation() -> None:
    bench = Bench()
    bench.xid(48)
    bench.repair()
    bench.wait(60)
    bench.xid(48)
    assert bench.state() is State.QUARANTINED
    assert bench.kinds().count("isolate") == 2


def test_a_failed_reset_is_followed_by_a_reboot_and_a_failed_reboot_by_people() -> None:
    bench = Bench()
    bench.xid(119)
    bench.drain()
    bench.progress("repair_started", "reset_gpu")
    bench.progress("repair_failed", "timed out")
    assert bench.intents[-1].detail == "reboot_node"
    bench.progress("repair_started", "reboot_node")
    bench.progress("repair_failed", "timed out")
    assert bench.state() is State.FAILED


def test_a_reboot_is_proven_by_the_boot_id() -> None:
    bench = Bench()
    bench.xid(79)
    bench.drain()
    bench.now_s += 300
    bench.give(Boot(bench.now_s, "boot-2", bench.now_s - 60, 8))
    assert bench.state() is State.VALIDATING
    bench.progress("validated")
    bench.wait(400)
    assert bench.state() is State.HEALTHY


def test_a_restart_of_the_agent_alone_proves_nothing() -> None:
    bench = Bench()
    bench.xid(79)
    bench.give(Boot(bench.now_s, "boot-1", bench.now_s - 60, 8))
    assert bench.state() is State.QUARANTINED


def test_an_operators_resume_is_respected_until_hard_evidence_is_new() -> None:
    bench = Bench()
    bench.give(Fact(bench.now_s, "boot-1", "host", NODE, "driver.hung", Level.QUARANTINED, group="hang"))
    bench.progress("permit_granted", entity=NODE)
    bench.order("resume", entity=NODE, hours=2)
    bench.now_s += 60
    bench.give(Fact(bench.now_s, "boot-1", "host", NODE, "driver.hung", Level.QUARANTINED, group="hang"))
    assert not bench.state(NODE).refuses_work
    bench.xid(48)
    bench.order("resume")
    bench.now_s += 60
    bench.xid(95)
    assert bench.state() is State.QUARANTINED


def test_an_operator_may_end_any_state_at_any_time() -> None:
    bench = Bench()
    for _ in range(3):
        bench.xid(48)
        bench.drain()
        bench.order("resume")
        bench.now_s += 60
    bench.xid(48)
    assert bench.state() is State.FAILED
    bench.order("clear")
    assert bench.state() is State.HEALTHY


def test_a_drill_isolates_but_leaves_no_mark_on_the_record() -> None:
    bench = Bench()
    fact = Fact(bench.now_s, "b", "kmsg", GPU, "xid.79", Level.QUARANTINED, "reset_gpu", is_hard=True, is_injected=True)
    intents = bench.give(fact)
    assert [intent.is_injected for intent in intents if intent.kind == "isolate"] == [True]
    assert bench.machine.healths[GPU].isolations == []


def test_silence_closes_a_suspicion() -> None:
    bench = Bench()
    bench.xid(121)
    assert bench.state() is State.SUSPECT
    bench.wait(620)
    assert bench.state() is State.HEALTHY


def test_a_timeout_of_a_program_is_forgiven_when_the_driver_asks_for_nothing() -> None:
    bench = Bench()
    bench.xid(109)
    bench.recovery(0)
    bench.wait(40)
    assert bench.state() is State.VALIDATING


def test_a_mig_instance_inherits_its_gpu_and_its_host() -> None:
    bench = Bench()
    assert bench.machine.effective_state(MIG) is State.UNKNOWN
    bench.xid(48)
    assert bench.machine.effective_state(MIG) is State.QUARANTINED


def test_hold_down_doubles_with_relapses_and_decays_by_the_day() -> None:
    limits = HealthSettings()
    assert [hold_down_s([0.0] * n, 0.0, limits) for n in (0, 1, 2, 3)] == [0, 300, 600, 1200]
    assert hold_down_s([0.0] * 3, 2 * 86_400.0, limits) == 300
    assert hold_down_s([0.0] * 30, 0.0, limits) == 86_400


def test_a_gauge_counts_after_m_of_n_and_ends_after_three_quiet_spans() -> None:
    gauge = Gauge(GaugeRule("gauge.x", 10, 3, 5))
    assert [gauge.poll(value) for value in (10, 0, 11, None, 12)] == [None, None, None, None, True]
    assert [gauge.poll(8) for _ in range(20)] == [None] * 20  # between 0.7 T and T: neither
    assert [gauge.poll(5) for _ in range(9)] == [None] * 8 + [False]


def test_every_gauge_rule_can_be_reached() -> None:
    assert all(0 < rule.need <= rule.of for rule in RULES.values())


inputs = st.one_of(
    st.builds(
        Fact,
        at_s=st.just(0.0),
        boot_id=st.sampled_from(["boot-1"]),
        source=st.just("kmsg"),
        entity=st.sampled_from([GPU, OTHER, MIG, NODE]),
        code=st.sampled_from(["xid.48", "xid.154", "xid.45", "gauge.power_brake", "xid.79"]),
        level=st.sampled_from(list(Level)),
        action=st.sampled_from(["none", "reset_gpu", "reboot_node", "reset_gpu_when_idle"]),
        group=st.sampled_from(["memory", "bus", "app", "driver"]),
        is_hard=st.booleans(),
        is_over=st.booleans(),
        recovery=st.sampled_from([None, 0, 1]),
    ),
    st.builds(
        Progress,
        at_s=st.just(0.0),
        entity=st.sampled_from([GPU, NODE]),
        step=st.sampled_from(["isolated", "drained", "repaired", "validated", "permit_granted", "observed"]),
    ),
    st.builds(Order, at_s=st.just(0.0), entity=st.sampled_from([GPU, NODE]), act=st.sampled_from(["resume", "hold"])),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 900), inputs), max_size=30))
def test_the_journal_gives_back_the_same_states(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[float, Input]]
) -> None:
    import dataclasses

    path = tmp_path_factory.mktemp("health") / "journal"
    now_s = 1_000_000.0
    with HealthJournal(path, HealthMachine()) as journal:
        journal.apply(Boot(now_s, "boot-1", 0.0, 8))
        for wait_s, given_input in steps:
            now_s += wait_s
            journal.tick(now_s)
            journal.apply(dataclasses.replace(given_input, at_s=now_s))
            if int(now_s) % 7 == 0:
                journal.compact()
        kept = {entity: health.state for entity, health in journal.machine.healths.items()}
    with HealthJournal(path, HealthMachine()) as again:
        assert {entity: health.state for entity, health in again.machine.healths.items()} == kept


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_journal_cut_by_a_crash_keeps_every_whole_line(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal"
    with HealthJournal(path, HealthMachine()) as journal:
        journal.apply(Boot(1.0, "b", 0.0, 8))
        journal.apply(Fact(2.0, "b", "kmsg", GPU, "xid.48", Level.QUARANTINED, "reset_gpu", is_hard=True))
        journal.apply(Progress(3.0, GPU, "isolated"))
    path.write_bytes(path.read_bytes()[:-cut])
    with HealthJournal(path, HealthMachine()) as again:
        assert again.machine.state(GPU) is State.QUARANTINED
        again.apply(Progress(3.0, GPU, "isolated"))
    with HealthJournal(path, HealthMachine()) as third:
        assert third.machine.state(GPU) is State.DRAINING


def test_a_line_with_a_wrong_checksum_ends_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    good = encode_line(input_to_plain(Boot(1.0, "b", 0.0, 8)))
    path.write_bytes(good + good.replace(b"b", b"c", 1) + good)
    with HealthJournal(path, HealthMachine()) as journal:
        assert journal.dropped_bytes == 2 * len(good)


def test_inputs_survive_the_journal_unchanged() -> None:
    fact = Fact(1.5, "b", "kmsg", MIG, "xid.94", Level.DEGRADED, evidence="é\n", is_injected=True)
    for given_input in (fact, Progress(1.0, NODE, "drained", "x"), Order(1.0, GPU, "hold", "ann", 2.0)):
        assert input_from_plain(json.loads(json.dumps(input_to_plain(given_input)))) == given_input


def test_repeats_reach_the_disk_twice_a_minute_at_most(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with HealthJournal(path, HealthMachine()) as journal:
        for second in range(300):
            fact = Fact(float(second), "b", "kmsg", GPU, "xid.95", Level.QUARANTINED, "reset_gpu", is_hard=True)
            journal.apply(fact)
    assert len(path.read_bytes().splitlines()) <= 11


def test_the_machine_stays_bounded_whatever_comes() -> None:
    bench = Bench()
    for number in range(3000):
        bench.give(Fact(bench.now_s, "b", "kmsg", Entity("nic", str(number)), f"x.{number}", Level.SUSPECT, group="g"))
        bench.give(Fact(bench.now_s, "b", "kmsg", GPU, f"y.{number}", Level.SUSPECT, evidence=str(number), group="g"))
    assert len(bench.machine.healths) <= 516
    assert len(bench.machine.healths[GPU].incidents[0].causes) <= 32


def test_the_address_of_the_bench_is_that_of_its_gpu() -> None:
    assert f"PCI:{GPU.name[:-2]}" == ADDRESS
