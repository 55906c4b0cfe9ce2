"""The sample ring: rows of every GPU in shared memory, one writer, many readers, no lock.

The memory belongs to a descriptor (a memfd), so it passes through fork and over a unix socket, and a reader may be
given one that cannot write. Readers look at columns in place; whoever reads a span asks `is_intact` afterwards.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from flyball_fast import ring_layout
from flyball_fast.errors import RingError
from flyball_fast.ring_layout import (
    CALLS,
    COLUMN_INDEX,
    COLUMNS,
    GPU_WORDS,
    HEADER_BYTES,
    LATENESS_BUCKETS,
    NO_GPU,
    SLOW,
    SLOW_INDEX,
    SLOW_WORD,
    STATES,
    TIERS,
    UNKNOWN_WORD,
    UUID_BYTES,
    WORD_BYTES,
    WORDS,
)

if TYPE_CHECKING or os.environ.get("FLYBALL_PURE_PYTHON"):
    from flyball_fast import _ring_py as core
else:
    try:
        from flyball_fast import _ring_c as core
    except ImportError:
        from flyball_fast import _ring_py as core

DEFAULT_CAPACITY = 2**13  # rows per GPU: 82 s at 100 Hz, 512 KiB
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Row(NamedTuple):
    """One tick of one GPU in the driver's units; None is unknown. Field order is that of `ring_layout.COLUMNS`."""

    t_mono_ns: int | None = None
    energy_mj: int | None = None
    power_cap_ns: int | None = None
    thermal_sw_ns: int | None = None
    thermal_hw_ns: int | None = None
    power_brake_ns: int | None = None
    power_instant_mw: int | None = None
    power_average_mw: int | None = None
    reasons: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    utilization_percent: int | None = None


class Summary(NamedTuple):
    """Rows of one GPU summed up; power and energy are None when no row knew them."""

    first_ns: int | None
    last_ns: int | None
    known: int
    power_min_mw: int | None
    power_max_mw: int | None
    power_sum_mw: int | None
    energy_first_mj: int | None
    energy_last_mj: int | None

    @property
    def power_mean_mw(self) -> float | None:
        """Mean instant power of the rows that know it."""
        return None if self.power_sum_mw is None else self.power_sum_mw / self.known

    @property
    def energy_mj(self) -> int | None:
        """Energy between the first and last row that know it; None when the counter went back (driver reload)."""
        if self.energy_first_mj is None or self.energy_last_mj is None or self.energy_last_mj < self.energy_first_mj:
            return None
        return self.energy_last_mj - self.energy_first_mj


class Heartbeat(NamedTuple):
    """The driver call in progress, if any, and when the sampler last woke (CLOCK_MONOTONIC, ns)."""

    call: str | None
    gpu: int | None
    started_ns: int
    tick_ns: int


class SamplerStatus(NamedTuple):
    """What the sampler says of itself; counters since the ring was made, one entry per tier."""

    ticks: tuple[int, ...]
    missed: tuple[int, ...]
    period_ns: tuple[int, ...]
    call_ns: tuple[int, ...]
    lateness: tuple[int, ...]
    lateness_max_ns: int
    calls: int
    latency_us: int
    cpu_ns: int
    budget_steps: int


