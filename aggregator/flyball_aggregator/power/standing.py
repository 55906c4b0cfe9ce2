"""How each host stands with the ledger, as columns for a decision, and why a host is not led."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from flyball_aggregator.fleet import Fleet, HostRecord
from flyball_aggregator.power.decide import NO_LEASE, HostColumns
from flyball_aggregator.power.holds import REASONS, HoldBook
from flyball_aggregator.power.lease_desk import LeaseDesk
from flyball_aggregator.power.ledger import HostLedger
from flyball_aggregator.power.policy import PolicyColumns
from flyball_aggregator.power.rows import Floats, Integers
from flyball_wire.lease import Fence, HostMode

FROZEN_REASON: Final = "frozen by the facility"


@dataclass(frozen=True, slots=True)
class Standing:
    """All hosts in the site file's order; `reasons` are empty for a host that is led.

    A host that keeps its lease alive but gets no other (frozen, or counted at its maximum for a while) is in `is_kept`;
    one with an incarnation that must be asked for its first acknowledgement in `is_probed`.
    """

    committed_milliwatts: Integers
    lease_milliwatts: Integers
    minimum_milliwatts: Integers
    maximum_milliwatts: Integers
    reasons: tuple[str, ...]
    is_kept: tuple[bool, ...]
    is_probed: tuple[bool, ...]
    fences: tuple[Fence | None, ...]

    def columns(self, policy: PolicyColumns, demand_w: Floats, is_fresh: np.ndarray) -> HostColumns:
        """Return the columns of a decision."""
        return HostColumns(
            is_led=np.array([not reason for reason in self.reasons], dtype=np.bool_),
            is_fresh=is_fresh,
            committed_milliwatts=self.committed_milliwatts,
            lease_milliwatts=self.lease_milliwatts,
            minimum_milliwatts=self.minimum_milliwatts,
            maximum_milliwatts=self.maximum_milliwatts,
            floor_w=policy.floor_w,
            ceiling_w=policy.ceiling_w,
            demand_w=demand_w,
            weight=policy.weight,
            tier=policy.tier,
        )


def read_standing(
    fleet: Fleet, desk: LeaseDesk, policy: PolicyColumns, holds: HoldBook, frozen: frozenset[str]
) -> Standing:
    """Return how all hosts stand now; one that is being released counts at its maximum, so that others make room."""
    known = [desk.host(name) for name in fleet.hosts]
    least = [host.minimum_w for host in fleet.site.hosts]
    reasons, kept = [], []
    for record, host, mode in zip(fleet.hosts.values(), known, policy.modes, strict=True):
        reason = why_not_led(record, host, mode, has_key=fleet.site.hosts[record.index].report_public_key is not None)
        hold = holds.of(host.host)
        held = REASONS[hold] if hold is not None else FROZEN_REASON if host.host in frozen else ""
        is_frozen = not reason and bool(held) and hold != "released"
        reasons.append(reason or held)
        is_at_maximum = host.counts_maximum and mode == "enforce" and host.sent_milliwatts is not None
        kept.append(is_frozen or (is_at_maximum and hold != "released"))
    return Standing(
        committed_milliwatts=np.array([_counted(host, holds) for host in known], dtype=np.int64),
        lease_milliwatts=np.array([_lease(host) for host in known], dtype=np.int64),
        minimum_milliwatts=np.array(
            [host.minimum_milliwatts or int(minimum_w * 1000) for host, minimum_w in zip(known, least, strict=True)],
            dtype=np.int64,
        ),
        maximum_milliwatts=np.array([host.maximum_milliwatts for host in known], dtype=np.int64),
        reasons=tuple(reasons),
        is_kept=tuple(kept),
        is_probed=tuple(
            host.candidate is not None and mode == "enforce" and holds.of(host.host) != "released"
            for host, mode in zip(known, policy.modes, strict=True)
        ),
        fences=tuple(host.outstanding[-1].fence if host.outstanding else host.fence for host in known),
    )


def why_not_led(record: HostRecord, host: HostLedger, mode: HostMode, *, has_key: bool) -> str:
    """Return why a host gets no lease of its own; empty when it does."""
    if not has_key:
        return "the site file holds no report key for it"
    if host.is_revoked:
        return "removed by an operator"
    if host.is_locked_off:
        return "its outlet is locked off"
    if host.conflict is not None:
        return f"two hosts under one name: {host.conflict}"
    if mode == "observe":
        return "the site file says observe"
    if host.incarnation is None:
        return "its governor has not acknowledged a fence probe" if host.candidate else "not heard yet"
    return _why_at_maximum(record) if host.counts_maximum else ""


def _why_at_maximum(record: HostRecord) -> str:
    report = record.report
    if report is not None and report.mode == "observe":
        return "its governor only observes"
    if report is not None and not report.can_write:
        return "its governor cannot write caps"
    if report is not None and report.has_foreign_cap:
        return "someone else sets its caps"
    return "it counts at its maximum until it is heard again"


def _counted(host: HostLedger, holds: HoldBook) -> int:
    is_leaving = holds.of(host.host) == "released" and not (host.is_revoked or host.is_locked_off)
    return max(host.commitment_milliwatts, host.maximum_milliwatts) if is_leaving else host.commitment_milliwatts


def _lease(host: HostLedger) -> int:
    return NO_LEASE if host.sent_milliwatts is None else host.sent_milliwatts
