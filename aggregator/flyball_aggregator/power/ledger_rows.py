"""Rows as the ledger keeps them: limits, running sums, and which host counts where."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from flyball_aggregator.power.frozen_table import FrozenTable

PPM: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One linear limit: sum over hosts of coefficient x commitment + constant <= limit.

    `coefficients_ppm` is a(host) in parts per million, rounded up (1_270_000 is 1.27); `constant_milliwatts` is
    unmanaged load + reserve.
    """

    name: str
    limit_milliwatts: int
    constant_milliwatts: int
    coefficients_ppm: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class RowState:
    """A row with its running sum of coefficient x commitment, in milliwatts x ppm."""

    name: str
    limit_milliwatts: int
    constant_milliwatts: int
    committed_ppm: int


Coefficients = FrozenTable[tuple[tuple[str, int], ...]]  # host -> (row, ppm)


def headroom_of(row: RowState) -> int:
    """Return what is left of a row in milliwatts at the row, rounded down; negative while it is in descent."""
    return row.limit_milliwatts - row.constant_milliwatts - -(-row.committed_ppm // PPM)


def room_milliwatts(row: RowState, ppm: int) -> int:
    """Return by how much a host with this coefficient may rise in a row, rounded down; negative in descent."""
    if ppm <= 0:
        return row.limit_milliwatts
    return ((row.limit_milliwatts - row.constant_milliwatts) * PPM - row.committed_ppm) // ppm


def with_change(
    rows: FrozenTable[RowState], shares: Iterable[tuple[str, int]], delta_milliwatts: int
) -> FrozenTable[RowState]:
    """Return the rows after one host's commitment moved."""
    for name, ppm in shares:
        row = rows[name]
        committed_ppm = row.committed_ppm + delta_milliwatts * ppm
        rows = rows.with_item(name, RowState(name, row.limit_milliwatts, row.constant_milliwatts, committed_ppm))
    return rows


def full_row(rows: FrozenTable[RowState], shares: Iterable[tuple[str, int]], delta_milliwatts: int) -> RowState | None:
    """Return the first row that a rise of one host's commitment would bring over its limit, or None."""
    for name, ppm in shares:
        row = rows[name]
        room_ppm = (row.limit_milliwatts - row.constant_milliwatts) * PPM - row.committed_ppm
        if delta_milliwatts * ppm > room_ppm:
            return row
    return None


def coefficients_by_host(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Return row coefficients turned round: host -> row -> ppm."""
    by_host: dict[str, dict[str, int]] = {}
    for row in rows:
        for host, ppm in row.coefficients_ppm:
            by_host.setdefault(host, {})[row.name] = ppm
    return by_host


def rows_with_sums(
    rows: Iterable[Row], coefficients: Coefficients, commitments: Mapping[str, int]
) -> FrozenTable[RowState]:
    """Return the rows with their sums taken anew; O(fleet), for the rare change of structure."""
    sums = {row.name: 0 for row in rows}
    for host, shares in coefficients.items():
        for name, ppm in shares:
            sums[name] += commitments[host] * ppm
    return FrozenTable(
        (row.name, RowState(row.name, row.limit_milliwatts, row.constant_milliwatts, sums[row.name])) for row in rows
    )
