"""Creates, opens and reads the plant file: hosts, GPUs, gates, the meter and the load's release.

Standard library only, so that a lean host program may import it; the physics lives in flyball_twin.
"""

import contextlib
import mmap
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from ctypes import sizeof
from pathlib import Path
from types import TracebackType
from typing import Self

from flyball_simgpu.models import SimulatedModel, find_model
from flyball_simgpu.plant_layout import LAYOUT_VERSION, PlantGpu, PlantHeader, PlantHost

MAGIC = b"FLYPLANT"
MAX_GPUS_PER_HOST = 64  # FB_MAX_GPUS of session.h
DRIVER_VERSION = b"580.95.05"  # a data-centre branch that has every symbol the library exports
NVML_VERSION = b"13.580.95.05"
CUDA_VERSION = 13000
HOST_ID_BYTES = 64  # with the ending NUL, as FbHost.id
RESERVED_BYTES = 600 * 1024**2  # what an 80 GB board keeps for itself, about


class PlantFileError(ValueError):
    """The file is not a plant file of this layout, or names no such host or GPU."""


def create(
    path: str | os.PathLike[str],
    *,
    hosts: int | Sequence[str] = 1,
    gpus: int = 8,
    model: str | Sequence[str] = "h100",
    seed: int = 1,
    gates_open: bool = False,
) -> "PlantFile":
    """Write a plant file with idle GPUs at their default limits, and open it.

    Args:
        path: Where; an existing file is replaced in one step, whoever has it mapped keeps the old one.
        hosts: Host ids, or how many; then they are named host-00, host-01 ...
        gpus: GPUs of each host, 1..64.
        model: A key of `models.MODELS` for all hosts, or one per host.
        seed: Makes the UUIDs and serials; the physics takes it too.
        gates_open: Whether workloads may run from the beginning.

    Raises:
        PlantFileError: no hosts, a doubled or over-long host id, a GPU count outside 1..64, or models that do not fit.
        ValueError: an unknown model.
    """
    names = [f"host-{i:02d}" for i in range(hosts)] if isinstance(hosts, int) else list(hosts)
    keys = [model] * len(names) if isinstance(model, str) else list(model)
    _check_shape(names, gpus, keys)
    boards = [find_model(key) for key in keys]
    content = bytearray(sizeof(PlantHeader) + len(names) * (sizeof(PlantHost) + gpus * sizeof(PlantGpu)))
    _fill_header(content, len(names), gpus, seed)
    offset = PlantHeader.from_buffer(content).gpus_offset
    for index, (name, board) in enumerate(zip(names, boards, strict=True)):
        _fill_host(content, index, name, gpus, is_gate_open=gates_open)
        for gpu in range(gpus):
            record = PlantGpu.from_buffer(content, offset + (index * gpus + gpu) * sizeof(PlantGpu))
            record.index, record.host_index, record.minor_number = gpu, index, gpu
            _fill_gpu(record, board, seed)
    draft = Path(f"{os.fspath(path)}.{os.getpid()}.new")
    draft.write_bytes(content)
    draft.rename(path)
    return PlantFile(path)


def write_gate(path: str | os.PathLike[str], host_id: str, *, is_open: bool) -> None:
    """Open or close the gate of one host: whether its workload may run."""
    with PlantFile(path) as plant:
        plant.write_gate(host_id, is_open=is_open)


class PlantFile:
    """A mapped plant file; its records are ctypes structures over the shared memory, so every read is fresh."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self.path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size < sizeof(PlantHeader):
                raise PlantFileError(f"{self.path}: too short for a plant file")
            self.memory = mmap.mmap(file.fileno(), 0)
        self.header = PlantHeader.from_buffer(self.memory)
        _check_layout(self.path, self.header, len(self.memory))
        header = self.header
        self.hosts = [
            PlantHost.from_buffer(self.memory, header.hosts_offset + i * header.host_size)
            for i in range(header.host_count)
        ]
        self.gpus = [
            PlantGpu.from_buffer(self.memory, header.gpus_offset + i * header.gpu_size) for i in range(header.gpu_count)
        ]

    def host(self, host_id: str) -> PlantHost:
        """Return the record of one host."""
        for host in self.hosts:
            if host.id == host_id.encode():
                return host
        known = ", ".join(host.id.decode() for host in self.hosts)
        raise PlantFileError(f"host {host_id!r}: not in {self.path}, expected one of {known}")

    def gpu(self, host_id: str, index: int) -> PlantGpu:
        """Return the record of one GPU of one host."""
        host = self.host(host_id)
        if not 0 <= index < host.gpu_count:
            raise PlantFileError(f"gpu {index} of host {host_id!r}: outside 0..{host.gpu_count - 1}")
        return self.gpus[host.first_gpu + index]

    def gpus_of(self, host_id: str) -> Iterator[PlantGpu]:
        """Yield the records of one host's GPUs in the order of their indexes."""
        host = self.host(host_id)
        return iter(self.gpus[host.first_gpu : host.first_gpu + host.gpu_count])

    def write_gate(self, host_id: str, *, is_open: bool) -> None:
        """Open or close the gate of one host."""
        host = self.host(host_id)
        host.gate_changed_at_ns = time.monotonic_ns()
        host.is_gate_open = int(is_open)

    def release_load(self) -> None:
        """Let the load start as soon as every host's gate is open."""
        self.header.load_released = 1

    def close(self) -> None:
        """Forget the records and unmap the file; records still held elsewhere keep their memory until they go."""
        self.header = PlantHeader()
        self.hosts.clear()
        self.gpus.clear()
        with contextlib.suppress(BufferError):
            self.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_shape(names: list[str], gpus: int, models: list[str]) -> None:
    if not names or len(set(names)) != len(names):
        raise PlantFileError(f"hosts {names}: expected at least one, each named once")
    for name in names:
        if not 0 < len(name.encode()) < HOST_ID_BYTES:
            raise PlantFileError(f"host {name!r}: expected 1..{HOST_ID_BYTES - 1} bytes")
    if not 1 <= gpus <= MAX_GPUS_PER_HOST:
        raise PlantFileError(f"gpus {gpus}: outside 1..{MAX_GPUS_PER_HOST}")
    if len(models) != len(names):
        raise PlantFileError(f"models {models}: expected one for each of {len(names)} hosts")


