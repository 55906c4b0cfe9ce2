"""What the power loop knew and decided in one second, for the API, the page, the topics and explanations."""

from dataclasses import dataclass

import numpy as np

from flyball_aggregator.power.decide import Decision, HostColumns, RowColumns
from flyball_aggregator.power.rows import Floats, Integers, Row, RowMatrix
from flyball_wire.lease import Fence


@dataclass(frozen=True, slots=True)
class PowerSnapshot:
    """One tick. Row arrays are (rows,) wall watts, host arrays (hosts,); NaN is unknown."""

    time_s: float  # Unix
    tick: int
    epoch: int
    rows: tuple[Row, ...]
    matrix: RowMatrix
    roots: tuple[int, ...]
    columns: RowColumns
    limit_source: tuple[str, ...]
    committed_w: Floats
    meter_w: Floats
    managed_w: Floats
    survivable_ratio: (
        Floats  # share of a row's led hosts that may fall silent at today's caps when it drops to its safe limit
    )
    hosts: HostColumns
    measured_w: Floats  # (hosts,) GPU watts
    fences: tuple[Fence | None, ...]
    safe_milliwatts: Integers
    reasons: tuple[str, ...]  # why a host is not led; empty when it is
    since_s: Floats  # (hosts,) Unix time of the present lease's watts
    decision: Decision
    solve_ms: float

    @property
    def limit_w(self) -> float:
        """Limit of the whole site."""
        return float(sum(self.columns.limit_w[index] for index in self.roots))

    @property
    def draw_w(self) -> tuple[float | None, str]:
        """Draw of the whole site and where it is from: its meters, else measured GPU power and unmanaged load."""
        roots = list(self.roots)
        metered = self.meter_w[roots]
        if roots and np.isfinite(metered).all():
            return float(metered.sum()), "meter"
        modelled = self.managed_w[roots] + self.columns.unmanaged_w[roots]
        if roots and np.isfinite(modelled).all():
            return float(modelled.sum()), "model"
        return None, "model"

    @property
    def tightest_row(self) -> str | None:
        """The row that keeps most hosts from what they want; None when all have it."""
        limiting = self.decision.limiting_row
        counted = np.bincount(limiting[limiting >= 0], minlength=1)
        return self.rows[int(counted.argmax())].name if counted.max() > 0 else None

    def slack_w(self, row: int) -> float:
        """Return what a row has left beside commitments, unmanaged load and reserve."""
        return float(self.columns.room_w[row] - self.committed_w[row])

    def is_binding(self, row: int) -> bool:
        """Return whether a row keeps some host from what it wants."""
        return bool((self.decision.limiting_row == row).any())


def number(value: float) -> float | None:
    """Return a finite number rounded to milliwatts for people, None for unknown."""
    return round(float(value), 3) if np.isfinite(value) else None
