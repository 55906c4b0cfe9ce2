"""The acceptance cases of the fault reference that a host decides, by number and name."""

import math
from itertools import pairwise

from tests.flyball_agent.health_bench import GPU, Bench
from tests.flyball_agent.test_kernel_log import Clock, flood, read, reader, record

from flyball_agent.facts import NODE, Entity, Fact, Level, facts_of_message
from flyball_agent.gauges import RULES, Gauge
from flyball_agent.health_inputs import Boot, Progress
from flyball_agent.health_record import State
from flyball_agent.kernel_messages import KernelMessage

MIG = Entity("mig", "0000:9b:00.0/05")
SIBLING = Entity("mig", "0000:9b:00.0/06")


def test_case_03_five_lines_of_one_gsp_storm_are_one_incident() -> None:
    bench = Bench()
    for function in ("10 (FREE)", "76 (GSP_RM_CONTROL)", "76", "10"):
        bench.xid(119, f"Timeout after 6s of waiting for RPC response from GPU4 GSP! Expected function {function}.")
        bench.wait(30)
    bench.line("NVRM: Rate limiting GSP RPC error prints for GPU at @ (printing 1 of every 30).")
    (incident,) = bench.machine.healths[GPU].incidents
    assert set(incident.causes) == {"xid.119", "event.gsp_rpc_storm"}
    assert bench.kinds().count("isolate") == 1


def test_case_04_48_63_and_94_within_30_ms_are_one_incident_and_one_isolation() -> None:
    bench = Bench()
    for number in (48, 63, 94):
        bench.xid(number)
        bench.now_s += 0.01
    (incident,) = bench.machine.healths[GPU].incidents
    assert set(incident.causes) == {"xid.48", "xid.63", "xid.94"}
    bench.drain()
    assert [i.detail for i in bench.intents if i.kind == "repair"] == ["reset_gpu"]
    assert bench.kinds().count("isolate") == 1


def test_case_04_the_same_in_the_other_order_is_one_incident_too() -> None:
    bench = Bench()
    for number in (94, 63, 48):
        bench.xid(number)
        bench.now_s += 0.01
    assert len(bench.machine.healths[GPU].incidents) == 1
    assert bench.kinds().count("isolate") == 1


def test_case_05_a_fatal_link_event_with_two_154_and_eight_45_is_one_incident() -> None:
    bench = Bench()
    bench.line("NVRM: Xid (@): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 01 (0x021425c6 0x00000000 0x00000000)")
    bench.line("NVRM: Xid (@): 154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)")
    bench.now_s += 1
    bench.line("NVRM: Xid (@): 154, GPU recovery action changed from 0x4 (Drain and Reset) to 0x1 (GPU Reset Required)")
    for channel in range(8):
        bench.xid(45, f"Ch 0000000{channel} caused by previous Xid 149")
    (incident,) = bench.machine.healths[GPU].incidents
    assert incident.causes["xid.45"].count == 8
    assert NODE not in bench.machine.healths
    assert "repair" not in bench.kinds()
    bench.drain()
    assert bench.intents[-1].detail == "reset_gpu"


def test_case_06_154_to_zero_clears_a_driver_only_incident() -> None:
    bench = Bench()
    bench.line("NVRM: Xid (@): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)")
    assert bench.state() is State.QUARANTINED
    bench.line("NVRM: Xid (@): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)")
    assert bench.state() is State.VALIDATING
    bench.progress("validated")
    bench.wait(1900)
    assert bench.state() is State.HEALTHY


def test_case_06_154_to_zero_does_not_clear_an_incident_that_holds_79() -> None:
    bench = Bench()
    bench.xid(79)
    bench.line("NVRM: Xid (@): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)")
    bench.line("NVRM: Xid (@): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)")
    bench.wait(3600)
    assert bench.state() is State.QUARANTINED


def test_case_07_800_000_repeats_of_29_texts_are_one_incident_with_few_evidence_and_few_messages() -> None:
    """One second of a flood stands for all: each further second brings the same 29 messages."""
    clock, bench = Clock(), Bench()
    log = flood(60_000, clock)
    for _ in range(6):
        clock.now_s += 1.0
        for message in log.read_ready(10**9):
            for fact in facts_of_message(message, at_s=clock.now_s, boot_id="boot-1"):
                bench.give(fact)
    (incident,) = bench.machine.healths[Entity("gpu", "0000:01:00.0")].incidents
    assert incident.causes["xid.95"].count >= 50_000
    assert len(incident.causes["xid.95"].evidence) <= 29
    assert len([i for i in bench.intents if i.kind != "notify"]) == 1
    assert len(bench.intents) <= 2


def test_case_08_45_every_15_s_for_three_hours_isolates_nothing() -> None:
    bench = Bench()
    bench.progress("observed")
    for _ in range(672):
        bench.xid(45, "Ch 00000008")
        bench.wait(15, step_s=15)
    assert bench.state() is State.HEALTHY
    assert bench.kinds() == []


def test_case_09_links_down_after_boot_isolate_nothing() -> None:
    bench = Bench(uptime_s=10)
    gauge = Gauge(RULES["absence.nvlink"])
    for _ in range(3):
        if gauge.poll(1.0):
            bench.gauge("absence.nvlink")
        bench.wait(1, step_s=1)
    assert bench.kinds() == []
    assert bench.machine.host.suppressed == 1


