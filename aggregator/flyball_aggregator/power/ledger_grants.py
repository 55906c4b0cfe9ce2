"""How the ledger grants: a lease, a probe or a release, each logged before it is sent; or a refusal with its reason."""

from flyball_aggregator.power.ledger_events import (
    GrantKind,
    GrantWanted,
    LedgerEffect,
    LogGrant,
    LogHost,
    Refused,
    SendLease,
    SendRelease,
)
from flyball_aggregator.power.ledger_host import Candidate, HostLedger, counted_milliwatts, with_grant, with_probe
from flyball_aggregator.power.ledger_rows import full_row, headroom_of
from flyball_aggregator.power.ledger_rules import LedgerRules
from flyball_aggregator.power.ledger_state import LedgerState, Outcome, with_host
from flyball_wire.changed import changed
from flyball_wire.lease import Fence, Lease


def grant(state: LedgerState, event: GrantWanted, rules: LedgerRules) -> Outcome:
    """Grant, renew, probe or refuse; a lowering is never refused for want of room."""
    host = state.hosts[event.host]
    refused = _cannot_grant(state, host, event, rules)
    if refused is not None:
        return state, (refused,)
    effects: tuple[LedgerEffect, ...] = ()
    if host.candidate is not None and state.can_log:
        state, effects = _probe(state, host, host.candidate)
        host = state.hosts[event.host]
    if host.incarnation is None:
        return state, effects or (Refused(host.host, "not_heard", "no governor has answered a probe"),)
    wanted = _with_dead_band(host, event.milliwatts, state.settings.dead_band_milliwatts)
    if not _is_due(state, host, wanted, event.now_ms):
        return state, effects
    state, sent = _log_and_send(state, host, wanted, event, rules)
    return state, effects + sent


def _cannot_grant(state: LedgerState, host: HostLedger, event: GrantWanted, rules: LedgerRules) -> Refused | None:
    name, wanted = host.host, event.milliwatts
    if not state.epoch:
        return Refused(name, "no_epoch", "this ledger does not lead")
    if host.is_revoked:
        return Refused(name, "revoked", "written off")
    if host.conflict is not None:
        return Refused(name, "conflict", host.conflict)
    if host.is_locked_off and host.candidate is None:
        return Refused(name, "locked_off", "its outlet is locked off")
    if wanted < host.minimum_milliwatts and rules.keeps_minimum:
        return Refused(name, "below_minimum", f"{wanted} mW, its minimum is {host.minimum_milliwatts} mW")
    if wanted > host.maximum_milliwatts:
        return Refused(name, "above_maximum", f"{wanted} mW, its maximum is {host.maximum_milliwatts} mW")
    shown = (
        None if host.counts_maximum else host.bound_milliwatts
    )  # all of it was logged once; what was sent may not be
    if not state.can_log and (shown is None or wanted > shown):
        return Refused(name, "cannot_log", "the store takes no writes: no raises")
    return None


def _with_dead_band(host: HostLedger, wanted: int, dead_band: int) -> int:
    """Return what to grant: a small raise is left, a lowering never."""
    sent = host.sent_milliwatts
    return sent if sent is not None and sent < wanted <= sent + dead_band else wanted


def _is_due(state: LedgerState, host: HostLedger, wanted: int, now_ms: int) -> bool:
    """Return whether a lease is worth a sequence number: changed, or renewable with a stamp not yet echoed."""
    if host.sent_milliwatts is None or wanted < host.sent_milliwatts:
        return True
    if host.stamp_ms <= host.sent_stamp_ms:
        return False
    return wanted != host.sent_milliwatts or now_ms - host.sent_ms >= state.settings.renew_ms


def _log_and_send(state: LedgerState, host: HostLedger, wanted: int, event: GrantWanted, rules: LedgerRules) -> Outcome:
    fence = Fence(state.epoch, state.seq + 1)
    sent = changed(host, sent_milliwatts=wanted, sent_ms=event.now_ms, sent_stamp_ms=host.stamp_ms)
    granted = with_grant(sent, fence, wanted)
    rise = counted_milliwatts(granted) - host.commitment_milliwatts
    row = full_row(state.rows, state.coefficients.get(host.host, ()), rise) if rise > 0 else None
    if row is not None:
        detail = f"{wanted} mW would take {rise} mW more, {headroom_of(row)} mW are left"
        return state, (Refused(host.host, "row_full", detail, row.name),)
    state, granted = with_host(changed(state, seq=fence.seq), granted)
    lease = _lease(state, granted, host.host, wanted, event.safe_milliwatts)
    kind: GrantKind = "lease" if state.can_log else "lower"
    log = (LogGrant(host.host, lease.incarnation, fence, wanted, kind),) if rules.logs_before_send else ()
    return state, (*log, SendLease(lease))


def _probe(state: LedgerState, host: HostLedger, candidate: Candidate) -> Outcome:
    fence = Fence(state.epoch, state.seq + 1)
    state, host = with_host(changed(state, seq=fence.seq), with_probe(host, candidate, fence))
    lease = _lease(state, candidate, host.host, None, 0)
    return state, (LogGrant(host.host, candidate.incarnation, fence, None, "probe"), SendLease(lease))


def _lease(state: LedgerState, to: HostLedger | Candidate, host: str, watts: int | None, safe: int) -> Lease:
    """Return the lease or probe under the newest fence, echoing the newest stamp of the incarnation it is for."""
    settings = state.settings
    return Lease(
        host=host,
        incarnation=to.incarnation or "",
        fence=Fence(state.epoch, state.seq),
        watts_milliwatts=watts,
        safe_milliwatts=safe,
        stamp_ms=to.stamp_ms,
        ttl_ms=settings.ttl_ms,
        hold_ms=settings.hold_ms,
        ramp_milliwatts_per_s=settings.ramp_milliwatts_per_s,
    )


def send_release(state: LedgerState, host: HostLedger) -> Outcome:
    """Commit the host at its maximum, then tell its governor to hand the devices back."""
    if not state.epoch or not state.can_log or host.incarnation is None or host.conflict is not None:
        return state, (
            Refused(host.host, "not_heard", "a release needs a leader, a store and a governor that answers"),
        )
    fence = Fence(state.epoch, state.seq + 1)
    granted = changed(with_grant(host, fence, host.maximum_milliwatts), released_at=fence)
    rise = counted_milliwatts(granted) - host.commitment_milliwatts
    row = full_row(state.rows, state.coefficients.get(host.host, ()), rise) if rise > 0 else None
    if row is not None:
        detail = f"its maximum takes {rise} mW more, {headroom_of(row)} mW are left"
        return state, (Refused(host.host, "row_full", detail, row.name),)
    state, granted = with_host(changed(state, seq=fence.seq), granted)
    incarnation = granted.incarnation or ""
    release = SendRelease(host.host, incarnation, fence, granted.stamp_ms, state.settings.ttl_ms)
    return state, (
        LogGrant(host.host, incarnation, fence, granted.maximum_milliwatts, "release"), LogHost(granted), release,
    )  # fmt: skip
