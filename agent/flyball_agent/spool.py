"""Messages on disk while the broker is away: bounded, in order, whole after a kill -9.

Two streams of append-only segments, telemetry and kept (events, state changes). When the bound is reached the oldest
telemetry segment goes; a kept record is never given up for another: with no telemetry left the newest is refused.
A record is written with one call and carries its length and checksum, so a torn one ends its segment when read again.
`cursor` holds the number of the last record that was delivered; after a kill at most those in flight come twice.
"""

import logging
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Stream = Literal["kept", "telemetry"]
Channel = Literal["state", "telemetry", "event"]
CHANNELS: Final[tuple[Channel, ...]] = ("state", "telemetry", "event")
MAX_PAYLOAD_BYTES: Final = 1 << 20
_HEADER = struct.Struct("<IIQB")  # payload bytes, checksum of all that follows it, number, channel
_CURSOR = struct.Struct("<QI")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """One message that waits; numbers rise by the order of `append`."""

    number: int
    channel: Channel
    payload: bytes


@dataclass(slots=True)
class _Segment:
    path: Path
    stream: Stream
    size: int = 0
    count: int = 0  # records not delivered yet
    offset: int = 0  # where the first of them begins


class Spool:
    """The waiting messages of one host. One process opens it; it is not safe for threads."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.dropped_total = 0  # telemetry that gave way
        self.refused_total = 0  # kept records that found no place
        self.damaged_total = 0  # segments that ended in a torn or damaged record
        self._directory = directory
        self._max_bytes = max_bytes
        self._segment_bytes = max(4096, min(1 << 20, max_bytes // 16))
        self._segments: dict[Stream, deque[_Segment]] = {"kept": deque(), "telemetry": deque()}
        self._writers: dict[Stream, int] = {}
        self._delivered = 0
        self._next = 1
        self._cursor: int | None = None

    def __len__(self) -> int:
        """Return how many messages wait."""
        return sum(segment.count for stream in self._segments.values() for segment in stream)

    @property
    def size_bytes(self) -> int:
        """What the segments take on disk."""
        return sum(segment.size for stream in self._segments.values() for segment in stream)

    def open(self) -> None:
        """Make the directory and find what an earlier run left; raises OSError when that is impossible."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._cursor = os.open(self._directory / "cursor", os.O_RDWR | os.O_CREAT, 0o600)
        self._delivered = _read_cursor(self._cursor)
        self._next = self._delivered + 1
        for path in sorted(self._directory.glob("*.log")):
            self._adopt(path)

    def close(self) -> None:
        """Let go of every file; what waits stays on disk."""
        for stream in list(self._writers):
            self._end_writer(stream)
        if self._cursor is not None:
            os.close(self._cursor)
            self._cursor = None

    def append(self, channel: Channel, payload: bytes) -> bool:
        """Keep a message at the end; False when it found no place (counted) or the disk refused it (logged)."""
        stream: Stream = "telemetry" if channel == "telemetry" else "kept"
        record = _pack(self._next, channel, payload)
        if not self._make_room(len(record)):
            return self._gave_up(stream)
        try:
            self._write(stream, record)
        except OSError as error:
            _log.warning("spool %s: %s; message not kept", self._directory, error.strerror)
            self._end_writer(stream)
            return self._gave_up(stream)
        self._next += 1
        return True

    def peek(self, most: int) -> list[Record]:
        """Return the oldest messages, at most so many, without removing them."""
        walks = [_Walk(self._records(stream)) for stream in self._segments]
        found: list[Record] = []
        while len(found) < most:
            waiting = [walk for walk in walks if walk.head is not None]
            if not waiting:
                break
            first = min(waiting, key=lambda walk: walk.number)
            found.append(first.take())
        if not found and len(self):
            self._forget_unreadable()
        return found

    def deliver(self, number: int) -> None:
        """Forget every message up to this number, on disk as well."""
        self._delivered = max(self._delivered, number)
        if self._cursor is not None:
            body = _CURSOR.pack(self._delivered, zlib.crc32(struct.pack("<Q", self._delivered)))
            os.pwrite(self._cursor, body, 0)
        for stream, segments in self._segments.items():
            while segments and self._skip_delivered(segments[0]):
                self._remove_first(stream)

    def _skip_delivered(self, segment: _Segment) -> bool:
        """Move a segment's start behind what was delivered; True when nothing is left in it."""
        for record, end in _read_segment(segment.path, segment.offset):
            if record.number > self._delivered:
                return False
            segment.offset = end
            segment.count -= 1
        return True

    def _forget_unreadable(self) -> None:
        """Give up segments that someone deleted or damaged under us, rather than ask for them for ever."""
        self.damaged_total += sum(len(segments) for segments in self._segments.values())
        _log.warning("spool %s: %d messages cannot be read back; dropped", self._directory, len(self))
        for stream, segments in self._segments.items():
            while segments:
                self._remove_first(stream)

    def _records(self, stream: Stream) -> Iterator[Record]:
        for segment in tuple(self._segments[stream]):
            yield from (record for record, _ in _read_segment(segment.path, segment.offset))

    def _adopt(self, path: Path) -> None:
        """Take over a segment of an earlier run: skip what was delivered, cut off what was torn."""
        stream: Stream = "telemetry" if path.name.startswith("telemetry-") else "kept"
        segment = _Segment(path, stream)
        for record, end in _read_segment(path, 0):
            segment.size = end
            self._next = max(self._next, record.number + 1)
            if record.number <= self._delivered:
                segment.offset = end
            else:
                segment.count += 1
        if path.stat().st_size != segment.size:
            self.damaged_total += 1
            _log.warning("spool segment %s: damaged after %d bytes; the rest is dropped", path, segment.size)
            os.truncate(path, segment.size)
        if segment.count:
            self._segments[stream].append(segment)
        else:
            path.unlink()

    def _make_room(self, need: int) -> bool:
        while self.size_bytes + need > self._max_bytes:
            if not self._segments["telemetry"]:
                return False
            self.dropped_total += self._segments["telemetry"][0].count
            self._remove_first("telemetry")
        return True

    def _gave_up(self, stream: Stream) -> bool:
        if stream == "telemetry":
            self.dropped_total += 1
        else:
            self.refused_total += 1
        return False

    def _write(self, stream: Stream, record: bytes) -> None:
        segments = self._segments[stream]
        if stream not in self._writers or segments[-1].size + len(record) > self._segment_bytes:
            self._begin_segment(stream)
        descriptor = self._writers[stream]
        written = os.write(descriptor, record)
        if written != len(record):
            os.ftruncate(descriptor, segments[-1].size)
            raise OSError(28, "no space left on device")
        if stream == "kept":
            os.fdatasync(descriptor)
        segments[-1].size += len(record)
        segments[-1].count += 1

    def _begin_segment(self, stream: Stream) -> None:
        self._end_writer(stream)
        segments = self._segments[stream]
        if segments and not segments[-1].size:
            segments.pop()  # its first write failed
        path = self._directory / f"{stream}-{self._next:020d}.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        self._writers[stream] = os.open(path, flags, 0o600)
        segments.append(_Segment(path, stream))

    def _end_writer(self, stream: Stream) -> None:
        descriptor = self._writers.pop(stream, None)
        if descriptor is not None:
            os.close(descriptor)

    def _remove_first(self, stream: Stream) -> None:
        segments = self._segments[stream]
        if len(segments) == 1:
            self._end_writer(stream)
        segments.popleft().path.unlink(missing_ok=True)


