"""The meter: true wall power of each host and of the site as means over whole seconds of the plant's clock."""

from dataclasses import dataclass, field

import numpy as np

from flyball_twin.power_curves import Floats


@dataclass(frozen=True, slots=True)
class MeterSecond:
    """One whole second: its number since the plant's start, and wall watts."""

    number: int
    site_w: float
    uncapped_site_w: float
    host_w: Floats


@dataclass(slots=True)
class Meter:
    """Adds up steps of any length and hands out each second when it is complete; no energy is lost at the edges."""

    hosts: int
    _energy_j: Floats = field(init=False)
    _uncapped_j: float = 0.0
    _unmanaged_j: float = 0.0
    _time_s: float = 0.0

    def __post_init__(self) -> None:
        """Start at zero."""
        self._energy_j = np.zeros(self.hosts)

    def record(
        self, step_s: float, host_w: Floats, uncapped_host_w: Floats, unmanaged_w: float = 0.0
    ) -> list[MeterSecond]:
        """Add a step of constant power, (hosts,) wall watts and the site's other load; return the seconds completed."""
        complete: list[MeterSecond] = []
        uncapped_w = float(uncapped_host_w.sum()) + unmanaged_w
        left_s = step_s
        while left_s > 0.0:
            edge_s = np.floor(self._time_s + 1e-9) + 1.0
            part_s = min(left_s, edge_s - self._time_s)
            self._energy_j = self._energy_j + host_w * part_s
            self._uncapped_j += uncapped_w * part_s
            self._unmanaged_j += unmanaged_w * part_s
            self._time_s += part_s
            left_s -= part_s
            if edge_s - self._time_s < 1e-9:
                complete.append(self._finish(int(edge_s) - 1))
                self._time_s = float(edge_s)
        return complete

    def _finish(self, number: int) -> MeterSecond:
        site_w = float(self._energy_j.sum()) + self._unmanaged_j
        second = MeterSecond(number, site_w, self._uncapped_j, self._energy_j)
        self._energy_j, self._uncapped_j, self._unmanaged_j = np.zeros(self.hosts), 0.0, 0.0
        return second
