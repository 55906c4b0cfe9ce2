"""The watts ledger: what every power row has promised, to jobs and to the grid, and the room it has left.

Placement and flex charge the same rows. A promised reduction is a window in which only the least each charge can be
held to (its floor) counts; neither side can take what the other was given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf

import numpy as np
from numpy.typing import NDArray

from flyball_aggregator.placement.errors import RequestError

MILLI = 1000  # milliwatts of a watt
STALE_S = 30.0  # a measurement older than this counts for nothing
START_ALLOWANCE_S = 60.0  # from reservation to start
STOP_GRACE_S = 120.0  # how long a job past its end may still draw


@dataclass(frozen=True, slots=True)
class PowerRow:
    """One limit: limit_w over everything on the row; unmanaged_w of it is not ours, reserve_ratio is never lent."""

    name: str
    limit_w: float
    unmanaged_w: float = 0.0
    reserve_ratio: float = 0.03

    @property
    def capacity_mw(self) -> int:
        """Milliwatts for charges, rounded down."""
        return self.capacity_under(self.limit_w)

    def capacity_under(self, limit_w: float) -> int:
        """Milliwatts for charges while a target holds the row at limit_w."""
        return int((limit_w * (1 - self.reserve_ratio) - self.unmanaged_w) * MILLI)


@dataclass(slots=True)
class Promise:
    """A reduction given to the grid: the row stays at or under limit_w from start_s to end_s."""

    id: str
    row: str
    start_s: float
    end_s: float
    limit_w: float
    capacity_mw: int = 0
    used_mw: int = 0
    overrun_mw: int = 0  # part of used_mw that belongs to work past its end: it should be gone and is not


@dataclass(frozen=True, slots=True)
class Charge:
    """What one member adds to each of its rows: (row, milliwatts, milliwatts while held to its floor)."""

    lines: tuple[tuple[int, int, int], ...]
    end_s: float


@dataclass(slots=True)
class RowLedger:
    """Rows over hosts and what is charged to them.

    rows is (hosts, columns) of row numbers, -1 for none; share the watts of the row for one GPU watt of the host.
    """

    names: tuple[str, ...]
    specs: tuple[PowerRow, ...]
    rows: NDArray[np.int32]
    share: NDArray[np.float64]
    committed_mw: NDArray[np.int64]
    capacity_mw: NDArray[np.int64]
    measured_w: NDArray[np.float64]
    measured_at_s: NDArray[np.float64]
    promises: dict[str, Promise] = field(default_factory=dict)
    charges: dict[int, Charge] = field(default_factory=dict)
    next_key: int = 1

    @classmethod
    def of(cls, specs: Sequence[PowerRow], of_host: Sequence[Mapping[str, float]]) -> "RowLedger":
        """Return an empty ledger; of_host gives each host's rows and its share (watts of the row for one watt)."""
        names = tuple(spec.name for spec in specs)
        width = max((len(shares) for shares in of_host), default=0)
        rows = np.full((len(of_host), width), -1, np.int32)
        share = np.zeros((len(of_host), width))
        for host, shares in enumerate(of_host):
            for column, (name, part) in enumerate(shares.items()):
                if name not in names:
                    raise RequestError(f"host {host}: row {name!r} is unknown")
                rows[host, column], share[host, column] = names.index(name), part
        size = len(specs)
        capacity = np.array([spec.capacity_mw for spec in specs], np.int64)
        return cls(
            names=names,
            specs=tuple(specs),
            rows=rows,
            share=share,
            committed_mw=np.zeros(size, np.int64),
            capacity_mw=capacity,
            measured_w=np.full(size, np.nan),
            measured_at_s=np.full(size, -inf),
        )

    def measure(self, row: str, managed_w: float, at_s: float) -> None:
        """Note what the row's managed part draws; used only to be more careful than the charges."""
        number = self.names.index(row)
        self.measured_w[number], self.measured_at_s[number] = managed_w, at_s

    def room_mw(self, now_s: float) -> NDArray[np.int64]:
        """Return (rows,) milliwatts left under the limits in force now: the larger of charged and measured counts."""
        used = self.committed_mw
        fresh = self.measured_at_s >= now_s - STALE_S
        if fresh.any():
            drawn = np.where(fresh, self.measured_w * MILLI, 0.0)
            used = np.maximum(used, np.ceil(np.nan_to_num(drawn)).astype(np.int64))
        return self.capacity_mw - used

    def event_room_mw(self, now_s: float, until_s: float) -> NDArray[np.int64] | None:
        """Return (rows,) milliwatts left for floors in the promised windows of a run; None where none is touched."""
        touched = [part for part in self.promises.values() if part.end_s > now_s and part.start_s < until_s]
        if not touched:
            return None
        room = np.full(len(self.names), np.iinfo(np.int64).max // 4, np.int64)
        for part in touched:
            row = self.names.index(part.row)
            room[row] = min(room[row], part.capacity_mw - part.used_mw)
        return room

    def price(self, host: int, add_w: float, floor_w: float, end_s: float) -> Charge:
        """Return the charge of add_w GPU watts on a host, floor_w of them while held down; end_s inf: unknown."""
        lines = tuple(
            (int(row), ceil(part * add_w * MILLI), ceil(part * min(floor_w, add_w) * MILLI))
            for row, part in zip(self.rows[host].tolist(), self.share[host].tolist(), strict=True)
            if row >= 0
        )
        return Charge(lines, end_s)

    @staticmethod
    def charge_of(lines: Sequence[Sequence[int]], end_s: float) -> Charge:
        """Return a stored charge: lines of (row, milliwatts, milliwatts at the floor)."""
        return Charge(tuple((row, add_mw, floor_mw) for row, add_mw, floor_mw in lines), end_s)

    def refusal(self, charge: Charge, now_s: float) -> str | None:
        """Return the name of the first row that has no room for the charge, None where all have."""
        for row, add_mw, _ in charge.lines:
            used = int(self.committed_mw[row])
            if self.measured_at_s[row] >= now_s - STALE_S:
                used = max(used, ceil(float(self.measured_w[row]) * MILLI))
            if used + add_mw > self.capacity_mw[row]:
                return self.names[row]
        for part in self.promises.values():
            if (
                part.end_s > now_s
                and part.used_mw + _floor_in(charge, self.names.index(part.row), part) > part.capacity_mw
            ):
                return part.row
        return None

    def add(self, charge: Charge) -> int:
        """Charge the rows without asking; return the key that takes it back."""
        key, self.next_key = self.next_key, self.next_key + 1
        self.charges[key] = charge
        self._apply(charge, 1)
        return key

    def remove(self, key: int) -> Charge:
        """Take a charge back and return it; what it held is free at once."""
        charge = self.charges.pop(key)
        self._apply(charge, -1)
        return charge

    def restore(self, key: int, charge: Charge) -> None:
        """Put a removed charge back under its old key."""
        self.charges[key] = charge
        self._apply(charge, 1)

    def overrun(self, key: int, now_s: float) -> None:
        """Count a charge that outlived its end in every window, until it is really gone."""
        charge = self.charges[key]
        if charge.end_s > now_s:
            return
        late = Charge(charge.lines, inf)
        for part in self.promises.values():
            row = self.names.index(part.row)
            part.overrun_mw += _floor_in(late, row, part) - _floor_in(charge, row, part)
        self.remove(key)
        self.restore(key, late)

    def promise(self, promise: Promise) -> str | None:
        """Give a reduction; return why not, None where it was given.

        What is charged may exceed the target before the window: it is held to its floors inside.
        """
        spec = self.specs[self.names.index(promise.row)]
        promise.capacity_mw = spec.capacity_under(promise.limit_w)
        promise.used_mw = sum(
            _floor_in(charge, self.names.index(promise.row), promise) for charge in self.charges.values()
        )
        if promise.used_mw > promise.capacity_mw:
            short_w = (promise.used_mw - promise.capacity_mw) / MILLI
            return f"row {promise.row}: floors are {short_w:.0f} W over {promise.limit_w:.0f} W in the window"
        self.promises[promise.id] = promise
        return None

    def forget_past(self, now_s: float) -> bool:
        """Drop windows that are over; return True where one was."""
        known = len(self.promises)
        self.promises = {key: part for key, part in self.promises.items() if part.end_s > now_s}
        return len(self.promises) < known

    def set_limit(self, row: str, limit_w: float) -> int:
        """Change a row's limit; return milliwatts by which its charges now exceed it (0: none)."""
        number = self.names.index(row)
        self.capacity_mw[number] = self.specs[number].capacity_under(limit_w)
        return int(max(0, self.committed_mw[number] - self.capacity_mw[number]))

    def _apply(self, charge: Charge, sign: int) -> None:
        for row, add_mw, _ in charge.lines:
            self.committed_mw[row] += sign * add_mw
        for part in self.promises.values():
            part.used_mw += sign * _floor_in(charge, self.names.index(part.row), part)


def _floor_in(charge: Charge, row: int, promise: Promise) -> int:
    """Return the milliwatts a charge may draw on the row inside the window."""
    if charge.end_s <= promise.start_s:
        return 0
    return sum(floor_mw for number, _, floor_mw in charge.lines if number == row)
