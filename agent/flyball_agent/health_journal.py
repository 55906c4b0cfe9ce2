"""The journal of the health machine: each input that changes something is on disk before anything is done about it.

One line per input, with a checksum, appended and synced. A line cut by a crash ends the journal; what follows is
dropped. Reading it again gives the same states. When it grows past a limit it starts anew from a snapshot, under
another name first, so that there is always one whole journal.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

from flyball_agent.facts import Fact, Level, parse_entity
from flyball_agent.health import HealthMachine
from flyball_agent.health_inputs import Boot, Input, Intent, Order, Progress

MAX_BYTES: Final = 4 << 20
_KINDS: Final[dict[str, Callable[..., Input]]] = {"fact": Fact, "progress": Progress, "order": Order, "boot": Boot}
_NAMES: Final = {Fact: "fact", Progress: "progress", Order: "order", Boot: "boot"}


class HealthJournal:
    """Applies inputs to a machine and keeps them; use as a context manager.

    Raises:
        OSError: the journal cannot be written; then nothing may be done about the input either.
    """

    def __init__(self, path: Path, machine: HealthMachine) -> None:
        self.machine = machine
        self.dropped_bytes = 0
        self._path = path
        self._descriptor = -1
        self._bytes = 0

    def __enter__(self) -> Self:
        """Read the journal back into the machine and open it for appending."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._replay()
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self.dropped_bytes = os.fstat(self._descriptor).st_size - whole
        os.ftruncate(self._descriptor, whole)
        self._bytes = whole
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file; everything in it is already on disk."""
        os.close(self._descriptor)
        self._descriptor = -1

    def apply(self, given: Input) -> list[Intent]:
        """Write an input down where it changes more than a count, then apply it."""
        return self.apply_all([given])

    def apply_all(self, inputs: Sequence[Input]) -> list[Intent]:
        """Apply inputs in order, with one write and one sync for all of them; each is judged by what was before."""
        news = [given for given in inputs if not isinstance(given, Fact) or self.machine.is_news(given)]
        if news:
            self._append(*(input_to_plain(given) for given in news))
        return [intent for given in inputs for intent in self.machine.apply(given)]

    def tick(self, now_s: float) -> list[Intent]:
        """Let time pass; the tick is written down when it moved something."""
        before = self.machine.closings
        intents = self.machine.tick(now_s)
        if intents or self.machine.closings != before:
            self._append({"kind": "tick", "at_s": now_s})
        if self._bytes > MAX_BYTES:
            self.compact()
        return intents

    def compact(self) -> None:
        """Start the journal anew from a snapshot."""
        line = encode_line({"kind": "snapshot", **self.machine.to_plain()})
        fresh = self._path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o640)
        _write_all(descriptor, line)
        os.fsync(descriptor)
        fresh.replace(self._path)
        _sync_folder(self._path.parent)
        os.close(self._descriptor)
        self._descriptor, self._bytes = descriptor, len(line)

    def _append(self, *plain: dict[str, Any]) -> None:
        lines = b"".join(encode_line(one) for one in plain)
        _write_all(self._descriptor, lines)
        os.fdatasync(self._descriptor)
        self._bytes += len(lines)

    def _replay(self) -> int:
        """Apply the whole lines; return their bytes."""
        if not self._path.exists():
            return 0
        raw = self._path.read_bytes()
        whole = 0
        for plain, end in decode_lines(raw):
            _replay_one(self.machine, plain)
            whole = end
        return whole


def encode_line(plain: dict[str, Any]) -> bytes:
    """Return one journal line: checksum, space, JSON, newline."""
    body = json.dumps(plain, separators=(",", ":")).encode()
    return b"%08x " % zlib.crc32(body) + body + b"\n"


def decode_lines(raw: bytes) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield (plain input, end of its line) up to the first line that is not whole."""
    start = 0
    while (end := raw.find(b"\n", start)) >= 0:
        checksum, _, body = raw[start:end].partition(b" ")
        if checksum != b"%08x" % zlib.crc32(body):
            return
        yield json.loads(body), end + 1
        start = end + 1


def input_to_plain(given: Input) -> dict[str, Any]:
    """Return an input as plain values."""
    plain = asdict(given)
    if "entity" in plain:
        plain["entity"] = str(given.entity) if not isinstance(given, Boot) else ""
    return {"kind": _NAMES[type(given)], **plain}


def input_from_plain(plain: dict[str, Any]) -> Input:
    """Return the input of its plain values."""
    fields = {key: value for key, value in plain.items() if key != "kind"}
    if "entity" in fields:
        fields["entity"] = parse_entity(fields["entity"])
    if "level" in fields:
        fields["level"] = Level(fields["level"])
    return _KINDS[plain["kind"]](**fields)


def _replay_one(machine: HealthMachine, plain: dict[str, Any]) -> None:
    if plain["kind"] == "snapshot":
        machine.restore(plain)
    elif plain["kind"] == "tick":
        machine.tick(plain["at_s"])
    else:
        machine.apply(input_from_plain(plain))


def _write_all(descriptor: int, line: bytes) -> None:
    written = 0
    while written < len(line):
        written += os.write(descriptor, line[written:])


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
