"""Write, read and sum up rows of a ring's memory: the readable twin, in plain `struct`.

Sums and single rows are checked against the writer after reading, so a row that was overwritten meanwhile is `None`,
never a mixture. `memory` is the whole ring; indexes count rows since the ring was made.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from flyball_fast.ring_layout import (
    COLUMN_INDEX,
    COLUMNS,
    GPU_WORDS,
    HEADER_BYTES,
    WORD_BYTES,
    column_offset,
    gpu_bytes,
)

_WORD = struct.Struct("=Q")
_CELLS = tuple(struct.Struct("=" + column.format) for column in COLUMNS)
_T, _ENERGY, _POWER, _POWER_CAP = (
    COLUMN_INDEX[name] for name in ("t_mono_ns", "energy_mj", "power_instant_mw", "power_cap_ns")
)


def append(memory: memoryview, gpu: int, capacity: int, values: Sequence[int | None]) -> int:
    """Write one row and return its index; one writer only.

    Args:
        memory: The whole ring, writable.
        gpu: Below the ring's GPU count.
        capacity: The ring's rows per GPU, a power of two.
        values: One per entry of `COLUMNS`; None is stored as the column's mark.

    Raises:
        OverflowError: a value does not fit its column; nothing is written.
    """
    if len(values) != len(COLUMNS):
        raise ValueError(f"gpu {gpu}: a row of {len(values)} values, expected {len(COLUMNS)}")
    cells = [_cell(column, value) for column, value in zip(range(len(COLUMNS)), values, strict=True)]
    index = _word(memory, gpu, capacity, "end")
    _set_word(memory, gpu, capacity, "begin", index + 1)
    for column, cell in enumerate(cells):
        at = _place(gpu, capacity, column, index)
        memory[at : at + len(cell)] = cell
    _set_word(memory, gpu, capacity, "end", index + 1)
    return index


def row(memory: memoryview, gpu: int, capacity: int, index: int) -> tuple[int | None, ...] | None:
    """Return one row; None when it is not written yet or no longer there."""
    if not 0 <= index < _word(memory, gpu, capacity, "end"):
        return None
    values = tuple(_read(memory, gpu, capacity, column, index) for column in range(len(COLUMNS)))
    return values if index >= _word(memory, gpu, capacity, "begin") - capacity else None


def summarize(memory: memoryview, gpu: int, capacity: int, first: int, stop: int) -> tuple[int | None, ...] | None:
    """Sum up rows first..stop-1 of one GPU.

    Returns:
        (first t_mono_ns, last t_mono_ns, rows with instant power, its minimum, maximum and sum in mW, first and last
        known energy in mJ). Power and energy are None when no row knows them; None altogether when the rows are not
        there.
    """
    if not 0 <= first < stop <= _word(memory, gpu, capacity, "end") or stop - first > capacity:
        return None
    powers = _known(memory, gpu, capacity, _POWER, range(first, stop))
    energies = _known(memory, gpu, capacity, _ENERGY, range(first, stop))
    times = tuple(_read(memory, gpu, capacity, _T, index) for index in (first, stop - 1))
    if first < _word(memory, gpu, capacity, "begin") - capacity:
        return None
    power = (min(powers), max(powers), sum(powers)) if powers else (None, None, None)
    energy = (energies[0], energies[-1]) if energies else (None, None)
    return (*times, len(powers), *power, *energy)


def look(
    memory: memoryview, gpus: int, capacity: int, marks: memoryview
) -> list[tuple[int | None, int | None, float | None]]:
    """Sum up what is new of every GPU since the last call with these marks; see `Ring.look`."""
    if len(marks) != 3 * gpus:
        raise ValueError(f"{len(marks)} marks for {gpus} GPUs, expected three for each")
    return [_look_at(memory, gpu, capacity, marks) for gpu in range(gpus)]


def _look_at(
    memory: memoryview, gpu: int, capacity: int, marks: memoryview
) -> tuple[int | None, int | None, float | None]:
    stop = _word(memory, gpu, capacity, "end")
    first = max(marks[3 * gpu], _word(memory, gpu, capacity, "begin") - capacity)
    marks[3 * gpu] = stop
    summary = summarize(memory, gpu, capacity, first, stop) if stop > first else None
    newest = row(memory, gpu, capacity, stop - 1)
    if summary is None or newest is None:
        return None, None, None
    now_ns, counter_ns = newest[_T], newest[_POWER_CAP]
    before_ns, counter_before_ns = marks[3 * gpu + 1], marks[3 * gpu + 2]
    ratio = None
    if now_ns is not None and counter_ns is not None and now_ns > before_ns >= 0 <= counter_before_ns <= counter_ns:
        ratio = min(1.0, (counter_ns - counter_before_ns) / (now_ns - before_ns))
    marks[3 * gpu + 1] = -1 if now_ns is None else now_ns
    marks[3 * gpu + 2] = -1 if counter_ns is None else counter_ns
    return summary[4], newest[_POWER], ratio


def _known(memory: memoryview, gpu: int, capacity: int, column: int, rows: range) -> list[int]:
    values = (_read(memory, gpu, capacity, column, index) for index in rows)
    return [value for value in values if value is not None]


def _cell(column: int, value: int | None) -> bytes:
    known = COLUMNS[column].unknown if value is None else value
    try:
        return _CELLS[column].pack(known)
    except struct.error as error:
        raise OverflowError(f"{COLUMNS[column].name}: {value} does not fit") from error


def _read(memory: memoryview, gpu: int, capacity: int, column: int, index: int) -> int | None:
    value: int = _CELLS[column].unpack_from(memory, _place(gpu, capacity, column, index))[0]
    return None if value == COLUMNS[column].unknown else value


def _place(gpu: int, capacity: int, column: int, index: int) -> int:
    return (
        HEADER_BYTES
        + gpu * gpu_bytes(capacity)
        + column_offset(column, capacity)
        + index % capacity * COLUMNS[column].bytes
    )


def _word(memory: memoryview, gpu: int, capacity: int, name: str) -> int:
    at = HEADER_BYTES + gpu * gpu_bytes(capacity) + GPU_WORDS[name] * WORD_BYTES
    value: int = _WORD.unpack_from(memory, at)[0]
    return value


def _set_word(memory: memoryview, gpu: int, capacity: int, name: str, value: int) -> None:
    _WORD.pack_into(memory, HEADER_BYTES + gpu * gpu_bytes(capacity) + GPU_WORDS[name] * WORD_BYTES, value)
