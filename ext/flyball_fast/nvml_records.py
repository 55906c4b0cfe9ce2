"""What both NVML twins share: field numbers, records, where the library is looked for, and the plan of a sweep."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

LIBRARY_VARIABLE = "FLYBALL_NVML_LIBRARY"
DEFAULT_LIBRARY = "libnvidia-ml.so.1"

# Field numbers of nvmlDeviceGetFieldValues (nvml.h, NVML_FI_DEV_*). Powers in mW, energy in mJ, counters in ns.
POWER_INSTANT = 186
POWER_AVERAGE = 185
ENERGY = 83
THROTTLE_POWER_CAP = 74
THROTTLE_THERMAL_SW = 269
THROTTLE_THERMAL_HW = 270
THROTTLE_POWER_BRAKE = 271
POWER_CURRENT_LIMIT = 190
POWER_REQUESTED_LIMIT = 192
# The fast tier: column of a row <- field. Nothing that blocks belongs here.
FAST_FIELDS = {
    "power_instant_mw": POWER_INSTANT,
    "energy_mj": ENERGY,
    "power_cap_ns": THROTTLE_POWER_CAP,
    "power_brake_ns": THROTTLE_POWER_BRAKE,
    "thermal_hw_ns": THROTTLE_THERMAL_HW,
    "thermal_sw_ns": THROTTLE_THERMAL_SW,
}
# Slow values of the ring <- field, tiers 2 and 3.
SECOND_FIELDS = {
    "limit_enforced_mw": POWER_CURRENT_LIMIT,
    "limit_requested_mw": POWER_REQUESTED_LIMIT,
    "memory_temperature_c": 82,
    "pcie_tx_bytes": 197,
    "pcie_rx_bytes": 198,
    "nvlink_tx_bytes": 202,
    "nvlink_rx_bytes": 204,
}
RARE_FIELDS = {
    "ecc_corrected": 3,
    "ecc_uncorrected": 4,
    "remapped_corrected": 142,
    "remapped_uncorrected": 143,
    "remap_pending": 144,
    "remap_failed": 145,
    "pcie_replays": 94,
    "recovery_action": 230,
    "nvlink_crc_errors": 163,
    "nvlink_replays": 161,
    "nvlink_recoveries": 162,
}

# Symbols that may be absent, each with the older name that serves as well ("" for none).
SYMBOLS = {
    "nvmlInitWithFlags": "nvmlInit_v2",
    "nvmlShutdown": "",
    "nvmlSystemGetDriverVersion": "",
    "nvmlSystemGetNVMLVersion": "",
    "nvmlDeviceGetCount_v2": "nvmlDeviceGetCount",
    "nvmlDeviceGetHandleByIndex_v2": "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetName": "",
    "nvmlDeviceGetUUID": "",
    "nvmlDeviceGetPciInfo_v3": "nvmlDeviceGetPciInfo_v2",
    "nvmlDeviceGetFieldValues": "",
    "nvmlDeviceGetPowerUsage": "",
    "nvmlDeviceGetTotalEnergyConsumption": "",
    "nvmlDeviceGetUtilizationRates": "",
    "nvmlDeviceGetClockInfo": "",
    "nvmlDeviceGetMaxClockInfo": "",
    "nvmlDeviceGetTemperature": "",
    "nvmlDeviceGetCurrentClocksEventReasons": "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetMemoryInfo": "",
    "nvmlDeviceGetPowerManagementLimitConstraints": "",
    "nvmlDeviceGetPowerManagementDefaultLimit": "",
    "nvmlDeviceGetPowerManagementLimit": "",
    "nvmlDeviceGetEnforcedPowerLimit": "",
    "nvmlDeviceGetPersistenceMode": "",
    "nvmlDeviceSetPowerManagementLimit": "",
    "nvmlDeviceSetGpuLockedClocks": "",
    "nvmlDeviceResetGpuLockedClocks": "",
    "nvmlDeviceGetSupportedEventTypes": "",
    "nvmlDeviceRegisterEvents": "",
    "nvmlEventSetCreate": "",
    "nvmlEventSetWait_v2": "nvmlEventSetWait",
    "nvmlEventSetFree": "",
}
NEEDED = ("nvmlInitWithFlags", "nvmlShutdown", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2")

# Event types we ask for (nvml.h, nvmlEventType*), each under our name.
EVENT_TYPES = {
    0x2: "ecc_double_bit",
    0x8: "xid",
    0x80: "power_source",
    0x400: "memory_retired",
    0x800: "memory_retired",
    0x1000: "poison",
    0x2000: "poison",
    0x4000: "unavailable",
    0x8000: "recovery_action",
}
GRAPHICS_CLOCK, SM_CLOCK, MEMORY_CLOCK = 0, 1, 2


class Description(NamedTuple):
    """A GPU's names and bounds; None where the driver does not tell."""

    uuid: str
    name: str
    pci: str
    min_limit_mw: int | None
    max_limit_mw: int | None
    default_limit_mw: int | None
    max_sm_clock_mhz: int | None
    persistence: bool | None


class FieldReading(NamedTuple):
    """One field of one read: `value` is None unless `code` is 0."""

    field: int
    code: int
    value: int | None
    latency_us: int
    timestamp_us: int


class NvmlEvent(NamedTuple):
    """One event as NVML delivers it: `kind` is one of `EVENT_TYPES`' bits, `data` an XID or recovery action."""

    gpu: int
    kind: int
    data: int


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """How often what is read, and what it may cost.

    Attributes:
        rates_hz: Of the tiers: power, energy and throttle counters; clocks, load and temperature; limits and memory;
            error counts.
        left_out: GPUs that are not touched.
        cpu_budget_ratio: Share of one core that the sampler thread may take before the fast tiers give way.
        lock_budget_ratio: Share of time inside driver calls, which hold the driver's lock, before they give way.
        window_s: Over which both are judged.
        probe_s: How long to watch before sampling, to find the fast tiers' rate; 0 samples as asked.
    """

    rates_hz: tuple[float, float, float, float] = (20.0, 10.0, 1.0, 0.1)
    left_out: frozenset[int] = frozenset()
    cpu_budget_ratio: float = 0.01
    lock_budget_ratio: float = 0.005
    window_s: float = 5.0
    probe_s: float = 0.0

    def __post_init__(self) -> None:
        for tier, rate in enumerate(self.rates_hz):
            if not 0.001 <= rate <= 1000:
                raise ValueError(f"tier {tier}: rate {rate} Hz, expected 0.001..1000")
        for name in ("cpu_budget_ratio", "lock_budget_ratio", "window_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)}, expected above 0")

    def periods_ns(self) -> list[int]:
        """Return each tier's period, nanoseconds."""
        return [round(1e9 / rate) for rate in self.rates_hz]


def library_path(path: str | None = None) -> str:
    """Return which library to load: the argument, else the environment's, else the loader's default."""
    return path or os.environ.get(LIBRARY_VARIABLE) or DEFAULT_LIBRARY


def not_found_message(path: str, reason: str) -> str:
    """Say that no library could be loaded, what was tried and how to name another."""
    where = "through the loader's search path" if "/" not in path else "as named"
    return f"no NVML library: tried {path} {where} ({reason}); {LIBRARY_VARIABLE} names another"
