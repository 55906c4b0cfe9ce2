"""The control client of simulated devices: faults, call costs, driver and mode changes, and what programs must export.

    with PlantFile(path) as plant:
        lose_gpu(plant, "host-00", 3)

Each function writes words of the plant file and takes effect with the next call of a simulated library (an event within
20 ms). From a shell: `python -m flyball_simgpu.control_command --plant FILE xid host-00 3 79`.
"""

import fcntl
import os
import struct
import time
from pathlib import Path

from flyball_simgpu.plant_layout import CALL_KINDS, EVENT_RING, PROCESS_SLOTS, PlantGpu
from flyball_simgpu.plant_state import PlantFile, PlantFileError

LIBRARY_FOLDER = Path(__file__).parent / "lib"
NVML_LIBRARY = LIBRARY_FOLDER / "libnvidia-ml.so.1"

EVENT_XID = 0x8  # nvmlEventTypeXidCriticalError
EVENT_POWER_SOURCE = 0x80
EVENT_GPU_UNAVAILABLE = 0x4000
EVENT_RECOVERY_ACTION = 0x8000
ERROR_NO_PERMISSION = 4  # NVML_ERROR_NO_PERMISSION
RECOVERY_GPU_RESET = 1  # NVML_GPU_RECOVERY_ACTION_GPU_RESET
XID_OFF_THE_BUS = 79
_GET_OPEN_LOCK = 36  # F_OFD_GETLK; not named by Python's fcntl before 3.13
_LOCK_LAYOUT = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid


class DriverInUseError(RuntimeError):
    """Some process holds the simulated driver open, so it cannot be unloaded or a GPU reset."""


def sim_environment(plant: str | os.PathLike[str], host_id: str) -> dict[str, str]:
    """Return what a program must export to see the GPUs of one simulated host through any NVML client."""
    return {
        "FLYBALL_SIM_PLANT": str(Path(plant).absolute()),
        "FLYBALL_SIM_HOST": host_id,
        "FLYBALL_NVML_LIBRARY": str(NVML_LIBRARY),
        "LD_LIBRARY_PATH": str(LIBRARY_FOLDER),
    }


def inject_event(plant: PlantFile, host_id: str, index: int, event_type: int, data: int = 0) -> None:
    """Push an event of a GPU to every event set that registered its type."""
    gpu = plant.gpu(host_id, index)
    number = gpu.event_count + 1
    event = gpu.events[(number - 1) % EVENT_RING]
    event.type, event.data, event.at_us = event_type, data, time.time_ns() // 1000
    event.gpu_instance_id = event.compute_instance_id = 0xFFFFFFFF
    event.sequence = number
    gpu.event_count = number  # last: a reader takes the event once it counts


def inject_xid(plant: PlantFile, host_id: str, index: int, xid: int) -> None:
    """Push a critical XID error."""
    inject_event(plant, host_id, index, EVENT_XID, xid)


def lose_gpu(plant: PlantFile, host_id: str, index: int) -> None:
    """Let a GPU fall off the bus: XID 79, then every call on it answers GPU_IS_LOST."""
    inject_xid(plant, host_id, index, XID_OFF_THE_BUS)
    plant.gpu(host_id, index).is_lost = 1


def restore_gpu(plant: PlantFile, host_id: str, index: int) -> None:
    """Bring a lost GPU back; it stands at its default limit, as after a reset."""
    _reset(plant.gpu(host_id, index))


def require_reset(plant: PlantFile, host_id: str, index: int) -> None:
    """Let every call on a GPU answer RESET_REQUIRED and its recovery action ask for a reset."""
    gpu = plant.gpu(host_id, index)
    gpu.recovery_action = RECOVERY_GPU_RESET
    gpu.needs_reset = 1
    inject_event(plant, host_id, index, EVENT_RECOVERY_ACTION, RECOVERY_GPU_RESET)


def hang_call(plant: PlantFile, host_id: str, index: int | None, kind: str) -> None:
    """Let calls of a kind (CALL_KINDS) not return until released: on one GPU, or (None) every call of the host."""
    record = plant.host(host_id) if index is None else plant.gpu(host_id, index)
    record.hang_calls |= 1 << _call_number(kind)


def release_calls(plant: PlantFile, host_id: str) -> None:
    """Let every hanging call of a host return."""
    for record in (plant.host(host_id), *plant.gpus_of(host_id)):
        record.hang_calls = 0


def set_call_cost(
    plant: PlantFile, host_id: str, cost_us: int, kind: str | None = None, *, is_slept: bool = False
) -> None:
    """Let calls of a kind (all without one) take this long: busy, as a driver call spins, or asleep."""
    if not 0 <= cost_us <= 60_000_000:
        raise ValueError(f"call cost {cost_us} us: outside 0..60000000")
    host = plant.host(host_id)
    host.is_cost_slept = int(is_slept)
    for number in range(len(CALL_KINDS)) if kind is None else [_call_number(kind)]:
        host.call_cost_us[number] = cost_us


def refuse_sets(plant: PlantFile, host_id: str, index: int, error: int = ERROR_NO_PERMISSION) -> None:
    """Let every set call on a GPU answer this nvmlReturn_t; 0 lets them work again."""
    plant.gpu(host_id, index).set_error = error


