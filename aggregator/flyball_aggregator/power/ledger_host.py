"""One host as the ledger knows it, and what a report of it changes: the only messages that lower a commitment."""

from dataclasses import dataclass
from typing import Final

from flyball_aggregator.power.ledger_rules import ALL_LEDGER_RULES, LedgerRules
from flyball_wire.changed import changed
from flyball_wire.lease import NO_FENCE, Fence, Report

MAX_STAIRS: Final = 32  # outstanding grants kept apart; beyond, the two oldest are counted as one, never less
MAX_PAST: Final = 16  # superseded incarnations remembered, to tell two live governors from a restart


@dataclass(frozen=True, slots=True)
class Grant:
    """A logged lease that no report has fenced yet."""

    fence: Fence
    milliwatts: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """An incarnation that was heard but is not current; it becomes so by acking a probe that names it."""

    incarnation: str
    boot_id: str
    stamp_ms: int
    bound_milliwatts: int
    first_probe: Fence | None = None
    last_probe: Fence | None = None
    heard_after: Fence = NO_FENCE


@dataclass(frozen=True, slots=True)
class HostLedger:
    """What is known of one host; `commitment_milliwatts` follows from the rest and is kept for speed.

    `outstanding` is a staircase: rising fences, falling watts; a grant that a later and larger one covers is left out.
    """

    host: str
    maximum_milliwatts: int
    minimum_milliwatts: int = 0
    boot_share_milliwatts: int = 0
    gpu_uuids: tuple[str, ...] | None = None
    incarnation: str | None = None
    boot_id: str = ""
    fence: Fence = NO_FENCE
    stamp_ms: int = 0
    bound_milliwatts: int | None = None  # None is unknown: counts at maximum
    counts_maximum: bool = False  # observe, foreign cap, or cannot write
    outstanding: tuple[Grant, ...] = ()
    candidate: Candidate | None = None
    past: tuple[str, ...] = ()
    conflict: str | None = None
    other_maximum_milliwatts: int = 0  # of the second governor in a conflict
    is_unfenced: bool = False  # after a restore, until a fence of this epoch is acked
    out_of_band_milliwatts: int | None = None
    is_locked_off: bool = False
    is_revoked: bool = False
    released_at: Fence | None = None
    sent_milliwatts: int | None = None
    sent_ms: int = 0
    sent_stamp_ms: int = -1
    commitment_milliwatts: int = 0


def counted_milliwatts(host: HostLedger) -> int:
    """Return the commitment that follows from what is known of a host."""
    if host.is_revoked or host.is_locked_off:
        return 0
    candidate = host.candidate
    is_unknown = host.bound_milliwatts is None or host.is_unfenced or host.counts_maximum
    if host.conflict is not None:
        counted = host.maximum_milliwatts + host.other_maximum_milliwatts
    elif is_unknown or host.bound_milliwatts is None:
        counted = host.maximum_milliwatts
    else:
        counted = max(host.bound_milliwatts, host.boot_share_milliwatts)
    if host.conflict is None:
        if host.outstanding:
            counted = max(counted, host.outstanding[0].milliwatts)
        if candidate is not None:
            counted = max(counted, candidate.bound_milliwatts)
    if host.out_of_band_milliwatts is not None:
        counted = min(counted, host.out_of_band_milliwatts)
    return counted


def with_grant(host: HostLedger, fence: Fence, milliwatts: int) -> HostLedger:
    """Return the host with one more logged grant, newer than all before it."""
    stairs = [grant for grant in host.outstanding if grant.milliwatts > milliwatts]
    stairs.append(Grant(fence, milliwatts))
    if len(stairs) > MAX_STAIRS:
        stairs[:2] = [Grant(stairs[1].fence, stairs[0].milliwatts)]
    return changed(host, outstanding=tuple(stairs))


def with_report(
    host: HostLedger, report: Report, now: Fence, rules: LedgerRules = ALL_LEDGER_RULES
) -> tuple[HostLedger, str | None]:
    """Return the host after an authentic report, and an alarm or None.

    Args:
        host: As known before.
        report: Authentic; may be old, doubled, or of another incarnation.
        now: The newest fence of this ledger.
        rules: For the checkers.
    """
    if host.conflict is not None or host.is_revoked:
        return host, None
    uuids = host.gpu_uuids
    if uuids is not None and rules.conflict_counts_maximum and not set(report.gpu_uuids) <= set(uuids):
        return _in_conflict(host, report, "two sets of GPU UUIDs report under one host id")
    if report.incarnation == host.incarnation:
        return _from_current(host, report, now, rules), None
    if not rules.probes_incarnations:
        return _from_current(host, report, now, rules), None
    return _from_other(host, report, now, rules)


def with_probe(host: HostLedger, candidate: Candidate, fence: Fence) -> HostLedger:
    """Return the host with a logged probe that names the candidate."""
    first = candidate.first_probe if candidate.first_probe is not None else fence
    return changed(host, candidate=changed(candidate, first_probe=first, last_probe=fence))


def forgotten(host: HostLedger) -> HostLedger:
    """Return a host whose history may be missing grants: at its maximum until a new fence is acked.

    Locks and out-of-band caps on record may have been undone since as well: they count again when they are read again.
    """
    return changed(
        host, is_unfenced=True, incarnation=None, fence=NO_FENCE, stamp_ms=0, outstanding=(), candidate=None,
        sent_milliwatts=None, sent_stamp_ms=-1, released_at=None, is_locked_off=False, out_of_band_milliwatts=None,
    )  # fmt: skip


