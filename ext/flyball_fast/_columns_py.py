"""The columnar codec of telemetry batches: the readable twin, and the statement of the format.

    batch   version u8, base i64 (Unix µs), blocks u8, then the blocks
    block   gpu u8, rows u16, mask u16 (bit c: column c of `ring_layout.COLUMNS` follows), then its columns in order
    column  tag u8, [which rows are unknown: a bit each], first value, [step, deviations]

Values are divided by the column's quantum, rounding down. A column says its first value and one step, and of each
further row how far its difference to the row before deviates from the step: not at all (kind 0), in 1, 2, 4 or 8 bytes
each (1-4), as varints (5), or only where it does (6). An unknown row repeats the one before. Bit 3 of the tag: some
rows are unknown; bit 4: the values count from the same row of the batch's first block (times do). All is little-endian,
varints are zigzag LEB128.
"""

from __future__ import annotations

import itertools
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from flyball_fast.errors import ColumnsError
from flyball_fast.ring_layout import COLUMNS, HEADER_BYTES, column_offset, gpu_bytes

VERSION = 1
UNKNOWN = -(2**63)
MAX_BLOCKS, MAX_ROWS, MAX_VALUES = 64, 2**15, 2**19  # what a decoder gives memory for: 4 MiB
# Smallest step a batch tells: times and throttle counters 100 µs, energy 0.1 J, power 10 mW, the rest as read.
QUANTA = (100_000, 100, 100_000, 100_000, 100_000, 100_000, 10, 10, 1, 1, 1, 1, 1)
_WIDTHS = {1: "b", 2: "h", 3: "i", 4: "q"}
_VARINT, _SPARSE = 5, 6
_HAS_UNKNOWN, _FROM_FIRST_BLOCK = 8, 16
_HEAD, _BLOCK = struct.Struct("<BqB"), struct.Struct("<BHH")


class Block(NamedTuple):
    """Rows of one GPU: values of column c stand at c * rows, 64 bit; `UNKNOWN` marks what nobody knows.

    Column 0 is Unix time in nanoseconds; the others are those of `ring_layout.COLUMNS`.
    """

    gpu: int
    rows: int
    values: memoryview[int]

    def column(self, index: int) -> memoryview[int]:
        """Return one column in place, (rows,)."""
        return self.values[index * self.rows : (index + 1) * self.rows]


def gather(  # noqa: PLR0917 - as its compiled twin, which takes no keywords
    memory: memoryview, gpu: int, capacity: int, first: int, stop: int, real_minus_mono_ns: int
) -> Block:
    """Copy rows first..stop-1 of a ring; whoever asks must ask the ring afterwards whether they were intact."""
    values = array("q")
    base = HEADER_BYTES + gpu * gpu_bytes(capacity)
    for index, column in enumerate(COLUMNS):
        start = base + column_offset(index, capacity)
        source = memory[start : start + capacity * column.bytes].cast(column.format)
        shift = real_minus_mono_ns if index == 0 else 0
        for row in range(first, stop):
            value = source[row % capacity]
            values.append(UNKNOWN if value == column.unknown or value >= 2**63 else value + shift)
    return Block(gpu, stop - first, memoryview(values))


def encode(base_unix_us: int, blocks: Sequence[Block]) -> bytes:
    """Pack blocks into one batch.

    Raises:
        ColumnsError: more blocks, rows or values than a decoder takes, or values that are not as many as said.
    """
    _check_size(blocks)
    out = bytearray(_HEAD.pack(VERSION, base_unix_us, len(blocks)))
    for block in blocks:
        columns = [_quantized(block, index, base_unix_us) for index in range(len(COLUMNS))]
        mask = sum(1 << index for index, values in enumerate(columns) if any(value is not None for value in values))
        out += _BLOCK.pack(block.gpu, block.rows, mask)
        for index, values in enumerate(columns):
            if mask >> index & 1:
                reference = _quantized(blocks[0], 0, base_unix_us) if index == 0 and block is not blocks[0] else None
                out += _encode_column(values, reference)
    return bytes(out)


