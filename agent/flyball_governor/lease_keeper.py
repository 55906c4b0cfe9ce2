"""The lease keeper: decides from leases, time and read-back what a host's caps may sum to.

Pure: `step(state, event)` gives the next state and the effects to carry out, in their order. The invariant: what a
report says is never below what the host may draw until the next report, and nothing here raises that without a lease.
"""

from dataclasses import dataclass
from typing import Literal

from flyball_governor.bound import DeviceFacts, cap_sum_within
from flyball_governor.lease_events import (
    ALL_KEEPER_RULES,
    BoundChanged,
    HostLimitChanged,
    KeeperEffect,
    KeeperEvent,
    KeeperRecord,
    KeeperRules,
    KeeperSettings,
    LeaseReceived,
    Note,
    OpenGate,
    Persist,
    QuiesceEnded,
    QuiesceStarted,
    ReleaseReceived,
    RestorePriors,
    SendReport,
    SetBudget,
    ShutGate,
    Started,
    Stopping,
    Tick,
)
from flyball_wire.changed import changed
from flyball_wire.lease import NO_FENCE, Fence, Lease, Report

__all__ = [
    "ALL_KEEPER_RULES",
    "BoundChanged",
    "DeviceFacts",
    "HostLimitChanged",
    "KeeperEffect",
    "KeeperEvent",
    "KeeperRecord",
    "KeeperRules",
    "KeeperSettings",
    "KeeperState",
    "LeaseReceived",
    "Note",
    "OpenGate",
    "Outcome",
    "Persist",
    "Phase",
    "QuiesceEnded",
    "QuiesceStarted",
    "ReleaseReceived",
    "RestorePriors",
    "SendReport",
    "SetBudget",
    "ShutGate",
    "Started",
    "Stopping",
    "Tick",
    "current_report",
    "reported_bound_milliwatts",
    "start",
    "step",
]

Phase = Literal["no_lease", "local", "leased", "holding", "ramping", "safe", "released"]


@dataclass(frozen=True, slots=True)
class KeeperState:
    """All that a lease keeper knows.

    `allowed_milliwatts` is what the split may bring the bound to; it only falls until a lease raises it.
    """

    settings: KeeperSettings
    incarnation: str
    boot_id: str
    phase: Phase
    facts: DeviceFacts
    allowed_milliwatts: int
    safe_milliwatts: int
    fence: Fence = NO_FENCE
    lease_milliwatts: int | None = None
    expires_ms: int = 0
    hold_ms: int = 0
    ramp_milliwatts_per_s: int = 1
    ramp_from_milliwatts: int = 0
    key_generation: int = 0
    is_gate_open: bool = False
    may_open: bool = False
    quiesce: str | None = None
    is_quiesce_idle: bool = False
    is_released: bool = False
    has_left_reset: bool = False  # the reset is over but caps are not back yet
    host_limit_milliwatts: int | None = None
    is_reporting: bool = False
    started_ms: int = 0
    next_report_ms: int = 0
    report_stamp_ms: int = 0


Outcome = tuple[KeeperState, tuple[KeeperEffect, ...]]


def start(event: Started, rules: KeeperRules = ALL_KEEPER_RULES) -> Outcome:
    """Return the first state of a governor incarnation: gate shut, nothing raised above what the caps allow now.

    The record on disk may only lower; one of another boot says nothing, and the caps then come down to the minimum.
    """
    settings, record = event.settings, event.record
    restarted = record is not None and record.boot_id == event.boot_id
    allowed, may_open = _allowed_at_start(event, restarted=restarted, rules=rules)
    state = KeeperState(
        settings=settings,
        incarnation=event.incarnation,
        boot_id=event.boot_id,
        phase="local" if settings.is_standalone else "holding" if restarted else "no_lease",
        facts=event.facts,
        allowed_milliwatts=allowed,
        safe_milliwatts=record.safe_milliwatts if record is not None else 0,
        fence=record.fence if record is not None and not rules.own_incarnation else NO_FENCE,
        expires_ms=min(record.expires_ms, event.now_ms) if restarted and record is not None else event.now_ms,
        hold_ms=settings.hold_ms,
        ramp_milliwatts_per_s=settings.ramp_milliwatts_per_s,
        ramp_from_milliwatts=allowed,
        key_generation=record.key_generation if record is not None else 0,
        may_open=may_open,
        host_limit_milliwatts=settings.host_limit_milliwatts,
        started_ms=event.now_ms,
    )
    state, gate = _with_gate(state)
    state, reports = _with_first_report(state, event.now_ms, rules)
    shut = () if state.is_gate_open else (ShutGate("governor started"),)
    return state, (*shut, *_budget(state), *gate, *reports)


