"""Permits: how many hosts may be out of work at once, per fleet, rack and partition, and never fewer than must stay.

A permit is asked for before a host (not a GPU) is isolated. Answers come from counters in memory; requests are never
kept or replayed: who was refused asks again. A release frees its place and is refused by nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import floor
from typing import Final

from flyball_aggregator.health.mode import FleetMode

GRANT_S: Final = 600.0  # a grant that was not used by then is void
NO_LIMIT: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How much of one pool may be out at once: the smaller of both, at least one, and a capacity that must stay."""

    ratio: float = 0.05
    hosts: int = NO_LIMIT
    minimum_healthy: int = 0


@dataclass(frozen=True, slots=True)
class Pool:
    """A set of hosts that share limits: the fleet, a rack, a partition, a job class."""

    name: str
    hosts: frozenset[str]
    limits: PoolLimits = field(default_factory=PoolLimits)

    @property
    def places(self) -> int:
        """Return how many hosts may be out at once."""
        share = min(floor(self.limits.ratio * len(self.hosts)), self.limits.hosts)
        return max(1, share)


@dataclass(frozen=True, slots=True)
class PermitRequest:
    """A host asks to take itself out; `stamp_s` is when it asked, of its own clock as received."""

    host: str
    correlation_id: str
    code: str
    at_s: float
    is_injected: bool = False


@dataclass(frozen=True, slots=True)
class PermitAnswer:
    """Granted or not, and the rule that decided; `generation` tells answers of an earlier breaker state apart."""

    is_granted: bool
    rule: str
    correlation_id: str
    generation: int
    valid_until_s: float = 0.0


@dataclass(slots=True)
class _Grant:
    granted_s: float
    is_used: bool = False


class PermitOffice:
    """Grants and frees places; `out` are hosts that are isolated, whoever isolated them."""

    def __init__(self, pools: Iterable[Pool]) -> None:
        self._pools = {pool.name: pool for pool in pools}
        self._grants: dict[str, _Grant] = {}
        self._out: set[str] = set()
        self._approved: dict[str, str] = {}
        self.generation = 0

    def set_pools(self, pools: Iterable[Pool]) -> None:
        """Take over new pools; grants stay."""
        self._pools = {pool.name: pool for pool in pools}

    def ask(self, request: PermitRequest, mode: FleetMode) -> PermitAnswer:
        """Answer a request; asking again for the same host gives the same grant."""
        self._expire(request.at_s)
        if request.host in self._grants:
            return self._answer(request, is_granted=True, rule="granted before")
        rule = self._refusal(request.host, mode)
        if rule is not None:
            return self._answer(request, is_granted=False, rule=rule)
        self._grants[request.host] = _Grant(request.at_s)
        by = self._approved.pop(request.host, None)
        return self._answer(request, is_granted=True, rule=f"approved by {by}" if by else "within all pools")

    def note_isolated(self, host: str) -> None:
        """Count a host that is out of work, with or without our permit."""
        self._out.add(host)
        if host in self._grants:
            self._grants[host].is_used = True

    def release(self, host: str) -> None:
        """Free a host's place. Nothing refuses this."""
        self._out.discard(host)
        self._grants.pop(host, None)

    def approve(self, host: str, by: str) -> None:
        """An operator allows one host beyond limits and modes, once."""
        self._approved[host] = by

    def new_generation(self) -> None:
        """Void all answers that were not used yet, as after a change of mode."""
        self.generation += 1
        self._grants = {host: grant for host, grant in self._grants.items() if grant.is_used}

    def usage(self) -> Mapping[str, tuple[int, int]]:
        """Return (hosts out or about to be, places) of each pool."""
        return {pool.name: (len(self._taken(pool)), pool.places) for pool in self._pools.values()}

    def _refusal(self, host: str, mode: FleetMode) -> str | None:
        if host in self._approved:
            return None
        if mode is not FleetMode.NORMAL:
            return f"the fleet is in mode {mode.value}: an operator must approve {host}"
        pools = [pool for pool in self._pools.values() if host in pool.hosts]
        if not pools:
            return f"{host} is in no pool"
        for pool in pools:
            taken = self._taken(pool) | {host}
            if len(taken) > pool.places:
                return f"pool {pool.name}: {pool.places} of {len(pool.hosts)} hosts may be out"
            if len(pool.hosts) - len(taken) < pool.limits.minimum_healthy:
                return f"pool {pool.name}: {pool.limits.minimum_healthy} hosts must stay"
        return None

    def _taken(self, pool: Pool) -> set[str]:
        return (self._out | self._grants.keys()) & pool.hosts

    def _expire(self, now_s: float) -> None:
        self._grants = {
            host: grant for host, grant in self._grants.items() if grant.is_used or now_s - grant.granted_s < GRANT_S
        }

    def _answer(self, request: PermitRequest, *, is_granted: bool, rule: str) -> PermitAnswer:
        until_s = self._grants[request.host].granted_s + GRANT_S if is_granted else 0.0
        return PermitAnswer(is_granted, rule, request.correlation_id, self.generation, until_s)
