"""What `flyball up` has to do with the simulated plant: carry gates to it, release its load, read its meter."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flyball_cli.up_files import HostFiles
from flyball_simgpu.plant_state import PlantFile


@dataclass(frozen=True, slots=True)
class MeteredSecond:
    """One second of governed load: true wall power of the site, and what it would have been without caps."""

    load_s: float
    site_w: float
    uncapped_site_w: float


class PlantLink:
    """The plant file of a running site; the plant process itself owns the physics."""

    def __init__(self, plant: Path, hosts: Sequence[HostFiles]) -> None:
        self._file = PlantFile(plant)
        self._hosts = tuple(hosts)
        self._open: set[str] = set()

    def carry_gates(self) -> bool:
        """Tell the plant which hosts may start work, as their governors' gate files say; return whether all may.

        A gate that shuts keeps new work out. The simulated workload is one long piece of work, so it goes on once it
        has begun: the harsher case for the limit.
        """
        for host in self._hosts:
            if host.host not in self._open and read_gate(host.gate):
                self._file.write_gate(host.host, is_open=True)
                self._open.add(host.host)
        return len(self._open) == len(self._hosts)

    def release_load(self) -> None:
        """Let the load start."""
        self._file.release_load()

    def set_unmanaged_w(self, power_w: float) -> None:
        """Let this much other load hang on the site's meter."""
        self._file.header.unmanaged_load_mw = round(power_w * 1000)

    def site_power_w(self) -> float:
        """Return the true wall power of this moment, of the plant's last step (10 ms)."""
        return float(self._file.header.site_power_mw) / 1000

    def close(self) -> None:
        """Unmap the plant file."""
        self._file.close()


def read_gate(path: Path) -> bool:
    """Return whether a governor's gate file says open."""
    try:
        return path.read_text().strip() == "open"
    except FileNotFoundError:
        return False


def read_meter(path: Path, for_s: float) -> list[MeteredSecond]:
    """Return the whole seconds metered in the `for_s` since the load was released; a line cut short is left out."""
    seconds = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["load_s"] is not None and -1 < record["load_s"] <= for_s - 1:
            seconds.append(MeteredSecond(record["load_s"], record["site_w"], record["uncapped_site_w"]))
    return seconds
