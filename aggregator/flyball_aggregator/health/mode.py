"""How the fleet takes isolations: the mode that all hosts follow, and the guard that makes it careful by itself.

One code on many hosts at once, or right after a change, is most likely software: taking the hosts out would then do the
damage. Careful mode ends on its own when the code stays away.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

WINDOW_S: Final = 60.0
CHANGE_WATCH_S: Final = 1800.0  # after a driver, agent or configuration change
CAREFUL_S: Final = 1800.0  # without further reports
MAX_REPORTS: Final = 20_000


class FleetMode(Enum):
    """What hosts may do: everything within limits, hosts only with an operator, or nothing but watch."""

    NORMAL = "normal"
    CAREFUL = "careful"
    OBSERVE = "observe"


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """When a code counts as correlated: this share of hosts in a window, or this many after a change."""

    host_ratio: float = 0.05
    hosts_least: int = 3
    hosts_after_change: int = 2


@dataclass(slots=True)
class CorrelationGuard:
    """Watches codes over hosts; pure, times come with the calls."""

    host_count: int
    settings: GuardSettings = field(default_factory=GuardSettings)
    chosen: FleetMode = FleetMode.NORMAL  # the operators' choice
    why: str = ""
    _reports: deque[tuple[float, str, str]] = field(default_factory=deque)
    _changes: dict[str, float] = field(default_factory=dict)
    _careful_since_s: float | None = None
    _code: str = ""

    def note_change(self, host: str, at_s: float) -> None:
        """Remember that a host's driver, agent or configuration changed."""
        self._changes[host] = at_s

    def note_fault(self, host: str, code: str, at_s: float) -> bool:
        """Take a report; True when it makes the fleet careful now."""
        self._reports.append((at_s, host, code))
        while self._reports and (at_s - self._reports[0][0] > WINDOW_S or len(self._reports) > MAX_REPORTS):
            self._reports.popleft()
        hosts = {other for _, other, reported in self._reports if reported == code}
        reason = self._reason(code, hosts, at_s)
        if reason is None:
            return False
        was_careful = self.mode(at_s) is not FleetMode.NORMAL
        self._careful_since_s, self._code, self.why = at_s, code, reason
        return not was_careful

    def mode(self, now_s: float) -> FleetMode:
        """Return the mode that holds now: the operators' where it is stricter."""
        if self.chosen is not FleetMode.NORMAL:
            return self.chosen
        is_careful = self._careful_since_s is not None and now_s - self._careful_since_s < CAREFUL_S
        return FleetMode.CAREFUL if is_careful else FleetMode.NORMAL

    def choose(self, mode: FleetMode, by: str) -> None:
        """Take an operator's choice; NORMAL ends careful mode at once."""
        self.chosen, self.why = mode, f"chosen by {by}"
        if mode is FleetMode.NORMAL:
            self._careful_since_s = None

    def explain(self) -> Mapping[str, object]:
        """Return why the mode is what it is."""
        return {"why": self.why, "code": self._code, "since_s": self._careful_since_s}

    def _reason(self, code: str, hosts: set[str], at_s: float) -> str | None:
        many = max(self.settings.hosts_least, self.settings.host_ratio * self.host_count)
        if len(hosts) >= many:
            return f"{code} on {len(hosts)} of {self.host_count} hosts within {WINDOW_S:.0f} s"
        changed = [host for host in hosts if at_s - self._changes.get(host, float("-inf")) < CHANGE_WATCH_S]
        if len(changed) >= self.settings.hosts_after_change:
            return f"{code} on {len(changed)} hosts after a change of driver, agent or configuration"
        return None
