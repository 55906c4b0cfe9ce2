"""The kernel line grammar: prefixes, devices, driver verdicts, NVLink5, switches, other events, and lines that lie."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flyball_agent.catalogue import load_catalogue
from flyball_agent.classify import classify_lines, to_json
from flyball_agent.kernel_lines import Classification, classify_line, normalise_address, parse_uuid_line

CATALOGUE = load_catalogue()
DATA = Path(__file__).parents[2].parent / "shared" / "data" / "kmsg"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no kernel lines at {DATA}")

PREFIXES = (
    "",
    "[ 1843.308145] ",
    "[6619715.535712] ",
    "<3>[ 1137.356721] ",
    "<4>",
    "[Sun Feb 23 16:24:18 2025] ",
    "[   12.100000][ T4711] ",
    "kernel: ",
    "kernel: [16450076.435595] ",
    "host-17.example.com kernel: ",
    "May 19 07:08:57 ip-26-0-146-100 kernel: [680111.646286] ",
    "Okt 06 17:59:27 balrog kernel: ",
    "Mär  6 17:59:27 balrog kernel: ",
    "2025-01-21T04:41:44.283575+00:00 node7 kernel: [ 12.345678] ",
    "2025-01-21T04:41:44,283575+00:00 ",
    "kern  :warn  : 2025-01-21T04:41:44,283575+00:00 ",
    "kern  :err   : [ 38.178720] ",
    "4,1227,437812449932,c;",
    "3,98012,5566778899,-,caller=T1234;",
    "[Jan21 04:41] ",
    "[  +0.000096] ",
    "[2025-01-21T04:41:44,283575+00:00] ",
    "\x1b[32m[ 1137.356721] \x1b[0m\x1b[33m",
    "<4>1 2025-01-21T04:41:44.285060+00:00 node7 kernel - - - ",
)
LOST_TAIL = (
    "NVRM: (PCI ID: 10de:26b5) installed in this system has\n"
    "NVRM: fallen off the bus and is not responding to commands."
)
FOREIGN_PREFIXES = (
    "12,1227,437812449932,-;",
    "11,98012,5566778899,-,caller=T1234;",
    "<11>[ 1137.356721] ",
    "user  :warn  : [ 38.178720] ",
    "daemon:err   : 2025-01-21T04:41:44,283575+00:00 ",
    "May 19 07:08:57 node7 trainer[4711]: ",
    "2025-01-21T04:41:44.283575+00:00 node7 sshd[1]: ",
    "root: ",
)
addresses = st.builds(
    lambda mark, domain, bus, slot, function: f"{mark}{domain}{bus:02x}:{slot:02x}{function}",
    st.sampled_from(["", "PCI:"]),
    st.sampled_from(["0000:", "00000000:", "0008:", "0018:", "10000:"]),
    st.integers(0, 255),
    st.integers(0, 31),
    st.sampled_from(["", ".0", ".1"]),
)
processes = st.sampled_from(
    ["", "pid=1234, ", "pid=1234, name=python3, ", "pid='<unknown>', name=<unknown>, ", "pid='N/A', name=a, b: c, "]
)


def classify(line: str) -> Classification:
    return classify_line(line, CATALOGUE)


def verdict(line: str) -> str:
    found = classify(line)
    return f"{found.severity}/{found.action}"


def rows(name: str) -> Iterator[list[str]]:
    for line in (DATA / name).read_text().splitlines()[1:]:
        yield line.split("\t")


@needs_data
def test_every_published_xid_line_gives_its_number_device_and_policy() -> None:
    table = list(rows("xid_lines.tsv"))
    for row, found in zip(table, classify_lines((row[0] for row in table), CATALOGUE), strict=True):
        number = f"sxid:{found.sxid}" if found.sxid is not None else str(found.xid if found.xid is not None else "-")
        assert number == row[1], row[0]
        assert (found.device or "-") == row[4], row[0]
        ours = row[2].split("; catalog=")[0].removeprefix("ours=").split(" (")[0]
        if ours == "none":
            assert not found.is_interesting, row[0]
        elif ours.startswith("no xid; event "):
            assert found.event == ours.removeprefix("no xid; event ").split(":")[0], row[0]
        else:
            assert f"{found.severity}/{found.action}" == ours, row[0]


@needs_data
def test_every_published_kernel_line_gives_its_event_or_nothing() -> None:
    table = list(rows("kmsg_lines.tsv"))
    for row, found in zip(table, classify_lines((row[0] for row in table), CATALOGUE), strict=True):
        assert (found.event or "none") == row[1], row[0]
        assert row[1] == "none" or row[2].startswith(found.severity or "?"), row[0]


@given(st.sampled_from(PREFIXES), addresses, st.integers(1, 176), processes, st.booleans())
@example("", "0000:03:00", 46, "", False)
def test_an_xid_is_read_behind_every_prefix_and_in_every_address_form(
    prefix: str, address: str, number: int, process: str, is_upper: bool
) -> None:
    device = address.upper() if is_upper else address
    found = classify(f"{prefix}NVRM: Xid ({device}): {number}, {process}Ch 00000008")
    assert (found.xid, found.device) == (number, device)
    assert found.pci == normalise_address(device)
    assert found.severity in {"info", "warn", "fatal"}


@given(st.sampled_from(FOREIGN_PREFIXES), st.integers(1, 176))
def test_a_line_that_user_space_wrote_is_not_believed(prefix: str, number: int) -> None:
    assert not classify(f"{prefix}NVRM: Xid (PCI:0000:9b:00): {number}, GPU has fallen off the bus.").is_interesting


def test_a_line_of_user_space_counts_as_a_drill_where_allowed() -> None:
    line = "12,1227,437812449932,-;NVRM: Xid (PCI:0000:9b:00): 79, GPU has fallen off the bus."
    found = classify_line(line, CATALOGUE, allow_injected=True)
    assert (found.xid, found.is_injected) == (79, True)
    assert not classify_line(line.replace("12,", "4,", 1), CATALOGUE, allow_injected=True).is_injected


@given(st.text(max_size=200))
def test_no_text_makes_the_grammar_fail(text: str) -> None:
    classify(text)
    list(classify_lines([text], CATALOGUE))


@given(st.binary(max_size=200))
def test_broken_utf8_in_a_name_keeps_number_and_device(raw: bytes) -> None:
    name = raw.replace(b"\n", b"").decode("utf-8", "replace")
    found = classify(f"NVRM: Xid (PCI:0000:01:00): 31, pid=7, name={name}, Ch 00000008")
    assert (found.xid, found.device, found.severity) == (31, "PCI:0000:01:00", "warn")


@pytest.mark.parametrize(
    "name",
    [
        "NVRM: Xid (PCI:0000:02:00): 79",
        "x\nNVRM: Xid (PCI:0000:02:00): 79, GPU has fallen off the bus.",
        "x\\x0aNVRM: Xid (PCI:0000:02:00): 79, y",
        "RST: Yes, D-RST: Yes",
        "SAW Fatal XC0 i0 Link 0 (0x1 0x2)",
        "GSP",
    ],
)
def test_a_process_name_never_speaks_for_the_driver(name: str) -> None:
    found = classify(f"NVRM: Xid (PCI:0000:01:00): 94, pid=7, name={name}, Contained: CE (0x9). RST: No, D-RST: No")
    assert (found.xid, found.device, found.severity) == (94, "PCI:0000:01:00", "warn")


def test_a_line_of_ten_kilobytes_is_read_from_its_head() -> None:
    assert classify("NVRM: Xid (PCI:0000:01:00): 48, " + "A" * 10_000).xid == 48
    assert not classify("A" * 10_000 + "NVRM: Xid (PCI:0000:01:00): 48, x").is_interesting


@pytest.mark.parametrize("suffix", [" GPU-I:05", " GPU-I:05 GPU-CI:01", " GPU-I:12"])
def test_a_mig_suffix_names_the_instance(suffix: str) -> None:
    found = classify(f"NVRM: Xid (PCI:0000:01:00{suffix}): 94, pid=7, name=a, Contained: CE (0x9). RST: No, D-RST: No")
    assert found.device == f"PCI:0000:01:00{suffix}"
    assert found.instance == suffix[7:9]
    assert found.pci == "0000:01:00.0"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("0x0 (None)", "info/none"),
        ("0x1 (GPU Reset Required)", "fatal/reset_gpu"),
        ("0x1 (PF FLR)", "fatal/reset_gpu"),
        ("0x2 (OS Reboot)", "fatal/reboot_node"),
        ("0x3 (Drain P2P)", "warn/drain_p2p"),
        ("0x4 (Drain and Reset)", "fatal/drain_and_reset"),
        ("0x5 (Recover IMEX)", "warn/recover_imex"),
        ("0x9 (new)", "warn/triage"),
        ("0x2", "fatal/reboot_node"),
        ("0x", "warn/triage"),
    ],
)
def test_a_recovery_action_is_read_by_its_number_not_its_words(code: str, expected: str) -> None:
    head = "NVRM: Xid (PCI:0000:01:00): 154, GPU recovery action changed from 0x0 (Node Reboot Required) to "
    assert verdict(head + code) == expected


@pytest.mark.parametrize(
    ("number", "tail", "expected"),
    [
        (94, "Contained: DRAM (0x3, 0x1). RST: Yes, D-RST: No", "fatal/reset_gpu"),
        (94, "Contained: DRAM (0x3, 0x1). RST: No, D-RST: Yes", "fatal/drain_and_reset"),
        (95, "Uncontained: LTC TAG (0x2). RST: Yes, D-RST: Yes", "fatal/reset_gpu"),
        (95, "Uncontained: LTC (0x0). RST: No, D-RST: No", "warn/restart_app+reset_gpu_when_idle"),
        (95, "Uncontained: LTC (0x0).", "fatal/reset_gpu"),
        (94, "Contained: DRAM (0x3, 0x1). RST: No, D-RST: Yes, physAddr: 0x18f31d80", "fatal/drain_and_reset"),
        (94, "GSP-RISCV instance 3 fatal error", "fatal/reset_gpu"),
        (45, "Ch 00000008", "warn/restart_app"),
        (45, "Ch 00000008 caused by previous Xid 145", "info/none"),
    ],
)
def test_driver_flags_outweigh_the_number(number: int, tail: str, expected: str) -> None:
    assert verdict(f"NVRM: Xid (PCI:0000:01:00): {number}, pid=1, name=x, {tail}") == expected


@pytest.mark.parametrize("number", [*range(1, 177)])
def test_every_number_of_the_catalogue_has_a_policy(number: int) -> None:
    assert classify(f"NVRM: Xid (PCI:0000:01:00): {number}, x").rule not in {None, "xid.unknown"}


@given(st.integers(177, 9999))
def test_a_number_newer_than_the_catalogue_is_triaged_and_says_so(number: int) -> None:
    found = classify(f"NVRM: Xid (PCI:0000:01:00): {number}, x")
    assert (found.severity, found.action, found.rule) == ("warn", "triage", "xid.unknown")


@pytest.mark.parametrize("rule", CATALOGUE.nvlink_rules, ids=lambda rule: f"{rule.xid}-{rule.unit}-{rule.error_status}")
@pytest.mark.parametrize("layout", [0, 1])
def test_every_public_nvlink_rule_is_found_in_both_word_layouts(rule: object, layout: int) -> None:
    from flyball_agent.kernel_nvlink import NvlinkRule

    assert isinstance(rule, NvlinkRule)
    word, status = rule.masks[layout][1], rule.error_status
    words = f"(0x{word:08x} 0x{status:08x} 0x00000000)"
    line = f"NVRM: Xid (PCI:0000:04:00): {rule.xid}, {rule.unit} Nonfatal XC0 i0 Link 07 {words}"
    expected = {"IGNORE": "info/none", "RESET_GPU": "fatal/reset_gpu", "XID_154_EVAL": "warn/await_154"}[rule.action]
    assert verdict(line).removesuffix("+inspect_link") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SAW_NEW Fatal XC0 i0 Link -1 (0x00000001 0x00000002)", "fatal/reset_gpu"),
        ("NEW/UNIT_9 Nonfatal XC1 i0 Link 12 (0x00000001 0x00000002 0x0)", "info/none"),
        ("SAW_MVB Fatal XC0 i0 Link 00 (0x00000001 0x0000000", "warn/triage"),
        ("SAW_MVB Fatal XC0 i0 Li", "warn/triage"),
        ("", "warn/triage"),
    ],
)
def test_nvlink_text_without_a_rule_follows_its_word_and_cut_text_asks_the_driver(text: str, expected: str) -> None:
    assert verdict(f"NVRM: Xid (PCI:0000:04:00): 146, pid=9, name=a, {text}") == expected


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("20034, Fatal, Link 63 LTSSM Fault Up", "fatal/reset_all_gpus_on_node"),
        ("20034, Non-fatal, Link 63 LTSSM Fault Up", "warn/monitor"),
        ("28006, Nonfatal, Link 01 Multicast timeout", "warn/monitor"),
        ("11001, ingress invalid command", "fatal/reset_all_gpus_on_node"),
        ("10001, host", "warn/monitor"),
        ("26006, SOE has halted", "warn/triage"),
        ("20034, Severity 1 Engine instance 37", "continuation/none"),
        ("20034, Data {0x50610002, 0x10100030}", "continuation/none"),
    ],
)
def test_a_switch_error_follows_its_word_then_its_number(tail: str, expected: str) -> None:
    assert verdict(f"[ 1.5] nvidia-nvswitch11: SXid (PCI:0000:05:00.0): {tail}") == expected


@pytest.mark.parametrize(
    ("line", "device"),
    [
        ("NVRM: GPU 0000:29:00.0: GPU has fallen off the bus.", "PCI:0000:29:00"),
        ("NVRM: GPU 18:00.0: GPU has fallen off the bus.", "PCI:0000:18:00"),
        ("NVRM: The NVIDIA GPU 0000:b3:00.0\n" + LOST_TAIL, "PCI:0000:b3:00"),
        ("4,7,99,-;NVRM: The NVIDIA GPU 0008:b3:00.0\\x0a" + LOST_TAIL.replace("\n", "\\x0a"), "PCI:0008:b3:00"),
    ],
)
def test_a_lost_gpu_is_found_without_the_word_xid(line: str, device: str) -> None:
    found = next(iter(classify_lines([line], CATALOGUE)))
    assert (found.xid, found.device, found.action) == (79, device, "reboot_node")


def test_the_three_lines_of_a_lost_gpu_are_joined_in_a_file() -> None:
    lines = [
        "[ 9.1] NVRM: The NVIDIA GPU 0000:b3:00.0",
        "[ 9.1] NVRM: (PCI ID: 10de:26b5) installed in this system has",
        "[ 9.1] NVRM: fallen off the bus and is not responding to commands.",
        "[ 9.2] NVRM: fallen off the bus and is not responding to commands.",
    ]
    found = list(classify_lines(lines, CATALOGUE))
    assert [item.xid for item in found] == [None, None, 79, None]
    assert found[2].device == "PCI:0000:b3:00"


@pytest.mark.parametrize(
    "line",
    [
        "NVRM: Xid PCI:0000:01:00: 43, pid=1814139, name=a, Ch 00000018",
        "NVRM: Xid (PCI:0000:66:00): abc, pid=2280636",
        "NVRM: Xid (PCI:0000:66:00): 79abc",
        "NVRM: Xid (PCI:0000:66:00): 0x4f, x",
        "NVRM: Xid (PCI:0000:66:00): -1, x",
        "NVRM: Xid : 32, pid=2280636",
        "NVRM: Xid (): 32, x",
        "NVRM: Xid (PCI:zzzz:66:00): 32, x",
        "app: NVRM: Xid (PCI:0000:01:00): 79, x",
        "NVRM: Xid error: xyz",
        "NVRM: GPU at 0000:03:00: GPU-b850f46d-0000-0000-0000-000000000000",
        "md/raid0: Disk failure detected",
        "EXT4-fs: Remounting filesystem read-write",
        "prefix_nfs_lock_and_join_requests+0x61/0x2b0 [nfs]",
        "mlx5_core: Detected insufficient power on the PCIe slot (W).",
    ],
)
def test_lines_that_only_look_alike_give_nothing(line: str) -> None:
    assert set(to_json(classify(line)).values()) == {None, False}


@pytest.mark.parametrize(
    ("line", "event", "severity"),
    [
        ("Out of memory: Killed process 77 (train) total-vm:1kB", "oom_killed", "warn"),
        ("Memory cgroup out of memory: Killed process 77 (train) total-vm:1kB", "oom_killed", "warn"),
        ("python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0", "oom_start", "info"),
        ("watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [python3:1]", "cpu_soft_lockup", "warn"),
        ("EDAC MC0: 1 UE memory read error on CPU_SrcID#0", "memory_uncorrectable", "fatal"),
        ("EDAC MC0: 3 CE memory read error on CPU_SrcID#0", "memory_correctable", "warn"),
        ("EXT4-fs (nvme0n1p2): Remounting filesystem read-only", "filesystem_read_only", "fatal"),
        ("BTRFS info (device sda1: state E): forced readonly", "filesystem_read_only", "fatal"),
        ("nvme nvme3: Disabling device after reset failure: -19", "nvme_device_disabled", "fatal"),
        ("mlx5_core 0000:d2:00.0: poll_health:955:(pid 0): device's health compromised - reached miss count",
         "nic_health_compromised", "fatal"),
        ("mlx5_core 0000:d2:00.0: wait_func:1178: ACCESS_REG(0x805) timeout. Will cause a leak of a command resource",
         "nic_command_timeout", "fatal"),
        ("NETDEV WATCHDOG: ens1 (mlx5_core): transmit queue 5 timed out", "nic_transmit_timeout", "warn"),
        ("INFO: task python3:4711 blocked in I/O wait for more than 122 seconds.", "cpu_blocked_too_long", "warn"),
        ("Out of memory: Kill process 9163 (train) score 511 or sacrifice child", "oom_killed", "warn"),
        ("INFO: task nvidia-smi:4711 blocked for more than 241 seconds.", "cpu_blocked_too_long", "warn"),
        ("Kernel panic - not syncing: Fatal exception", "kernel_panic", "fatal"),
        ("NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x22:0x56:1017)", "gpu_init_failed", "fatal"),
    ],
)  # fmt: skip
def test_other_kernel_events_are_named(line: str, event: str, severity: str) -> None:
    for prefix in PREFIXES:
        found = classify(prefix + line)
        assert (found.event, found.severity) == (event, severity), prefix


def test_fabric_manager_is_believed_under_its_own_name_only() -> None:
    text = "detected NVSwitch fatal error 20034 on fid 0 on NVSwitch pci bus id 00000000:86:00.0 physical id 3 port 33"
    assert classify(f"May 19 07:08:57 node7 nv-fabricmanager[91]: {text}").event == "fm_nvswitch_fatal"
    assert not classify(f"May 19 07:08:57 node7 someone[91]: {text}").is_interesting


def test_a_uuid_line_maps_an_address() -> None:
    line = "NVRM: GPU at PCI:0000:9B:00: GPU-b850f46d-0000-0000-0000-000000000000"
    assert parse_uuid_line(line) == ("0000:9b:00.0", "GPU-b850f46d-0000-0000-0000-000000000000")


def test_output_has_the_promised_keys() -> None:
    keys = list(json.loads(json.dumps(to_json(classify("x")))))
    assert keys[:8] == ["xid", "sxid", "event", "device", "class", "action", "scope", "rule"]


@pytest.mark.parametrize(
    "head", ["", "NVRM: Xid (PCI:0000:01:00): 94, ", "EDAC ", "mlx5_core ", "[", "segfault at libnccl "]
)
@pytest.mark.parametrize("fill", ["1", " ", "RST: Yes, D-RST: ", "A Fatal XC0 i0 Link 1 (", "[1.1]"])
def test_no_hostile_line_costs_more_than_its_length(head: str, fill: str) -> None:
    """A grammar that looks back from every place takes seconds for 10 kB; this one takes about 2 ms of CPU."""
    started = time.process_time()
    classify(head + fill * (10_000 // len(fill)))
    assert time.process_time() - started < 0.5
