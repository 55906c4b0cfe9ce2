"""Reading the kernel log: resume, losses, foreign writers, fragments, floods and the journal as second source."""

import json
import os
import socket
import time
import tracemalloc

import pytest

from flyball_agent.catalogue import load_catalogue
from flyball_agent.kernel_journal import JournalLog, journal_command
from flyball_agent.kernel_log import READS_PER_SECOND, DescriptorSource, KernelLog, LogPosition
from flyball_agent.kernel_messages import KNOWN_MESSAGES, NEW_PER_SECOND, KernelMessage, MessageClassifier

CATALOGUE = load_catalogue()
LOST = "NVRM: Xid (PCI:0000:2a:00): 79, GPU has fallen off the bus."


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class RingSource:
    """A kernel ring of records; a None inside stands for an overrun."""

    def __init__(self, *records: bytes | None) -> None:
        self.records = list(records)
        self.at = 0

    def read_record(self) -> bytes | None:
        if self.at >= len(self.records):
            return None
        self.at += 1
        record = self.records[self.at - 1]
        if record is None:
            raise BrokenPipeError
        return record

    def seek_start(self) -> None:
        self.at = 0


def record(sequence: int, message: str | bytes, priority: int = 4, flag: str = "-") -> bytes:
    body = message.encode() if isinstance(message, str) else message
    return f"{priority},{sequence},{sequence * 1000},{flag};".encode() + body + b"\n SUBSYSTEM=pci\n DEVICE=+pci:0\n"


def reader(*records: bytes | None, saved: LogPosition | None = None, allow_injected: bool = False) -> KernelLog:
    clock = Clock()
    classifier = MessageClassifier(CATALOGUE, now_s=clock, allow_injected=allow_injected)
    log = KernelLog(RingSource(*records), classifier, boot_id="boot-1", now_s=clock, saved=saved)
    log.start()
    return log


def read(log: KernelLog) -> list[KernelMessage]:
    return list(log.read_ready())


def test_a_record_gives_its_message_time_and_number() -> None:
    (message,) = read(reader(record(7, "usb 1-1: new device"), record(8, LOST)))
    assert (message.found.xid, message.sequence, message.at_s) == (79, 8, 0.008)


def test_the_dictionary_behind_a_message_is_not_part_of_it() -> None:
    (message,) = read(reader(record(8, LOST)))
    assert message.text == LOST


def test_a_restart_resumes_after_the_saved_record_without_repeats() -> None:
    records = [record(number, f"NVRM: Xid (PCI:0000:01:00): {number}, x") for number in range(1, 6)]
    first = reader(*records[:3])
    assert len(read(first)) == 3
    again = reader(*records, saved=first.position)
    assert [message.sequence for message in read(again)] == [4, 5]
    assert again.counters.lost == 0


def test_another_boot_is_read_from_its_start() -> None:
    log = reader(record(0, LOST), saved=LogPosition("boot-0", 900))
    assert [message.sequence for message in read(log)] == [0]


def test_records_lost_while_we_were_away_are_told() -> None:
    first, second = read(reader(record(12, LOST), saved=LogPosition("boot-1", 4)))
    assert (first.lost, second.found.xid) == (7, 79)


def test_an_overrun_is_told_with_its_count_and_reading_goes_on() -> None:
    log = reader(record(1, "a"), None, record(501, LOST))
    first, second = read(log)
    assert (first.lost, second.found.xid) == (499, 79)
    assert log.counters.lost == 499


def test_a_record_of_user_space_is_counted_and_not_believed() -> None:
    log = reader(record(1, LOST, priority=12), record(2, LOST, priority=8 + 3))
    assert read(log) == []
    assert log.counters.foreign == 2


def test_a_drill_is_believed_where_allowed_and_marked() -> None:
    (message,) = read(reader(record(1, LOST, priority=12), allow_injected=True))
    assert (message.found.xid, message.found.is_injected) == (79, True)


def test_a_continued_line_is_put_together() -> None:
    log = reader(record(1, "NVRM: Xid (PCI:0000:01:00): ", flag="c"), record(2, "48, DBE", flag="+"))
    assert [message.found.xid for message in read(log)] == [48]


def test_the_driver_flags_a_whole_line_as_fragment_too() -> None:
    assert [message.found.xid for message in read(reader(record(1, LOST, flag="c")))] == [79]


@pytest.mark.parametrize(
    "raw", [b"", b"no header", b"4,1;x", b"x,1,2,-;y", b"4,99999999999999999999,2,-;y", b"\xff\x00"]
)
def test_a_malformed_record_is_counted_and_skipped(raw: bytes) -> None:
    log = reader(raw, record(5, LOST))
    assert [message.found.xid for message in read(log)] == [79]
    assert log.counters.malformed == 1


def test_escaped_and_broken_bytes_do_not_hide_an_xid() -> None:
    log = reader(record(1, b"NVRM: Xid (PCI:0000:01:00): 31, name=\xff\\xe2\\x82\\xac\\x5c, Ch 1"))
    assert read(log)[0].found.xid == 31


def test_a_uuid_line_gives_its_mapping() -> None:
    uuid = "GPU-b850f46d-0000-0000-0000-000000000000"
    assert read(reader(record(1, f"NVRM: GPU at PCI:0000:03:00: {uuid}")))[0].mapping == ("0000:03:00.0", uuid)


