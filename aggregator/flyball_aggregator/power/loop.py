"""The budget loop: once a second from what is known to leases on the wire, effects only at this edge.

A limit that changes is decided on at once, between two seconds; a meter above its limit brings the next second forward.

Lower first, raise what the ledger admits, commit, sign, publish; then tell people. Nothing is wanted of the ledger
while the broker is away: a lease that cannot be sent would only hold watts.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from flyball_aggregator.broker import Outlet
from flyball_aggregator.fleet import Fleet
from flyball_aggregator.power.decide import RULE, Decision, HostColumns, RowColumns, decide, decide_safe_shares
from flyball_aggregator.power.demand import Measured, start_demand, step_demand
from flyball_aggregator.power.holds import HoldBook
from flyball_aggregator.power.journal import hash_input, pack_input
from flyball_aggregator.power.lease_desk import TURNS, LeaseDesk, Outgoing, whole_watts
from flyball_aggregator.power.ledger_store import StoreFullError
from flyball_aggregator.power.limits import LimitBook
from flyball_aggregator.power.moved import carried, carry_demand, carry_unmanaged, places_of
from flyball_aggregator.power.policy import build_policy
from flyball_aggregator.power.rows import Floats, Integers, build_matrix, build_rows, root_rows
from flyball_aggregator.power.snapshot import PowerSnapshot
from flyball_aggregator.power.standing import Standing, read_standing
from flyball_aggregator.power.turns import Turn, Turns
from flyball_aggregator.power.unmanaged import EXCURSION_RATIO, MeterInput, start_unmanaged, step_unmanaged
from flyball_aggregator.site import Site
from flyball_aggregator.site_changes import check_live
from flyball_aggregator.store import DecisionRecord, Store
from flyball_wire.errors import WireError
from flyball_wire.topics import host_topic

LOG: Final = logging.getLogger(__name__)
ASSUMED_DROP_RATIO: Final = 0.3  # a grid order; for how many silent hosts a row survives (power-budgeting.md 5.5)
RETRY_LOG_TICKS: Final = 5  # a full ledger is tried again this often
RELEASE_TICKS: Final = 3  # a release that nobody acknowledged is sent again this often
MAX_IN_FLIGHT: Final = 20_000  # publishes not yet taken by the broker; beyond it this tick's leases are not sent
MILLI: Final = 1000.0
MILLIWATT_W: Final = 1e-3


@dataclass(frozen=True, slots=True)
class LoopParts:
    """What the loop works on and speaks through."""

    fleet: Fleet
    desk: LeaseDesk
    outlet: Outlet
    store: Store
    code_version: str
    holds: HoldBook = field(default_factory=HoldBook)
    monotonic_s: Callable[[], float] = time.monotonic
    unix_s: Callable[[], float] = time.time


class PowerLoop:
    """The budget of one site; `open` takes leadership, `tick` is one second."""

    def __init__(self, parts: LoopParts) -> None:
        site = parts.fleet.site
        self.parts = parts
        self.rows = build_rows(site)
        self.matrix = build_matrix(self.rows, len(site.hosts))
        self.roots = root_rows(site, self.rows)
        self.limits = LimitBook(self.rows)
        self.holds = parts.holds
        self.frozen: frozenset[str] = frozenset()  # by other parts of this program, for as long as it runs
        self.ceilings_w: dict[str, float] = {}  # GPU watts of hosts that are held lower than their policy says
        self.snapshot: PowerSnapshot | None = None
        self.ticks = 0
        self.leases_sent = 0
        self.certificate_failures = 0
        self.seconds_over = np.zeros(len(self.rows), dtype=np.int64)  # metered above the limit in force
        self.seconds_in_descent = np.zeros(len(self.rows), dtype=np.int64)  # committed above it
        self.on_tick: list[Callable[[PowerSnapshot], None]] = []
        self._policy = build_policy(site)
        self._demand = start_demand(len(site.hosts), parts.fleet.width)
        self._unmanaged = start_unmanaged(np.array([row.unmanaged_w for row in self.rows]))
        self._since_s = np.full(len(site.hosts), np.nan)
        self._last_lease: Integers = np.full(len(site.hosts), -1, dtype=np.int64)
        self._in_flight: set[asyncio.Task[bool]] = set()
        self._offered: list[tuple[Site, asyncio.Future[None]]] = []
        self._turns = Turns()
        self.limits.on_change.append(self._turns.decide_between)

    def open(self) -> None:
        """Take leadership of the ledger."""
        self.parts.desk.open(self.rows)

    def take_ack(self, host: str, envelope: bytes, now_s: float) -> None:
        """Take a host's signed report.

        Raises:
            WireError: it is not what it says; nothing changed.
        """
        if host not in self.parts.fleet.hosts:
            self.parts.fleet.record_of(host)
            raise WireError(f"report of {host!r}: the site lists no such host")
        report = self.parts.desk.take_report(host, envelope)
        if report is not None:
            self.parts.fleet.take_report(report, now_s)

    async def run(self, stop: asyncio.Event, period_s: float) -> None:
        """Tick until told to stop; a late tick is not made up for."""
        async for turn in self._turns.follow(stop, period_s):
            await self.tick(is_between=turn is Turn.BETWEEN)

    async def take_site(self, site: Site) -> None:
        """Lead another site from the next turn on, without a stop; returns once it is led.

        Raises:
            ValueError: the running site cannot become this one; it goes on as it was.
        """
        adopted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._offered.append((site, adopted))
        self._turns.decide_between()
        await adopted

    def check_site(self, site: Site) -> None:
        """Raise ValueError when the running site cannot become this one."""
        check_live(self.parts.fleet.site, site)
        names = {row.name for row in build_rows(site)}
        for row, source in self.limits.set_on():
            if row not in names:
                raise ValueError(f"row {row!r} goes, but {source!r} has set a limit on it; take that away first")

    def _adopt_offered(self) -> None:
        while self._offered:
            site, adopted = self._offered.pop(0)
            try:
                self.check_site(site)
                self._adopt(site)
            except ValueError as error:
                adopted.set_exception(error)
            else:
                adopted.set_result(None)

    def _adopt(self, site: Site) -> None:
        """Build everything that follows from the site anew, and carry over what was learnt."""
        fleet, rows_before, rows = self.parts.fleet, self.rows, build_rows(site)
        hosts = places_of(list(fleet.hosts), [host.name for host in site.hosts])
        places = places_of([row.name for row in rows_before], [row.name for row in rows])
        fleet.adopt(site)
        self.parts.desk.adopt(site, rows)
        self.limits.adopt(rows)
        self.rows, self.matrix = rows, build_matrix(rows, len(site.hosts))
        self.roots, self._policy = root_rows(site, rows), build_policy(site)
        self._demand = carry_demand(self._demand, start_demand(len(site.hosts), fleet.width), hosts)
        fresh = start_unmanaged(np.array([row.unmanaged_w for row in rows]))
        self._unmanaged = carry_unmanaged(self._unmanaged, fresh, rows_before, rows)
        self.seconds_over = _counts(self.seconds_over, places)
        self.seconds_in_descent = _counts(self.seconds_in_descent, places)
        self._since_s = carried(self._since_s, np.full(len(hosts), np.nan), hosts, 0)
        self._last_lease = np.where(hosts >= 0, self._last_lease[np.maximum(hosts, 0)], -1)

    def has_handed_back(self, host: str) -> bool:
        """Return whether a released host has acknowledged its release."""
        known = self.parts.desk.host(host)
        return known.released_at is not None and known.fence >= known.released_at

    def take_meter(self, meter: str, power_w: float, now_s: float) -> None:
        """Bring the next second forward when a meter reads more than its row may carry."""
        for row in self.rows:
            if row.meter == meter and power_w > EXCURSION_RATIO * self.limits.in_force(row.name, now_s)[0]:
                self._turns.bring_forward()

    async def tick(self, *, is_between: bool = False) -> PowerSnapshot:
        """Decide, commit and send; a whole second is remembered and counted too.

        Args:
            is_between: Something changed between two seconds: what is measured is taken as it was, nothing is counted.

        Raises:
            LedgerStoreError: this program must step down.
        """
        self._adopt_offered()
        parts = self.parts
        now_s, unix_s = parts.monotonic_s(), parts.unix_s()
        if self.ticks % RETRY_LOG_TICKS == 0:
            parts.desk.report_writable()
        columns, sources, meter = self._read_rows(now_s, is_between=is_between)
        standing = read_standing(parts.fleet, parts.desk, self._policy, self.holds, self.frozen)
        hosts = self._read_hosts(standing, now_s, is_between=is_between)
        started_s = time.perf_counter()
        decision = decide(self.matrix, columns, hosts, gives_spare=parts.fleet.site.policy.gives_spare)
        solve_ms = (time.perf_counter() - started_s) * MILLI
        safe = self._safe_shares(columns, hosts)
        if parts.outlet.is_connected and len(self._in_flight) < MAX_IN_FLIGHT:
            self._release_held(now_s)
            self._want(standing, decision, safe, now_s)
            await self._send()
        self._note_leases(standing, unix_s)
        snapshot = self._snapshot(columns, sources, meter, standing, hosts, decision, safe, unix_s, solve_ms)
        self._finish(snapshot, columns, hosts, is_between=is_between)
        return snapshot

    def _read_rows(self, now_s: float, *, is_between: bool) -> tuple[RowColumns, tuple[str, ...], "_RowReadings"]:
        """Return limits, unmanaged load and reserve of this second, and tell the ledger what changed."""
        parts = self.parts
        in_force = [self.limits.in_force(row.name, now_s) for row in self.rows]
        limit_w = np.array([limit for limit, _source in in_force])
        readings = self._read_meters(now_s)
        if not is_between:
            self._unmanaged = step_unmanaged(
                self._unmanaged,
                MeterInput(
                    meter_w=readings.meter_w,
                    managed_w=readings.managed_w,
                    committed_w=readings.committed_w,
                    configured_w=np.array([row.unmanaged_w for row in self.rows]),
                    limit_w=limit_w,
                ),
            )
        unmanaged_w = self._with_losses(self._unmanaged.estimate_w)
        reserve_w = np.array([row.reserve_ratio for row in self.rows]) * limit_w
        constant_w = np.array([float(whole_watts(value)) for value in unmanaged_w + reserve_w])
        for row, limit, constant in zip(self.rows, limit_w, constant_w, strict=True):
            parts.desk.set_limit(row, float(limit), float(constant))
        columns = RowColumns(limit_w, constant_w - reserve_w, reserve_w)
        return columns, tuple(source for _limit, source in in_force), readings

    def _read_meters(self, now_s: float) -> "_RowReadings":
        fleet, policy = self.parts.fleet, self.parts.fleet.site.policy
        readings = [fleet.meter_w(row.meter, now_s, policy.meter_stale_s) if row.meter else None for row in self.rows]
        measured_w = np.where(fleet.fresh_hosts(now_s, policy.state_stale_s), fleet.host_power_w(), np.nan)
        committed = np.array([self.parts.desk.host(name).commitment_milliwatts for name in fleet.hosts]) / MILLI
        return _RowReadings(
            meter_w=np.array([np.nan if reading is None else reading for reading in readings]),
            managed_w=self.matrix.load_w(measured_w),
            committed_w=self.matrix.load_w(committed),
            measured_w=measured_w,
        )

    def _with_losses(self, estimate_w: Floats) -> Floats:
        """Add to loss rows what meters found above the configured load on the element and on the lost one."""
        excess = {
            row.element: float(estimate_w[index] - row.unmanaged_w)
            for index, row in enumerate(self.rows)
            if row.kind == "element"
        }
        added = [
            excess.get(row.element, 0.0) + excess.get(row.lost, 0.0) if row.kind == "loss" else 0.0 for row in self.rows
        ]
        total_w: Floats = estimate_w + np.array(added)
        return total_w

    def _read_hosts(self, standing: Standing, now_s: float, *, is_between: bool) -> HostColumns:
        fleet = self.parts.fleet
        fresh = fleet.fresh_hosts(now_s, fleet.site.policy.state_stale_s)
        if is_between:
            return self._with_ceilings(standing.columns(self._policy, self._demand.demand_w, fresh))
        if self._demand.step_ratio.shape[1] != fleet.width:  # a host brought more GPUs than the site file said
            self._demand = start_demand(len(fleet.hosts), fleet.width)
        measured = Measured(
            power_w=fleet.columns["power_watts"],
            peak_w=fleet.columns["power_peak_watts"],
            cap_w=fleet.columns["cap_watts"],
            throttled_ratio=fleet.columns["throttled_ratio"],
            minimum_w=fleet.minimum_w,
            maximum_w=fleet.maximum_w,
        )
        self._demand = step_demand(self._demand, measured, fresh)
        return self._with_ceilings(standing.columns(self._policy, self._demand.demand_w, fresh))

    def _with_ceilings(self, columns: HostColumns) -> HostColumns:
        """Return the columns with hosts that someone wants held lower; none below its devices' minimum."""
        if not self.ceilings_w:
            return columns
        names = list(self.parts.fleet.hosts)
        asked_w = np.array([self.ceilings_w.get(name, np.inf) for name in names])
        least_w = columns.minimum_milliwatts / MILLI
        ceiling_w = np.minimum(columns.ceiling_w, np.maximum(asked_w, least_w))
        return replace(columns, ceiling_w=ceiling_w, floor_w=np.minimum(columns.floor_w, ceiling_w))

    def _safe_shares(self, columns: RowColumns, hosts: HostColumns) -> Integers:
        """Return what hosts fall back to: all rows at what they carry without end, times the policy's ratio."""
        ratio = self.parts.fleet.site.policy.safe_ratio
        lasting_w = np.array([row.continuous_limit_w for row in self.rows])
        limit_w = np.minimum(columns.limit_w, lasting_w) * ratio
        return decide_safe_shares(self.matrix, limit_w - columns.unmanaged_w - columns.reserve_w, hosts)

    def _release_held(self, now_s: float) -> None:
        """Ask for releases that are not acknowledged yet; the ledger waits for room at the host's maximum."""
        if self.ticks % RELEASE_TICKS:
            return
        for host in self.holds.all("released"):
            if host in self.parts.fleet.hosts and not self.has_handed_back(host):
                self.parts.desk.release(host, now_s)

    def _want(self, standing: Standing, decision: Decision, safe: Integers, now_s: float) -> None:
        """Ask the ledger for lowerings, then raises, then for leases that must be kept alive."""
        desk = self.parts.desk
        order, lease = decision.order_milliwatts, standing.lease_milliwatts
        names = list(self.parts.fleet.hosts)
        changed = np.flatnonzero(order >= 0)
        for index in sorted(changed, key=lambda place: order[place] - lease[place]):
            desk.want(names[index], int(order[index]), int(safe[index]), now_s)
        for index in np.flatnonzero(order < 0):
            host = desk.host(names[index])
            is_ours = not standing.reasons[index] or standing.is_kept[index]
            is_turn = (self.ticks + index) % TURNS == 0
            is_renewed = is_ours and lease[index] >= 0 and desk.is_due(host, now_s, is_turn=is_turn)
            if is_renewed or standing.is_probed[index]:
                least = int(standing.minimum_milliwatts[index])
                desk.want(names[index], max(int(lease[index]), least), int(safe[index]), now_s)

    async def _send(self) -> None:
        """Commit what the ledger decided, then send it."""
        desk = self.parts.desk
        batch = desk.take_batch()
        try:
            outgoing = await asyncio.to_thread(desk.commit, batch)
        except StoreFullError as error:
            desk.report_full(error)
            return
        for item in outgoing:
            self._publish_order(item)
        await asyncio.sleep(0)

    def _publish_order(self, item: Outgoing) -> None:
        channel: Any = item.channel
        topic = host_topic(self.parts.fleet.site.name, item.host, channel)
        self.leases_sent += 1
        self.publish_soon(self.parts.outlet.publish(topic, item.envelope, qos=1))

    async def wait_sent(self) -> None:
        """Wait until the broker has taken, or refused, all that was published."""
        await asyncio.gather(*self._in_flight)

    def publish_soon(self, sending: Coroutine[Any, Any, bool]) -> None:
        """Send without waiting: a slow broker must not hold up the next decision."""
        task = asyncio.get_running_loop().create_task(sending)
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)

    def _note_leases(self, standing: Standing, unix_s: float) -> None:
        lease = standing.lease_milliwatts
        self._since_s = np.where(lease != self._last_lease, unix_s, self._since_s)
        self._last_lease = lease

    def _snapshot(  # noqa: PLR0917
        self,
        columns: RowColumns,
        sources: tuple[str, ...],
        readings: "_RowReadings",
        standing: Standing,
        hosts: HostColumns,
        decision: Decision,
        safe: Integers,
        unix_s: float,
        solve_ms: float,
    ) -> PowerSnapshot:
        return PowerSnapshot(
            time_s=unix_s,
            tick=self.ticks,
            epoch=self.parts.desk.epoch,
            rows=self.rows,
            matrix=self.matrix,
            roots=self.roots,
            columns=columns,
            limit_source=sources,
            committed_w=readings.committed_w,
            meter_w=readings.meter_w,
            managed_w=readings.managed_w,
            survivable_ratio=self._survivable(columns, hosts),
            hosts=hosts,
            measured_w=readings.measured_w,
            fences=standing.fences,
            safe_milliwatts=safe,
            reasons=standing.reasons,
            since_s=self._since_s,
            decision=decision,
            solve_ms=solve_ms,
        )

    def _survivable(self, columns: RowColumns, hosts: HostColumns) -> Floats:
        """Return (rows,) the share of commitments that may fall silent while the limit drops by the assumed ratio."""
        room_w = columns.limit_w * (1.0 - ASSUMED_DROP_RATIO) - columns.unmanaged_w - columns.reserve_w
        least_w = self.matrix.load_w(hosts.minimum_milliwatts / MILLI)
        now_w = self.matrix.load_w(hosts.committed_milliwatts / MILLI)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = (room_w - least_w) / (now_w - least_w)
        return np.clip(np.where(now_w <= least_w + 1e-6, np.where(room_w >= least_w, 1.0, 0.0), ratio), 0.0, 1.0)

    def _finish(self, snapshot: PowerSnapshot, columns: RowColumns, hosts: HostColumns, *, is_between: bool) -> None:
        self.snapshot = snapshot
        if not is_between:
            self.ticks += 1
            self.seconds_over += snapshot.meter_w > columns.limit_w  # NaN is not
            self.seconds_in_descent += snapshot.committed_w > columns.room_w + MILLIWATT_W
        failures = snapshot.decision.certificate.failures
        if failures:
            self.certificate_failures += failures
            LOG.error("decision %d: %d statements of its certificate do not hold", snapshot.tick, failures)
        if (snapshot.decision.order_milliwatts >= 0).any() or failures:
            self._journal(snapshot, columns, hosts)
        for handler in () if is_between else self.on_tick:
            handler(snapshot)

    def _journal(self, snapshot: PowerSnapshot, columns: RowColumns, hosts: HostColumns) -> None:
        packed = pack_input(self.matrix, columns, hosts, gives_spare=self.parts.fleet.site.policy.gives_spare)
        order = snapshot.decision.order_milliwatts
        names = list(self.parts.fleet.hosts)
        record = DecisionRecord(
            time_s=snapshot.time_s,
            epoch=snapshot.epoch,
            code_version=self.parts.code_version,
            rule=RULE,
            input_hash=hash_input(packed),
            input=packed,
            orders=json.dumps({names[index]: int(order[index]) / MILLI for index in np.flatnonzero(order >= 0)}),
            certificate_failures=snapshot.decision.certificate.failures,
        )
        self.publish_soon(_store_decision(self.parts.store, record))


@dataclass(frozen=True, slots=True)
class _RowReadings:
    meter_w: Floats
    managed_w: Floats
    committed_w: Floats
    measured_w: Floats  # (hosts,)


def _counts(counts: Integers, places: Integers) -> Integers:
    return np.where(places >= 0, counts[np.maximum(places, 0)], 0).astype(np.int64)


async def _store_decision(store: Store, record: DecisionRecord) -> bool:
    await asyncio.to_thread(store.add_decision, record)
    return True
