"""What the governor asks of GPUs, without a vendor's word: records, blocking `Devices`, asynchronous `DeviceSide`.

A call of `Devices` may never return (a driver can hang in the kernel), so only child processes make it; the governor's
parent knows `DeviceSide` alone. Limits are integer milliwatts at the board, as in the lease; `None` is unknown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

EventKind = Literal[
    "xid",
    "ecc_double_bit",
    "power_source",
    "memory_retired",
    "poison",
    "unavailable",
    "recovery_action",
    "lost",
    "stalled",
    "recovered",
    "reader_replaced",
    "writer_replaced",
    "driver_unbound",
    "inventory_changed",
    "sampler_budget",
    "excursion",
]
UNKNOWN = "unknown-"  # begins the uuid of a GPU that did not tell its own
WriteKind = Literal["limit", "clocks"]
WriteOutcome = Literal["done", "refused", "pending"]
Mode = Literal["stopped", "starting", "running", "quiesced", "failed"]


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """One GPU as its driver describes it.

    Attributes:
        index: Place in the inventory, 0-based; the `gpu` of every call here.
        uuid: The vendor's unique name, the same after a reboot.
        pci: PCI address `domain:bus:device.function`, lower case.
        min_limit_mw: Lowest power limit it accepts, milliwatts; None where it cannot be limited or read.
        max_limit_mw: Highest power limit it accepts, milliwatts.
        default_limit_mw: Limit after a reset or driver load, milliwatts.
        capabilities: Names of what can be read or set: `power_instant`, `energy`, `set_limit`, `lock_clocks`, `events`.
        missing: For each known name not in `capabilities`, why.
    """

    index: int
    uuid: str
    name: str
    pci: str
    min_limit_mw: int | None = None
    max_limit_mw: int | None = None
    default_limit_mw: int | None = None
    max_clock_hz: int | None = None
    persistence: bool | None = None
    capabilities: frozenset[str] = frozenset()
    missing: dict[str, str] = field(default_factory=dict)


def undescribed(gpu: int, why: str) -> GpuInfo:
    """Return the record of a GPU of which only the index is known."""
    return GpuInfo(gpu, f"{UNKNOWN}{gpu}", "unknown", "unknown", missing={"all": why})


@dataclass(frozen=True, slots=True)
class Limits:
    """One GPU's limits as read back, milliwatts; None where the device does not tell.

    `enforced_mw` below `requested_mw` means that somebody else (a BMC) caps this GPU.
    """

    enforced_mw: int | None
    requested_mw: int | None

    @property
    def is_foreign_capped(self) -> bool:
        """Say whether another hand holds the GPU lower than we asked."""
        return self.enforced_mw is not None and self.requested_mw is not None and self.enforced_mw < self.requested_mw


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of one write.

    Attributes:
        outcome: `done` returned without error; `refused` returned with one and changed nothing; `pending` has not
            returned, may still take effect, and is in `pending_writes()` until it does.
        limits: Read back after the write; None when unknown. Judge by these, not by `outcome`.
        error: What the device said, when refused or pending.
        took_s: Time of the call, seconds; for a pending one, waited so far.
    """

    gpu: int
    kind: WriteKind
    outcome: WriteOutcome
    limits: Limits | None = None
    error: str | None = None
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PendingWrite:
    """A write that was sent and has not returned: it may take effect at any time, so the bound counts it.

    Attributes:
        limit_mw: The limit being written, milliwatts; None for a lock of clocks, which moves no limit.
    """

    gpu: int
    kind: WriteKind
    limit_mw: int | None
    since_monotonic_s: float


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """Something that a device or this layer reported, in the order seen.

    Attributes:
        gpu: Which GPU; None when it concerns all of them.
        code: The number that came with it (an XID, a recovery action); None without one.
        monotonic_ns: CLOCK_MONOTONIC when it was seen.
        count: How often this (kind, gpu, code) was seen since start, this one included.
    """

    kind: EventKind
    gpu: int | None
    code: int | None
    monotonic_ns: int
    count: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ChildHealth:
    """One child process: None and 0 before it first ran."""

    pid: int | None = None
    is_alive: bool = False
    started: int = 0
    stuck_pids: tuple[int, ...] = ()
    call_in_progress: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """How the device side fares.

    Attributes:
        stalled: GPUs whose call did not return; their values are unknown.
        lost: GPUs that fell off the bus or wait for a reset.
        holds_writer_lock: False while another governor on this host has it: then every write is refused.
        error: Why `mode` is `failed`, or what was last survived.
    """

    mode: Mode
    reader: ChildHealth
    writer: ChildHealth
    stalled: frozenset[int] = frozenset()
    lost: frozenset[int] = frozenset()
    holds_writer_lock: bool = False
    error: str | None = None


