"""Metrics of each GPU: the names and units that users of dcgm-exporter know, and ours in base units."""

from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

from flyball_agent.exposition import Family, Labels
from flyball_agent.state_window import GpuWindow
from flyball_wire.messages import GpuColumns, GpuInventory

MEGA: Final = 1_000_000.0
MEBI: Final = 1_048_576.0


class _Metric(NamedTuple):
    name: str
    kind: Literal["gauge", "counter"]
    help: str
    read: Callable[[GpuWindow], float | None]


def _times(read: Callable[[GpuWindow], float | None], factor: float) -> Callable[[GpuWindow], float | None]:
    def scaled(window: GpuWindow) -> float | None:
        value = read(window)
        return None if value is None else value * factor

    return scaled


# Names, units and labels as dcgm-exporter's default counters have them.
_DCGM: Final = (
    _Metric("DCGM_FI_DEV_SM_CLOCK", "gauge", "SM clock frequency (in MHz).", _times(lambda w: w.sm_clock_hz, 1 / MEGA)),
    _Metric(
        "DCGM_FI_DEV_MEM_CLOCK",
        "gauge",
        "Memory clock frequency (in MHz).",
        _times(lambda w: w.memory_clock_hz, 1 / MEGA),
    ),
    _Metric("DCGM_FI_DEV_GPU_TEMP", "gauge", "GPU temperature (in C).", lambda w: w.temperature_celsius),
    _Metric("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw, mean of the last second (in W).", lambda w: w.power_w),
    _Metric(
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "counter",
        "Energy since the driver was loaded (in mJ).",
        _times(lambda w: w.energy_j, 1000.0),
    ),
    _Metric("DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU utilization (in %).", _times(lambda w: w.utilisation_ratio, 100.0)),
    _Metric(
        "DCGM_FI_DEV_FB_USED",
        "gauge",
        "Framebuffer memory used (in MiB).",
        _times(lambda w: w.memory_used_bytes, 1 / MEBI),
    ),
)
_OURS: Final = (
    _Metric("flyball_gpu_power_watts", "gauge", "Board power, mean of the last second.", lambda w: w.power_w),
    _Metric(
        "flyball_gpu_power_peak_watts", "gauge", "Largest instant reading of the last second.", lambda w: w.power_peak_w
    ),
    _Metric("flyball_gpu_energy_joules_total", "counter", "Board energy since driver load.", lambda w: w.energy_j),
    _Metric(
        "flyball_gpu_throttled_ratio",
        "gauge",
        "Share of the last second in which the cap was biting.",
        lambda w: w.throttled_ratio,
    ),
    _Metric(
        "flyball_gpu_utilisation_ratio", "gauge", "Share of time with a kernel running.", lambda w: w.utilisation_ratio
    ),
    _Metric("flyball_gpu_temperature_celsius", "gauge", "Core temperature.", lambda w: w.temperature_celsius),
    _Metric("flyball_gpu_sm_clock_hertz", "gauge", "Core clock.", lambda w: w.sm_clock_hz),
)


def gpu_families(
    hostname: str, inventory: tuple[GpuInventory, ...], columns: GpuColumns, windows: tuple[GpuWindow, ...]
) -> Iterator[Family]:
    """Yield the families of every GPU in the inventory; the dcgm names only for that vendor's."""
    rows = [windows[gpu.index] if gpu.index < len(windows) else GpuWindow() for gpu in inventory]
    labels = [_labels(hostname, gpu) for gpu in inventory]
    is_nvidia = [gpu.vendor.lower() == "nvidia" for gpu in inventory]
    for metric in _DCGM:
        family = Family(metric.name, metric.kind, metric.help)
        for row, label, known in zip(rows, labels, is_nvidia, strict=True):
            family.add(metric.read(row) if known else None, label)
        yield family
    for metric in _OURS:
        family = Family(metric.name, metric.kind, metric.help)
        for row, label in zip(rows, labels, strict=True):
            family.add(metric.read(row), label)
        yield family
    yield from _column_families(columns, inventory, labels)


def _column_families(
    columns: GpuColumns, inventory: tuple[GpuInventory, ...], labels: list[Labels]
) -> Iterator[Family]:
    caps = Family("flyball_gpu_cap_watts", "gauge", "Power cap in force, as read back.")
    limits = Family("flyball_gpu_maximum_watts", "gauge", "Highest cap that the device takes.")
    health = Family("flyball_gpu_health", "gauge", "1 for the state that the GPU is in.")
    for place, (gpu, label) in enumerate(zip(inventory, labels, strict=True)):
        caps.add(columns.cap_watts[place], label)
        limits.add(gpu.maximum_milliwatts / 1000.0, label)
        health.add(1.0, {**label, "state": columns.health[place]})
    yield from (caps, limits, health)


def _labels(hostname: str, gpu: GpuInventory) -> Labels:
    return {
        "gpu": str(gpu.index),
        "UUID": gpu.uuid,
        "pci_bus_id": gpu.pci_address,
        "device": f"{gpu.vendor.lower()}{gpu.index}",
        "modelName": gpu.model,
        "Hostname": hostname,
    }