class Ring:
    """A mapped ring; make one with `create` or `attach`."""

    def __init__(self, fd: int, memory: mmap.mmap, *, is_writable: bool) -> None:
        self.fd = fd
        self._map = memory
        self.memory = memoryview(memory)
        self.is_writable = is_writable
        self._words = self.memory[:HEADER_BYTES].cast("Q")
        self.gpu_count = self.word("gpu_count")
        self.capacity = self.word("capacity")
        self._stride = ring_layout.gpu_bytes(self.capacity)
        self._heads = [self._head_of(gpu) for gpu in range(self.gpu_count)]

    @classmethod
    def create(cls, gpu_count: int, *, capacity: int = DEFAULT_CAPACITY, uuids: Sequence[str] = ()) -> Self:
        """Make a ring whose size can never change again.

        Raises:
            RingError: gpu_count outside 1..64, or capacity not a power of two of at least 8.
        """
        if not 1 <= gpu_count <= ring_layout.MAX_GPUS:
            raise RingError(f"{gpu_count} GPUs, expected 1..{ring_layout.MAX_GPUS}")
        if capacity < 8 or capacity & (capacity - 1):
            raise RingError(f"capacity {capacity} rows, expected a power of two, at least 8")
        size = ring_layout.ring_bytes(gpu_count, capacity)
        fd = os.memfd_create("flyball-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        memory = mmap.mmap(fd, size)
        _write_header(memory, gpu_count, capacity)
        ring = cls(fd, memory, is_writable=True)
        for gpu in range(gpu_count):
            ring.set_slow(gpu, dict.fromkeys(SLOW))
        for gpu, uuid in enumerate(uuids):
            ring._write_uuid(gpu, uuid)
        return ring

    @classmethod
    def attach(cls, fd: int) -> Self:
        """Map the ring behind a descriptor, which this ring then owns; read-only if the descriptor is.

        Raises:
            RingError: the descriptor holds no ring of this version, or one of a wrong size.
        """
        is_writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        size = os.fstat(fd).st_size
        if size < HEADER_BYTES:
            raise RingError(f"{size} bytes hold no ring, expected at least {HEADER_BYTES}")
        access = mmap.PROT_READ | (mmap.PROT_WRITE if is_writable else 0)
        memory = mmap.mmap(fd, size, prot=access)
        _check_header(memory, size)
        return cls(fd, memory, is_writable=is_writable)

    def close(self) -> None:
        """Unmap and close; columns handed out before must be released first."""
        for head in (self._words, *self._heads):
            head.release()
        self.memory.release()
        self._map.close()
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read_only_fd(self) -> int:
        """Return a new descriptor of the same memory through which nobody can write; the caller closes it."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def word(self, name: str, at: int = 0) -> int:
        """Return one header word of `ring_layout.WORDS`."""
        return self._words[WORDS[name] + at]

    def set_word(self, name: str, value: int, at: int = 0) -> None:
        """Set one header word; the writer's, or the parent's `generation`."""
        self._words[WORDS[name] + at] = value

    def gpu_word(self, gpu: int, name: str) -> int:
        """Return one word of a GPU's part, of `ring_layout.GPU_WORDS`."""
        return self._gpu_words(gpu)[GPU_WORDS[name]]

    def set_gpu_word(self, gpu: int, name: str, value: int) -> None:
        """Set one word of a GPU's part; the writer's, or the parent's `cap_mw`."""
        self._gpu_words(gpu)[GPU_WORDS[name]] = value

    def state(self, gpu: int) -> str:
        """Return what the writer last said of the GPU: one of `ring_layout.STATES`."""
        value = self.gpu_word(gpu, "state")
        return STATES[value] if value < len(STATES) else STATES[0]

    def set_state(self, gpu: int, state: str) -> None:
        """Say how the GPU is; the writer's."""
        self._gpu_words(gpu)[GPU_WORDS["state"]] = STATES.index(state)

    def note_error(self, gpu: int, code: int) -> None:
        """Count a failed call on the GPU and keep the driver's code; the writer's."""
        words = self._gpu_words(gpu)
        words[GPU_WORDS["last_code"]] = code
        words[GPU_WORDS["errors"]] += 1

    def uuid(self, gpu: int) -> str:
        """Return the UUID written at the ring's making; empty without one."""
        start = HEADER_BYTES + self._check_gpu(gpu) * self._stride + GPU_WORDS["uuid"] * WORD_BYTES
        return bytes(self.memory[start : start + UUID_BYTES]).rstrip(b"\0").decode("ascii", "replace")

    def append(self, gpu: int, row: Sequence[int | None]) -> int:
        """Write one row and return its index; only the one writer may."""
        return core.append(self.memory, self._check_gpu(gpu), self.capacity, row)

    def head(self, gpu: int) -> int:
        """Return how many rows of the GPU were ever written."""
        return self.gpu_word(gpu, "end")

    def oldest(self, gpu: int) -> int:
        """Return the lowest row index that is still there."""
        return max(0, self.gpu_word(gpu, "begin") - self.capacity)

    def is_intact(self, gpu: int, first: int) -> bool:
        """Say whether rows from `first` on are still there: ask after reading columns in place."""
        return first >= self.oldest(gpu)

    def row(self, gpu: int, index: int) -> Row | None:
        """Return one row; None when it is not written yet or overwritten."""
        values = core.row(self.memory, self._check_gpu(gpu), self.capacity, index)
        return None if values is None else Row(*values)

    def latest(self, gpu: int) -> Row | None:
        """Return the newest row; None before the first."""
        return self.row(gpu, self.head(gpu) - 1)

    def summary(self, gpu: int, first: int, stop: int) -> Summary | None:
        """Sum up rows first..stop-1; None when they are not all there."""
        values = core.summarize(self.memory, self._check_gpu(gpu), self.capacity, first, stop)
        return None if values is None else Summary(*values)  # type: ignore[arg-type]  # times, counts, then optionals

    def look(self, marks: memoryview) -> list[tuple[int | None, int | None, float | None]]:
        """Return what is new of every GPU since the last look with these marks, which are brought up to date.

        Args:
            marks: (gpus, 3) signed words: the next row, and time and power cap counter of the newest row seen; make
                them with `new_marks`.

        Returns:
            Of each GPU its largest instant power of the new rows and the newest one, mW, and the share of time since
            the last look in which the power cap was biting; None for each that is unknown.
        """
        return core.look(self.memory, self.gpu_count, self.capacity, marks)

    def new_marks(self) -> memoryview:
        """Return marks for `look` that begin at the newest rows."""
        marks = memoryview(bytearray(self.gpu_count * 3 * WORD_BYTES)).cast("q")
        for gpu in range(self.gpu_count):
            marks[3 * gpu] = self.head(gpu)
            marks[3 * gpu + 1] = marks[3 * gpu + 2] = -1
        return marks

    def find(self, gpu: int, t_mono_ns: int) -> int:
        """Return the index of the first row still there that is not older than this; `head` when all are older."""
        times = self.column(gpu, "t_mono_ns")
        first, stop = self.oldest(gpu), self.head(gpu)
        return bisect_left(range(stop), t_mono_ns, first, key=lambda index: times[index % self.capacity])

    def column(self, gpu: int, name: str) -> memoryview[int]:
        """Return a column's array in place, (capacity,), read-only; row i stands at i % capacity."""
        index = COLUMN_INDEX[name]
        start = HEADER_BYTES + self._check_gpu(gpu) * self._stride + ring_layout.column_offset(index, self.capacity)
        size = self.capacity * COLUMNS[index].bytes
        return self.memory[start : start + size].toreadonly().cast(COLUMNS[index].format)

    def slow(self, gpu: int) -> dict[str, int | None]:
        """Return the values of the slow tiers; None for each that is unknown."""
        words = self._gpu_words(gpu)
        for _ in range(100):
            before = words[GPU_WORDS["slow_seq"]]
            values = words[SLOW_WORD : SLOW_WORD + len(SLOW)].tolist()
            if before % 2 == 0 and before == words[GPU_WORDS["slow_seq"]]:
                return {
                    name: None if value == UNKNOWN_WORD else value for name, value in zip(SLOW, values, strict=True)
                }
        return dict.fromkeys(SLOW)

    def set_slow(self, gpu: int, values: Mapping[str, int | None]) -> None:
        """Replace these slow values; the writer's."""
        words = self._gpu_words(gpu)
        words[GPU_WORDS["slow_seq"]] |= 1  # odd already when a writer died in here
        for name, value in values.items():
            words[SLOW_WORD + SLOW_INDEX[name]] = UNKNOWN_WORD if value is None else value
        words[GPU_WORDS["slow_seq"]] += 1

    def begin_call(self, call: str, gpu: int | None = None) -> None:
        """Name the driver call that is about to be made, for whoever watches for hangs."""
        number = NO_GPU if gpu is None else gpu
        self.set_word("call", number << 32 | CALLS.index(call))
        self.set_word("call_started_ns", time.monotonic_ns())

    def end_call(self) -> None:
        """Say that the call has returned."""
        self.set_word("call_started_ns", 0)

    def heartbeat(self) -> Heartbeat:
        """Return the driver call in progress and the sampler's last waking."""
        started = self.word("call_started_ns")
        if not started:
            return Heartbeat(None, None, 0, self.word("tick_ns"))
        call, gpu = self.word("call") & 0xFFFFFFFF, self.word("call") >> 32
        name = CALLS[call] if call < len(CALLS) else "unknown"
        return Heartbeat(name, None if gpu == NO_GPU else gpu, started, self.word("tick_ns"))

    def status(self) -> SamplerStatus:
        """Return the sampler's counters."""
        tiers = {
            name: tuple(self.word(name, tier) for tier in range(TIERS))
            for name in ("ticks", "missed", "period_ns", "call_ns")
        }
        lateness = tuple(self.word("lateness", bucket) for bucket in range(LATENESS_BUCKETS))
        single = ("lateness_max_ns", "calls", "latency_us", "cpu_ns", "budget_steps")
        return SamplerStatus(**tiers, lateness=lateness, **{name: self.word(name) for name in single})  # type: ignore[arg-type]  # names are the fields

    def _head_of(self, gpu: int) -> memoryview[int]:
        start = HEADER_BYTES + gpu * self._stride
        return self.memory[start : start + ring_layout.GPU_HEADER_BYTES].cast("Q")

    def _gpu_words(self, gpu: int) -> memoryview[int]:
        return self._heads[self._check_gpu(gpu)]

    def _check_gpu(self, gpu: int) -> int:
        if not 0 <= gpu < self.gpu_count:
            raise IndexError(f"gpu {gpu}, expected 0..{self.gpu_count - 1}")
        return gpu

    def _write_uuid(self, gpu: int, uuid: str) -> None:
        start = HEADER_BYTES + self._check_gpu(gpu) * self._stride + GPU_WORDS["uuid"] * WORD_BYTES
        self.memory[start : start + UUID_BYTES] = uuid.encode("ascii", "replace")[:UUID_BYTES].ljust(UUID_BYTES, b"\0")


class Span(NamedTuple):
    """Rows first..stop-1 of one GPU, and how many before them were overwritten unread."""

    first: int
    stop: int
    lost: int


class Cursor:
    """One reader's place in each GPU's rows; it never holds the writer up and counts what it missed."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._next = [ring.head(gpu) for gpu in range(ring.gpu_count)]
        self.lost = 0

    def take(self, gpu: int, limit: int | None = None) -> Span:
        """Return the rows written since the last call, at most `limit`; the next call goes on behind them."""
        head, oldest = self._ring.head(gpu), self._ring.oldest(gpu)
        first = max(self._next[gpu], oldest)
        lost = first - self._next[gpu]
        stop = head if limit is None else min(head, first + limit)
        self._next[gpu] = stop
        self.lost += lost
        return Span(first, stop, lost)


def _write_header(memory: mmap.mmap, gpu_count: int, capacity: int) -> None:
    words = memoryview(memory)[:HEADER_BYTES].cast("Q")
    now = time.monotonic_ns()
    values = {
        "version": ring_layout.VERSION,
        "gpu_count": gpu_count,
        "capacity": capacity,
        "row_bytes": ring_layout.ROW_BYTES,
        "created_ns": now,
        "real_minus_mono_ns": time.time_ns() - now,
        "magic": ring_layout.MAGIC,
    }
    for name, value in values.items():
        words[WORDS[name]] = value
    words.release()


def _check_header(memory: mmap.mmap, size: int) -> None:
    with memoryview(memory) as view, view[:HEADER_BYTES].cast("Q") as words:
        found = {name: words[WORDS[name]] for name in ("magic", "version", "gpu_count", "capacity", "row_bytes")}
    problem = _header_problem(found, size)
    if problem:
        memory.close()
        raise RingError(problem)


def _header_problem(found: Mapping[str, int], size: int) -> str | None:
    expected = {"magic": ring_layout.MAGIC, "version": ring_layout.VERSION, "row_bytes": ring_layout.ROW_BYTES}
    for name, value in expected.items():
        if found[name] != value:
            return f"ring {name} {found[name]}, expected {value}"
    capacity, gpu_count = found["capacity"], found["gpu_count"]
    if not 1 <= gpu_count <= ring_layout.MAX_GPUS or capacity < 8 or capacity & (capacity - 1):
        return f"ring of {gpu_count} GPUs and capacity {capacity}, expected 1..64 and a power of two"
    if size != ring_layout.ring_bytes(gpu_count, capacity):
        return f"ring of {size} bytes, expected {ring_layout.ring_bytes(gpu_count, capacity)}"
    return None