def test_case_10_a_power_brake_of_36_hours_degrades_once_and_reminds_daily() -> None:
    bench = Bench()
    bench.progress("observed")
    gauge, degraded_after_s = Gauge(RULES["gauge.power_brake"]), math.nan
    for second in range(120):
        if gauge.poll(1.0):
            bench.gauge("gauge.power_brake")
            degraded_after_s = second
        bench.wait(1, step_s=1)
    assert degraded_after_s < 120
    bench.wait(36 * 3600, step_s=600)
    notices = [i.detail for i in bench.intents if i.kind == "notify" and i.entity == GPU]
    assert [n for n in notices if n.startswith("still")] == [notices[-1]]
    assert sum("DEGRADED" in n and "->" in n.split(":")[0] for n in notices) == 1


def test_case_11_a_call_that_never_returns_is_suspect_then_hung_with_a_permit() -> None:
    bench = Bench()
    bench.give(Fact(bench.now_s + 5, "boot-1", "sampler", NODE, "driver.slow", Level.SUSPECT, group="hang"))
    assert bench.state(NODE) is State.SUSPECT
    hung = Fact(bench.now_s + 15, "boot-1", "sampler", NODE, "driver.hung", Level.QUARANTINED, "reboot_node", "hang")
    bench.give(hung)
    assert bench.kinds(NODE) == ["ask_permit"]
    bench.progress("permit_granted", entity=NODE)
    assert bench.state(NODE) is State.QUARANTINED


def test_case_12_unknown_values_are_never_counted_as_healthy() -> None:
    gauge = Gauge(RULES["gauge.power_brake"])
    assert [gauge.poll(1.0) for _ in range(60)][-1] is True
    assert [gauge.poll(None) for _ in range(1000)] == [None] * 1000
    assert gauge.is_set
    bench = Bench()
    bench.wait(3600, step_s=60)
    assert bench.machine.effective_state(GPU) is State.UNKNOWN


def test_case_13_an_overrun_gives_a_gap_with_its_count_and_no_repeats_after_a_restart() -> None:
    line = "NVRM: Xid (PCI:0000:9b:00): 48, x"
    log = reader(record(1, "a"), None, record(400, line))
    gap, found = read(log)
    (fact,) = facts_of_message(gap, at_s=1.0, boot_id="boot-1")
    assert (fact.code, fact.level, fact.evidence) == ("log.lost", Level.NOTE, "398 records lost")
    assert found.found.xid == 48
    assert read(reader(record(1, "a"), record(400, line), saved=log.position)) == []


def test_case_14_a_name_that_holds_an_xid_and_a_record_of_user_space_isolate_nothing() -> None:
    bench = Bench()
    bench.xid(13, "name=NVRM: Xid (PCI:0000:9b:00): 79, fallen off the bus")
    for message in read(reader(record(1, "NVRM: Xid (PCI:0000:9b:00): 79, x", priority=12))):
        for fact in facts_of_message(message, at_s=bench.now_s, boot_id="boot-1"):
            bench.give(fact)
    assert bench.kinds() == []


def test_case_18_a_contained_error_isolates_its_instance_and_no_sibling() -> None:
    bench = Bench()
    bench.line("NVRM: Xid (@ GPU-I:05): 94, pid=7, name=a, Contained: CE User Channel (0x9). RST: No, D-RST: No")
    assert bench.state(MIG) is State.QUARANTINED
    assert not bench.machine.effective_state(SIBLING).refuses_work
    assert not bench.machine.effective_state(GPU).refuses_work
    bench.xid(95)
    assert bench.machine.effective_state(SIBLING) is State.QUARANTINED


def test_case_19_the_second_repair_is_released_and_the_third_time_is_held() -> None:
    bench = Bench()
    for _ in range(2):
        bench.xid(48)
        bench.repair()
        bench.wait(2 * 86_400, step_s=600)
        assert bench.state() is State.HEALTHY
    bench.xid(48)
    assert bench.state() is State.FAILED
    bench.wait(30 * 86_400, step_s=3600)
    assert bench.state() is State.FAILED


def test_case_19_a_release_names_its_proofs() -> None:
    bench = Bench()
    bench.xid(48)
    bench.repair()
    bench.wait(400)
    moves = [i.detail for i in bench.intents if i.kind == "notify" and i.entity == GPU]
    assert moves[-1].startswith("VALIDATING -> HEALTHY")
    assert all(before != after for before, after in pairwise(moves))


def test_case_16_hard_evidence_isolates_while_nobody_answers_permits() -> None:
    bench = Bench()
    bench.xid(48)
    assert bench.kinds() == ["isolate"]
    bench.give(Boot(bench.now_s, "boot-1", 0.0, 8))
    bench.give(Progress(bench.now_s, NODE, "permit_refused", "no answer"))
    assert bench.state() is State.QUARANTINED


def test_a_message_of_no_gpu_makes_no_fact() -> None:
    assert facts_of_message(KernelMessage(0.0, 1), at_s=0.0, boot_id="b") == []
