"""The ledger: what every host may draw at most, and the one place that grants watts.

Pure: `step(state, event)` gives the next state and the effects to carry out, in their order; everything up to the last
`Log...` effect of a batch must be durable before the first `Send...` goes out. The invariant: a grant that raises a
host's commitment is made only if every row it is in keeps sum of a x commitment + constant within its limit. States
share what did not change (see frozen_table), so that a step costs O(sqrt(hosts)) and the old state stays valid.
"""

from collections.abc import Iterable
from typing import Final

from flyball_aggregator.power.frozen_table import FrozenTable
from flyball_aggregator.power.ledger_events import (
    Alarm,
    ConflictCleared,
    Deposed,
    EpochStarted,
    GrantWanted,
    HostEnrolled,
    HostRemoved,
    HostSilent,
    LedgerEffect,
    LedgerEvent,
    LedgerSettings,
    LogAbility,
    LogGrant,
    LogHost,
    LogMembers,
    OutletLocked,
    OutletUnlockWanted,
    OutOfBandCap,
    RefusalReason,
    Refused,
    ReleaseWanted,
    ReportReceived,
    RowLimitChanged,
    RowsChanged,
    SendLease,
    SendRelease,
    TakeEpoch,
    UnlockOutlet,
)
from flyball_aggregator.power.ledger_grants import grant, send_release
from flyball_aggregator.power.ledger_host import Candidate, Grant, HostLedger, forgotten, with_report
from flyball_aggregator.power.ledger_rows import Row, RowState, headroom_of, room_milliwatts
from flyball_aggregator.power.ledger_rules import ALL_LEDGER_RULES, LedgerRules
from flyball_aggregator.power.ledger_site import change_host, change_rows
from flyball_aggregator.power.ledger_state import LedgerState, Outcome, recounted, with_host
from flyball_wire.changed import changed
from flyball_wire.lease import Fence

__all__ = [
    "ALL_LEDGER_RULES", "Alarm", "Candidate", "ConflictCleared", "Deposed", "EpochStarted", "Grant", "GrantWanted",
    "HostEnrolled", "HostLedger", "HostRemoved", "HostSilent", "LedgerEffect", "LedgerEvent", "LedgerRules",
    "LedgerSettings", "LedgerState", "LogAbility", "LogGrant", "LogHost", "LogMembers", "OutOfBandCap", "Outcome",
    "OutletLocked", "OutletUnlockWanted", "RefusalReason", "Refused", "ReleaseWanted", "ReportReceived", "Row",
    "RowLimitChanged", "RowState", "RowsChanged", "SendLease", "SendRelease", "TakeEpoch", "UnlockOutlet",
    "commitment_milliwatts", "headroom_milliwatts", "largest_grant_milliwatts", "restore", "step",
]  # fmt: skip

MAX_EPOCH_JUMP: Final = 1_000_000  # a report further ahead than this many starts is a bug of its host, not a restore


def step(state: LedgerState, event: LedgerEvent, rules: LedgerRules = ALL_LEDGER_RULES) -> Outcome:
    """Return the next state and what to do about an event, in order.

    Raises:
        KeyError: an event about a host or row that the ledger does not have (reports of strangers are only an alarm).
        ValueError: rows that name hosts that are not enrolled.
    """
    match event:
        case ReportReceived():
            return _report(state, event, rules)
        case GrantWanted():
            return grant(state, event, rules)
        case RowLimitChanged():
            row = changed(
                state.rows[event.row],
                limit_milliwatts=event.limit_milliwatts,
                constant_milliwatts=event.constant_milliwatts,
            )
            return changed(state, rows=state.rows.with_item(row.name, row)), ()
        case EpochStarted():
            return _start_epoch(state, event, rules), ()
        case Deposed():
            return changed(state, epoch=0), ()
        case LogAbility(can_log=can_log):
            return changed(state, can_log=can_log), ()
        case RowsChanged(rows=rows):
            return change_rows(state, rows, rules)
        case ReleaseWanted():
            return send_release(state, state.hosts[event.host])
        case _:
            return change_host(state, event, rules)