class _Walk:
    """A stream of records with its head in view."""

    def __init__(self, records: Iterator[Record]) -> None:
        self._records = records
        self.head = next(records, None)

    @property
    def number(self) -> int:
        return self.head.number if self.head is not None else 0

    def take(self) -> Record:
        head = self.head
        if head is None:
            raise LookupError("the stream is at its end")
        self.head = next(self._records, None)
        return head


def _pack(number: int, channel: Channel, payload: bytes) -> bytes:
    tail = struct.pack("<QB", number, CHANNELS.index(channel)) + payload
    return struct.pack("<II", len(payload), zlib.crc32(tail)) + tail


def _read_segment(path: Path, offset: int) -> Iterator[tuple[Record, int]]:
    """Yield each whole record and where it ends, until the end or the first damaged one."""
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        file.seek(offset)
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            length, checksum, number, channel = _HEADER.unpack(header)
            payload = file.read(length) if length <= MAX_PAYLOAD_BYTES else b""
            is_whole = len(payload) == length and channel < len(CHANNELS)
            if not is_whole or zlib.crc32(header[8:] + payload) != checksum:
                return
            yield Record(number, CHANNELS[channel], payload), file.tell()


def _read_cursor(descriptor: int) -> int:
    body = os.pread(descriptor, _CURSOR.size, 0)
    if len(body) != _CURSOR.size:
        return 0
    number, checksum = _CURSOR.unpack(body)
    return int(number) if zlib.crc32(body[:8]) == checksum else 0