def decode(data: bytes | memoryview) -> tuple[int, list[Block]]:
    """Unpack a batch into its base (Unix µs) and blocks.

    Raises:
        ColumnsError: anything but a whole batch of this version.
    """
    try:
        return _Decoder(memoryview(data).cast("B")).batch()
    except (IndexError, struct.error) as error:
        raise ColumnsError("a batch that ends too early") from error


def _check_size(blocks: Sequence[Block]) -> None:
    if len(blocks) > MAX_BLOCKS:
        raise ColumnsError(f"{len(blocks)} blocks, expected at most {MAX_BLOCKS}")
    for block in blocks:
        if not 0 <= block.rows <= MAX_ROWS or len(block.values) != block.rows * len(COLUMNS):
            raise ColumnsError(f"gpu {block.gpu}: {len(block.values)} values for {block.rows} rows")
        if not 0 <= block.gpu < MAX_BLOCKS:
            raise ColumnsError(f"gpu {block.gpu}, expected 0..{MAX_BLOCKS - 1}")
    total = sum(len(block.values) for block in blocks)
    if total > MAX_VALUES:
        raise ColumnsError(f"{total} values, expected at most {MAX_VALUES}")


def _quantized(block: Block, index: int, base_unix_us: int) -> list[int | None]:
    shift = base_unix_us * 1000 if index == 0 else 0
    return [
        None if value == UNKNOWN else _wrap(value - shift) // QUANTA[index] for value in block.column(index).tolist()
    ]


def _encode_column(values: list[int | None], reference: list[int | None] | None) -> bytes:
    tag, unknown = 0, b""
    if reference is not None and len(reference) == len(values) and None not in reference and None not in values:
        values = [_wrap(value - other) for value, other in zip(_whole(values), _whole(reference), strict=True)]
        tag |= _FROM_FIRST_BLOCK
    if None in values:
        tag |= _HAS_UNKNOWN
        unknown = _bits(value is None for value in values)
    whole = _whole(values)
    steps = [_wrap(value - before) for before, value in itertools.pairwise(whole)]
    kind, step, payload = _shortest(steps)
    head = bytes([tag | kind]) + unknown + _varint(whole[0])
    return head + (_varint(step) + payload if steps else b"")


def _whole(values: Sequence[int | None]) -> list[int]:
    """Fill each unknown with the value before it; the first ones with the first known value."""
    last = next(value for value in values if value is not None)
    whole = []
    for value in values:
        last = last if value is None else value
        whole.append(last)
    return whole


def _shortest(steps: list[int]) -> tuple[int, int, bytes]:
    """Return kind, step and payload of the shortest way to say these differences."""
    if not steps:
        return 0, 0, b""
    middle = (min(steps) + max(steps)) // 2
    centred = [_wrap(step - middle) for step in steps]
    low, high = min(centred), max(centred)
    kind = _width(max(-low - 1, high)) if any(centred) else 0
    if kind == 0:
        return 0, middle, b""
    fixed = struct.pack(f"<{len(steps)}{_WIDTHS[kind]}", *centred)
    ways = [(kind, middle, fixed), (_VARINT, middle, b"".join(map(_varint, centred)))]
    ways += [(_VARINT, 0, b"".join(map(_varint, steps))), (_SPARSE, 0, _sparse(steps))]
    return min(ways, key=lambda way: len(_varint(way[1])) + len(way[2]))


def _width(most: int) -> int:
    return next(kind for kind, bits in ((1, 7), (2, 15), (3, 31), (4, 63)) if most < 2**bits)


def _sparse(steps: list[int]) -> bytes:
    changed = [(at, step) for at, step in enumerate(steps) if step]
    gaps = [at - before - 1 for (at, _), before in zip(changed, [-1, *(at for at, _ in changed)], strict=False)]
    parts = [_varint(len(changed))]
    parts += [_varint(gap) + _varint(step) for gap, (_, step) in zip(gaps, changed, strict=True)]
    return b"".join(parts)


