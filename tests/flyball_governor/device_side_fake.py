"""A device side without devices: the real Protocol over plain numbers, with faults that a test switches on."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from flyball_fast.ring import Ring
from flyball_governor.device import (
    ChildHealth,
    DeviceEvent,
    DeviceHealth,
    GpuInfo,
    Limits,
    PendingWrite,
    WriteResult,
)

MINIMUM, MAXIMUM = 200_000, 700_000


@dataclass
class FakeDeviceSide:
    """GPUs of 200..700 W at their default of 700 W; `writes` is every write that took effect, in order."""

    gpus: int = 2
    start_error: Exception | None = None
    holds_lock: bool = True
    limits: list[int] = field(default_factory=list)
    writes: list[tuple[int, int]] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    hung: set[int] = field(default_factory=set)
    unreadable: set[int] = field(default_factory=set)
    pending: list[PendingWrite] = field(default_factory=list)
    is_quiesced: bool = False
    is_stopped: bool = False
    writers_replaced: int = 0
    largest_sum: int = 0
    ring: Ring | None = None
    queue: asyncio.Queue[DeviceEvent] = field(default_factory=asyncio.Queue)
    starts: int = 0

    def __post_init__(self) -> None:
        self.limits = self.limits or [MAXIMUM] * self.gpus

    async def start(self) -> None:
        self.starts += 1
        if self.start_error is not None:
            raise self.start_error
        self.ring = self.ring or Ring.create(self.gpus, capacity=64)

    async def stop(self) -> None:
        self.is_stopped = True

    def inventory(self) -> tuple[GpuInfo, ...]:
        return tuple(
            GpuInfo(
                index=gpu,
                uuid=f"GPU-fake-{gpu}",
                name="Fake H100",
                pci=f"0000:{gpu:02x}:00.0",
                min_limit_mw=MINIMUM,
                max_limit_mw=MAXIMUM,
                default_limit_mw=MAXIMUM,
                capabilities=frozenset({"power_instant", "energy", "set_limit"}),
            )
            for gpu in range(self.gpus)
        )

    async def set_limit_mw(self, gpu: int, limit_mw: int) -> WriteResult:
        await asyncio.sleep(0)
        if gpu in self.refused:
            return WriteResult(gpu, "limit", "refused", Limits(self.limits[gpu], self.limits[gpu]), self.refused[gpu])
        if gpu in self.hung:
            self.pending.append(PendingWrite(gpu, "limit", limit_mw, 0.0))
            return WriteResult(gpu, "limit", "pending", None, "has not returned", 2.0)
        self.limits[gpu] = limit_mw
        self.writes.append((gpu, limit_mw))
        self.largest_sum = max(self.largest_sum, sum(self.limits))
        return WriteResult(gpu, "limit", "done", Limits(limit_mw, limit_mw))

    async def lock_clocks(self, gpu: int, min_hz: int, max_hz: int) -> WriteResult:
        return WriteResult(gpu, "clocks", "refused", None, "no clocks here")

    async def read_back(self) -> tuple[Limits | None, ...]:
        await asyncio.sleep(0)
        if self.is_quiesced:
            return (None,) * self.gpus
        return tuple(None if gpu in self.unreadable else Limits(limit, limit) for gpu, limit in enumerate(self.limits))

    def pending_writes(self) -> tuple[PendingWrite, ...]:
        return tuple(self.pending)

    async def replace_writer(self) -> None:
        self.writers_replaced += 1

    def health(self) -> DeviceHealth:
        child = ChildHealth(pid=1, is_alive=not self.is_stopped, started=1)
        mode = "quiesced" if self.is_quiesced else "running"
        health = DeviceHealth("running", child, child, holds_writer_lock=self.holds_lock)
        return replace(health, mode="quiesced") if mode == "quiesced" else health

    def ring_fd(self) -> int | None:
        return None if self.ring is None else self.ring.fd

    async def events(self) -> AsyncIterator[DeviceEvent]:
        while True:
            yield await self.queue.get()

    async def quiesce(self) -> None:
        self.is_quiesced = True

    async def resume(self) -> None:
        self.is_quiesced = False

    def add_row(self, gpu: int, t_s: float, power_mw: int, throttled_ns: int = 0) -> None:
        """Put one sample into the ring."""
        assert self.ring is not None
        row: list[int | None] = [None] * 13
        row[0], row[2], row[6] = int(t_s * 1e9), throttled_ns, power_mw
        self.ring.append(gpu, row)


@dataclass
class FakeClock:
    """Seconds that pass only when a test says so."""

    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s
