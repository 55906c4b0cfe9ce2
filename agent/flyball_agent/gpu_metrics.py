"""Metrics of each GPU: the names and units that users of dcgm-exporter know, and ours in base units."""

from collections.abc import Callable, Iterator, Mapping
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


class _Slow(NamedTuple):
    """A metric of the slow tiers: `key` is its name in the ring, `factor` makes the unit of its name."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    key: str
    factor: float = 1.0

    def read(self, window: GpuWindow) -> float | None:
        value = window.slow.get(self.key)
        return None if value is None else value * self.factor


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
_OURS_SLOW: Final = (
    _Slow("flyball_gpu_memory_used_bytes", "gauge", "Memory in use.", "memory_used_bytes"),
    _Slow("flyball_gpu_memory_bytes", "gauge", "Memory of the board.", "memory_total_bytes"),
    _Slow("flyball_gpu_memory_temperature_celsius", "gauge", "Memory temperature.", "memory_temperature_c"),
    _Slow("flyball_gpu_limit_requested_watts", "gauge", "Power limit asked for in band.", "limit_requested_mw", 1e-3),
    _Slow("flyball_gpu_limit_enforced_watts", "gauge", "Power limit in force.", "limit_enforced_mw", 1e-3),
    _Slow("flyball_gpu_pcie_sent_bytes_total", "counter", "Bytes sent over PCIe.", "pcie_tx_bytes"),
    _Slow("flyball_gpu_pcie_received_bytes_total", "counter", "Bytes received over PCIe.", "pcie_rx_bytes"),
    _Slow("flyball_gpu_pcie_replays_total", "counter", "PCIe packets sent again.", "pcie_replays"),
    _Slow("flyball_gpu_nvlink_sent_bytes_total", "counter", "Bytes sent over NVLink.", "nvlink_tx_bytes"),
    _Slow("flyball_gpu_nvlink_received_bytes_total", "counter", "Bytes received over NVLink.", "nvlink_rx_bytes"),
    _Slow("flyball_gpu_nvlink_crc_errors_total", "counter", "NVLink CRC errors, all links.", "nvlink_crc_errors"),
    _Slow("flyball_gpu_nvlink_replays_total", "counter", "NVLink replays, all links.", "nvlink_replays"),
    _Slow("flyball_gpu_nvlink_recoveries_total", "counter", "NVLink recoveries, all links.", "nvlink_recoveries"),
    _Slow("flyball_gpu_ecc_corrected_total", "counter", "Corrected memory errors since driver load.", "ecc_corrected"),
    _Slow(
        "flyball_gpu_ecc_uncorrected_total",
        "counter",
        "Uncorrected memory errors since driver load.",
        "ecc_uncorrected",
    ),
    _Slow("flyball_gpu_rows_remapped_corrected", "gauge", "Rows remapped for corrected errors.", "remapped_corrected"),
    _Slow(
        "flyball_gpu_rows_remapped_uncorrected",
        "gauge",
        "Rows remapped for uncorrected errors.",
        "remapped_uncorrected",
    ),
    _Slow("flyball_gpu_row_remap_pending", "gauge", "1 while a remap waits for a reset.", "remap_pending"),
    _Slow("flyball_gpu_row_remap_failed", "gauge", "1 after a remap failed.", "remap_failed"),
    _Slow("flyball_gpu_recovery_action", "gauge", "What the driver asks for: 0 none, 1 reset.", "recovery_action"),
)
# dcgm-exporter's names for the same.
_DCGM_SLOW: Final = (
    _Slow("DCGM_FI_DEV_MEMORY_TEMP", "gauge", "Memory temperature (in C).", "memory_temperature_c"),
    _Slow("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "counter", "Total number of PCIe retries.", "pcie_replays"),
    _Slow("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "counter", "Single-bit volatile ECC errors.", "ecc_corrected"),
    _Slow("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "counter", "Double-bit volatile ECC errors.", "ecc_uncorrected"),
    _Slow("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "counter", "Remapped rows, correctable.", "remapped_corrected"),
    _Slow(
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "counter", "Remapped rows, uncorrectable.", "remapped_uncorrected"
    ),
    _Slow("DCGM_FI_DEV_ROW_REMAP_FAILURE", "gauge", "Whether remapping of rows has failed.", "remap_failed"),
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
    for metric in (*_DCGM, *_DCGM_SLOW):
        family = Family(metric.name, metric.kind, metric.help)
        for row, label, known in zip(rows, labels, is_nvidia, strict=True):
            family.add(metric.read(row) if known else None, label)
        yield family
    for metric in (*_OURS, *_OURS_SLOW):
        family = Family(metric.name, metric.kind, metric.help)
        for row, label in zip(rows, labels, strict=True):
            family.add(metric.read(row), label)
        yield family
    yield from _column_families(columns, inventory, labels)


def xid_families(
    hostname: str,
    inventory: tuple[GpuInventory, ...],
    counts: Mapping[tuple[int | None, str], int],
    newest: Mapping[int | None, str],
) -> Iterator[Family]:
    """Yield how often each XID came, and the last one of each GPU under dcgm-exporter's name."""
    labels = {gpu.index: _labels(hostname, gpu) for gpu in inventory}
    total = Family("flyball_gpu_xid_total", "counter", "XIDs that the driver reported, by number.")
    for (gpu, xid), count in counts.items():
        total.add(count, {**labels.get(gpu if gpu is not None else -1, {"gpu": "unknown"}), "xid": xid})
    last = Family("DCGM_FI_DEV_XID_ERRORS", "gauge", "Value of the last XID error encountered.")
    for gpu, xid in newest.items():
        if gpu in labels and xid.isdecimal():
            last.add(float(xid), labels[gpu])
    yield from (total, last)


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
