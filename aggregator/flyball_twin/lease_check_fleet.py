"""Random fleets under many faults: the lease code of both ends, overlapping rows, limits that drop."""

import random
from dataclasses import dataclass, field, replace
from typing import Final

from flyball_aggregator.power.ledger import (
    ConflictCleared,
    HostSilent,
    LedgerSettings,
    LogAbility,
    OutletLocked,
    OutletUnlockWanted,
    ReportReceived,
    Row,
    UnlockOutlet,
    headroom_milliwatts,
)
from flyball_aggregator.power.ledger_rows import coefficients_by_host
from flyball_aggregator.power.survivable import survivable_unreachable_fraction
from flyball_governor.lease_keeper import current_report
from flyball_twin.lease_check_faults import Counts, FaultRates, Network
from flyball_twin.lease_check_governor import HostSim
from flyball_twin.lease_check_leader import PPM, DurableLog, Leader, proportional
from flyball_twin.lease_check_rules import ALL_RULES, Rules
from flyball_wire.lease import Fence, Lease, Report

HOSTS: Final = 10
MAXIMUM: Final = 1_200_000
FLOOR: Final = 200_000
OVERSUBSCRIPTION: Final = 1.4
TTL_MS: Final = 10_000
HOLD_MS: Final = 30_000
CONFLICT_S: Final = 60  # until an operator ends it
SILENT_S: Final = 15  # until a host counts as silent, an alarm
DEADLINE_S: Final = 60  # ttl + hold + ramp: a silent host with a live governor is at its safe share by then


@dataclass(slots=True)
class RunResult:
    """One run: what was over, by how much, and how much was used."""

    seconds_over: int = 0
    worst_ratio: float = 0.0
    late_seconds: int = 0
    hosts_over_commitment: int = 0
    life_broken: int = 0
    lowerings_unwritten: int = 0
    used: float = 0.0
    used_zero_delay: float = 0.0
    used_seconds: int = 0
    seconds: int = 0
    counts: Counts = field(default_factory=Counts)


