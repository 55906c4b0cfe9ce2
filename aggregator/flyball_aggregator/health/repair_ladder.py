"""The repair ladder: reset, reload, reboot, power cycle, ticket; each step once, spaced, within limits of the fleet."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

DAY_S: Final = 86_400.0


class Rung(IntEnum):
    """Repairs, mildest first; a ticket is the end of what software can do."""

    RESET_GPU = 0
    RELOAD_DRIVER = 1
    REBOOT = 2
    POWER_CYCLE = 3
    TICKET = 4


FIRST_RUNG: Final = {
    "reset_gpu": Rung.RESET_GPU,
    "drain_and_reset": Rung.RESET_GPU,
    "reset_all_gpus_on_node": Rung.RELOAD_DRIVER,
    "reboot_node": Rung.REBOOT,
    "power_cycle": Rung.POWER_CYCLE,
    "support": Rung.TICKET,
}


@dataclass(frozen=True, slots=True)
class LadderLimits:
    """How often: per host and day, how far apart, and how many at once in the fleet."""

    per_host_per_day: int = 4
    interval_s: float = 600.0
    fleet_at_once: int = 8


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now: a rung, or why to wait."""

    rung: Rung | None
    why: str

    @property
    def is_gated(self) -> bool:
        """Tell whether the device may come back at its default power: the host must be gated before (DESIGN 5.4)."""
        return self.rung is not None and self.rung is not Rung.TICKET


@dataclass(slots=True)
class _Case:
    next_rung: Rung
    running: Rung | None = None
    tried: list[tuple[float, Rung]] = field(default_factory=list)
    is_ticketed: bool = False


class RepairLadder:
    """One open case per host; pure, times come with the calls."""

    def __init__(self, limits: LadderLimits | None = None) -> None:
        self._limits = limits or LadderLimits()
        self._cases: dict[str, _Case] = {}
        self._done: dict[str, list[float]] = {}

    def open(self, host: str, action: str) -> None:
        """Open a case at the rung that an action names; a harder action lifts an open case, a milder one does not."""
        rung = FIRST_RUNG.get(action, Rung.TICKET)
        case = self._cases.setdefault(host, _Case(rung))
        case.next_rung = max(case.next_rung, rung)

    def next_step(self, host: str, now_s: float) -> Step:
        """Return what to do for a host now."""
        case = self._cases.get(host)
        if case is None:
            return Step(None, "no open case")
        if case.running is not None:
            return Step(None, f"{case.running.name} is running")
        if case.is_ticketed:
            return Step(None, "with support")
        if case.next_rung is Rung.TICKET:
            return Step(Rung.TICKET, "no repair is left")
        done = [at_s for at_s in self._done.get(host, []) if now_s - at_s < DAY_S]
        if len(done) >= self._limits.per_host_per_day:
            return Step(Rung.TICKET, f"{len(done)} repairs in a day")
        if done and now_s - done[-1] < self._limits.interval_s:
            return Step(None, "too soon after the last repair")
        if sum(other.running is not None for other in self._cases.values()) >= self._limits.fleet_at_once:
            return Step(None, f"{self._limits.fleet_at_once} repairs are running in the fleet")
        return Step(case.next_rung, "next rung")

    def start(self, host: str, rung: Rung, at_s: float) -> None:
        """Note that a step began.

        Raises:
            ValueError: no open case, or another step runs.
        """
        case = self._cases.get(host)
        if case is None or case.running is not None:
            raise ValueError(f"{host}: {rung.name} cannot start, expected an open case without a running step")
        if rung is Rung.TICKET:
            case.is_ticketed = True
            return
        case.running = rung
        case.tried.append((at_s, rung))
        self._done[host] = [*self._done.get(host, [])[-15:], at_s]

    def end(self, host: str, *, is_cured: bool) -> None:
        """Note how a step ended: cured closes the case, otherwise the next rung is due, never the same again."""
        case = self._cases.get(host)
        if case is None or case.running is None:
            return
        if is_cured:
            del self._cases[host]
            return
        case.next_rung = Rung(min(case.running + 1, Rung.TICKET))
        case.running = None

    def close(self, host: str) -> None:
        """End a case: released, or taken over by people."""
        self._cases.pop(host, None)
