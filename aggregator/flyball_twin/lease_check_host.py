"""One host and its ledger, exhaustively: both ends are the programs' own step functions.

The network is the set of all messages ever sent: any of them may arrive, again, at any time, or never; so loss, delay,
doubling, reordering and a replaying broker are choices of delivery. Parts of a state are numbered and the pure steps
remembered, so that each (part, event) pair runs through the real code once and the search itself is on small integers.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, NamedTuple, TypeVar

from flyball_aggregator.power import ledger as ledgers
from flyball_aggregator.power.ledger import LedgerState
from flyball_aggregator.power.ledger_host import HostLedger, with_grant
from flyball_twin import lease_check_machine as machines
from flyball_twin.lease_check_liveness import recovers
from flyball_twin.lease_check_machine import HOST, LONG_MS, MAXIMUM, Machine, MachineKind
from flyball_twin.lease_check_rules import ALL_RULES, Rules
from flyball_wire.lease import Fence, Lease, Report

ROW: Final = "row"
FAULTS: Final = (
    "crash", "reboot", "rollback", "failover", "restore", "outlet", "hang", "reset", "forge", "clone", "silent",
    "late", "old_key", "move", "stop",
)  # fmt: skip
T = TypeVar("T")
Action = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a search goes: messages and starts, levels, and how often each fault may strike."""

    grants: int = 3  # leases and probes sent
    epochs: int = 2
    incarnations: int = 2
    minimum: int = 1
    safe: int = 1
    dead_band: int = 0
    settles: bool = False
    faults: tuple[tuple[str, int], ...] = (("crash", 1), ("reboot", 1))
    max_states: int = 1_000_000


class World(NamedTuple):
    """A state of the search: numbered parts, and the sets of messages ever sent as bit masks."""

    machines: tuple[int, ...]
    ledger: int
    durable: int
    backup: int  # -1: none taken
    leases: int
    reports: int
    incarnations: int
    faults: tuple[int, ...]
    sent: int = 0  # leases and probes ever sent
    has_moved: bool = False