def step(state: KeeperState, event: KeeperEvent, rules: KeeperRules = ALL_KEEPER_RULES) -> Outcome:
    """Return the next state and what to do about an event, in order."""
    match event:
        case Tick(now_ms=now_ms):
            return _tick(state, now_ms, rules)
        case LeaseReceived():
            return _receive(state, event, rules)
        case BoundChanged(facts=facts, now_ms=now_ms):
            return _read_back(state, facts, now_ms, rules)
        case QuiesceStarted():
            return _quiesce(state, event, rules)
        case QuiesceEnded(facts=facts, now_ms=now_ms):
            return _read_back(changed(state, has_left_reset=True), facts, now_ms, rules)
        case ReleaseReceived():
            return _release(state, event, rules)
        case HostLimitChanged(milliwatts=milliwatts, now_ms=now_ms):
            return _limit(state, milliwatts, now_ms, rules)
        case Stopping():
            restore = () if rules.only_lowers else (RestorePriors(),)
            state = changed(state, is_gate_open=False)
            return state, (ShutGate("governor stops"), Persist(_record(state)), *restore)


def reported_bound_milliwatts(state: KeeperState, rules: KeeperRules = ALL_KEEPER_RULES) -> int:
    """Return what a report must say: the read-back bound, and never less than the split may raise it to."""
    facts = state.facts
    if _hands_off(state):
        return max(facts.maximum_milliwatts, facts.bound_milliwatts)
    if not rules.acks_read_back and state.lease_milliwatts is not None:
        return state.lease_milliwatts
    if state.quiesce is not None and rules.gates_before_reset:
        return state.allowed_milliwatts if state.is_quiesce_idle else facts.maximum_milliwatts
    return max(facts.bound_milliwatts, state.allowed_milliwatts)


def current_report(state: KeeperState, rules: KeeperRules = ALL_KEEPER_RULES) -> Report:
    """Return the report of a state, with the stamp the state holds."""
    facts = state.facts
    return Report(
        host=state.settings.host,
        incarnation=state.incarnation,
        boot_id=state.boot_id,
        gpu_uuids=state.settings.gpu_uuids,
        fence=state.fence,
        bound_milliwatts=reported_bound_milliwatts(state, rules),
        minimum_milliwatts=facts.minimum_milliwatts,
        maximum_milliwatts=facts.maximum_milliwatts,
        stamp_ms=state.report_stamp_ms,
        mode="observe" if _hands_off(state) else "enforce",
        is_gated=not state.is_gate_open,
        has_foreign_cap=facts.has_foreign_cap,
        can_write=facts.can_write and facts.is_persistent,
        lease_watts_milliwatts=state.lease_milliwatts,
    )


def _allowed_at_start(event: Started, *, restarted: bool, rules: KeeperRules) -> tuple[int, bool]:
    """Return what the first budget is and whether the gate may open on it without a lease."""
    settings, facts, record = event.settings, event.facts, event.record
    least, limit = facts.minimum_milliwatts, settings.host_limit_milliwatts
    if settings.is_standalone:
        return max(least, facts.maximum_milliwatts if limit is None else limit), True
    if restarted and record is not None:
        allowed, may_open = min(facts.bound_milliwatts, record.allowed_milliwatts), not rules.gates_after_boot
    elif not rules.gates_after_boot:
        allowed, may_open = record.allowed_milliwatts if record is not None else facts.bound_milliwatts, True
    else:
        share = settings.boot_share_milliwatts
        allowed, may_open = share or 0, share is not None and share >= least
    return max(least, allowed if limit is None else min(allowed, limit)), may_open


def _tick(state: KeeperState, now_ms: int, rules: KeeperRules) -> Outcome:
    effects: tuple[KeeperEffect, ...] = ()
    if now_ms > state.expires_ms and state.phase in ("leased", "holding", "ramping"):
        state, effects = _expired(state, now_ms, rules)
    if not state.is_reporting:
        state, reports = _with_first_report(state, now_ms, rules)
        return state, effects + reports
    if now_ms >= state.next_report_ms:
        return _with_report(state, now_ms, "periodic", effects, rules)
    return state, effects


