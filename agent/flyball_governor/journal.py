"""Small state files that survive a kill at any line: the old record or the new one is on disk, never a torn one.

A file is one JSON line and one line with its SHA-256. What is on disk is a hint, never an authority (lease rule 5).
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flyball_wire.errors import FlyballError

MAX_STATE_BYTES: Final = 1 << 20


class JournalError(FlyballError):
    """State cannot be written: nothing that needs it on disk may happen."""


def write_atomically(path: Path, content: bytes, *, is_durable: bool = True) -> None:
    """Replace a file by new content; with `is_durable` it is on disk before this returns.

    Raises:
        JournalError: the disk refuses; the old content is still there.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
        temporary.replace(path)
        if is_durable:
            sync_folder(path.parent)
    except OSError as error:
        raise JournalError(f"{path}: cannot write: {error.strerror}") from None


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to disk, so that a rename in it survives a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class StateFile:
    """One record of plain JSON values on disk."""

    path: Path

    def write(self, record: dict[str, Any]) -> None:
        """Put a record on disk before this returns.

        Raises:
            JournalError: the disk refuses; the old record is still there.
        """
        line = json.dumps(record, sort_keys=True).encode()
        write_atomically(self.path, line + b"\n" + hashlib.sha256(line).hexdigest().encode() + b"\n")

    def read(self) -> dict[str, Any] | None:
        """Return the record; None when there is none or it is damaged: unknown, hence never a reason to raise."""
        try:
            raw = self.path.read_bytes()[:MAX_STATE_BYTES]
            line, digest, _ = raw.split(b"\n", 2)
            record = json.loads(line)
        except (OSError, ValueError):
            return None
        if hashlib.sha256(line).hexdigest().encode() != digest or not isinstance(record, dict):
            return None
        return record


@dataclass(slots=True)
class PriorLimits:
    """The limit each GPU had before our first write, by UUID, in milliwatts; on disk before that write.

    Only an operator's release puts a prior value back and forgets it.
    """

    file: StateFile
    known: dict[str, int] = field(default_factory=dict)

    def load(self) -> None:
        """Read what an earlier governor left."""
        record = self.file.read() or {}
        self.known = {uuid: limit for uuid, limit in record.items() if isinstance(limit, int) and limit > 0}

    def remember(self, limits_milliwatts: dict[str, int]) -> None:
        """Put the limits of GPUs not yet known on disk; a known prior value is never overwritten.

        Raises:
            JournalError: the disk refuses; none of these GPUs may be written to.
        """
        fresh = {uuid: limit for uuid, limit in limits_milliwatts.items() if uuid not in self.known}
        if fresh:
            merged = self.known | fresh
            self.file.write(dict(merged))
            self.known = merged

    def forget(self, uuids: set[str]) -> None:
        """Drop GPUs whose prior value stands in the device again.

        Raises:
            JournalError: the disk refuses; they stay known.
        """
        kept = {uuid: limit for uuid, limit in self.known.items() if uuid not in uuids}
        self.file.write(dict(kept))
        self.known = kept
