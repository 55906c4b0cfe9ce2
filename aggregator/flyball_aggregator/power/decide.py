"""One decision of the budget: from what is known of hosts and rows to each host's share, and the leases to send now.

Lowering needs no permission; a raise gets only what the commitments leave free. Pure: columns in, columns out, so that
a journalled input gives the same decision again.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from flyball_aggregator.power.allocate import (
    Allocation,
    Flags,
    Wants,
    allocate,
    raise_within,
    spread_spare,
)
from flyball_aggregator.power.certificate import Certificate, check_allocation
from flyball_aggregator.power.rows import Floats, Integers, RowMatrix

MILLI: Final = 1000.0
NO_LEASE: Final = -1
DEAD_BAND_RATIO: Final = 0.02  # of the present lease; smaller raises wait
DEAD_BAND_W: Final = 40.0  # GPU watts of a host: 5 W for each of eight GPUs, what a cap write is worth
STALE_RATIO: Final = 0.2  # more silent hosts than this under a row: no raise there
RULE: Final = "lexicographic weighted max-min"


@dataclass(frozen=True, slots=True)
class HostColumns:
    """All hosts, each (hosts,), GPU watts in integer milliwatts unless named otherwise."""

    is_led: Flags  # enforcing, reporting, ours to lease to
    is_fresh: Flags  # heard lately
    committed_milliwatts: Integers
    lease_milliwatts: Integers  # last granted, NO_LEASE where none is
    minimum_milliwatts: Integers  # least it can be brought to
    maximum_milliwatts: Integers
    floor_w: Floats
    ceiling_w: Floats
    demand_w: Floats
    weight: Floats
    tier: Integers


@dataclass(frozen=True, slots=True)
class RowColumns:
    """All rows, each (rows,), wall watts."""

    limit_w: Floats
    unmanaged_w: Floats
    reserve_w: Floats

    @property
    def room_w(self) -> Floats:
        """What is left for GPUs."""
        return self.limit_w - self.unmanaged_w - self.reserve_w


@dataclass(frozen=True, slots=True)
class Decision:
    """What is due to each host (hosts,) and what to send now.

    `target_milliwatts` is the share; `order_milliwatts` the lease to send, NO_LEASE where none changes.
    `limiting_row` indexes rows, -1 where the host has all it wants.
    """

    target_milliwatts: Integers
    order_milliwatts: Integers
    granted_w: Floats  # by demand alone, without spare
    limiting_row: Integers
    allocation: Allocation
    certificate: Certificate


def decide(matrix: RowMatrix, rows: RowColumns, hosts: HostColumns, *, gives_spare: bool = True) -> Decision:
    """Return the decision of one tick."""
    wants = wants_of(hosts)
    room_w = rows.room_w
    allocation = allocate(matrix, room_w, wants)
    target_w = allocation.granted_w
    if gives_spare:
        target_w = _with_spare(matrix, room_w, wants, hosts, target_w)
    target = np.floor(target_w * MILLI + 1e-6).astype(np.int64)
    target = np.where(hosts.is_led, np.maximum(target, hosts.minimum_milliwatts), hosts.committed_milliwatts)
    return Decision(
        target_milliwatts=target,
        order_milliwatts=_orders(matrix, room_w, wants, hosts, target),
        granted_w=allocation.granted_w,
        limiting_row=allocation.limiting_row,
        allocation=allocation,
        certificate=check_allocation(matrix, room_w, wants, allocation),
    )


def decide_safe_shares(matrix: RowMatrix, room_w: Floats, hosts: HostColumns) -> Integers:
    """Return (hosts,) safe shares in milliwatts: every host wanting all it may have, on the contingency rows."""
    led = np.ones(len(hosts.is_led), dtype=np.bool_)
    wants = wants_of(hosts, led=led, is_wanting_all=True)
    granted_w = allocate(matrix, room_w, wants).granted_w
    return np.maximum(np.floor(granted_w * MILLI).astype(np.int64), hosts.minimum_milliwatts)


def wants_of(hosts: HostColumns, *, led: Flags | None = None, is_wanting_all: bool = False) -> Wants:
    """Return the ranges of the allocation: a host that is not led stands at its commitment, whatever that is."""
    is_led = hosts.is_led if led is None else led
    least = hosts.minimum_milliwatts / MILLI
    most = hosts.maximum_milliwatts / MILLI
    ceiling = np.clip(hosts.ceiling_w, least, most)
    floor = np.clip(hosts.floor_w, least, ceiling)
    asked = ceiling if is_wanting_all else np.where(np.isnan(hosts.demand_w), ceiling, hosts.demand_w)
    demand = np.clip(asked, floor, ceiling)
    fixed = hosts.committed_milliwatts / MILLI
    return Wants(
        minimum_w=np.where(is_led, least, fixed),
        floor_w=np.where(is_led, floor, fixed),
        demand_w=np.where(is_led, demand, fixed),
        ceiling_w=np.where(is_led, ceiling, fixed),
        weight=hosts.weight,
        tier=hosts.tier,
    )


def _with_spare(matrix: RowMatrix, room_w: Floats, wants: Wants, hosts: HostColumns, granted_w: Floats) -> Floats:
    """Add unused watts: first back up to the present leases, so that nothing moves for its own sake, then evenly."""
    present_w = np.where(hosts.lease_milliwatts >= 0, hosts.lease_milliwatts / MILLI, granted_w)
    kept = Wants(
        wants.minimum_w,
        wants.floor_w,
        wants.demand_w,
        np.minimum(np.maximum(present_w, granted_w), wants.ceiling_w),
        wants.weight,
        wants.tier,
    )
    return spread_spare(matrix, room_w, wants, spread_spare(matrix, room_w, kept, granted_w))


def _orders(matrix: RowMatrix, room_w: Floats, wants: Wants, hosts: HostColumns, target: Integers) -> Integers:
    """Return the leases to send: every lowering, and raises as far as they are proven free and worth a write."""
    lease = hosts.lease_milliwatts
    has_lease = lease >= 0
    committed_w = hosts.committed_milliwatts / MILLI
    goal_w = np.where(hosts.is_led & _may_raise(matrix, hosts), target / MILLI, 0.0)
    free_w = raise_within(matrix, room_w, committed_w, goal_w, wants)
    # A commitment already covers the host up to itself: a lease up to there raises nothing.
    reachable = np.minimum(
        target, np.maximum(np.floor(free_w * MILLI - 1).astype(np.int64), hosts.committed_milliwatts)
    )
    reachable = np.maximum(reachable, hosts.minimum_milliwatts)
    is_lowering = has_lease & (target < lease)
    band = np.maximum(DEAD_BAND_RATIO * lease, DEAD_BAND_W * MILLI)
    is_full = reachable >= hosts.maximum_milliwatts
    is_raising = has_lease & (reachable > lease) & ((reachable - lease >= band) | is_full)
    is_first = ~has_lease
    order = np.where(is_lowering, target, np.where(is_raising | is_first, reachable, NO_LEASE))
    return np.where(hosts.is_led, order, NO_LEASE).astype(np.int64)


def _may_raise(matrix: RowMatrix, hosts: HostColumns) -> Flags:
    """Return hosts under no row with too many silent led hosts."""
    silent = np.bincount(matrix.row, (hosts.is_led & ~hosts.is_fresh)[matrix.host].astype(np.float64))
    members = np.bincount(matrix.row, hosts.is_led[matrix.host].astype(np.float64))
    is_blind = silent > STALE_RATIO * np.maximum(members, 1.0)
    blocked = np.zeros(matrix.hosts, dtype=np.bool_)
    blocked[matrix.host[is_blind[matrix.row]]] = True
    return ~blocked