def _expired(state: KeeperState, now_ms: int, rules: KeeperRules) -> Outcome:
    """Hold, then ramp down to the safe share; whatever the safe share says, nothing rises."""
    floor = max(state.safe_milliwatts, state.facts.minimum_milliwatts)
    late_ms = now_ms - state.expires_ms - state.hold_ms
    if late_ms <= 0:
        return (state if state.phase == "holding" else changed(state, phase="holding")), ()
    target = max(floor, state.ramp_from_milliwatts - state.ramp_milliwatts_per_s * late_ms // 1000)
    phase: Phase = "ramping" if target > floor else "safe"
    allowed = min(state.allowed_milliwatts, target) if rules.only_lowers else target
    if allowed == state.allowed_milliwatts:
        return (state if state.phase == phase else changed(state, phase=phase)), ()
    state = changed(state, phase=phase, allowed_milliwatts=allowed)
    return state, _budget(state)


def _receive(state: KeeperState, event: LeaseReceived, rules: KeeperRules) -> Outcome:
    lease = event.lease
    if lease.host != state.settings.host or (rules.own_incarnation and lease.incarnation != state.incarnation):
        return state, (Note("a lease for another governor was left alone"),)
    if rules.generations_rise and event.key_generation < state.key_generation:
        return state, (Note(f"a lease under key generation {event.key_generation}: {state.key_generation} is in use"),)
    is_newer = lease.fence > state.fence or (lease.fence == state.fence and not rules.strictly_greater)
    if not is_newer:
        return _with_report(state, event.now_ms, "lease seen before", (), rules)
    if rules.dead_on_arrival and not _is_alive(state, lease.stamp_ms, lease.ttl_ms, event.now_ms):
        return _with_report(state, event.now_ms, "lease dead on arrival", (), rules)
    state = changed(state, fence=lease.fence, key_generation=max(event.key_generation, state.key_generation))
    if lease.watts_milliwatts is None:
        return _with_report(state, event.now_ms, "probe", (Persist(_record(state)),), rules)
    return _apply(state, lease, lease.watts_milliwatts, event, rules)


def _apply(state: KeeperState, lease: Lease, watts: int, event: LeaseReceived, rules: KeeperRules) -> Outcome:
    """Take a lease: the budget moves at once, the report follows what is read back."""
    least, limit = state.facts.minimum_milliwatts, state.host_limit_milliwatts
    granted = min(watts, state.allowed_milliwatts) if event.is_key_expired else watts
    granted = granted if limit is None else min(granted, limit)
    before = state.allowed_milliwatts
    state = changed(
        state,
        phase="released" if state.is_released else "leased",
        lease_milliwatts=watts,
        allowed_milliwatts=max(least, granted),
        ramp_from_milliwatts=max(least, granted),
        safe_milliwatts=lease.safe_milliwatts,
        expires_ms=lease.stamp_ms + lease.ttl_ms if rules.dead_on_arrival else event.now_ms + lease.ttl_ms,
        hold_ms=lease.hold_ms,
        ramp_milliwatts_per_s=lease.ramp_milliwatts_per_s,
        may_open=state.is_gate_open or granted >= least,
    )
    budget = _budget(state) if state.allowed_milliwatts != before else ()
    state, gate = _with_gate(state)
    return _with_report(state, event.now_ms, "lease", (Persist(_record(state)), *budget, *gate), rules)


def _read_back(state: KeeperState, facts: DeviceFacts, now_ms: int, rules: KeeperRules) -> Outcome:
    before = current_report(state, rules)
    has_risen = facts.bound_milliwatts > max(state.facts.bound_milliwatts, state.allowed_milliwatts)
    is_within = facts.bound_milliwatts <= state.allowed_milliwatts
    state = changed(state, facts=facts)
    if state.has_left_reset and (is_within or not rules.gates_before_reset):
        state = changed(state, quiesce=None, has_left_reset=False)
    effects: tuple[KeeperEffect, ...] = ()
    if has_risen and not _hands_off(state):
        effects = (*effects, *_budget(state), Note("the bound rose by itself: caps are written again"))
    state, gate = _with_gate(state, has_risen=has_risen and rules.gates_before_reset)
    effects = (*effects, *gate)
    if not state.is_reporting:
        state, reports = _with_first_report(state, now_ms, rules)
        return state, effects + reports
    if current_report(state, rules) == before:
        return state, effects
    return _with_report(state, now_ms, "bound changed", effects, rules)


def _quiesce(state: KeeperState, event: QuiesceStarted, rules: KeeperRules) -> Outcome:
    state = changed(state, quiesce=event.reason, is_quiesce_idle=event.is_idle, has_left_reset=False)
    if not rules.gates_before_reset:
        return state, ()
    state, gate = _with_gate(state)
    return _with_report(state, event.now_ms, f"quiesce: {event.reason}", gate, rules)


def _release(state: KeeperState, event: ReleaseReceived, rules: KeeperRules) -> Outcome:
    if event.incarnation != state.incarnation or event.fence <= state.fence:
        return state, (Note("a release for another governor or of the past was left alone"),)
    if not _is_alive(state, event.stamp_ms, event.ttl_ms, event.now_ms):
        return state, (Note("a release was dead on arrival"),)
    state = changed(state, fence=event.fence, is_released=True, phase="released")
    state, gate = _with_gate(state)
    return _with_report(state, event.now_ms, "released", (Persist(_record(state)), RestorePriors(), *gate), rules)


def _limit(state: KeeperState, milliwatts: int | None, now_ms: int, rules: KeeperRules) -> Outcome:
    """Follow the host's own file: it lowers at once; it raises only where no aggregator leases."""
    least = state.facts.minimum_milliwatts
    wanted = state.facts.maximum_milliwatts if milliwatts is None else milliwatts
    allowed = max(least, wanted if state.settings.is_standalone else min(wanted, state.allowed_milliwatts))
    allowed = allowed if state.settings.is_standalone else min(allowed, state.allowed_milliwatts)
    state = changed(state, host_limit_milliwatts=milliwatts, allowed_milliwatts=allowed)
    return _with_report(state, now_ms, "host limit changed", _budget(state), rules)


def _with_gate(state: KeeperState, *, has_risen: bool = False) -> Outcome:
    """Open or shut the gate as the state says.

    It opens once caps are read back within what is allowed; it stays open while a lowering settles.
    """
    facts = state.facts
    is_ready = facts.can_write and facts.is_persistent and state.quiesce is None and state.may_open and not has_risen
    is_within = state.is_gate_open or facts.bound_milliwatts <= state.allowed_milliwatts
    wants_open = _hands_off(state) or (is_ready and is_within)
    if wants_open == state.is_gate_open:
        return state, ()
    if wants_open:
        return changed(state, is_gate_open=True), (OpenGate(),)
    return changed(state, is_gate_open=False), (ShutGate(_shut_reason(state)),)


def _shut_reason(state: KeeperState) -> str:
    if state.quiesce is not None:
        return state.quiesce
    if not state.facts.can_write:
        return "caps cannot be written"
    return "persistence mode is off" if not state.facts.is_persistent else "the bound is above what is allowed"


def _with_first_report(state: KeeperState, now_ms: int, rules: KeeperRules) -> Outcome:
    """Start to report once the caps are down, or when that takes too long: a booting host is gated and draws idle."""
    is_down = _hands_off(state) or state.facts.bound_milliwatts <= state.allowed_milliwatts
    if not is_down and now_ms < state.started_ms + state.settings.first_report_ms:
        return state, ()
    return _with_report(changed(state, is_reporting=True), now_ms, "first", (), rules)


def _with_report(
    state: KeeperState, now_ms: int, cause: str, before: tuple[KeeperEffect, ...], rules: KeeperRules
) -> Outcome:
    """Add a report with a fresh stamp after the effects given; stamps of an incarnation strictly rise."""
    if not state.is_reporting:
        return state, before
    stamp_ms = max(now_ms, state.report_stamp_ms + 1)
    state = changed(state, report_stamp_ms=stamp_ms, next_report_ms=now_ms + state.settings.report_ms)
    return state, (*before, SendReport(current_report(state, rules), cause))


def _is_alive(state: KeeperState, stamp_ms: int, ttl_ms: int, now_ms: int) -> bool:
    """Return whether a stamp is one of ours and not older than its lifetime, on the boot clock."""
    return stamp_ms <= state.report_stamp_ms and now_ms <= stamp_ms + ttl_ms


def _hands_off(state: KeeperState) -> bool:
    return state.settings.mode == "observe" or state.is_released


def _budget(state: KeeperState) -> tuple[SetBudget, ...]:
    return (SetBudget(cap_sum_within(state.allowed_milliwatts, state.settings.error_ppm)),)


def _record(state: KeeperState) -> KeeperRecord:
    return KeeperRecord(
        boot_id=state.boot_id,
        fence=state.fence,
        allowed_milliwatts=state.allowed_milliwatts,
        safe_milliwatts=state.safe_milliwatts,
        expires_ms=state.expires_ms,
        key_generation=state.key_generation,
    )
