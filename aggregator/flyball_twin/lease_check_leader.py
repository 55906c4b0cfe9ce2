"""The aggregator of the random fleet check: the real ledger, a durable log, and a plain proportional allocator."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from flyball_aggregator.power.ledger import (
    EpochStarted,
    GrantWanted,
    HostEnrolled,
    HostLedger,
    LedgerEffect,
    LedgerEvent,
    LedgerSettings,
    LedgerState,
    LogAbility,
    LogGrant,
    LogHost,
    LogMembers,
    Outcome,
    Row,
    RowLimitChanged,
    RowsChanged,
    SendLease,
    TakeEpoch,
    largest_grant_milliwatts,
    restore,
    step,
)
from flyball_aggregator.power.ledger_host import with_grant
from flyball_twin.lease_check_rules import Rules
from flyball_wire.lease import Lease

PPM: Final = 1_000_000


@dataclass(slots=True)
class DurableLog:
    """What is on disk: epochs and hosts with the grants logged after them. `is_full` takes no writes."""

    epochs: dict[int, int] = field(default_factory=dict)
    hosts: dict[str, HostLedger] = field(default_factory=dict)
    members: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = ()
    waiting: list[LedgerEffect] = field(default_factory=list)  # kept out by a full disk
    is_full: bool = False

    @property
    def newest_epoch(self) -> int:
        """Return the epoch that may commit."""
        return max(self.epochs, default=0)

    def commit(self, epoch: int, effects: Iterable[LedgerEffect]) -> bool:
        """Write the log effects of a leader; False if it is deposed or there is no room."""
        logs = [effect for effect in effects if isinstance(effect, LogGrant | LogHost | LogMembers)]
        if epoch != self.newest_epoch:
            return not logs
        for log in logs:
            if isinstance(log, LogGrant):
                self.epochs[epoch] = max(self.epochs[epoch], log.fence.seq)  # the witness knows it on a full disk too
        if self.is_full:
            self.waiting.extend(log for log in logs if not isinstance(log, LogGrant) or log.kind == "lower")
            return all(log.kind == "lower" for log in logs if isinstance(log, LogGrant))
        for effect in (*self.waiting, *logs):
            self._write(effect)
        self.waiting.clear()
        return True

    def _write(self, log: LedgerEffect) -> None:
        if isinstance(log, LogHost):
            self.hosts[log.host.host] = log.host
        elif isinstance(log, LogMembers):
            self.members = log.members
        elif isinstance(log, LogGrant) and log.milliwatts is not None:
            self.hosts[log.host] = with_grant(self.hosts[log.host], log.fence, log.milliwatts)

    def copy(self) -> "DurableLog":
        """Return a backup."""
        return DurableLog(dict(self.epochs), dict(self.hosts), self.members)


class Leader:
    """One leader: its ledger, and what it sends once that is logged."""

    def __init__(self, log: DurableLog, settings: LedgerSettings, rows: tuple[Row, ...], rules: Rules) -> None:
        self.log = log
        self.rules = rules
        self.rows = {row.name: row for row in rows}
        self._settings = settings
        self._declared = rows
        self._pending: list[LedgerEffect] = []
        self.state = LedgerState()
        self.zombie_until_s: int | None = None

    def begin(self, enrolled: Mapping[str, int], restored_from: DurableLog | None = None) -> None:
        """Take a new epoch, read the log (or the backup that was put in its place), and take the site's rows."""
        log, found = self.log, self.log if restored_from is None else restored_from
        notices = self.rules.ledger.restore_counts_maximum
        epoch = max(log.newest_epoch, found.newest_epoch) + 1
        event = EpochStarted(epoch, dict(found.epochs), is_restored=restored_from is not None and notices)
        log.epochs[epoch] = 0
        self.state = restore(self._settings, event, found.hosts.values(), found.members, self.rules.ledger)
        for name, maximum in enrolled.items():
            self.tell(HostEnrolled(name, maximum))
        self.tell(RowsChanged(self._declared))
        for row in self.rows.values():
            self.tell(RowLimitChanged(row.name, row.limit_milliwatts, row.constant_milliwatts))
        self.tell(LogAbility(can_log=not log.is_full))

    def tell(self, event: LedgerEvent) -> tuple[LedgerEffect, ...]:
        """Give the ledger an event; what it wants sent waits for `flush`."""
        outcome: Outcome = step(self.state, event, self.rules.ledger)
        self.state, effects = outcome
        if effects:
            self._pending.extend(effects)
        return effects

    def declare(self, rows: tuple[Row, ...]) -> None:
        """Take the rows of an edited site file, at the limits that hold now."""
        self._declared = tuple(Row(row.name, self.rows[row.name].limit_milliwatts, row.constant_milliwatts,
                                   row.coefficients_ppm) for row in rows)  # fmt: skip
        self.tell(RowsChanged(self._declared))

    def set_limit(self, name: str, limit_milliwatts: int) -> None:
        """Move a row's limit."""
        row = self.rows[name]
        self.rows[name] = Row(name, limit_milliwatts, row.constant_milliwatts, row.coefficients_ppm)
        self.tell(RowLimitChanged(name, limit_milliwatts, row.constant_milliwatts))

    def allocate(self, wants: Mapping[str, int], safe: int, now_ms: int) -> None:
        """Want the proportional share of each host: lower first, raise with what the ledger has left."""
        state, targets = self.state, self.targets(wants)
        hosts = state.hosts
        for name in sorted(targets, key=lambda name: targets[name] - hosts[name].commitment_milliwatts):
            wanted = min(targets[name], largest_grant_milliwatts(self.state, name))
            wanted = max(wanted, self.state.hosts[name].minimum_milliwatts)
            self.tell(GrantWanted(name, wanted, safe, now_ms))

    def targets(self, wants: Mapping[str, int]) -> dict[str, int]:
        """Return wants scaled down, above each host's minimum, until every row has room for them."""
        floors = {name: self.state.hosts[name].minimum_milliwatts for name in wants}
        coefficients = {name: self.state.coefficients[name] for name in wants}
        limits = {name: (row.limit_milliwatts - row.constant_milliwatts) * PPM for name, row in self.rows.items()}
        return proportional(wants, floors, coefficients, limits)

    def flush(self) -> list[Lease]:
        """Make the tick durable, then return what may be sent; nothing if the log refused."""
        effects, self._pending = self._pending, []
        leases = [effect.lease for effect in effects if isinstance(effect, SendLease)]
        if not self.log.commit(self.state.epoch, effects):
            self.tell(LogAbility(can_log=False))  # as it finds out only now
            if self.rules.ledger.logs_before_send:
                return []
        for effect in effects:
            if isinstance(effect, TakeEpoch) and self.log.newest_epoch == self.state.epoch:
                raise AssertionError("a whole ledger met a fence it did not know")
        return leases


def proportional(
    wants: Mapping[str, int],
    floors: Mapping[str, int],
    coefficients: Mapping[str, Iterable[tuple[str, int]]],
    limits_ppm: Mapping[str, int],
) -> dict[str, int]:
    """Return wants scaled down above the floors until every row has room; limits in milliwatts x ppm."""
    left, above = dict(limits_ppm), dict.fromkeys(limits_ppm, 0)
    for name, want in wants.items():
        for row, ppm in coefficients[name]:
            left[row] -= ppm * floors[name]
            above[row] += ppm * max(0, want - floors[name])
    share = {row: PPM if above[row] <= left[row] else max(0, left[row] * PPM // above[row]) for row in left}
    return {
        name: floors[name]
        + max(0, want - floors[name]) * min((share[row] for row, _ in coefficients[name]), default=PPM) // PPM
        for name, want in wants.items()
    }
