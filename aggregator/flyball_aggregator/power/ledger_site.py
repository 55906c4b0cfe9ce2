"""What operators, the site file and hardware outside the host change in the ledger."""

from collections.abc import Mapping

from flyball_aggregator.power.frozen_table import FrozenTable
from flyball_aggregator.power.ledger_events import (
    Alarm,
    ConflictCleared,
    HostEnrolled,
    HostRemoved,
    HostSilent,
    LogHost,
    LogMembers,
    OutletLocked,
    OutletUnlockWanted,
    OutOfBandCap,
    Refused,
    UnlockOutlet,
)
from flyball_aggregator.power.ledger_host import HostLedger, counted_milliwatts, forgotten, locked_off
from flyball_aggregator.power.ledger_rows import Row, coefficients_by_host, full_row, headroom_of, rows_with_sums
from flyball_aggregator.power.ledger_rules import LedgerRules
from flyball_aggregator.power.ledger_state import LedgerState, Outcome, with_host
from flyball_wire.changed import changed

HostEvent = HostEnrolled | HostRemoved | ConflictCleared | OutOfBandCap | OutletLocked | OutletUnlockWanted | HostSilent


def change_host(state: LedgerState, event: HostEvent, rules: LedgerRules) -> Outcome:
    """Return the state after an event about one host that its governor did not send."""
    match event:
        case HostEnrolled():
            return _logged(state, _enrolled(state, event))
        case HostRemoved():
            return _remove(state, event)
        case OutOfBandCap(host=name, milliwatts=milliwatts):
            return _cap_out_of_band(state, state.hosts[name], milliwatts)
        case OutletLocked(host=name):
            return _logged(state, locked_off(state.hosts[name]))
        case OutletUnlockWanted(host=name):
            return _unlock(state, state.hosts[name])
        case ConflictCleared():
            host = changed(forgotten(state.hosts[event.host]), conflict=None, other_maximum_milliwatts=0, past=())
            state, effects = _logged(state, changed(host, gpu_uuids=event.gpu_uuids))
            return state, (*effects, Alarm(event.host, "conflict_cleared", f"by {event.operator}"))
        case HostSilent():
            return _hear_nothing(state, event, rules)


def change_rows(state: LedgerState, rows: tuple[Row, ...], rules: LedgerRules) -> Outcome:
    """Return the state under new rows; a host that left one still counts there until it is removed with proof.

    Raises:
        ValueError: a row names a host that is not enrolled.
    """
    declared = coefficients_by_host(rows)
    strangers = [host for host in declared if host not in state.hosts]
    if strangers:
        raise ValueError(f"rows name hosts that are not enrolled: {', '.join(sorted(strangers)[:8])}")
    names = {row.name for row in rows}
    carried = []
    before = state.coefficients if state.rows else state.stored_members
    for host, shares in before.items():
        for row, ppm in shares:
            if rules.removal_needs_proof and row in names and row not in declared.get(host, {}):
                carried.append((row, host))
                declared.setdefault(host, {})[row] = ppm
    state = _with_coefficients(changed(state, carried=tuple(carried)), rows, declared)
    return state, (LogMembers(tuple(state.coefficients.items())),)


def _with_coefficients(
    state: LedgerState, rows: tuple[Row, ...], declared: Mapping[str, Mapping[str, int]]
) -> LedgerState:
    coefficients = FrozenTable((host, tuple(sorted(shares.items()))) for host, shares in declared.items())
    commitments = {host: state.hosts[host].commitment_milliwatts for host in coefficients}
    return changed(state, coefficients=coefficients, rows=rows_with_sums(rows, coefficients, commitments))


def _logged(state: LedgerState, host: HostLedger) -> Outcome:
    state, host = with_host(state, host)
    return state, (LogHost(host),)


def _enrolled(state: LedgerState, event: HostEnrolled) -> HostLedger:
    known = state.hosts.get(event.host, HostLedger(event.host, event.maximum_milliwatts))
    return changed(
        known,
        maximum_milliwatts=max(event.maximum_milliwatts, known.maximum_milliwatts),
        boot_share_milliwatts=event.boot_share_milliwatts,
        gpu_uuids=event.gpu_uuids if event.gpu_uuids is not None else known.gpu_uuids,
    )


def _remove(state: LedgerState, event: HostRemoved) -> Outcome:
    """Take a host out of one row it left, after its release was acked; or write it off, which ends its trust."""
    host = state.hosts[event.host]
    if not event.operator:
        return state, (Refused(host.host, "not_released", "a removal needs the operator's name"),)
    if event.proof == "write_off":
        state, effects = _logged(state, changed(host, is_revoked=True))
        return state, (*effects, Alarm(host.host, "written_off", f"by {event.operator}: its certificate is revoked"))
    is_released = host.released_at is not None and host.fence >= host.released_at
    if not is_released or event.row is None or (event.row, event.host) not in state.carried:
        return state, (Refused(host.host, "not_released", "no acked release, or the site file still has it there"),)
    state = _without(state, event.row, host)
    alarm = Alarm(host.host, "removed", f"from {event.row} by {event.operator}")
    return state, (LogMembers(tuple(state.coefficients.items())), alarm)


def _without(state: LedgerState, row: str, host: HostLedger) -> LedgerState:
    shares = state.coefficients[host.host]
    gone = [(name, ppm) for name, ppm in shares if name == row]
    at = state.rows[row]
    at = changed(at, committed_ppm=at.committed_ppm - sum(ppm for _, ppm in gone) * host.commitment_milliwatts)
    left = tuple(share for share in shares if share[0] != row)
    return changed(
        state,
        rows=state.rows.with_item(row, at),
        coefficients=state.coefficients.with_item(host.host, left),
        carried=tuple(pair for pair in state.carried if pair != (row, host.host)),
    )


def _cap_out_of_band(state: LedgerState, host: HostLedger, milliwatts: int | None) -> Outcome:
    """Count a cap the management controller enforces at once; lift it only where the host then still fits."""
    capped = changed(host, out_of_band_milliwatts=milliwatts)
    return _logged_if_it_fits(state, host, capped, "lifting the out-of-band cap")


def _unlock(state: LedgerState, host: HostLedger) -> Outcome:
    if not host.is_locked_off:
        return state, (UnlockOutlet(host.host),)
    state, effects = _logged_if_it_fits(state, host, changed(host, is_locked_off=False), "switching it on")
    if state.hosts[host.host].is_locked_off:
        return state, effects
    return state, (*effects, UnlockOutlet(host.host))


def _logged_if_it_fits(state: LedgerState, host: HostLedger, after: HostLedger, what: str) -> Outcome:
    rise = counted_milliwatts(after) - host.commitment_milliwatts
    row = full_row(state.rows, state.coefficients.get(host.host, ()), rise) if rise > 0 else None
    if row is None:
        return _logged(state, after)
    detail = f"{what} takes {rise} mW more, {headroom_of(row)} mW are left"
    return state, (Refused(host.host, "row_full", detail, row.name),)


def _hear_nothing(state: LedgerState, event: HostSilent, rules: LedgerRules) -> Outcome:
    """Raise an alarm; neither time nor a reading frees the watts of a silent host."""
    alarm = Alarm(event.host, "silent", f"not heard; a meter reads {event.reading_milliwatts} mW")
    if rules.silent_keeps_watts or event.reading_milliwatts is None:
        return state, (alarm,)
    freed = changed(state.hosts[event.host], bound_milliwatts=event.reading_milliwatts, outstanding=())
    return with_host(state, freed)[0], (alarm,)