class Devices(Protocol):
    """One vendor's GPUs, blocking. Only a child process calls it; any call may hang.

    Every method raises `flyball_fast.errors.DeviceError` or a subclass of it, naming the GPU and the call.
    """

    def open(self) -> None:
        """Attach to the driver and find the GPUs."""
        ...

    def close(self) -> None:
        """Let go of every descriptor and handle; harmless when not open."""
        ...

    def gpu_count(self) -> int:
        """Return how many GPUs `open` found, lost ones included."""
        ...

    def describe(self, gpu: int) -> GpuInfo:
        """Describe one GPU; one that does not answer gets `undescribed`."""
        ...

    def read_limits(self, gpu: int) -> Limits:
        """Read what the device enforces and what was asked of it."""
        ...

    def set_limit_mw(self, gpu: int, limit_mw: int) -> None:
        """Set the power limit of one GPU, milliwatts."""
        ...

    def lock_clocks(self, gpu: int, min_hz: int, max_hz: int) -> None:
        """Hold the GPU's core clock within these bounds, hertz."""
        ...

    def unlock_clocks(self, gpu: int) -> None:
        """Let the core clock go again."""
        ...


class PowerWatch(Protocol):
    """Local reaction to power: events within two fast ticks, from the sampler itself."""

    def watch_power(self, lease_mw: int | None, caps_mw: Sequence[int | None], hold_s: float) -> None:
        """Tell an `excursion` event when instant power stays above a cap, or the sum above the lease, for `hold_s`.

        Args:
            lease_mw: For the sum of all GPUs; None to watch no sum. Then the event has no gpu.
            caps_mw: One per GPU; None to watch none. A GPU of unknown power counts at its cap in the sum.
            hold_s: At least one tick; 0 tells single samples.
        """
        ...


class DeviceSide(Protocol):
    """All GPUs of the host as the governor's parent sees them: it never blocks, whatever a driver does.

    Construction starts nothing; `start` does. Times are CLOCK_MONOTONIC.
    """

    async def start(self) -> None:
        """Start the children and take the inventory; raise `DeviceError` when there is no device to be had."""
        ...

    async def stop(self) -> None:
        """End the children. Changes no cap: a prior value returns only on an operator's release."""
        ...

    def inventory(self) -> tuple[GpuInfo, ...]:
        """Return the GPUs found by `start`, in index order; empty before."""
        ...

    async def set_limit_mw(self, gpu: int, limit_mw: int) -> WriteResult:
        """Write one power limit and read it back. The caller has the prior value on disk before the first call."""
        ...

    async def lock_clocks(self, gpu: int, min_hz: int, max_hz: int) -> WriteResult:
        """Hold one GPU's core clock within these bounds, hertz; (0, 0) lets it go."""
        ...

    async def read_back(self) -> tuple[Limits | None, ...]:
        """Read the limits of every GPU now; None for each that cannot be read in time."""
        ...

    def pending_writes(self) -> tuple[PendingWrite, ...]:
        """Return the writes that have not returned: each counts in the host's bound."""
        ...

    async def replace_writer(self) -> None:
        """Leave a stuck writer behind and start another. Only call once its pending writes are counted in the bound."""
        ...

    def health(self) -> DeviceHealth:
        """Return the state of children, GPUs and lock as known now."""
        ...

    def ring_fd(self) -> int | None:
        """Return the descriptor of the sample ring (attach with `flyball_fast.ring`); None while there is none."""
        ...

    def events(self) -> AsyncIterator[DeviceEvent]:
        """Yield events as they come, for as long as the side runs; one consumer."""
        ...

    async def quiesce(self) -> None:
        """Let go of every device descriptor. Only call once the gate is shut or the commitment is at device maximum."""
        ...

    async def resume(self) -> None:
        """Attach again after `quiesce`; limits are unknown until `read_back`."""
        ...
