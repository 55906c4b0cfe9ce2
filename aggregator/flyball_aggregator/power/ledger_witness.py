"""The witness: a small file beside the ledger that says how far it came, so that an older copy of it is found out.

Two slots of fixed size, written in turn and in place: a torn write leaves the other, and a full disk does not matter.
"""

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SLOT: Final = struct.Struct("<8sQQQQI")  # magic, counter, epoch, seq, unlogged_from, crc
_MAGIC: Final = b"flyball1"
_SLOT_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Witness:
    """The newest fence that may have been sent; from `unlogged_from` on, while the disk was full, only lowers."""

    counter: int
    epoch: int
    seq: int
    unlogged_from: int = 0  # 0: everything is in the store


def read_witness(path: Path) -> Witness | None:
    """Return the newest whole slot, or None where there is none."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    slots = [_parse_slot(raw[at : at + _SLOT.size]) for at in (0, _SLOT_BYTES)]
    whole = [slot for slot in slots if slot is not None]
    return max(whole, key=lambda slot: slot.counter, default=None)


def write_witness(path: Path, witness: Witness) -> None:
    """Write one slot in place and wait until it is on disk.

    Raises:
        OSError: as of the file system.
    """
    body = _SLOT.pack(_MAGIC, witness.counter, witness.epoch, witness.seq, witness.unlogged_from, 0)[:-4]
    slot = body + struct.pack("<I", zlib.crc32(body))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(descriptor).st_size < 2 * _SLOT_BYTES:
            os.pwrite(descriptor, bytes(2 * _SLOT_BYTES), 0)
        os.pwrite(descriptor, slot, _SLOT_BYTES * (witness.counter % 2))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse_slot(raw: bytes) -> Witness | None:
    if len(raw) < _SLOT.size:
        return None
    magic, counter, epoch, seq, unlogged_from, crc = _SLOT.unpack(raw)
    if magic != _MAGIC or crc != zlib.crc32(raw[: _SLOT.size - 4]):
        return None
    return Witness(counter, epoch, seq, unlogged_from)
