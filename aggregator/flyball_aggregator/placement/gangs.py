"""Plan a gang: find hosts for all its guaranteed members at once, under GPUs, topology and power rows.

A plan is made on the overlay; either every guaranteed member has a seat or nothing was taken.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flyball_aggregator.placement.board import RowView
from flyball_aggregator.placement.fleet import Claim
from flyball_aggregator.placement.jobs import Group, Job
from flyball_aggregator.placement.needs import (
    Need,
    Terms,
    board_request,
    members_that_fit,
    role_need,
    row_view,
    single_zone,
)
from flyball_aggregator.placement.overlay import Held, Overlay
from flyball_aggregator.placement.refusals import Refusal, diagnose
from flyball_aggregator.placement.rows import MILLI, START_ALLOWANCE_S, STOP_GRACE_S, Charge
from flyball_aggregator.placement.topology import Mask, Topology

TRIES = 32  # domains tried for one plan before it is given up


@dataclass(frozen=True, slots=True)
class Seat:
    """A member with a place: its role, replica and rank in it, what it holds and the cap of its GPUs (None: none)."""

    role: str
    replica: int
    rank: int
    held: Held
    charge: Charge
    cap_w: float | None

    @property
    def held_until_s(self) -> float:
        """When its charge stops counting in promised windows."""
        return self.charge.end_s


def charged_until(job: Job, now_s: float) -> float:
    """Return until when a job reserved now may draw: its run time, and what starting and stopping may take."""
    return now_s + START_ALLOWANCE_S + job.max_runtime_s + STOP_GRACE_S


@dataclass(slots=True)
class Planner:
    """Makes plans on one overlay."""

    overlay: Overlay
    topology: Topology
    seats: list[Seat] = field(default_factory=list)
    tries: int = TRIES
    needs: dict[str, Need] = field(default_factory=dict)

    def plan(self, job: Job, terms: Terms) -> list[Seat] | Refusal:
        """Seat the guaranteed members of a job; on refusal the overlay is as it was."""
        self.seats, self.tries, self.needs = [], TRIES, {}
        mark = self.overlay.mark()
        for role in job.gang.roles():
            self.needs[role.name] = role_need(role, self.overlay.board.idle_w, self.overlay.board.busy_w, terms)
        end_s = charged_until(job, terms.now_s)
        if _Attempt(self, terms, end_s).place(job.gang, terms.allowed):
            return self.seats
        self.overlay.rollback(mark)
        return diagnose(self.overlay, job, terms, self.needs, end_s)

    def grow(self, job: Job, role: Group, replica: int, terms: Terms) -> list[Seat] | None:
        """Seat one more replica of an elastic role; None where it does not fit."""
        self.seats, self.tries = [], TRIES
        mark = self.overlay.mark()
        self.needs = {role.name: role_need(role, self.overlay.board.idle_w, self.overlay.board.busy_w, terms)}
        attempt = _Attempt(self, terms, charged_until(job, terms.now_s))
        if attempt.fill(role, terms.allowed, replica * role.count, role.count) == role.count:
            return self.seats
        self.overlay.rollback(mark)
        return None


@dataclass(frozen=True, slots=True)
class _Count:
    """Members to seat: from which rank, how many."""

    first: int
    wanted: int


class _Attempt:
    """The recursion of one plan."""

    def __init__(self, planner: Planner, terms: Terms, end_s: float) -> None:
        self._planner, self._terms, self._end_s = planner, terms, end_s
        self._overlay, self._topology = planner.overlay, planner.topology
        self._views: dict[str, RowView] = {}
        self._spanned: Mask | None = None
        self._bounds = (0, -1)

    def place(self, group: Group, mask: Mask) -> bool:
        """Seat a group somewhere in the mask, trying one domain after the other."""
        for domain in self._domains(group, mask):
            if self._planner.tries <= 0:
                return False
            self._planner.tries -= 1
            mark, seated = self._overlay.mark(), len(self._planner.seats)
            if self._inside(group, domain):
                return True
            self._overlay.rollback(mark)
            self._views.clear()
            del self._planner.seats[seated:]
        return False

    def _inside(self, group: Group, mask: Mask) -> bool:
        if group.children:
            return all(self.place(child, mask) for child in _placing_order(group.children))
        wanted = group.least * group.count
        if group.topology.segment and group.topology.required:
            return self._segments(group, mask, wanted)
        return self.fill(group, mask, 0, wanted) == wanted

    def _domains(self, group: Group, mask: Mask) -> Iterator[Mask]:
        """Yield parts of the mask to try: required domains, in each the preferred ones first, then itself."""
        wish = group.topology
        for near in self._near(wish.near, mask):
            if wish.required is None or wish.segment:
                yield from self._preferred(group, near)
                continue
            fits, need = self._fits(group)
            for domain in self._topology.best_fit(self._topology.number(wish.required), near, fits, need):
                yield from self._preferred(group, domain)

    def _preferred(self, group: Group, mask: Mask) -> Iterator[Mask]:
        if group.topology.preferred is not None:
            fits, need = self._fits(group)
            first = self._topology.number(group.topology.preferred)
            for level in range(first, len(self._topology.levels)):
                best = next(self._topology.best_fit(level, mask, fits, need), None)
                if best is not None:
                    yield best
        yield mask

    def _near(self, sibling: str | None, mask: Mask) -> Iterator[Mask]:
        """Yield ever wider surroundings of a sibling's first seat, then the whole mask."""
        seat = next((part for part in self._planner.seats if part.role == sibling), None)
        if seat is not None:
            for level in range(len(self._topology.levels)):
                domain = self._topology.domain_of(level, seat.held.claim.host)
                if domain >= 0:
                    yield self._topology.inside(level, domain, mask)
        yield mask

    def _fits(self, group: Group) -> tuple[NDArray[np.int64], int]:
        """Return (what each host could take, what is needed): members of one role, or GPU milli of several."""
        fleet = self._overlay.board.fleet
        if group.member is not None:
            return members_that_fit(fleet, group.member), group.least * group.count
        need = sum(
            role.least * role.count * role.member.gpus * role.member.gpu_milli for role in group.roles() if role.member
        )
        return fleet.gpu_left.sum(axis=1), need

    def _segments(self, role: Group, mask: Mask, wanted: int) -> bool:
        level = self._topology.number(role.topology.required or "")
        for first in range(0, wanted, role.topology.segment):
            size = min(role.topology.segment, wanted - first)
            fits, _ = self._fits(role)
            domain = next(self._topology.best_fit(level, mask, fits, size), None)
            if domain is None or self.fill(role, domain, first, size) < size:
                return False
        return True

    def fill(self, role: Group, mask: Mask, first: int, wanted: int) -> int:
        """Seat up to `wanted` members from rank `first`, filling the roomiest sub-domain before the next."""
        if wanted <= 1 or role.topology.spread is not None:
            return self._one_by_one(role, mask, first, wanted)
        return self._fill_below(role, mask, _Count(first, wanted), self._fits(role)[0], len(self._topology.levels) - 1)

    def _fill_below(self, role: Group, mask: Mask, part: "_Count", fits: NDArray[np.int64], level: int) -> int:
        if level < 0 or part.wanted <= 1:
            return self._one_by_one(role, mask, part.first, part.wanted)
        seated = 0
        for domain, holds in self._topology.roomiest(level, mask, fits):
            inner = _Count(part.first + seated, min(holds, part.wanted - seated))
            seated += self._fill_below(role, domain, inner, fits, level - 1)
            if seated == part.wanted:
                return seated
        return seated + self._one_by_one(role, mask, part.first + seated, part.wanted - seated)

    def _one_by_one(self, role: Group, mask: Mask, first: int, wanted: int) -> int:
        spread = None if role.topology.spread is None else self._topology.number(role.topology.spread)
        rest = mask
        for seated in range(wanted):
            if not self._seat(role, rest, first + seated) and not (
                rest is not mask and self._seat(role, mask, first + seated)
            ):
                return seated
            if spread is not None:
                host = self._planner.seats[-1].held.claim.host
                taken = self._topology.inside(spread, self._topology.domain_of(spread, host), rest)
                rest = (rest & ~(taken != 0)).astype(np.uint8)
        return wanted

    def _seat(self, role: Group, mask: Mask, rank: int) -> bool:
        """Seat one member on the best host of the mask."""
        need = self._planner.needs[role.name]
        claim = self._pick(role, mask, need)
        if claim is None:
            return False
        model = self._overlay.board.fleet.model[claim.host]
        charge = self._overlay.rows.price(claim.host, need.add_w[model], need.floor_w[model], self._end_s)
        if self._overlay.rows.refusal(charge, self._terms.now_s) is not None:
            return False
        held = self._overlay.take(claim, charge)
        self._lower_views(charge)
        self._planner.seats.append(Seat(role.name, rank // role.count, rank % role.count, held, charge, need.cap_w))
        return True

    def _span(self, mask: Mask) -> tuple[int, int]:
        """Return the hosts between which a mask lies; the same mask is asked for member after member."""
        if self._spanned is not mask:
            hosts = np.flatnonzero(mask)
            self._spanned, self._bounds = mask, (int(hosts[0]), int(hosts[-1]) + 1) if len(hosts) else (0, 0)
        return self._bounds

    def _view(self, role: Group, need: Need) -> RowView:
        if role.name not in self._views:
            self._views[role.name] = row_view(self._overlay, need, self._terms, self._end_s)
        return self._views[role.name]

    def _lower_views(self, charge: Charge) -> None:
        """Take a charge off the rooms known; where promised windows narrow them too, look them up again."""
        if self._overlay.rows.promises:
            self._views.clear()
        for view in self._views.values():
            for row, add_mw, _ in charge.lines:
                view.room_w[row] -= add_mw / MILLI

    def _pick(self, role: Group, mask: Mask, need: Need) -> Claim | None:
        member = role.asked
        board = self._overlay.board
        allowed = mask & single_zone(board.fleet, member) if member.is_single_numa else mask
        return board.pick(
            self._terms.policy,
            board_request(self._overlay, member),
            allowed=allowed,
            penalty=self._terms.penalty,
            view=self._view(role, need),
            alpha=self._terms.alpha,
            span=self._span(mask),
        )


def _placing_order(children: tuple[Group, ...]) -> list[Group]:
    """Return the hungriest first, but a group after the sibling it wants to be near."""
    waiting = sorted(children, key=lambda child: (-child.least_gpu_milli, child.name))
    ordered: list[Group] = []
    while waiting:
        done = {child.name for child in ordered}
        free = [child for child in waiting if child.topology.near is None or child.topology.near in done]
        ordered.append((free or waiting)[0])
        waiting.remove(ordered[-1])
    return ordered
