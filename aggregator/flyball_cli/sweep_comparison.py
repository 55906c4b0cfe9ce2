"""One sweep of every GPU's values, through our sampler and through nvidia-ml-py: CPU time of each, in one process.

Both read the same fields in the same proportion: clocks, load and temperature once in ten fast ticks, limits and memory
once in a hundred. Runs as a process of its own, because a driver library is chosen when it is loaded.
"""

import argparse
import json
import threading
import time
from collections import deque
from typing import Any, Final

import pynvml

from flyball_fast import sweep
from flyball_fast.nvml import Nvml
from flyball_fast.nvml_records import FAST_FIELDS, POWER_AVERAGE, SECOND_FIELDS, SweepPlan
from flyball_fast.ring import Ring
from flyball_simgpu import plant_state
from flyball_simgpu.control import set_call_cost

SWEEPS: Final = 1000
RATE_HZ: Final = 500.0
REPEATS: Final = 3  # the least disturbed counts


def main() -> None:
    """Measure once and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plant", required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--cost-us", type=int, required=True)
    options = parser.parse_args()
    with plant_state.create(options.plant, hosts=("host-1",), gpus=options.gpus, gates_open=True) as plant:
        set_call_cost(plant, "host-1", options.cost_us)
        ours = min(measure_ours() for _ in range(REPEATS))
        theirs = min(measure_theirs() for _ in range(REPEATS))
    record: dict[str, Any] = {
        "call_cost_us": options.cost_us,
        "flyball_us_per_sweep": round(ours, 2),
        "nvidia_ml_py_us_per_sweep": round(theirs, 2),
        "ratio": round(theirs / ours, 2),
    }
    print(json.dumps(record))


def measure_ours() -> float:
    """Return CPU µs a sweep of our sampler's thread, what it writes into the ring included."""
    nvml = Nvml()
    nvml.open()
    ring = Ring.create(nvml.gpu_count)
    plan = SweepPlan(
        (RATE_HZ, RATE_HZ / 10, RATE_HZ / 100, RATE_HZ / 1000), cpu_budget_ratio=1e3, lock_budget_ratio=1e3
    )
    stop = bytearray(1)
    thread = threading.Thread(target=sweep.run, args=(nvml, ring, plan, stop))
    thread.start()
    while ring.status().ticks[0] < SWEEPS / 10:
        time.sleep(0.01)
    before = ring.status()
    while ring.status().ticks[0] - before.ticks[0] < SWEEPS:
        time.sleep(0.05)
    after = ring.status()
    stop[0] = 1
    thread.join()
    nvml.close()
    ring.close()
    return (after.cpu_ns - before.cpu_ns) / 1e3 / (after.ticks[0] - before.ticks[0])


def measure_theirs() -> float:
    """Return CPU µs a sweep through nvidia-ml-py, rows kept as tuples."""
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(gpu) for gpu in range(pynvml.nvmlDeviceGetCount())]
    rows: deque[tuple[Any, ...]] = deque(maxlen=8192)
    before_s = time.thread_time()
    for number in range(SWEEPS):
        for handle in handles:
            rows.append(_read_theirs(handle, number))
    spent_s = time.thread_time() - before_s
    pynvml.nvmlShutdown()
    return spent_s * 1e6 / SWEEPS


def _read_theirs(handle: Any, number: int) -> tuple[Any, ...]:
    values = tuple(one.value.ullVal for one in pynvml.nvmlDeviceGetFieldValues(handle, list(FAST_FIELDS.values())))
    row: tuple[Any, ...] = (time.monotonic_ns(), *values)
    if number % 10 == 0:
        row += (
            pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
            pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            pynvml.nvmlDeviceGetTemperature(handle, 0),
            pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
            pynvml.nvmlDeviceGetFieldValues(handle, [POWER_AVERAGE])[0].value.uiVal,
        )
    if number % 100 == 0:
        row += (
            *(one.value.ullVal for one in pynvml.nvmlDeviceGetFieldValues(handle, list(SECOND_FIELDS.values()))),
            pynvml.nvmlDeviceGetMemoryInfo(handle).used,
        )
    return row


if __name__ == "__main__":
    main()