def test_a_descriptor_is_read_record_by_record_and_never_blocks() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    clock = Clock()
    log = KernelLog(
        DescriptorSource(ours.fileno()), MessageClassifier(CATALOGUE, now_s=clock), boot_id="b", now_s=clock
    )
    with ours, theirs:
        log.start()
        assert list(log.read_ready()) == []
        os.write(theirs.fileno(), record(3, LOST))
        assert [message.found.xid for message in log.read_ready()] == [79]


def test_reading_stops_at_the_budget_and_goes_on_in_the_next_second() -> None:
    clock = Clock()
    source = RingSource(*[record(number, LOST) for number in range(READS_PER_SECOND + 5)])
    log = KernelLog(source, MessageClassifier(CATALOGUE, now_s=clock), boot_id="b", now_s=clock)
    list(log.read_ready(limit=10**6))
    assert (log.is_exhausted, log.counters.records) == (True, READS_PER_SECOND)
    clock.now_s += 1.0
    list(log.read_ready(limit=10**6))
    assert log.counters.records == READS_PER_SECOND + 5


def test_a_flood_of_ever_new_lines_of_one_kind_hides_no_other_kind() -> None:
    lines = [record(n, f"NVRM: Xid (PCI:0000:01:00): 31, pid={n}, name=x, Ch {n}") for n in range(NEW_PER_SECOND + 500)]
    log = reader(*lines, record(9000, "NVRM: Xid (PCI:0000:02:00): 48, DBE"), *lines[:1])
    found = [message.found.xid for message in log.read_ready(limit=10**6)]
    assert 48 in found


def flood(count: int, clock: Clock) -> KernelLog:
    """Return a log of `count` copies of 29 XID 95 lines, as one node once wrote 800,000 of."""
    texts = [
        f"NVRM: Xid (PCI:0000:01:00): 95, pid={n}, name=x, Uncontained: LTC TAG (0x2, 0x{n:x})." for n in range(29)
    ]
    source = RingSource(*[record(n, texts[n % 29]) for n in range(count)])
    return KernelLog(source, MessageClassifier(CATALOGUE, now_s=clock), boot_id="b", now_s=clock)


def test_a_flood_of_repeats_is_told_once_a_second_each_with_its_count() -> None:
    clock = Clock()
    log = flood(29 * 600, clock)
    assert sum(1 for _ in log.read_ready(10**6)) == 29
    clock.now_s += 1.0
    again = list(log.read_ready(10**6))
    assert len(again) == 29
    assert sum(message.repeats for message in again) == READS_PER_SECOND - 29


def test_memory_does_not_grow_with_repeats() -> None:
    log = flood(8000, Clock())
    list(log.read_ready(4000))
    tracemalloc.start()
    list(log.read_ready(4000))
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 20_000


def test_memory_of_messages_is_bounded() -> None:
    classifier = MessageClassifier(CATALOGUE, now_s=iter(range(10**9)).__next__)
    for number in range(KNOWN_MESSAGES + 100):
        classifier.classify(f"NVRM: Xid (PCI:0000:01:00): 31, pid={number}".encode(), 0, 0.0, number)
    assert len(classifier._known) == KNOWN_MESSAGES


def journal_entry(**changes: object) -> bytes:
    entry = {"MESSAGE": LOST, "_TRANSPORT": "kernel", "SYSLOG_FACILITY": "0", "__CURSOR": "s=1", "PRIORITY": "3"}
    return json.dumps(entry | changes).encode()


def test_the_journal_gives_the_same_messages_and_its_cursor() -> None:
    journal = JournalLog(MessageClassifier(CATALOGUE, now_s=lambda: 0.0))
    (message,) = journal.take_entry(journal_entry(_SOURCE_MONOTONIC_TIMESTAMP="2500000"))
    assert (message.found.xid, message.at_s, journal.cursor) == (79, 2.5, "s=1")
    assert journal_command("s=1")[-2:] == ["--after-cursor", "s=1"]


def test_a_journal_message_that_is_no_text_comes_as_numbers() -> None:
    journal = JournalLog(MessageClassifier(CATALOGUE, now_s=lambda: 0.0))
    assert [m.found.xid for m in journal.take_entry(journal_entry(MESSAGE=list(LOST.encode() + b"\xff")))] == [79]


@pytest.mark.parametrize("changes", [{"_TRANSPORT": "syslog"}, {"SYSLOG_FACILITY": "1"}, {"_TRANSPORT": None}])
def test_a_journal_entry_of_another_writer_is_not_believed(changes: dict[str, object]) -> None:
    journal = JournalLog(MessageClassifier(CATALOGUE, now_s=lambda: 0.0))
    assert list(journal.take_entry(journal_entry(**changes))) == []
    assert journal.foreign == 1


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"MESSAGE": 7}', b'{"MESSAGE": [999]}', b"x" * 70_000])
def test_a_broken_journal_entry_is_counted(line: bytes) -> None:
    journal = JournalLog(MessageClassifier(CATALOGUE, now_s=lambda: 0.0))
    assert list(journal.take_entry(line)) == []
    assert journal.malformed == 1


def cpu_seconds_of(count: int) -> float:
    """Return the CPU time of reading `count` repeats; not a test, timings belong to the benchmarks."""
    clock = Clock()
    log = flood(count, clock)
    started = time.process_time()
    for _ in range(count // READS_PER_SECOND + 1):
        clock.now_s += 1.0
        list(log.read_ready(10**9))
    assert log.counters.records == count
    return time.process_time() - started
