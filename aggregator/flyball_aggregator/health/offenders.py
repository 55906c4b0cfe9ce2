"""Repeat offenders and the risk of a host or GPU, for operators and for placement."""

import math
from dataclasses import dataclass, field
from typing import Final

DAY_S: Final = 86_400.0
RISK_DECAY_S: Final = 3 * DAY_S  # a fault's weight falls to 1/e in three days
MAX_FAULTS: Final = 64
WEIGHTS: Final = {"fatal": 0.7, "warn": 0.1, "info": 0.0}
INNOCENT: Final = frozenset({"xid.94", "xid.13", "xid.31", "xid.43", "xid.45"})  # programs and contained errors


@dataclass(slots=True)
class _History:
    faults: list[tuple[float, str, str]] = field(default_factory=list)
    repairs: list[float] = field(default_factory=list)


@dataclass(slots=True)
class OffenderBook:
    """Faults and repairs by entity name (`host` or `host/gpu`)."""

    repairs_per_week: int = 5
    fatals_per_day: int = 5
    _histories: dict[str, _History] = field(default_factory=dict)

    def note_fault(self, entity: str, code: str, severity: str, at_s: float, *, is_injected: bool = False) -> None:
        """Remember a fault; drills and a program's own faults do not count."""
        if is_injected or code in INNOCENT:
            return
        history = self._histories.setdefault(entity, _History())
        history.faults = [*history.faults[-(MAX_FAULTS - 1) :], (at_s, code, severity)]

    def note_repair(self, entity: str, at_s: float) -> None:
        """Remember a repair that was done."""
        history = self._histories.setdefault(entity, _History())
        history.repairs = [*history.repairs[-(MAX_FAULTS - 1) :], at_s]

    def verdict(self, entity: str, now_s: float) -> str | None:
        """Return why an entity should go to support, or None."""
        history = self._histories.get(entity)
        if history is None:
            return None
        repairs = sum(1 for at_s in history.repairs if now_s - at_s < 7 * DAY_S)
        if repairs >= self.repairs_per_week:
            return f"{repairs} repairs in 7 days"
        fatals = self._bursts([at_s for at_s, _, severity in history.faults if severity == "fatal"], now_s)
        return f"{fatals} fatal faults in 24 hours" if fatals >= self.fatals_per_day else None

    def risk(self, entity: str, now_s: float) -> float:
        """Return the risk of placing work, 0 (no history) to 1."""
        history = self._histories.get(entity)
        if history is None:
            return 0.0
        weight = sum(
            WEIGHTS.get(severity, 0.1) * math.exp(-max(0.0, now_s - at_s) / RISK_DECAY_S)
            for at_s, _, severity in history.faults
        )
        return 1.0 - math.exp(-weight)

    @staticmethod
    def _bursts(times: list[float], now_s: float, *, burst_s: float = 180.0) -> int:
        """Count faults of a day; those within three minutes of each other are one."""
        count, last_s = 0, float("-inf")
        for at_s in sorted(at_s for at_s in times if now_s - at_s < DAY_S):
            count += at_s - last_s > burst_s
            last_s = at_s
        return count
