"""CPU time and memory of processes as the kernel counts them: what a benchmark reads before and after."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class ProcessCost:
    """Sums over some processes.

    Attributes:
        cpu_s: CPU time of all their living threads, to the nanosecond where the kernel tells it so.
        cpu_s_by_name: The same, by the processes' names.
        pss_bytes: Memory, each shared page divided by those who share it.
    """

    cpu_s: float
    pss_bytes: int
    rss_bytes: int
    cpu_s_by_name: dict[str, float]


def with_children(pid: int) -> list[int]:
    """Return the process and all below it."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def read_cost(pids: Iterable[int]) -> ProcessCost:
    """Return what these processes have used so far.

    Raises:
        OSError: one of them is gone.
    """
    listed = list(pids)
    memory = [_memory_bytes(pid) for pid in listed]
    by_name: dict[str, float] = {}
    for pid in listed:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        by_name[name] = by_name.get(name, 0.0) + _cpu_s(pid)
    return ProcessCost(sum(by_name.values()), sum(pss for pss, _ in memory), sum(rss for _, rss in memory), by_name)


def _cpu_s(pid: int) -> float:
    """Return the CPU time of every thread; /proc/PID/stat counts in 10 ms, schedstat in ns."""
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    try:
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except FileNotFoundError:  # a kernel without scheduler statistics
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def _memory_bytes(pid: int) -> tuple[int, int]:
    found = {"Pss": 0, "Rss": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0]) * 1024
    return found["Pss"], found["Rss"]