def locked_off(host: HostLedger) -> HostLedger:
    """Return a host proven to be without power: its incarnation is dead and so is every grant that names it."""
    gone = () if host.incarnation is None else (host.incarnation,)
    least = max(host.minimum_milliwatts, host.boot_share_milliwatts) if host.minimum_milliwatts else None
    return changed(
        host, is_locked_off=True, incarnation=None, outstanding=(), candidate=None, counts_maximum=False,
        bound_milliwatts=least, past=(*gone, *host.past)[:MAX_PAST], sent_milliwatts=None, is_unfenced=False,
    )  # fmt: skip


def counts_at_maximum(report: Report) -> bool:
    """Return whether a report is of a host whose caps are not ours to rely on."""
    return report.mode != "enforce" or report.has_foreign_cap or not report.can_write


def _from_current(host: HostLedger, report: Report, now: Fence, rules: LedgerRules) -> HostLedger:
    """Take the report with the highest fence; among equal fences the newest stamp, among equal stamps the lowest."""
    bound = _reported_bound(host, report)
    if rules.highest_fence_counts:
        at, known = (report.fence, report.stamp_ms), (host.fence, host.stamp_ms)
        if at < known:
            return host
        if at == known and host.bound_milliwatts is not None:
            bound = min(bound, host.bound_milliwatts)
    return _taken(host, report, bound, now)


def _taken(host: HostLedger, report: Report, bound: int, now: Fence) -> HostLedger:
    fence, outstanding, candidate = report.fence, host.outstanding, host.candidate
    if outstanding and outstanding[0].fence <= fence:
        outstanding = tuple(grant for grant in outstanding if grant.fence > fence)
    if candidate is not None and fence > candidate.heard_after:
        candidate = None  # the current governor is alive and holds the host's only write lock
    return changed(
        host,
        maximum_milliwatts=max(host.maximum_milliwatts, report.maximum_milliwatts),
        minimum_milliwatts=report.minimum_milliwatts,
        gpu_uuids=report.gpu_uuids if host.gpu_uuids is None else host.gpu_uuids,
        fence=fence,
        stamp_ms=report.stamp_ms,
        bound_milliwatts=bound,
        counts_maximum=counts_at_maximum(report),
        outstanding=outstanding,
        candidate=candidate,
        is_unfenced=host.is_unfenced and fence.epoch < now.epoch,
    )


def _reported_bound(host: HostLedger, report: Report) -> int:
    """Return the bound, with the full share of GPUs that the governor did not find."""
    if host.gpu_uuids is None or len(report.gpu_uuids) >= len(host.gpu_uuids):
        return report.bound_milliwatts
    return report.bound_milliwatts + max(0, host.maximum_milliwatts - report.maximum_milliwatts)


def _from_other(host: HostLedger, report: Report, now: Fence, rules: LedgerRules) -> tuple[HostLedger, str | None]:
    """Hear an incarnation that is not current: it becomes so only by the ack of a probe that names it."""
    known = host.candidate
    is_past = report.incarnation in host.past
    if known is not None and known.incarnation == report.incarnation:
        if _acks(known, report.fence) and report.fence > host.fence:
            return _acked_probe(host, report, now, is_past=is_past, rules=rules)
        if report.stamp_ms <= known.stamp_ms:
            return host, None
        known = changed(known, stamp_ms=report.stamp_ms, bound_milliwatts=_candidate_bound(host, report, is_past))
        return changed(host, candidate=known), None
    if known is not None and is_past:
        return host, None
    bound = _candidate_bound(host, report, is_past)
    heard = Candidate(report.incarnation, report.boot_id, report.stamp_ms, bound, heard_after=now)
    return changed(host, candidate=heard), None


def _acks(candidate: Candidate, fence: Fence) -> bool:
    first, last = candidate.first_probe, candidate.last_probe
    return first is not None and last is not None and first <= fence <= last


def _candidate_bound(host: HostLedger, report: Report, is_past: bool) -> int:  # noqa: FBT001
    if is_past:
        return 0
    return host.maximum_milliwatts if counts_at_maximum(report) else _reported_bound(host, report)


def _acked_probe(
    host: HostLedger, report: Report, now: Fence, *, is_past: bool, rules: LedgerRules
) -> tuple[HostLedger, str | None]:
    if is_past and rules.conflict_counts_maximum:
        return _in_conflict(host, report, "two live governors report under one host id")
    alarm = "it answers though its outlet is locked off" if host.is_locked_off else None
    return changed(_become_current(host, report, now), is_locked_off=False), alarm


def _become_current(host: HostLedger, report: Report, now: Fence) -> HostLedger:
    gone = () if host.incarnation is None else (host.incarnation,)
    fresh = changed(
        host, incarnation=report.incarnation, boot_id=report.boot_id, candidate=None, released_at=None,
        past=(*gone, *host.past)[:MAX_PAST], sent_milliwatts=None, sent_stamp_ms=-1,
    )  # fmt: skip
    return _taken(fresh, report, _reported_bound(host, report), now)


def _in_conflict(host: HostLedger, report: Report, why: str) -> tuple[HostLedger, str]:
    return changed(host, conflict=why, other_maximum_milliwatts=report.maximum_milliwatts), why