class FleetRun:
    """One random run; `run` plays it to its end."""

    def __init__(self, seed: int, rules: Rules = ALL_RULES, rates: FaultRates | None = None) -> None:
        self.chance = random.Random(seed)
        self.rules = rules
        self.rates = rates if rates is not None else FaultRates()
        self.result = RunResult()
        drift = self.rates.clock_drift
        self.hosts = [
            HostSim(f"h{at}", f"gpu-{at}", (FLOOR, MAXIMUM), rules, 1 + self.chance.uniform(-drift, drift))
            for at in range(HOSTS)
        ]
        self.names = {host.name: at for at, host in enumerate(self.hosts)}
        self.clone: tuple[int, HostSim] | None = None
        self.network = Network(self.chance, self.rates, self.result.counts, [0] * HOSTS)
        self.rows = _rows()
        self.declared = self.rows
        self.full_limits = {row.name: row.limit_milliwatts for row in self.rows}
        self.limits = dict(self.full_limits)
        self.held: dict[str, dict[str, int]] = {}
        self.coefficients = {host: tuple(shares.items()) for host, shares in coefficients_by_host(self.rows).items()}
        self.descends_since: dict[str, int] = {}
        self.low_until: dict[str, int] = {}
        self.log = DurableLog()
        self.backup: DurableLog | None = None
        self.has_restored = False
        self.has_moved = False
        self.alarm_since: dict[str, int] = {}
        self.heard_s = [0] * HOSTS
        self.settings = LedgerSettings(TTL_MS, HOLD_MS, ramp_milliwatts_per_s=MAXIMUM // 20, dead_band_milliwatts=2_000)
        self.safe = _safe_share(self.rows, self.rates.dropped_to)
        self.leaders: list[Leader] = []
        self.wants = dict.fromkeys(self.names, MAXIMUM)
        self.wants_for_s = self.chance.choice([6, 20, 40, 90])
        self.full_until_s = 0

    def run(self, seconds: int = 1500) -> RunResult:
        """Play this many seconds and return what was seen."""
        self._lead()
        for host in self.hosts:
            host.govern(0)
        for now_s in range(1, seconds + 1):
            self._second(now_s)
        return self.result

    def _second(self, now_s: int) -> None:
        for at, host in enumerate(self.hosts):
            host.begin_second(now_s)
            self._strike_host(host, at, now_s)
        if self.clone is not None:
            self.clone[1].begin_second(now_s)
        self._strike_site(now_s)
        self._deliver(now_s)
        if now_s % 2 == 0:
            self._allocate(now_s)
            self._deliver(now_s)
        self._measure(now_s)

    # Faults.

    def _strike_host(self, host: HostSim, at: int, now_s: int) -> None:
        rates, chance, counts = self.rates, self.chance, self.result.counts
        draw = chance.random
        if draw() < rates.partition:
            counts.partitions += 1
            self.network.cut_until_s[at] = now_s + chance.randint(*rates.partition_s)
        if host.back_at_s is not None:
            self._bring_back(host, now_s)
            return
        host.hangs_next_s = now_s + chance.randint(*rates.hang_s) if draw() < rates.hang else 0
        counts.hung_writes += host.hangs_next_s > 0
        if host.keeper is None:
            if draw() < rates.restart:
                host.govern(now_s)
        elif draw() < rates.crash:
            counts.crashes += 1
            host.stop(now_s) if draw() < 0.25 else host.crash()  # a quarter end in order, as an upgrade does
        elif draw() < rates.reset:
            counts.resets += 1
            host.reset(now_s)
        if draw() < rates.reboot:
            counts.reboots += 1
            host.lose_power(now_s + chance.randint(*rates.boot_s), is_off=False)
        elif draw() < rates.outlet:
            counts.outlets += 1
            self._current.tell(OutletLocked(host.name))
            host.lose_power(now_s + chance.randint(*rates.off_s), is_off=True)
        self._attack(host, now_s)

    def _attack(self, host: HostSim, now_s: int) -> None:
        rates, draw, keeper = self.rates, self.chance.random, host.keeper
        if keeper is None:
            return
        if draw() < rates.forged:
            self.result.counts.forged += 1
            made = replace(current_report(keeper), bound_milliwatts=FLOOR, stamp_ms=keeper.report_stamp_ms + 60_000)
            self._current.tell(ReportReceived(made, is_authenticated=False))
        if draw() < rates.stolen_key:
            self.result.counts.stolen_keys += 1
            fence = Fence(keeper.fence.epoch, keeper.fence.seq + 1)
            stamp_ms = keeper.report_stamp_ms
            made_lease = Lease(
                host.name, keeper.incarnation, fence, MAXIMUM, FLOOR, stamp_ms, TTL_MS, HOLD_MS, MAXIMUM // 20
            )
            host.receive(made_lease, now_s, key_generation=0)

    def _bring_back(self, host: HostSim, now_s: int) -> None:
        if host.back_at_s is None or now_s < host.back_at_s:
            return
        if host.is_off:
            effects = self._current.tell(OutletUnlockWanted(host.name))
            if any(isinstance(effect, UnlockOutlet) for effect in effects):
                host.lose_power(now_s + self.chance.randint(*self.rates.boot_s), is_off=False)
            return
        rolls_back = self.chance.random() < self.rates.rollback
        self.result.counts.rollbacks += rolls_back
        host.come_back(now_s, rolls_back=rolls_back)

    def _strike_site(self, now_s: int) -> None:
        rates, chance, counts = self.rates, self.chance, self.result.counts
        draw = chance.random
        if draw() < rates.disk_full and not self.log.is_full:
            counts.disk_full += 1
            self.full_until_s = now_s + chance.randint(*rates.disk_full_s)
            self._set_full(is_full=True)
        if self.log.is_full and now_s >= self.full_until_s:
            self._set_full(is_full=False)
        if draw() < rates.failover and counts.failovers < rates.max_failovers and not self.log.is_full:
            counts.failovers += 1
            self._lead(now_s=now_s)
        if self.backup is None and draw() < 0.01:
            self.backup = self.log.copy()
        if self.backup is not None and not self.has_restored and not self.log.is_full and draw() < rates.restore:
            counts.restores += 1
            self.has_restored = True
            self._lead(self.backup, now_s=now_s)
        if not counts.clones and draw() < rates.clone:
            counts.clones += 1
            at = chance.randrange(HOSTS)
            twin = HostSim(self.hosts[at].name, f"clone-{at}", (FLOOR, MAXIMUM), self.rules, 1.0)
            twin.govern(now_s)
            self.clone = at, twin
        self._move_limits(now_s)
        self._operate(now_s)

    def _operate(self, now_s: int) -> None:
        """Let operators end a conflict after a while, and alarms of silent hosts be raised."""
        for at, host in enumerate(self.hosts):
            known = self._current.state.hosts[host.name]
            if known.conflict is not None:
                since = self.alarm_since.setdefault(host.name, now_s)
                if now_s - since > CONFLICT_S:
                    if self.clone is not None and self.clone[0] == at:
                        self.clone = None
                    del self.alarm_since[host.name]
                    self._current.tell(ConflictCleared(host.name, "operator", host.settings.gpu_uuids))
            if now_s - self.heard_s[at] == SILENT_S:
                self._current.tell(HostSilent(host.name, FLOOR))  # a lull, as some meter reads it

    def _move_limits(self, now_s: int) -> None:
        rates, chance = self.rates, self.chance
        for name in [name for name, until in self.low_until.items() if now_s >= until]:
            del self.low_until[name]
            self._set_limit(name, self.full_limits[name], now_s)
        if chance.random() < rates.limit_drop:
            name = chance.choice(self.rows).name
            if name not in self.low_until:
                self.result.counts.limit_drops += 1
                self.low_until[name] = now_s + chance.randint(*rates.low_s)
                self._set_limit(name, int(self.full_limits[name] * rates.dropped_to), now_s)
        if not self.has_moved and chance.random() < rates.move:
            self.has_moved = True
            self.result.counts.moves += 1
            self.declared = _without_first(self.declared, "left")
            self._current.declare(self.declared)

    def _set_limit(self, name: str, limit: int, now_s: int) -> None:
        if limit < self.limits[name]:
            self.descends_since[name] = now_s
            self.held[name] = {host.name: self._current.state.hosts[host.name].commitment_milliwatts
                               for host in self.hosts}  # fmt: skip
        self.limits[name] = limit
        for leader in self.leaders:
            leader.set_limit(name, limit)

    def _set_full(self, *, is_full: bool) -> None:
        self.log.is_full = is_full
        if not is_full:
            self._current.tell(LogAbility(can_log=True))

    # Leaders and messages.

    @property
    def _current(self) -> Leader:
        return self.leaders[-1]

    def _lead(self, backup: DurableLog | None = None, now_s: int = 0) -> None:
        """Put a new leader in; the old one goes on for a while without knowing."""
        if self.leaders:
            self._current.zombie_until_s = now_s + self.chance.randint(*self.rates.zombie_s)
        rows = tuple(replace(row, limit_milliwatts=self.limits[row.name]) for row in self.declared)
        leader = Leader(self.log, self.settings, rows, self.rules)
        leader.begin(dict.fromkeys(self.names, MAXIMUM), backup)
        self.leaders.append(leader)

    def _deliver(self, now_s: int) -> None:
        """Let messages arrive until none is left for this second; answers may be as quick."""
        network, hosts, names = self.network, self.hosts, self.names
        while True:
            for at, host in enumerate(hosts):
                self._collect(host, at, now_s)
            if self.clone is not None:
                self._collect(self.clone[1], self.clone[0], now_s)
            message = network.arrived(now_s)
            if message is None:
                return
            while message is not None:
                to, at, what = message
                if isinstance(what, Report):
                    self.heard_s[names[what.host]] = now_s
                    event = ReportReceived(what, is_authenticated=True)
                    for leader in self.leaders:
                        leader.tell(event)
                elif to == "clone":
                    if self.clone is not None:
                        self.clone[1].receive(what, now_s)
                elif network.cut_until_s[at] <= now_s:
                    hosts[at].receive(what, now_s)
                message = network.arrived(now_s)

    def _collect(self, host: HostSim, at: int, now_s: int) -> None:
        if host.outbox:
            for report in host.outbox:
                self.network.send(now_s, "ledger", at, report)
            host.outbox.clear()

    def _allocate(self, now_s: int) -> None:
        chance = self.chance
        if now_s % self.wants_for_s < 2:
            self.wants = {name: chance.choice((FLOOR, MAXIMUM, chance.randint(FLOOR, MAXIMUM))) for name in self.names}
        self.leaders = [
            leader for leader in self.leaders if leader.zombie_until_s is None or leader.zombie_until_s > now_s
        ]
        for leader in self.leaders:
            leader.allocate(self.wants, self.safe, now_s * 1000)
            for lease in leader.flush():
                at = self.names[lease.host]
                self.network.send(now_s, "host", at, lease)
                if self.clone is not None and self.clone[0] == at:
                    self.network.send(now_s, "clone", at, lease)

    # What is seen.

    def _measure(self, now_s: int) -> None:
        result, state = self.result, self._current.state
        draws = {host.name: host.draw for host in self.hosts}
        if self.clone is not None:
            draws[self.clone[1].name] += self.clone[1].draw
        for name, draw in draws.items():
            result.hosts_over_commitment += draw > state.hosts[name].commitment_milliwatts
        for row in self.rows:
            self._measure_row(row, draws, now_s)
        result.seconds += 1
        if now_s % 2 == 0:
            self._measure_use(now_s)

    def _measure_row(self, row: Row, draws: dict[str, int], now_s: int) -> None:
        limit_ppm = self.limits[row.name] * PPM
        power_ppm = row.constant_milliwatts * PPM
        for name, ppm in row.coefficients_ppm:
            power_ppm += ppm * draws[name]
        since = self.descends_since.get(row.name)
        if since is not None and headroom_milliwatts(self._current.state, row.name) >= 0:
            del self.descends_since[row.name]
            since = None
        if since is None:
            self.result.worst_ratio = max(self.result.worst_ratio, power_ppm / limit_ppm)
        if power_ppm <= limit_ppm:
            return
        if since is None:
            self.result.seconds_over += 1
        elif now_s - since > DEADLINE_S and self._is_survivable(row, now_s):
            self.result.late_seconds += 1

    def _is_survivable(self, row: Row, now_s: int) -> bool:
        """Return whether the silent share of a row's watts was within what had been published for this drop."""
        held = self.held[row.name]
        silent = {
            host.name for host in self.hosts
            if host.keeper is None or now_s - host.governed_since_s < DEADLINE_S
        }  # fmt: skip
        watts = sum(ppm * held[name] for name, ppm in row.coefficients_ppm)
        quiet = sum(ppm * held[name] for name, ppm in row.coefficients_ppm if name in silent)
        floor = sum(ppm * FLOOR for _, ppm in row.coefficients_ppm)
        room = (self.limits[row.name] - row.constant_milliwatts) * PPM
        return quiet <= watts * survivable_unreachable_fraction(room, floor, watts)

    def _measure_use(self, now_s: int) -> None:
        """Compare what reachable hosts may draw of what they want with an allocator that knows all at once."""
        reachable = [
            host.name for at, host in enumerate(self.hosts)
            if host.keeper is not None and self.network.cut_until_s[at] <= now_s
        ]  # fmt: skip
        if not reachable:
            return
        wants = {name: self.wants[name] for name in reachable}
        site = self.rows[0]
        most = min((self.limits[site.name] - site.constant_milliwatts), sum(wants.values()))
        hosts = self._current.state.hosts
        self.result.used += sum(min(hosts[name].commitment_milliwatts, want) for name, want in wants.items()) / most
        ideal = proportional(wants, dict.fromkeys(wants, FLOOR), self.coefficients, {
            row.name: (self.limits[row.name] - row.constant_milliwatts) * PPM for row in self.rows
        })  # fmt: skip
        self.result.used_zero_delay += sum(ideal.values()) / most
        self.result.used_seconds += 1


def _rows() -> tuple[Row, ...]:
    """Return overlapping rows: the site, two sides that share hosts, and the loss of a feed."""
    return (
        _row("site", range(HOSTS), 1_000_000, 1.0),
        _row("left", range(6), 1_270_000, 1.05),
        _row("right", range(4, HOSTS), 1_270_000, 1.05),
        _row("feed_lost", range(0, HOSTS, 2), 1_060_000, 1.1),
    )


def _row(name: str, members: range, ppm: int, room: float) -> Row:
    constant = 100_000 * len(members)
    limit = constant + int(len(members) * ppm * MAXIMUM / PPM / OVERSUBSCRIPTION * room)
    return Row(name, limit, constant, tuple((f"h{at}", ppm) for at in members))


def _safe_share(rows: tuple[Row, ...], dropped_to: float) -> int:
    """Return what every host may fall back to so that each row fits even at its dropped limit."""
    shares = [
        (int(row.limit_milliwatts * dropped_to) - row.constant_milliwatts)
        * PPM
        // sum(ppm for _, ppm in row.coefficients_ppm)
        for row in rows
    ]
    return max(FLOOR, min(shares))


def _without_first(rows: tuple[Row, ...], name: str) -> tuple[Row, ...]:
    """Return rows as a site file has them after an edit that takes the first host out of one."""
    return tuple(
        replace(row, coefficients_ppm=row.coefficients_ppm[1:]) if row.name == name else row for row in rows
    )  # fmt: skip
