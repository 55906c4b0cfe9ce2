"""The life of a host, from discovery to the end: legal moves only, each with who, why, evidence and time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

MAX_MOVES: Final = 200


class Life(Enum):
    """Where a host stands."""

    DISCOVERED = "discovered"
    ENROLLED = "enrolled"
    VALIDATED = "validated"
    READY = "ready"
    ASSIGNED = "assigned"
    QUARANTINED = "quarantined"
    REPAIRING = "repairing"
    VALIDATING = "validating"
    FAILED = "failed"
    DECOMMISSIONED = "decommissioned"


class LifecycleError(ValueError):
    """A move is not legal or lacks its evidence; the message names host, move and what was expected."""


# from -> {to: evidence that the move needs}
MOVES: Final[Mapping[Life, Mapping[Life, tuple[str, ...]]]] = {
    Life.DISCOVERED: {Life.ENROLLED: ("certificate", "inventory"), Life.DECOMMISSIONED: ()},
    Life.ENROLLED: {Life.VALIDATED: ("burn_in",), Life.FAILED: ("burn_in",), Life.DECOMMISSIONED: ()},
    Life.VALIDATED: {Life.READY: ("golden_record",), Life.QUARANTINED: ("incident",), Life.DECOMMISSIONED: ()},
    Life.READY: {Life.ASSIGNED: ("tenant",), Life.QUARANTINED: ("incident",), Life.DECOMMISSIONED: ()},
    Life.ASSIGNED: {Life.READY: ("cleaned",), Life.QUARANTINED: ("incident",)},
    Life.QUARANTINED: {
        Life.REPAIRING: ("drained",),
        Life.VALIDATING: ("cause_cleared",),
        Life.FAILED: ("verdict",),
        Life.READY: ("operator",),
    },
    Life.REPAIRING: {
        Life.VALIDATING: ("repair_proof",),
        Life.FAILED: ("verdict",),
        Life.QUARANTINED: ("repair_failed",),
    },
    Life.VALIDATING: {Life.READY: ("five_proofs",), Life.QUARANTINED: ("incident",), Life.FAILED: ("verdict",)},
    Life.FAILED: {Life.REPAIRING: ("operator",), Life.VALIDATING: ("operator",), Life.DECOMMISSIONED: ()},
    Life.DECOMMISSIONED: {Life.DISCOVERED: ("operator",)},
}


@dataclass(frozen=True, slots=True)
class Move:
    """One step of a life."""

    before: Life
    after: Life
    at_s: float
    by: str
    why: str
    evidence: Mapping[str, str]


@dataclass(slots=True)
class HostLife:
    """One host's life so far."""

    host: str
    stands: Life = Life.DISCOVERED
    since_s: float = 0.0
    moves: list[Move] = field(default_factory=list)

    def move(self, after: Life, *, at_s: float, by: str, why: str, evidence: Mapping[str, str] | None = None) -> Move:
        """Take one step.

        Raises:
            LifecycleError: the move is not legal from here, goes back in time or lacks evidence.
        """
        given = dict(evidence or {})
        needed = MOVES[self.stands].get(after)
        if needed is None:
            legal = ", ".join(life.value for life in MOVES[self.stands]) or "nothing"
            raise LifecycleError(f"{self.host}: {self.stands.value} -> {after.value}, expected one of: {legal}")
        missing = [name for name in needed if not given.get(name)]
        if missing:
            raise LifecycleError(f"{self.host}: {self.stands.value} -> {after.value} without {', '.join(missing)}")
        if at_s < self.since_s:
            raise LifecycleError(f"{self.host}: move at {at_s}, expected not before {self.since_s}")
        step = Move(self.stands, after, at_s, by, why, given)
        self.moves = [*self.moves[-(MAX_MOVES - 1) :], step]
        self.stands, self.since_s = after, at_s
        return step

    @property
    def takes_work(self) -> bool:
        """Tell whether placement may use the host."""
        return self.stands in (Life.READY, Life.ASSIGNED)
