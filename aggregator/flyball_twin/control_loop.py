"""The aggregator's side of a simulated site: real demand, decision and ledger, without signatures and disk."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flyball_aggregator.flex.schedule import FlexState, GridEvent, step_flex
from flyball_aggregator.flex.tracking import TrackingState, step_tracking
from flyball_aggregator.power import ledger
from flyball_aggregator.power.decide import Decision, HostColumns, RowColumns, decide, decide_safe_shares
from flyball_aggregator.power.demand import DemandState, Measured, start_demand, step_demand
from flyball_aggregator.power.frozen_table import FrozenTable
from flyball_aggregator.power.policy import build_policy
from flyball_aggregator.power.rows import build_matrix, build_rows, root_rows
from flyball_aggregator.power.unmanaged import MeterInput, UnmanagedState, start_unmanaged, step_unmanaged
from flyball_aggregator.site import Site
from flyball_twin.power_curves import Floats
from flyball_wire.lease import Lease, Report

MILLI = 1000
PPM = 1_000_000


@dataclass(slots=True)
class SecondSeen:
    """What the aggregator is shown of one second; NaN for unknown, each (hosts, width) but the meter."""

    power_w: Floats
    cap_w: Floats
    throttled_ratio: Floats
    meter_w: float | None  # of the site's root row


class ControlLoop:
    """One leader: tell it reports and seconds, send what it hands out.

    Attributes:
        rows: All rows of the site. committed_w: (hosts,) what the ledger counts, GPU watts.
        limit_w: (rows,) in force in the last second.
    """

    def __init__(self, site: Site, minimum_w: Floats, maximum_w: Floats) -> None:
        """Take leadership; `minimum_w` and `maximum_w` are (hosts, width), NaN where there is no GPU."""
        self.site = site
        self.rows = build_rows(site)
        self.matrix = build_matrix(self.rows, len(site.hosts))
        self.roots = root_rows(site, self.rows)
        self._policy = build_policy(site)
        self._names = [host.name for host in site.hosts]
        self._index = {name: index for index, name in enumerate(self._names)}
        self._minimum_w, self._maximum_w = minimum_w, maximum_w
        self._demand: DemandState = start_demand(*minimum_w.shape)
        self._configured_w = np.array([row.unmanaged_w for row in self.rows])
        self._unmanaged: UnmanagedState = start_unmanaged(self._configured_w)
        self._state = ledger.LedgerState(settings=_lease_life(site))
        self._effects: list[ledger.LedgerEffect] = []
        hosts = len(self._names)
        self.committed = np.array([round(host.maximum_w * MILLI) for host in site.hosts], dtype=np.int64)
        self._most = self.committed.copy()
        self._least = np.array([round(host.minimum_w * MILLI) for host in site.hosts], dtype=np.int64)
        self._safe = self._least.copy()
        self._lease = np.full(hosts, -1, dtype=np.int64)
        self._heard_s = np.full(hosts, -1_000, dtype=np.int64)
        self._sent_ms = np.zeros(hosts, dtype=np.int64)
        self._is_led = np.zeros(hosts, dtype=np.bool_)
        self._asks_probe: set[int] = set()
        self._known_rows: dict[str, tuple[int, int]] = {}
        self.limit_w = np.array([row.limit_w for row in self.rows])
        self.flex, self.tracking = FlexState(), TrackingState()
        self.refused = 0
        self.certificate_failures = 0
        self._open()

    def _open(self) -> None:
        self._step(ledger.EpochStarted(1))
        for host in self.site.hosts:
            self._step(ledger.HostEnrolled(host.name, round(host.maximum_w * MILLI), round(host.boot_share_w * MILLI)))
        rows = []
        for row in self.rows:
            members = zip(row.hosts, row.coefficients, strict=True)
            ppm = tuple((self._names[host], round(value * PPM)) for host, value in members)
            constant_w = math.ceil(round(row.unmanaged_w + row.reserve_w, 6))
            rows.append(ledger.Row(row.name, int(row.limit_w * MILLI), constant_w * MILLI, ppm))
        self._step(ledger.RowsChanged(tuple(rows)))

    def restart(self, above: int) -> None:
        """Begin a new epoch, as a new leader does."""
        self._step(ledger.EpochStarted(above, {above - 1: self._state.seq}))

    @property
    def epoch(self) -> int:
        """The epoch of this leader."""
        return self._state.epoch

    def take_reports(self, reports: Iterable[Report], second: int) -> None:
        """Take what hosts said."""
        for report in reports:
            self._step(ledger.ReportReceived(report, is_authenticated=True))
            self._note(self._index[report.host], second)

    def tick(
        self, second: int, seen: SecondSeen, limits_w: Floats, events: tuple[GridEvent, ...]
    ) -> tuple[list[Lease], Decision]:
        """Decide a second; return the leases to send.

        Args:
            second: On the site's clock.
            seen: The second before.
            limits_w: (rows,) ratings, or what operators set below them.
            events: Grid events that are known.
        """
        is_fresh = self._hear(second, seen)
        columns = self._row_columns(second, seen, limits_w, events, is_fresh)
        fresh_power = np.where(is_fresh[:, None], seen.power_w, np.nan)
        measured = Measured(
            fresh_power, fresh_power, seen.cap_w, seen.throttled_ratio, self._minimum_w, self._maximum_w
        )
        self._demand = step_demand(self._demand, measured, is_fresh)
        hosts = self._host_columns(is_fresh)
        decision = decide(self.matrix, columns, hosts, gives_spare=self.site.policy.gives_spare)
        self.certificate_failures += decision.certificate.failures
        safe = decide_safe_shares(self.matrix, columns.room_w, hosts) if second % 30 == 0 else None
        if safe is not None:
            self._safe = safe
        return self._want(decision, second), decision

    def _hear(self, second: int, seen: SecondSeen) -> np.ndarray:
        """Return which hosts were heard lately: any state counts."""
        is_known = np.isfinite(seen.power_w).any(axis=1)
        self._heard_s = np.where(is_known, second, self._heard_s)
        return np.asarray(second - self._heard_s <= self.site.policy.state_stale_s)

    def _row_columns(
        self, second: int, seen: SecondSeen, limits_w: Floats, events: tuple[GridEvent, ...], is_fresh: np.ndarray
    ) -> RowColumns:
        self.flex = step_flex(self.flex, events, float(second), seen.meter_w)
        self.tracking = step_tracking(self.tracking, self.flex.limit_w, seen.meter_w)
        limit_w = limits_w.copy()
        reserve_ratio = np.array([row.reserve_ratio for row in self.rows])
        if self.flex.limit_w is not None:
            aim_w = self.flex.limit_w if self.tracking.aim_w is None else min(self.tracking.aim_w, self.flex.limit_w)
            for row in self.roots:
                target_w = aim_w / (1.0 - reserve_ratio[row])  # the target's own margin stands for the reserve
                limit_w[row] = min(limit_w[row], target_w)
        managed_w = np.where(is_fresh, np.nansum(seen.power_w, axis=1), np.nan)
        meter_w = np.full(len(self.rows), np.nan)
        if seen.meter_w is not None and len(self.roots) == 1:
            meter_w[self.roots[0]] = seen.meter_w
        committed_w = self.matrix.load_w(self.committed / MILLI)
        self._unmanaged = step_unmanaged(
            self._unmanaged,
            MeterInput(meter_w, self.matrix.load_w(managed_w), committed_w, self._configured_w, limit_w),
        )
        self.limit_w = limit_w
        reserve_w = reserve_ratio * limit_w
        constant_w = np.ceil(np.round(self._unmanaged.estimate_w + reserve_w, 6))
        self._tell_rows(limit_w, constant_w)
        return RowColumns(limit_w, constant_w - reserve_w, reserve_w)

    def _tell_rows(self, limit_w: Floats, constant_w: Floats) -> None:
        for row, limit, constant in zip(self.rows, limit_w.tolist(), constant_w.tolist(), strict=True):
            wanted = (int(limit * MILLI), int(constant) * MILLI)
            if self._known_rows.get(row.name) != wanted:
                self._known_rows[row.name] = wanted
                self._step(ledger.RowLimitChanged(row.name, *wanted))

    def _host_columns(self, is_fresh: np.ndarray) -> HostColumns:
        policy = self._policy
        return HostColumns(
            is_led=self._is_led,
            is_fresh=is_fresh,
            committed_milliwatts=self.committed,
            lease_milliwatts=self._lease,
            minimum_milliwatts=self._least,
            maximum_milliwatts=self._most,
            floor_w=policy.floor_w,
            ceiling_w=policy.ceiling_w,
            demand_w=self._demand.demand_w,
            weight=policy.weight,
            tier=policy.tier,
        )

    def _want(self, decision: Decision, second: int) -> list[Lease]:
        """Ask the ledger for probes, lowerings, raises and renewals, in that order; return the leases it sends."""
        now_ms, order = second * MILLI, decision.order_milliwatts
        for index in sorted(self._asks_probe):
            self._grant(index, int(self._least[index]), now_ms)
        self._asks_probe.clear()
        changed = np.flatnonzero(order >= 0)
        for index in changed[np.argsort(order[changed] - self._lease[changed], kind="stable")].tolist():
            self._grant(index, int(order[index]), now_ms)
        renew_ms = self._state.settings.renew_ms
        due = (order < 0) & (self._lease >= 0) & (now_ms - self._sent_ms >= renew_ms)
        for index in np.flatnonzero(due).tolist():
            self._grant(index, int(self._lease[index]), now_ms)
        leases = [effect.lease for effect in self._effects if isinstance(effect, ledger.SendLease)]
        self._effects = []
        return leases

    def _grant(self, index: int, milliwatts: int, now_ms: int) -> None:
        safe = int(self._safe[index])
        self._step(ledger.GrantWanted(self._names[index], milliwatts, safe, now_ms))
        self._note(index, None)

    def _note(self, index: int, second: int | None) -> None:
        host = self._state.hosts[self._names[index]]
        self.committed[index] = host.commitment_milliwatts
        self._lease[index] = -1 if host.sent_milliwatts is None else host.sent_milliwatts
        self._sent_ms[index] = host.sent_ms
        self._is_led[index] = host.incarnation is not None and not host.counts_maximum
        if host.candidate is not None and second is not None:
            self._asks_probe.add(index)

    def _step(self, event: ledger.LedgerEvent) -> None:
        self._state, effects = ledger.step(self._state, event)
        self.refused += sum(isinstance(effect, ledger.Refused) for effect in effects)
        self._effects += [effect for effect in effects if isinstance(effect, ledger.SendLease)]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state with its tables flat: their order hangs on a process's own hash."""
        state = dict(self.__dict__)
        book = self._state
        state["_state"] = replace(book, hosts=FrozenTable(), rows=FrozenTable(), coefficients=FrozenTable())
        state["_tables"] = tuple(sorted(table.items()) for table in (book.hosts, book.rows, book.coefficients))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state back."""
        hosts, rows, coefficients = state.pop("_tables")
        self.__dict__.update(state)
        self._state = replace(
            state["_state"],
            hosts=FrozenTable(hosts),
            rows=FrozenTable(rows),
            coefficients=FrozenTable(coefficients),
        )


def _lease_life(site: Site) -> ledger.LedgerSettings:
    """Return lease life from the policy; the ramp is that of the largest host."""
    policy = site.policy
    largest_w = max((host.maximum_w for host in site.hosts), default=1.0)
    return ledger.LedgerSettings(
        ttl_ms=round(policy.lease_ttl_s * MILLI),
        hold_ms=round(policy.lease_hold_s * MILLI),
        ramp_milliwatts_per_s=max(1, round(policy.lease_ramp_ratio_per_s * largest_w * MILLI)),
        renew_ms=round(policy.lease_ttl_s * MILLI / 3) - 400,  # seconds are whole: never later than a third
    )
