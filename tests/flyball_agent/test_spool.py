"""The spool keeps what must be kept, in order, within its bound, over kills and damage."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyball_agent.spool import Spool

PAYLOAD = bytes(1000)


@contextmanager
def opened(directory: Path, max_bytes: int = 1 << 20) -> Iterator[Spool]:
    spool = Spool(directory, max_bytes)
    spool.open()
    try:
        yield spool
    finally:
        spool.close()


def drain(spool: Spool, at_once: int = 7) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    while batch := spool.peek(at_once):
        found += [(record.channel, record.payload) for record in batch]
        spool.deliver(batch[-1].number)
    return found


def test_messages_of_both_streams_come_back_in_the_order_they_went(tmp_path: Path) -> None:
    sent = [(("telemetry", "event", "state")[n % 3], b"%d" % n) for n in range(100)]
    with opened(tmp_path) as spool:
        for channel, payload in sent:
            assert spool.append(channel, payload)  # type: ignore[arg-type]  # one of the channels
        assert len(spool) == 100
        assert drain(spool) == sent
        assert (len(spool), spool.size_bytes) == (0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["cursor"]


def test_what_waits_and_what_was_delivered_survive_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        for n in range(20):
            spool.append("event", b"%d" % n)
        spool.deliver(spool.peek(5)[-1].number)
    with opened(tmp_path) as spool:
        assert len(spool) == 15
        spool.append("telemetry", b"new")
        assert [payload for _, payload in drain(spool)] == [*(b"%d" % n for n in range(5, 20)), b"new"]


def test_oldest_telemetry_gives_way_and_no_event_does(tmp_path: Path) -> None:
    with opened(tmp_path, 100_000) as spool:
        for n in range(40):
            spool.append("event", b"event %d" % n)
            for _ in range(10):
                assert spool.append("telemetry", PAYLOAD + b"%d" % n)
            assert spool.size_bytes <= 100_000
        found = drain(spool)
    assert [payload for channel, payload in found if channel == "event"] == [b"event %d" % n for n in range(40)]
    kept = [int(payload[1000:]) for channel, payload in found if channel == "telemetry"]
    assert kept == sorted(kept)
    assert kept[-1] == 39
    assert spool.dropped_total == 400 - len(kept)
    assert spool.refused_total == 0


def test_a_spool_full_of_events_refuses_the_newest_and_counts_it(tmp_path: Path) -> None:
    with opened(tmp_path, 65_536) as spool:
        taken = [spool.append("event", PAYLOAD) for _ in range(100)]
        assert taken == sorted(taken, reverse=True)
        assert spool.refused_total == taken.count(False) > 0
        assert not spool.append("telemetry", PAYLOAD)
        assert spool.dropped_total == 1
        assert len(drain(spool)) == taken.count(True)
        assert spool.append("event", PAYLOAD)


def test_what_is_evicted_while_it_is_being_sent_is_no_harm(tmp_path: Path) -> None:
    with opened(tmp_path, 65_536) as spool:
        spool.append("telemetry", PAYLOAD)
        batch = spool.peek(1)
        for _ in range(200):
            spool.append("telemetry", PAYLOAD)
        spool.deliver(batch[-1].number)
        assert len(drain(spool)) == 201 - spool.dropped_total


@pytest.mark.parametrize("keep", [0, 1, 16, 17, 25])
def test_a_torn_last_record_is_cut_off_and_the_rest_kept(tmp_path: Path, keep: int) -> None:
    with opened(tmp_path) as spool:
        spool.append("event", b"first")
        whole = spool.size_bytes
        spool.append("event", b"a second record")
    path = next(tmp_path.glob("kept-*.log"))
    os.truncate(path, whole + keep)
    with opened(tmp_path) as spool:
        assert spool.damaged_total == (1 if keep else 0)
        spool.append("event", b"third")
        assert [payload for _, payload in drain(spool)] == [b"first", b"third"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 400), value=st.integers(0, 255), cursor=st.binary(max_size=20))
def test_no_damage_keeps_the_spool_from_working(tmp_path: Path, place: int, value: int, cursor: bytes) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    with opened(tmp_path) as spool:
        for n in range(10):
            spool.append("event", b"%d" % n)
    path = next(tmp_path.glob("kept-*.log"))
    body = bytearray(path.read_bytes())
    body[place % len(body)] = value
    path.write_bytes(body)
    (tmp_path / "cursor").write_bytes(cursor)
    with opened(tmp_path) as spool:
        spool.append("event", b"after")
        assert drain(spool)[-1] == ("event", b"after")


def test_files_deleted_under_it_are_given_up_not_asked_for_for_ever(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.append("event", b"gone")
        next(tmp_path.glob("kept-*.log")).unlink()
        assert drain(spool) == []
        assert len(spool) == 0
        spool.append("event", b"new")
        assert drain(spool) == [("event", b"new")]


_WRITER = """
import sys
from pathlib import Path
from flyball_agent.spool import Spool
spool = Spool(Path(sys.argv[1]), 1 << 22)
spool.open()
number = 0
while True:
    number += 1
    assert spool.append("event" if number % 2 else "telemetry", b"%d" % number * 50)
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_a_killed_writer_leaves_every_record_it_had_said(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) == 200:
                writer.kill()
                break
    with opened(tmp_path) as spool:
        numbers = [len(payload) for _, payload in drain(spool)]
    assert len(numbers) >= 200
    assert numbers[:200] == [len(b"%d" % n * 50) for n in range(1, 201)]


def test_a_directory_that_cannot_be_made_is_told_at_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Spool(tmp_path / "file" / "spool", 1 << 20).open()