def _check_layout(path: Path, header: PlantHeader, size: int) -> None:
    sizes = (header.header_size, header.host_size, header.gpu_size)
    expected = (sizeof(PlantHeader), sizeof(PlantHost), sizeof(PlantGpu))
    if header.magic != MAGIC or header.layout_version != LAYOUT_VERSION or sizes != expected or header.file_size > size:
        raise PlantFileError(f"{path}: not a plant file of layout {LAYOUT_VERSION} with record sizes {expected}")


def _fill_header(content: bytearray, hosts: int, gpus: int, seed: int) -> None:
    header = PlantHeader.from_buffer(content)
    header.magic = MAGIC
    header.layout_version = LAYOUT_VERSION
    header.header_size, header.host_size, header.gpu_size = sizeof(PlantHeader), sizeof(PlantHost), sizeof(PlantGpu)
    header.host_count, header.gpu_count = hosts, hosts * gpus
    header.hosts_offset = sizeof(PlantHeader)
    header.gpus_offset = header.hosts_offset + hosts * sizeof(PlantHost)
    header.file_size = len(content)
    header.seed = seed


def _fill_host(content: bytearray, index: int, name: str, gpus: int, *, is_gate_open: bool) -> None:
    host = PlantHost.from_buffer(content, sizeof(PlantHeader) + index * sizeof(PlantHost))
    host.id = name.encode()
    host.index, host.first_gpu, host.gpu_count, host.gpus_shown = index, index * gpus, gpus, gpus
    host.is_gate_open, host.is_driver_loaded = int(is_gate_open), 1
    host.driver_version, host.nvml_version, host.cuda_version = DRIVER_VERSION, NVML_VERSION, CUDA_VERSION


def _fill_gpu(gpu: PlantGpu, model: SimulatedModel, seed: int) -> None:
    _fill_identity(gpu, model, seed)
    gpu.default_limit_mw = gpu.requested_limit_mw = gpu.applied_limit_mw = round(model.default_limit_w * 1000)
    gpu.min_limit_mw, gpu.max_limit_mw = round(model.min_limit_w * 1000), round(model.max_limit_w * 1000)
    gpu.graphics_clock_max_mhz, gpu.graphics_clock_min_mhz = model.graphics_clock_max_mhz, model.graphics_clock_min_mhz
    gpu.graphics_clock_step_mhz, gpu.memory_clock_max_mhz = model.graphics_clock_step_mhz, model.memory_clock_max_mhz
    gpu.slowdown_temperature_c, gpu.shutdown_temperature_c = model.slowdown_temperature_c, model.shutdown_temperature_c
    gpu.memory_max_temperature_c = model.memory_max_temperature_c
    gpu.memory_total_bytes, gpu.memory_reserved_bytes = model.memory_bytes, RESERVED_BYTES
    gpu.is_persistent, gpu.ecc_mode_current, gpu.ecc_mode_pending = 1, 1, 1
    gpu.remap_banks_max = 640  # banks with all spare rows, as an A100/H100 80 GB lists them
    idle_mw = round(model.idle_w * 1000)
    gpu.power_true_mw = gpu.power_instant_mw = gpu.power_average_mw = gpu.demand_mw = idle_mw
    gpu.event_reasons = 1  # idle
    gpu.temperature_mc = gpu.memory_temperature_mc = 30_000
    gpu.graphics_clock_mhz, gpu.memory_clock_mhz = model.graphics_clock_min_mhz, model.memory_clock_max_mhz


def _fill_identity(gpu: PlantGpu, model: SimulatedModel, seed: int) -> None:
    number = gpu.host_index * MAX_GPUS_PER_HOST + gpu.index
    gpu.model, gpu.name = model.key.encode(), model.name.encode()
    gpu.uuid = f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'flyball-simulated/{seed}/{number}')}".encode()
    gpu.serial = f"{1650000000000 + seed % 1000 * 1000000 + number:013d}".encode()
    gpu.pci_domain, gpu.pci_bus, gpu.pci_device = gpu.index // 8, 0x19 + gpu.index % 8 * 0x11, 0
    gpu.pci_bus_id = f"{gpu.pci_domain:08X}:{gpu.pci_bus:02X}:{gpu.pci_device:02X}.0".encode()
    gpu.pci_device_id, gpu.pci_subsystem_id = model.pci_device_id, model.pci_device_id
    gpu.vbios_version = b"96.00.89.00.01"
    gpu.architecture, gpu.brand = model.architecture, 14  # NVML_BRAND_NVIDIA
    gpu.compute_major, gpu.compute_minor = model.compute_capability
    gpu.is_average_windowed, gpu.link_count = int(model.is_average_windowed), model.link_count
