"""NVIDIA GPUs behind the device Protocols, through `flyball_fast.nvml`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from flyball_fast import sweep
from flyball_fast.errors import DeviceError, NotSupported
from flyball_fast.nvml import Nvml
from flyball_fast.nvml_records import (
    EVENT_TYPES,
    FAST_FIELDS,
    POWER_CURRENT_LIMIT,
    POWER_REQUESTED_LIMIT,
    Description,
    SweepPlan,
)
from flyball_fast.ring import Ring
from flyball_fast.system_events import SystemEvents
from flyball_governor.device import EventKind, GpuInfo, Limits, undescribed
from flyball_governor.sampler import SeenEvent
from flyball_governor.tuning import tuned_plan

HZ_PER_MHZ = 1_000_000
# What a row's value is called among a GPU's capabilities.
_CAPABILITY = {"power_instant_mw": "power_instant", "energy_mj": "energy", "power_cap_ns": "throttle_counters"}


class NvidiaDevices:
    """All NVIDIA GPUs of this host.

    Args:
        library: Path of an NVML library; None for the environment's or the loader's.
    """

    def __init__(self, library: str | None = None) -> None:
        self._nvml = Nvml(library)
        self._system_events: SystemEvents | None = None

    def open(self) -> None:
        """Attach to the driver and find the GPUs."""
        self._nvml.open()

    def close(self) -> None:
        """Let go of every descriptor and handle; harmless when not open."""
        if self._system_events is not None:
            self._system_events.close()
            self._system_events = None
        self._nvml.close()

    def versions(self) -> dict[str, str]:
        """Return driver and NVML version, where told."""
        found = {"driver": self._nvml.driver_version(), "nvml": self._nvml.library_version()}
        return {name: version for name, version in found.items() if version}

    def gpu_count(self) -> int:
        """Return how many GPUs `open` found, lost ones included."""
        return self._nvml.gpu_count

    def describe(self, gpu: int) -> GpuInfo:
        """Return names, bounds and capabilities of one GPU."""
        try:
            known = self._nvml.describe(gpu)
        except DeviceError as error:
            return undescribed(gpu, str(error))
        missing = self._missing(gpu, known)
        names = {*_CAPABILITY.values(), "set_limit", "lock_clocks", "events"}
        return GpuInfo(
            index=gpu,
            uuid=known.uuid,
            name=known.name,
            pci=known.pci,
            min_limit_mw=known.min_limit_mw,
            max_limit_mw=known.max_limit_mw,
            default_limit_mw=known.default_limit_mw,
            max_clock_hz=None if known.max_sm_clock_mhz is None else known.max_sm_clock_mhz * HZ_PER_MHZ,
            persistence=known.persistence,
            capabilities=frozenset(names - missing.keys()),
            missing=missing,
        )

    def read_limits(self, gpu: int) -> Limits:
        """Read the enforced and the requested limit, by field where the driver has them."""
        try:
            enforced, requested = self._nvml.read_fields(gpu, [POWER_CURRENT_LIMIT, POWER_REQUESTED_LIMIT])
        except NotSupported:
            return Limits(self._nvml.enforced_limit_mw(gpu), self._nvml.requested_limit_mw(gpu))
        return Limits(
            enforced.value if enforced.value is not None else self._nvml.enforced_limit_mw(gpu),
            requested.value if requested.value is not None else self._nvml.requested_limit_mw(gpu),
        )

    def set_limit_mw(self, gpu: int, limit_mw: int) -> None:
        """Set the power limit; one outside the device's own bounds never reaches it."""
        known = self._nvml.describe(gpu)
        if known.min_limit_mw is None or known.max_limit_mw is None:
            raise NotSupported(f"gpu {gpu}: power limit: the driver tells no bounds")
        if not known.min_limit_mw <= limit_mw <= known.max_limit_mw:
            raise DeviceError(f"gpu {gpu}: limit {limit_mw} mW outside {known.min_limit_mw}..{known.max_limit_mw} mW")
        self._nvml.set_limit_mw(gpu, limit_mw)

    def lock_clocks(self, gpu: int, min_hz: int, max_hz: int) -> None:
        """Hold the SM clock within these bounds; the upper one rounds down to whole MHz."""
        self._nvml.set_locked_clocks_mhz(gpu, min_hz // HZ_PER_MHZ, max_hz // HZ_PER_MHZ)

    def unlock_clocks(self, gpu: int) -> None:
        """Let the SM clock go again."""
        self._nvml.reset_locked_clocks(gpu)

    def tune(self, plan: SweepPlan, ring: Ring, stop: Sequence[int]) -> SweepPlan:
        """Return the plan with the fast tiers at the rate that a short watch found worth it."""
        return tuned_plan(
            self._nvml, plan, ring, is_stopped=lambda: bool(stop[0]), clock=time.monotonic, sleep=time.sleep
        )

    def sample(self, ring: Ring, plan: SweepPlan, stop: Sequence[int], alarm_fd: int) -> None:
        """Fill the ring until `stop[0]` is set; write the eventfd when an excursion begins."""
        sweep.run(self._nvml, ring, plan, stop, alarm_fd)

    def open_events(self) -> None:
        """Ask for XIDs, ECC, power source, poison and recovery events of every GPU."""
        system_events = SystemEvents(self._nvml.path)
        self._system_events = system_events if system_events.open() else None
        if not self._nvml.open_events(range(self._nvml.gpu_count)) and self._system_events is None:
            raise NotSupported("no GPU delivers events")

    def wait_event(self, timeout_s: float) -> SeenEvent | None:
        """Return the next event, or None after the time."""
        event = self._nvml.wait_event(max(1, round(timeout_s * 1000)))
        if event is None:
            is_unbinding = self._system_events is not None and self._system_events.is_unbinding()
            return SeenEvent("driver_unbound", None, 0) if is_unbinding else None
        return SeenEvent(_kind(event.kind), event.gpu if event.gpu >= 0 else None, event.data)

    def _missing(self, gpu: int, known: Description) -> dict[str, str]:
        missing = self._missing_fields(gpu)
        if known.min_limit_mw is None or known.max_limit_mw is None:
            missing["set_limit"] = "the driver tells no bounds"
        wanted = {
            "set_limit": "nvmlDeviceSetPowerManagementLimit",
            "lock_clocks": "nvmlDeviceSetGpuLockedClocks",
            "events": "nvmlEventSetWait_v2",
        }
        for name, symbol in wanted.items():
            if not self._nvml.symbols[symbol]:
                missing[name] = f"this NVML library lacks {symbol}"
        return missing

    def _missing_fields(self, gpu: int) -> dict[str, str]:
        try:
            readings = self._nvml.read_fields(gpu, list(FAST_FIELDS.values()))
        except DeviceError as error:
            return dict.fromkeys(_CAPABILITY.values(), str(error))
        by_name = dict(zip(FAST_FIELDS, readings, strict=True))
        return {
            name: f"field {by_name[value].field}: NVML error {by_name[value].code}"
            for value, name in _CAPABILITY.items()
            if by_name[value].value is None
        }


def _kind(bits: int) -> EventKind:
    names: dict[int, EventKind] = dict(zip(EVENT_TYPES, _KINDS, strict=True))
    return next(itertools.chain((name for bit, name in names.items() if bits & bit), ("unavailable",)))


_KINDS: tuple[EventKind, ...] = (
    "ecc_double_bit",
    "xid",
    "power_source",
    "memory_retired",
    "memory_retired",
    "poison",
    "poison",
    "unavailable",
    "recovery_action",
)
