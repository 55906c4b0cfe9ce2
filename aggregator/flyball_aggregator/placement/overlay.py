"""Try claims and charges on the real columns, and take them back: the transaction of every search."""

from dataclasses import dataclass

from flyball_aggregator.placement.board import Board
from flyball_aggregator.placement.fleet import Claim
from flyball_aggregator.placement.rows import Charge, RowLedger


@dataclass(frozen=True, slots=True)
class Held:
    """A claim that was taken, and the key of its charge."""

    claim: Claim
    key: int


@dataclass(frozen=True, slots=True)
class _Step:
    """One change: charge is kept where the change was a give, so that it can be put back."""

    held: Held
    charge: Charge | None


class Overlay:
    """Board and rows under one undo log; `mark` and `rollback` nest, `settle` forgets the log."""

    def __init__(self, board: Board, rows: RowLedger) -> None:
        self.board = board
        self.rows = rows
        self._log: list[_Step] = []

    def mark(self) -> int:
        """Return a point to roll back to."""
        return len(self._log)

    def take(self, claim: Claim, charge: Charge) -> Held:
        """Take a claim and charge its rows."""
        self.board.take(claim)
        held = Held(claim, self.rows.add(charge))
        self._log.append(_Step(held, None))
        return held

    def give(self, held: Held) -> None:
        """Give a claim back with its charge."""
        self.board.give(held.claim)
        self._log.append(_Step(held, self.rows.remove(held.key)))

    def rollback(self, mark: int) -> None:
        """Undo everything since the mark, the last change first."""
        while len(self._log) > mark:
            step = self._log.pop()
            if step.charge is None:
                self.rows.remove(step.held.key)
                self.board.give(step.held.claim)
            else:
                self.board.take(step.held.claim)
                self.rows.restore(step.held.key, step.charge)

    def settle(self) -> None:
        """Keep everything; there is nothing left to roll back to."""
        self._log.clear()