def restore(
    settings: LedgerSettings,
    epoch: EpochStarted,
    hosts: Iterable[HostLedger],
    members: Iterable[tuple[str, tuple[tuple[str, int], ...]]] = (),
    rules: LedgerRules = ALL_LEDGER_RULES,
) -> LedgerState:
    """Return the state of a leader that begins from its store: enrol the site's hosts and declare its rows next.

    Args:
        settings: Lease life.
        epoch: The durable new epoch.
        hosts: As last logged, with the grants logged after.
        members: Who counted in which row, as last logged (LogMembers).
        rules: For the checkers.
    """
    table = FrozenTable((host.host, recounted(host)) for host in hosts)
    state = LedgerState(settings=settings, hosts=table, stored_members=FrozenTable(members))
    return _start_epoch(state, epoch, rules)


def commitment_milliwatts(state: LedgerState, host: str) -> int:
    """Return the most a host may draw by what the ledger knows, milliwatts of GPU caps."""
    return state.hosts[host].commitment_milliwatts


def headroom_milliwatts(state: LedgerState, row: str) -> int:
    """Return what is left of a row, at the row; negative while it is in descent."""
    return headroom_of(state.rows[row])


def largest_grant_milliwatts(state: LedgerState, host: str) -> int:
    """Return the most that `GrantWanted` would grant a host now: its commitment and what its rows have left."""
    known = state.hosts[host]
    room = known.maximum_milliwatts - known.commitment_milliwatts
    for name, ppm in state.coefficients.get(host, ()):
        room = min(room, room_milliwatts(state.rows[name], ppm))
    return known.commitment_milliwatts + max(0, room)


def _report(state: LedgerState, event: ReportReceived, rules: LedgerRules) -> Outcome:
    report = event.report
    host = state.hosts.get(report.host)
    if host is None:
        return state, (Alarm(report.host, "unknown_host", "a report of a host that the site does not have"),)
    if rules.needs_signature and not event.is_authenticated:
        return state, (Alarm(report.host, "unauthenticated", "a report that its governor's key did not sign"),)
    if rules.restore_counts_maximum and state.epoch and _is_unheard_of(state, host, report.fence):
        return _forget(state, host, report.fence)
    after, alarm = with_report(host, report, Fence(state.epoch, state.seq), rules)
    if after is host:
        return state, ()
    state, after = with_host(state, after)
    log = (LogHost(after),) if _is_worth_logging(host, after) else ()
    return state, log if alarm is None else (*log, Alarm(host.host, "conflict", alarm))


def _is_unheard_of(state: LedgerState, host: HostLedger, fence: Fence) -> bool:
    """Return whether a report names a fence that this ledger never gave: it was restored from an older copy."""
    if fence <= host.fence or fence.epoch < state.forgiven_below_epoch or fence.epoch == 0:
        return False
    last = state.seq if fence.epoch == state.epoch else state.epochs.get(fence.epoch)
    return last is None or fence.seq > last


def _forget(state: LedgerState, host: HostLedger, fence: Fence) -> Outcome:
    if fence.epoch > state.epoch + MAX_EPOCH_JUMP:
        return state, (Alarm(host.host, "implausible_fence", f"a report with epoch {fence.epoch}"),)
    alarm = Alarm(host.host, "restored", f"heard fence {fence.epoch}.{fence.seq}, of which there is no record")
    return changed(state, epoch=0), (TakeEpoch(max(fence.epoch, state.epoch)), alarm)


def _start_epoch(state: LedgerState, event: EpochStarted, rules: LedgerRules) -> LedgerState:
    state = changed(state, epoch=event.epoch, seq=0, epochs=dict(event.epochs))
    if not event.is_restored or not rules.restore_counts_maximum:
        return state
    state = changed(state, forgiven_below_epoch=event.epoch)
    for host in tuple(state.hosts.values()):
        state, _ = with_host(state, forgotten(host))
    return state


def _is_worth_logging(before: HostLedger, after: HostLedger) -> bool:
    """Return whether more than a stamp or a candidate changed."""
    return (
        before.fence != after.fence
        or before.bound_milliwatts != after.bound_milliwatts
        or before.commitment_milliwatts != after.commitment_milliwatts
        or before.incarnation != after.incarnation
        or before.conflict != after.conflict
        or before.gpu_uuids != after.gpu_uuids
    )
