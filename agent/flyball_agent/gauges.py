"""Debounce conditions: a gauge or an absence counts when M of the last N polls say so, and ends after a quiet time.

Unknown polls neither set nor clear: missing data is not healthy.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

CLEAR_RATIO: Final = 0.7  # set at T, clear below 0.7 T
CLEAR_TIMES: Final = 3  # ... for three times the set time


@dataclass(frozen=True, slots=True)
class GaugeRule:
    """When one condition counts.

    Args:
        code: Code of the fact, starting with `gauge.` or `absence.`.
        set_at: Value from which a poll counts.
        need: How many of the last `of` polls must count.
        is_degrading: Degraded when it counts; otherwise suspect.
    """

    code: str
    set_at: float
    need: int
    of: int
    is_degrading: bool = False
    action: str = "none"
    group: str = "gpu"


# Periods are those of the samplers: 1 s for clock reasons, links and ports, 10 s for PCIe and inventory.
RULES: Final = {
    rule.code: rule
    for rule in (
        GaugeRule("gauge.thermal_suspect", 1, 6, 10, group="thermal"),
        GaugeRule("gauge.thermal", 1, 60, 120, is_degrading=True, group="thermal"),
        GaugeRule("gauge.power_brake_suspect", 1, 6, 10, group="power"),
        GaugeRule("gauge.power_brake", 1, 60, 120, is_degrading=True, group="power"),
        GaugeRule("gauge.no_thermal_margin", 1, 30, 30, is_degrading=True, group="thermal"),
        GaugeRule("gauge.pcie_replays", 1, 3, 3, is_degrading=True, group="pcie"),
        GaugeRule("gauge.pcie_narrow", 1, 3, 3, is_degrading=True, group="pcie"),
        GaugeRule("gauge.nvlink_crc", 100, 3, 3, is_degrading=True, group="nvlink"),
        GaugeRule("gauge.ecc_corrected", 100, 3, 3, group="memory"),
        GaugeRule("gauge.slower_than_peers", 1, 30, 60, group="slow"),
        GaugeRule("gauge.memory_low", 0.98, 3, 3, group="memory_host"),  # share in use; host sources poll every 10 s
        GaugeRule("gauge.disk_full", 0.97, 3, 3, group="storage"),
        GaugeRule("absence.gpu", 1, 3, 3, is_degrading=True, group="bus"),
        GaugeRule("absence.nvlink", 1, 3, 3, is_degrading=True, group="nvlink"),
        GaugeRule("absence.port", 1, 10, 10, is_degrading=True, group="nic"),
        GaugeRule("absence.unit", 1, 10, 10, is_degrading=True, group="unit"),
        GaugeRule("absence.fabric", 1, 3, 3, is_degrading=True, group="fabric"),
    )
}


@dataclass(slots=True)
class Gauge:
    """The debounced state of one rule on one entity."""

    rule: GaugeRule
    polls: deque[bool] = field(default_factory=deque)
    is_set: bool = False
    quiet: int = 0

    def poll(self, value: float | None) -> bool | None:
        """Take one poll; return True when the condition now counts, False when it has ended, None for no change."""
        if value is None:
            return None
        self.polls.append(value >= self.rule.set_at)
        while len(self.polls) > self.rule.of:
            self.polls.popleft()
        self.quiet = self.quiet + 1 if value < CLEAR_RATIO * self.rule.set_at else 0
        if not self.is_set and sum(self.polls) >= self.rule.need:
            self.is_set = True
            return True
        if self.is_set and self.quiet >= CLEAR_TIMES * self.rule.need:
            self.is_set = False
            self.polls.clear()
            return False
        return None
