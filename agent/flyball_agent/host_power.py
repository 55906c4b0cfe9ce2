"""Power of the host's processors and memory, from the kernel's powercap zones (RAPL); unknown is absent.

Source: Documentation/power/powercap: energy_uj counts microjoules and starts anew at max_energy_range_uj. Only root
reads it since 2020, so an ordinary agent's hosts tell nothing here unless the file's mode was changed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

POWERCAP: Final = Path("/sys/class/powercap")
MICRO: Final = 1e-6


@dataclass(frozen=True, slots=True)
class ZonePower:
    """One zone, such as `package-0` or `package-0/dram`.

    Attributes:
        energy_j: Counted since this program began to read, joules.
        power_w: Mean since the reading before, watts; None at the first one.
    """

    zone: str
    energy_j: float
    power_w: float | None


@dataclass(slots=True)
class _Zone:
    name: str
    folder: Path
    range_uj: int
    last_uj: int
    total_uj: int = 0


class HostPowerReader:
    """Reads every zone that may be read; construction reads nothing.

    Args:
        root: Where the zones are.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._root = root
        self._zones: list[_Zone] | None = None
        self._before_s = 0.0

    def read(self, now_s: float) -> tuple[ZonePower, ...]:
        """Return each zone's energy and its mean power since the last call; `now_s` is monotonic."""
        if self._zones is None:
            self._zones = _find_zones(self._root)
            self._before_s = now_s
            return tuple(ZonePower(zone.name, 0.0, None) for zone in self._zones)
        elapsed_s, self._before_s = now_s - self._before_s, now_s
        return tuple(
            ZonePower(zone.name, zone.total_uj * MICRO, None if elapsed_s <= 0 else grown_uj * MICRO / elapsed_s)
            for zone in self._zones
            if (grown_uj := _advance(zone)) is not None
        )


def _find_zones(root: Path) -> list[_Zone]:
    zones = []
    for folder in sorted(root.glob("*-rapl:*")):
        try:
            name = (folder / "name").read_text(encoding="ascii").strip()
            if folder.name.count(":") > 1:
                name = f"{(root / folder.name.rsplit(':', 1)[0] / 'name').read_text(encoding='ascii').strip()}/{name}"
            zones.append(_Zone(name, folder, _number(folder / "max_energy_range_uj"), _number(folder / "energy_uj")))
        except (OSError, ValueError):  # not ours to read, or gone
            continue
    return zones


def _advance(zone: _Zone) -> int | None:
    """Return how much the zone's counter grew, microjoules; None when it cannot be read."""
    try:
        now_uj = _number(zone.folder / "energy_uj")
    except (OSError, ValueError):
        return None
    grown_uj = now_uj - zone.last_uj
    if grown_uj < 0:
        grown_uj += zone.range_uj
    zone.last_uj = now_uj
    zone.total_uj += grown_uj
    return grown_uj


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