class Interned(Generic[T]):
    """Values by number and numbers by value."""

    def __init__(self) -> None:
        self.values: list[T] = []
        self._numbers: dict[Any, int] = {}

    def number(self, value: T, key: Any = None) -> int:
        """Return the number of a value, a new one if it was not seen before; `key` stands for it where it cannot."""
        key = value if key is None else key
        known = self._numbers.get(key)
        if known is None:
            known = self._numbers[key] = len(self.values)
            self.values.append(value)
        return known


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy of the store as it was."""

    durable: HostLedger
    epoch: int
    epochs: tuple[tuple[int, int], ...]


class HostModel:
    """The world of one host: where it starts, and every step from a state."""

    def __init__(self, bounds: Bounds, rules: Rules = ALL_RULES) -> None:
        self.bounds = bounds
        self._use(rules)
        self._machines: Interned[Machine] = Interned()
        self._ledgers: Interned[LedgerState] = Interned()
        self._durables: Interned[HostLedger] = Interned()
        self._backups: Interned[Backup] = Interned()
        self._leases: Interned[Lease] = Interned()
        self._reports: Interned[Report] = Interned()
        self._fault_at = {name: at for at, (name, _) in enumerate(bounds.faults)}
        self._may_reduce = rules is ALL_RULES and not {"restore", "late", "old_key"} & set(self._fault_at)

    def _use(self, rules: Rules) -> None:
        """Go on under these rules; what was remembered under others is forgotten."""
        bounds = self.bounds
        self.rules = rules
        self._kinds = tuple(
            MachineKind(rules, uuid, bounds.minimum, bounds.dead_band, bounds.settles) for uuid in ("gpu", "clone")
        )
        self._memo: dict[Any, Any] = {}

    def initial(self) -> World:
        """Return a host at work under its first lease, everything acked, and its ledger; all rules hold so far."""
        rules = self.rules
        self._use(ALL_RULES)
        world = self._at_work()
        self._use(rules)
        return world

    def _at_work(self) -> World:
        state = LedgerState(
            settings=ledgers.LedgerSettings(ttl_ms=LONG_MS, hold_ms=0, ramp_milliwatts_per_s=1, renew_ms=0)
        )
        for event in (ledgers.EpochStarted(1), ledgers.HostEnrolled(HOST, MAXIMUM), _rows(HOST)):
            state, _ = ledgers.step(state, event, self.rules.ledger)
        ledger = self._ledger(state)
        durable = self._durables.number(state.hosts[HOST])
        world = World((), ledger, durable, -1, 0, 0, 1, tuple(count for _, count in self.bounds.faults))
        kind = self._kinds[0]
        done = machines.govern(machines.booted(kind), kind, "0")
        world = self._with_machine(world._replace(machines=(0,)), 0, done)
        for action in _SET_UP:
            world = self._set_up(world, action)
        return world

    def successors(self, world: World) -> Iterator[tuple[Action, World]]:
        """Yield every step from a state."""
        yield from self._ledger_steps(world)
        for at in range(len(world.machines)):
            yield from self._machine_steps(world, at)
        yield from self._site_steps(world)

    def reduced(self, world: World) -> World:
        """Return the state without what can change nothing any more; exact while all rules hold.

        A lease is done with when no governor alive will apply it (incarnations never return, fences only rise); a
        report when the log already has a newer one of that incarnation; the log itself when nobody will read it.
        """
        if not self._may_reduce:
            return world
        durable = world.durable if "failover" in self._fault_at else 0
        leases = self._cached(("leases", world.machines, world.leases), self._live_leases, world)
        known = ("log", world.durable) if durable else ("ledger", world.ledger)
        reports = self._cached((known, world.reports), self._live_reports, world)
        return world._replace(durable=durable, leases=leases, reports=reports)

    def _cached(self, key: Any, find: Callable[[World], int], world: World) -> int:
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = find(world)
        return int(found)

    def _live_leases(self, world: World) -> int:
        keepers = [self._machines.values[number].keeper for number in world.machines]
        fences = {keeper.incarnation: keeper.fence for keeper in keepers if keeper is not None}
        live = 0
        for number in _bits(world.leases):
            lease = self._leases.values[number]
            applied = fences.get(lease.incarnation)
            if applied is not None and lease.fence > applied:
                live |= 1 << number
        return live

    def _live_reports(self, world: World) -> int:
        is_logged = "failover" in self._fault_at
        host = self._durables.values[world.durable] if is_logged else self._ledgers.values[world.ledger].hosts[HOST]
        live = 0
        for number in _bits(world.reports):
            report = self._reports.values[number]
            is_old = (report.fence, report.stamp_ms) < (host.fence, host.stamp_ms)
            if report.incarnation != host.incarnation or not is_old:
                live |= 1 << number
        return live

    def violation(self, world: World) -> str | None:
        """Return the property that a state breaks, or None."""
        draw = 0
        for number in world.machines:
            machine = self._machines.values[number]
            if machine.broken is not None:
                return machine.broken
            draw += machine.draw
        state = self._ledgers.values[world.ledger]
        counted = state.hosts[HOST].commitment_milliwatts
        if draw > counted:
            return f"the host draws {draw}, its commitment is {counted}"
        in_row = state.rows[ROW].committed_ppm // 1_000_000
        if draw > in_row:
            return f"the row carries {draw}, its sum of commitments is {in_row}"
        return None

    def ends(self, world: World) -> tuple[int, int]:
        """Return the parts of a state that its recovery depends on, once all messages are lost."""
        return world.machines[0], world.ledger

    def recovers(self, ends: tuple[int, int]) -> bool:
        """Return whether everything can be granted again from there once faults end."""
        machine, ledger = self._machines.values[ends[0]], self._ledgers.values[ends[1]]
        return recovers(machine, ledger, self._kinds[0], self.rules)

    def label(self, action: Action) -> str:
        """Return an action in words, the same in every search."""
        what, at, argument = action
        if what in ("deliver", "late", "old_key"):
            lease = self._leases.values[argument]
            watts = "probe" if lease.watts_milliwatts is None else f"{lease.watts_milliwatts}"
            return f"{what} {at}: {watts} at {lease.fence.epoch}.{lease.fence.seq} to {lease.incarnation}"
        if what in ("hear", "forge"):
            report = self._reports.values[argument]
            where = f"{report.fence.epoch}.{report.fence.seq}"
            return f"{what}: {report.bound_milliwatts} at {where} of {report.incarnation}@{report.stamp_ms}"
        return f"{what} {at} {argument}"

    def sizes(self) -> dict[str, int]:
        """Return how many distinct parts the search met."""
        return {
            "machines": len(self._machines.values),
            "ledgers": len(self._ledgers.values),
            "leases": len(self._leases.values),
            "reports": len(self._reports.values),
        }

    # Steps of the ledger.

    def _ledger_steps(self, world: World) -> Iterator[tuple[Action, World]]:
        if world.sent < self.bounds.grants + 2:
            for watts in range(1, MAXIMUM + 1):
                after = self._tell_ledger(world, ("grant", watts))
                if after is not None:
                    yield ("grant", 0, watts), after
        for number in _bits(world.reports):
            after = self._tell_ledger(world, ("hear", number))
            if after is not None:
                yield ("hear", 0, number), after
        if self._has(world, "forge"):
            yield from self._forged(world)

    def _forged(self, world: World) -> Iterator[tuple[Action, World]]:
        for number in _bits(world.reports):
            report = self._reports.values[number]
            for lease_number in _bits(world.leases):
                lease = self._leases.values[lease_number]
                made = replace(report, fence=lease.fence, bound_milliwatts=self.bounds.minimum)
                forged = self._reports.number(made)
                after = self._tell_ledger(world, ("forge", forged))
                if after is not None:
                    yield ("forge", 0, forged), self._spend(after, "forge")

    def _tell_ledger(self, world: World, event: tuple[str, int]) -> World | None:
        key = (world.ledger, world.durable, event)
        if key not in self._memo:
            self._memo[key] = self._run_ledger(*key)
        done = self._memo[key]
        if done is None:
            return None
        ledger, durable, leases = done
        sent = world.sent + leases.bit_count()
        return world._replace(ledger=ledger, durable=durable, leases=world.leases | leases, sent=sent)

    def _run_ledger(self, ledger: int, durable_number: int, event: tuple[str, int]) -> tuple[int, int, int] | None:
        before = self._ledgers.values[ledger]
        state, effects = ledgers.step(before, self._event(event), self.rules.ledger)
        durable, sent = self._durables.values[durable_number], 0
        for effect in effects:
            if isinstance(effect, ledgers.LogHost):
                durable = effect.host
            elif isinstance(effect, ledgers.LogGrant) and effect.milliwatts is not None:
                durable = with_grant(durable, effect.fence, effect.milliwatts)
            elif isinstance(effect, ledgers.SendLease):
                sent |= 1 << self._leases.number(effect.lease)
            elif isinstance(effect, ledgers.TakeEpoch):
                again = ledgers.EpochStarted(effect.above + 1, before.epochs, is_restored=True)
                state, _ = ledgers.step(state, again, self.rules.ledger)
        done = self._ledger(state), self._durables.number(durable), sent
        return None if done[0] == ledger and not sent else done

    def _event(self, event: tuple[str, int]) -> ledgers.LedgerEvent:
        what, argument = event
        match what:
            case "grant":
                return ledgers.GrantWanted(HOST, argument, self.bounds.safe, 0)
            case "silent":
                return ledgers.HostSilent(HOST, argument)
            case "lock":
                return ledgers.OutletLocked(HOST)
            case "unlock":
                return ledgers.OutletUnlockWanted(HOST)
            case "move":
                return _rows()
            case _:
                return ledgers.ReportReceived(self._reports.values[argument], is_authenticated=what == "hear")

    def _ledger(self, state: LedgerState) -> int:
        epochs = tuple(sorted(state.epochs.items()))
        shares = state.coefficients.get(HOST, ())
        key = (state.epoch, state.seq, epochs, state.forgiven_below_epoch, state.hosts[HOST], shares)
        return self._ledgers.number(state, key)

    # Steps of a machine.

    def _machine_steps(self, world: World, at: int) -> Iterator[tuple[Action, World]]:
        for number in _bits(world.leases):
            yield from self._act(world, "deliver", at, number)
            for what in ("late", "old_key"):
                if self._has(world, what):
                    yield from self._act(world, what, at, number, fault=what)
        for what in ("write", "settle", "complete", "say"):
            yield from self._act(world, what, at, 0)
        for seconds in (1, 2):
            yield from self._act(world, "run_out", at, seconds)
        for what in ("crash", "hang", "reset", "stop", "reboot", "rollback", "lose_disk"):
            fault = "rollback" if what == "lose_disk" else what
            if self._has(world, fault):
                yield from self._act(world, what, at, 0, fault=fault)
        if world.incarnations < self.bounds.incarnations + len(world.machines) - 1:
            for action, after in self._act(world, "govern", at, world.incarnations):
                yield action, after._replace(incarnations=world.incarnations + 1)

    def _act(
        self, world: World, what: str, at: int, argument: int, fault: str | None = None
    ) -> Iterator[tuple[Action, World]]:
        key = (world.machines[at], at, what, argument)
        if key not in self._memo:
            done = self._run_machine(self._machines.values[key[0]], self._kinds[at], what, argument)
            self._memo[key] = None if done is None else self._numbered(done)
        after = self._memo[key]
        if after is None:
            return
        number, reports = after
        if number == world.machines[at] and reports | world.reports == world.reports:
            return
        known = (*world.machines[:at], number, *world.machines[at + 1 :])
        moved = world._replace(machines=known, reports=world.reports | reports)
        yield (what, at, argument), moved if fault is None else self._spend(moved, fault)

    def _run_machine(self, machine: Machine, kind: MachineKind, what: str, argument: int) -> machines.Step | None:
        match what:
            case "deliver":
                return machines.deliver(machine, kind, self._leases.values[argument])
            case "late":
                return machines.deliver_late(machine, kind, self._leases.values[argument])
            case "old_key":
                stolen = replace(self._leases.values[argument], fence=Fence(9, 9), watts_milliwatts=MAXIMUM)
                return machines.deliver(machine, kind, stolen, key_generation=0)
            case "run_out":
                return machines.run_out(machine, kind, argument)
            case "govern":
                return machines.govern(machine, kind, str(argument))
            case "crash":
                return machines.crash(machine)
            case "reboot":
                return machines.reboot(machine, disk=machine.disk)
            case "rollback":
                return machines.reboot(machine, disk=machine.old_disk)
            case "lose_disk":
                return machines.reboot(machine, disk=None)
            case _:
                return _ACTS[what](machine, kind)

    def _numbered(self, done: machines.Step) -> tuple[int, int]:
        machine, reports = done
        if "rollback" not in self._fault_at:
            machine = machine._replace(old_disk=None)
        mask = 0
        for report in reports:
            mask |= 1 << self._reports.number(report)
        return self._machines.number(machine), mask

    def _with_machine(self, world: World, at: int, done: machines.Step | None) -> World:
        if done is None:
            raise AssertionError("the set-up of the check did not run")
        number, reports = self._numbered(done)
        known = (*world.machines[:at], number, *world.machines[at + 1 :])
        return world._replace(machines=known, reports=world.reports | reports)

    # Steps of the site around both.

    def _site_steps(self, world: World) -> Iterator[tuple[Action, World]]:
        state = self._ledgers.values[world.ledger]
        if self._has(world, "failover") and state.epoch < self.bounds.epochs:
            yield ("failover", 0, 0), self._spend(self._lead(world, self._from_log(world)), "failover")
        if self._has(world, "restore"):
            if world.backup < 0:
                yield ("backup", 0, 0), world._replace(backup=self._back_up(world))
            else:
                yield ("restore", 0, 0), self._spend(self._lead(world, self._from_backup(world)), "restore")
        yield from self._outlet(world)
        if self._has(world, "silent"):
            read = sum(self._machines.values[number].draw for number in world.machines)
            after = self._tell_ledger(world, ("silent", read))
            if after is not None:
                yield ("silent", 0, read), self._spend(after, "silent")
        if self._has(world, "move") and not world.has_moved:
            left = self._tell_ledger(world, ("move", 0)) or world
            yield ("move", 0, 0), self._spend(left, "move")._replace(has_moved=True)
        if self._has(world, "clone") and len(world.machines) == 1:
            kind = self._kinds[1]
            done = machines.govern(machines.booted(kind), kind, str(world.incarnations))
            grown = world._replace(machines=(*world.machines, 0), incarnations=world.incarnations + 1)
            yield ("clone", 1, 0), self._spend(self._with_machine(grown, 1, done), "clone")

    def _outlet(self, world: World) -> Iterator[tuple[Action, World]]:
        machine = self._machines.values[world.machines[0]]
        if machine.is_off:
            after = self._tell_ledger(world, ("unlock", 0)) or world
            if not self._ledgers.values[after.ledger].hosts[HOST].is_locked_off:
                yield ("on", 0, 0), self._with_machine(after, 0, machines.switch_on(machine))
        elif self._has(world, "outlet"):
            locked = self._tell_ledger(world, ("lock", 0))
            if locked is not None:
                off = self._with_machine(locked, 0, machines.switch_off(machine))
                yield ("off", 0, 0), self._spend(off, "outlet")

    def _from_log(self, world: World) -> tuple[HostLedger, ledgers.EpochStarted]:
        state = self._ledgers.values[world.ledger]
        epochs = {**state.epochs, state.epoch: state.seq}
        return self._durables.values[world.durable], ledgers.EpochStarted(state.epoch + 1, epochs)

    def _from_backup(self, world: World) -> tuple[HostLedger, ledgers.EpochStarted]:
        copy, state = self._backups.values[world.backup], self._ledgers.values[world.ledger]
        is_noticed = self.rules.ledger.restore_counts_maximum
        epoch = (state.epoch if is_noticed else copy.epoch) + 1
        return copy.durable, ledgers.EpochStarted(epoch, dict(copy.epochs), is_restored=is_noticed)

    def _back_up(self, world: World) -> int:
        state = self._ledgers.values[world.ledger]
        epochs = tuple(sorted({**state.epochs, state.epoch: state.seq}.items()))
        return self._backups.number(Backup(self._durables.values[world.durable], state.epoch, epochs))

    def _lead(self, world: World, found: tuple[HostLedger, ledgers.EpochStarted]) -> World:
        """Let a new leader begin from what it found; the site file gives it the rows."""
        host, event = found
        before = self._ledgers.values[world.ledger]
        members = ((HOST, ((ROW, 1_000_000),)),)
        state = ledgers.restore(before.settings, event, (host,), members, self.rules.ledger)
        state, _ = ledgers.step(state, _rows() if world.has_moved else _rows(HOST), self.rules.ledger)
        return world._replace(ledger=self._ledger(state), durable=self._durables.number(host))

    def _has(self, world: World, fault: str) -> bool:
        at = self._fault_at.get(fault)
        return at is not None and world.faults[at] > 0

    def _spend(self, world: World, fault: str) -> World:
        at, left = self._fault_at[fault], world.faults
        return world._replace(faults=(*left[:at], left[at] - 1, *left[at + 1 :]))

    def _set_up(self, world: World, action: Action) -> World:
        """Take one step of the set-up; argument -1 is the newest message."""
        what, at, argument = action
        if argument == -1:
            argument = max(_bits(world.leases if what == "deliver" else world.reports))
        for found, after in self.successors(world):
            if found == (what, at, argument):
                return after
        if what in ("write", "settle"):
            return world  # already where it should be
        raise AssertionError(f"set-up: {action} is not possible")


_SET_UP: Final = (
    ("write", 0, 0), ("settle", 0, 0), ("hear", 0, -1), ("grant", 0, 2), ("deliver", 0, -1), ("hear", 0, -1),
    ("grant", 0, 2), ("deliver", 0, -1), ("write", 0, 0), ("hear", 0, -1),
)  # fmt: skip
_ACTS: Final[dict[str, Callable[[Machine, MachineKind], machines.Step | None]]] = {
    "write": machines.write,
    "settle": machines.settle,
    "complete": machines.complete,
    "say": machines.report_again,
    "hang": machines.hang,
    "reset": machines.reset,
    "stop": machines.stop,
}


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search found: all states within the bounds, or the shortest way to a violation."""

    states: int
    steps: int
    is_complete: bool
    violation: str | None
    trace: tuple[str, ...]
    cpu_s: float
    recovered: int  # distinct ends that were checked for liveness
    distinct: dict[str, int]