def ignore_sets(plant: PlantFile, host_id: str, index: int, *, is_ignored: bool = True) -> None:
    """Let set calls answer success and change nothing: only a read-back shows it."""
    plant.gpu(host_id, index).is_set_ignored = int(is_ignored)


def fail_reads(plant: PlantFile, host_id: str, index: int, error: int) -> None:
    """Let every call on a GPU answer this nvmlReturn_t; 0 lets them work again."""
    plant.gpu(host_id, index).read_error = error


def set_out_of_band_limit(plant: PlantFile, host_id: str, index: int, limit_w: float | None) -> None:
    """Cap a GPU as its board controller would: below the in-band limit it is what is enforced; None takes it away."""
    plant.gpu(host_id, index).out_of_band_limit_mw = 0 if limit_w is None else round(limit_w * 1000)


def brake_power(plant: PlantFile, host_id: str, *, is_braked: bool = True) -> None:
    """Pull or release the power brake of a host's boards."""
    for gpu in plant.gpus_of(host_id):
        gpu.is_power_braked = int(is_braked)


def warm_inlet(plant: PlantFile, host_id: str, offset_k: int) -> None:
    """Raise the inlet temperature of a host's boards by 0..60 K."""
    if not 0 <= offset_k <= 60:
        raise ValueError(f"inlet offset {offset_k} K: outside 0..60")
    for gpu in plant.gpus_of(host_id):
        gpu.inlet_offset_c = offset_k


def is_driver_open(plant: PlantFile, host_id: str) -> bool:
    """Return whether any process has the simulated driver of a host open."""
    offset = plant.header.hosts_offset + plant.host(host_id).index * plant.header.host_size
    with plant.path.open("r+b") as file:
        wanted = struct.pack(_LOCK_LAYOUT, fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
        answer = fcntl.fcntl(file.fileno(), _GET_OPEN_LOCK, wanted)
    return bool(struct.unpack(_LOCK_LAYOUT, answer)[0] != fcntl.F_UNLCK)


def announce_unbind(plant: PlantFile, host_id: str) -> None:
    """Tell system event sets that the driver is about to be unbound."""
    plant.host(host_id).driver_unbind_count += 1


def unload_driver(plant: PlantFile, host_id: str, *, is_forced: bool = False) -> None:
    """Unload the driver of a host; refused while a process holds it open, as rmmod is.

    Raises:
        DriverInUseError: it is open somewhere and `is_forced` is not given.
    """
    if not is_forced and is_driver_open(plant, host_id):
        raise DriverInUseError(f"driver of {host_id!r}: in use by another client; close its handles first")
    plant.host(host_id).is_driver_loaded = 0


def load_driver(plant: PlantFile, host_id: str) -> None:
    """Load the driver again: every GPU stands at its default, and system event sets hear of a bind."""
    for gpu in plant.gpus_of(host_id):
        _reset(gpu)
    host = plant.host(host_id)
    host.is_driver_loaded = 1
    host.driver_bind_count += 1


def reset_gpu(plant: PlantFile, host_id: str, index: int, *, is_forced: bool = False) -> None:
    """Reset a GPU: limits and clocks at their defaults, faults cleared; refused while the driver is open elsewhere.

    Raises:
        DriverInUseError: it is open somewhere and `is_forced` is not given (a reset by the board's own controller).
    """
    if not is_forced and is_driver_open(plant, host_id):
        raise DriverInUseError(f"gpu {index} of {host_id!r}: in use by another client; close its handles first")
    _reset(plant.gpu(host_id, index))


def set_mig(plant: PlantFile, host_id: str, index: int, *, is_on: bool) -> None:
    """Change the MIG mode of a GPU; utilisation is then not supported."""
    gpu = plant.gpu(host_id, index)
    gpu.mig_mode_pending = gpu.mig_mode_current = int(is_on)


def show_gpus(plant: PlantFile, host_id: str, count: int) -> None:
    """Let the driver count only the first `count` GPUs of a host."""
    host = plant.host(host_id)
    if not 0 <= count <= host.gpu_count:
        raise PlantFileError(f"gpus shown {count}: outside 0..{host.gpu_count} of {host_id!r}")
    host.gpus_shown = count


def set_process(plant: PlantFile, host_id: str, index: int, slot: int, *, pid: int, used_bytes: int) -> None:
    """Put a compute process on a GPU (pid 0 takes it away)."""
    if not 0 <= slot < PROCESS_SLOTS:
        raise ValueError(f"process slot {slot}: outside 0..{PROCESS_SLOTS - 1}")
    process = plant.gpu(host_id, index).processes[slot]
    process.pid, process.used_bytes, process.kind = pid, used_bytes, int(pid != 0)


def _call_number(kind: str) -> int:
    if kind not in CALL_KINDS:
        raise ValueError(f"call kind {kind!r}: expected one of {', '.join(CALL_KINDS)}")
    return CALL_KINDS.index(kind)


def _reset(gpu: PlantGpu) -> None:
    gpu.requested_limit_mw = gpu.default_limit_mw
    gpu.locked_clock_min_mhz = gpu.locked_clock_max_mhz = 0
    gpu.is_lost = gpu.needs_reset = gpu.read_error = gpu.recovery_action = 0
    gpu.ecc_volatile_corrected = gpu.ecc_volatile_uncorrected = 0
    gpu.mig_mode_current = gpu.mig_mode_pending
    gpu.ecc_mode_current = gpu.ecc_mode_pending
    gpu.reset_count += 1