def _bits(flags: Iterable[bool]) -> bytes:
    flags = list(flags)
    number = sum(1 << index for index, flag in enumerate(flags) if flag)
    return number.to_bytes((len(flags) + 7) // 8, "little")


def _varint(value: int) -> bytes:
    left = (value << 1 ^ value >> 63) & 2**64 - 1
    out = bytearray()
    while left > 127:
        out.append(left & 127 | 128)
        left >>= 7
    out.append(left)
    return bytes(out)


def _wrap(value: int) -> int:
    """Return the value as 64-bit arithmetic has it."""
    return (value + 2**63) % 2**64 - 2**63


class _Decoder:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def batch(self) -> tuple[int, list[Block]]:
        version, base, count = self.unpack(_HEAD)
        if version != VERSION:
            raise ColumnsError(f"batch version {version}, expected {VERSION}")
        if count > MAX_BLOCKS:
            raise ColumnsError(f"{count} blocks, expected at most {MAX_BLOCKS}")
        blocks: list[Block] = []
        total = 0
        for _ in range(count):
            gpu, rows, mask = self.unpack(_BLOCK)
            total += rows * len(COLUMNS)
            if gpu >= MAX_BLOCKS or rows > MAX_ROWS or total > MAX_VALUES or mask >> len(COLUMNS):
                raise ColumnsError(f"a block of gpu {gpu}, {rows} rows and columns {mask:#x}: beyond the bounds")
            blocks.append(self.block(gpu, rows, mask, blocks[0] if blocks else None, base))
        if self.at != len(self.data):
            raise ColumnsError(f"{len(self.data) - self.at} bytes behind the batch")
        return base, blocks

    def block(self, gpu: int, rows: int, mask: int, first: Block | None, base_unix_us: int) -> Block:
        values = array("q", [UNKNOWN]) * (rows * len(COLUMNS))
        for index in range(len(COLUMNS)):
            if mask >> index & 1:
                if not rows:
                    raise ColumnsError(f"gpu {gpu}: column {index} of no rows")
                found = self.column(rows, QUANTA[index], first if index == 0 else None, index == 0 and base_unix_us)
                values[index * rows : (index + 1) * rows] = array("q", found)
        return Block(gpu, rows, memoryview(values))

    def column(self, rows: int, quantum: int, first: Block | None, base_unix_us: int) -> list[int]:
        tag = self.byte()
        kind, is_relative = tag & 7, bool(tag & _FROM_FIRST_BLOCK)
        if kind > _SPARSE or tag >> 5:
            raise ColumnsError(f"a column of tag {tag:#x}")
        if is_relative and (first is None or first.rows != rows or UNKNOWN in first.column(0).tolist()):
            raise ColumnsError("a column that counts from rows which are not there")
        unknown = int.from_bytes(self.take((rows + 7) // 8), "little") if tag & _HAS_UNKNOWN else 0
        values = [self.varint()]
        if rows > 1:
            step = self.varint()
            for deviation in self.deviations(kind, rows - 1):
                values.append(_wrap(values[-1] + step + deviation))
        shift = _wrap(base_unix_us * 1000)
        if is_relative and first is not None:
            offsets = [_wrap(other - shift) // quantum for other in first.column(0).tolist()]
            values = [_wrap(value + other) for value, other in zip(values, offsets, strict=True)]
        return [
            UNKNOWN if unknown >> index & 1 else _wrap(value * quantum + shift) for index, value in enumerate(values)
        ]

    def deviations(self, kind: int, count: int) -> Iterator[int]:
        if kind == 0:
            yield from [0] * count
        elif kind in _WIDTHS:
            packing = struct.Struct(f"<{count}{_WIDTHS[kind]}")
            yield from packing.unpack(self.take(packing.size))
        elif kind == _VARINT:
            for _ in range(count):
                yield self.varint()
        else:
            yield from self.sparse(count)

    def sparse(self, count: int) -> list[int]:
        steps = [0] * count
        at = -1
        changed = self.varint()
        if not 0 <= changed <= count:
            raise ColumnsError(f"{changed} changes in {count} rows")
        for _ in range(changed):
            gap = self.varint()
            at += gap + 1
            if gap < 0 or at >= count:
                raise ColumnsError(f"a change at row {at} of {count}")
            steps[at] = self.varint()
        return steps

    def unpack(self, packing: struct.Struct) -> tuple[int, ...]:
        return packing.unpack(self.take(packing.size))

    def take(self, count: int) -> memoryview:
        if self.at + count > len(self.data):
            raise ColumnsError("a batch that ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                if value >> 64:
                    break
                return value >> 1 ^ -(value & 1)
        raise ColumnsError("a number of more than 64 bits")
