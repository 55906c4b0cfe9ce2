"""What the operating system says of this host: load, memory, network, names; unknown is None."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One reading. `cpu_ratio` is the share of all cores that was busy since the reading before."""

    cpu_ratio: float | None
    load_1m: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    network_received_bytes: int | None
    network_sent_bytes: int | None
    agent_cpu_seconds: float
    agent_memory_bytes: int | None


class HostReader:
    """Reads the facts; it remembers CPU times between readings."""

    def __init__(self) -> None:
        self._busy_s: float | None = None
        self._all_s = 0.0

    def read(self) -> HostFacts:
        """Return what can be read now."""
        memory = psutil.virtual_memory()
        network = psutil.net_io_counters()
        times = os.times()
        return HostFacts(
            cpu_ratio=self._read_cpu(),
            load_1m=os.getloadavg()[0],
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            network_received_bytes=None if network is None else network.bytes_recv,
            network_sent_bytes=None if network is None else network.bytes_sent,
            agent_cpu_seconds=times.user + times.system,
            agent_memory_bytes=_own_memory_bytes(),
        )

    def _read_cpu(self) -> float | None:
        times = psutil.cpu_times()
        guests = float(getattr(times, "guest", 0.0)) + float(getattr(times, "guest_nice", 0.0))  # also in user
        everything = float(sum(times)) - guests
        busy = everything - float(times.idle) - float(getattr(times, "iowait", 0.0))
        before, before_all = self._busy_s, self._all_s
        self._busy_s, self._all_s = busy, everything
        if before is None or everything <= before_all:
            return None
        return min(1.0, max(0.0, (busy - before) / (everything - before_all)))


def read_boot_id() -> str:
    """Return the kernel's id of this boot; empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def read_hostname() -> str:
    """Return the machine's own name."""
    return socket.gethostname()[:128]


def memory_total_bytes() -> int:
    """Return the installed memory that the kernel uses."""
    return int(psutil.virtual_memory().total)


def cpu_count() -> int:
    """Return the number of logical processors; 0 when unknown."""
    return int(psutil.cpu_count() or 0)


def _own_memory_bytes() -> int | None:
    try:
        resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return resident_pages * os.sysconf("SC_PAGE_SIZE")
