"""The device side as the governor's parent has it: a reader child, a writer child, and what is known of them.

The parent never calls a driver: it reads the ring, hears the children, and leaves the stuck ones behind.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

from flyball_fast.errors import DeviceError
from flyball_fast.nvml_records import SweepPlan
from flyball_fast.ring import Ring
from flyball_governor.device import (
    DeviceEvent,
    DeviceHealth,
    EventKind,
    GpuInfo,
    Limits,
    Mode,
    PendingWrite,
    WriteResult,
)
from flyball_governor.reader_keeper import ReaderKeeper, ReaderTimes
from flyball_governor.sampler import SampledDevices
from flyball_governor.writer_keeper import WriterKeeper

MAX_EVENTS = 1024  # kept for a consumer that is busy; older ones are dropped and counted


class DeviceChildren:
    """`device.DeviceSide` over real child processes. Construction starts nothing.

    Args:
        make_devices: Makes a vendor's devices; called in each child, never in this process.
        state_dir: Holds the writer lock; must exist.
        plan: Rates and budgets of the sampling.
        times: When a reader is given up.
        write_wait_s: A write that takes longer is reported as pending.
    """

    def __init__(
        self,
        make_devices: Callable[[], SampledDevices],
        *,
        state_dir: Path,
        plan: SweepPlan | None = None,
        times: ReaderTimes | None = None,
        write_wait_s: float = 2.0,
    ) -> None:
        self._events: asyncio.Queue[DeviceEvent] = asyncio.Queue(MAX_EVENTS)
        self._counts: Counter[tuple[EventKind, int | None, int | None]] = Counter()
        self.events_lost = 0
        self._mode: Mode = "stopped"
        self._gpus: tuple[GpuInfo, ...] = ()
        times = times or ReaderTimes()
        self._reader = ReaderKeeper(make_devices, plan=plan or SweepPlan(), tell=self._tell, times=times)
        self._writer = WriterKeeper(make_devices, state_dir=state_dir, wait_s=write_wait_s, open_s=times.open_s)

    async def start(self) -> None:
        """Start the reader and take the inventory; raise `DeviceError` when there is no device to be had."""
        self._mode = "starting"
        try:
            self._writer.take_lock()
            await self._reader.start()
        except DeviceError:
            self._mode = "failed"
            await self._writer.stop()
            raise
        self._mode = "running"

    async def stop(self) -> None:
        """End the children and let the lock go. Changes no cap."""
        self._mode = "stopped"
        await self._reader.stop()
        self._reader.close_ring()
        await self._writer.stop()

    def inventory(self) -> tuple[GpuInfo, ...]:
        """Return the GPUs found, in index order; empty before `start`."""
        return self._reader.gpus

    def versions(self) -> dict[str, str]:
        """Return driver and library versions, where told."""
        return self._reader.versions

    async def set_limit_mw(self, gpu: int, limit_mw: int) -> WriteResult:
        """Write one power limit and read it back. The caller has the prior value on disk before the first call."""
        refusal = self._refusal(gpu) or self._limit_refusal(gpu, limit_mw)
        if refusal:
            return WriteResult(gpu, "limit", "refused", error=refusal)
        request: dict[str, object] = {"act": "set_limit", "gpu": gpu, "limit_mw": limit_mw}
        return await self._writer.write("limit", gpu, request, limit_mw)

    def watch_power(self, lease_mw: int | None, caps_mw: Sequence[int | None], hold_s: float) -> None:
        """Tell an `excursion` event when instant power stays above a cap, or the sum above the lease, for `hold_s`."""
        self._reader.watch_power(lease_mw, caps_mw, hold_s)

    async def lock_clocks(self, gpu: int, min_hz: int, max_hz: int) -> WriteResult:
        """Hold one GPU's core clock within these bounds, hertz; (0, 0) lets it go."""
        refusal = self._refusal(gpu)
        if not refusal and not 0 <= min_hz <= max_hz:
            refusal = f"gpu {gpu}: clocks {min_hz}..{max_hz} Hz, expected 0 <= min <= max"
        if refusal:
            return WriteResult(gpu, "clocks", "refused", error=refusal)
        request: dict[str, object] = {"act": "lock_clocks", "gpu": gpu, "min_hz": min_hz, "max_hz": max_hz}
        return await self._writer.write("clocks", gpu, request)

    async def read_back(self) -> tuple[Limits | None, ...]:
        """Read the limits of every GPU now; None for each that is stalled or cannot be read in time."""
        if self._mode != "running":
            return tuple(None for _ in self.inventory())
        gpus = [gpu for gpu in range(len(self.inventory())) if gpu not in self._reader.stalled]
        found = dict(zip(gpus, await self._writer.read_all(gpus), strict=True))
        return tuple(found.get(gpu) for gpu in range(len(self.inventory())))

    def pending_writes(self) -> tuple[PendingWrite, ...]:
        """Return the writes that have not returned: each counts in the host's bound."""
        return self._writer.pending()

    async def replace_writer(self) -> None:
        """Leave a stuck writer behind. Only call once its pending writes are counted in the bound."""
        await self._writer.replace()
        self._tell("writer_replaced", None, None, "the writer did not answer")

    def health(self) -> DeviceHealth:
        """Return the state of children, GPUs and lock as known now."""
        has_failed = self._mode == "running" and not (self._reader.has_reader or self._reader.is_starting)
        mode: Mode = "failed" if has_failed else self._mode
        return DeviceHealth(
            mode=mode,
            reader=self._reader.health(),
            writer=self._writer.health(),
            stalled=frozenset(self._reader.stalled),
            lost=frozenset(self._reader.lost),
            holds_writer_lock=self._writer.holds_lock,
            error=self._reader.error,
        )

    def ring_fd(self) -> int | None:
        """Return the descriptor of the sample ring; another one after `inventory_changed`."""
        return self._reader.ring.fd if self._reader.ring else None

    @property
    def ring(self) -> Ring | None:
        """The sample ring as mapped here; None while there is none."""
        return self._reader.ring

    async def events(self) -> AsyncGenerator[DeviceEvent, None]:
        """Yield events as they come; one consumer."""
        while True:
            yield await self._events.get()

    async def quiesce(self) -> None:
        """End both children: with them every device descriptor closes. The lock and the ring stay."""
        self._mode = "quiesced"
        await self._reader.stop()
        await self._writer.end_child()

    async def resume(self) -> None:
        """Attach again; raise `DeviceError` when that fails, and stay quiesced."""
        if self._mode != "quiesced":
            return
        await self._reader.start()
        self._mode = "running"

    def _refusal(self, gpu: int) -> str | None:
        if self._mode != "running":
            return f"gpu {gpu}: the device side is {self._mode}"
        if not 0 <= gpu < len(self.inventory()):
            return f"gpu {gpu}: expected 0..{len(self.inventory()) - 1}"
        if gpu in self._reader.stalled:
            return f"gpu {gpu}: stalled, a call to it would hang as well"
        return None

    def _limit_refusal(self, gpu: int, limit_mw: int) -> str | None:
        info = self.inventory()[gpu]
        if info.min_limit_mw is None or info.max_limit_mw is None:
            return f"gpu {gpu}: its limits are not known"
        if not info.min_limit_mw <= limit_mw <= info.max_limit_mw:
            return f"gpu {gpu}: limit {limit_mw} mW outside {info.min_limit_mw}..{info.max_limit_mw} mW"
        return None

    def _tell(self, kind: EventKind, gpu: int | None, code: int | None, detail: str) -> None:
        self._counts[kind, gpu, code] += 1
        count = self._counts[kind, gpu, code]
        if self._events.full():
            self._events.get_nowait()
            self.events_lost += 1
        self._events.put_nowait(DeviceEvent(kind, gpu, code, time.monotonic_ns(), count, detail))