def search(model: HostModel, *, checks_liveness: bool = False) -> Searched:
    """Walk breadth first over every state within the bounds, or up to the first violation.

    With `checks_liveness` every state must also recover once faults end.
    """
    begun_s = time.process_time()
    first = model.reduced(model.initial())
    came: dict[World, tuple[World, Action] | None] = {first: None}
    order, steps, limit = [first], 0, model.bounds.max_states
    found: tuple[World, str] | None = None
    recovered: set[tuple[int, int]] = set()
    for world in order:
        broken = model.violation(world)
        if checks_liveness and broken is None and model.ends(world) not in recovered:
            recovered.add(model.ends(world))
            broken = None if model.recovers(model.ends(world)) else "what it held can be granted again"
        if broken is not None:
            found = world, broken
            break
        if len(order) >= limit:
            break
        for action, reached in model.successors(world):
            steps += 1
            after = model.reduced(reached)
            if after not in came:
                came[after] = world, action
                order.append(after)
    is_complete = found is None and len(order) < limit
    trace = () if found is None else _trace(model, came, found[0])
    return Searched(
        len(order), steps, is_complete, found[1] if found else None, trace,
        time.process_time() - begun_s, len(recovered), model.sizes(),
    )  # fmt: skip


def replay(model: HostModel, trace: tuple[str, ...]) -> str | None:
    """Return the property that a stored trace breaks at its end, None if it holds or a step is not possible."""
    world = model.initial()
    for wanted in trace:
        for action, after in model.successors(world):
            if model.label(action) == wanted:
                world = after
                break
        else:
            return None
    return model.violation(world)


def _trace(model: HostModel, came: dict[World, tuple[World, Action] | None], world: World) -> tuple[str, ...]:
    labels = []
    before = came[world]
    while before is not None:
        world, action = before
        labels.append(model.label(action))
        before = came[world]
    return tuple(reversed(labels))


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _rows(*hosts: str) -> ledgers.RowsChanged:
    return ledgers.RowsChanged((ledgers.Row(ROW, 1000, 0, tuple((host, 1_000_000) for host in hosts)),))
