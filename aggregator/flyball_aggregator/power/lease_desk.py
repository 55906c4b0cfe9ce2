"""The edge of the ledger: feeds it events, makes its logs durable, then signs what it wants sent.

The ledger itself is pure (power/ledger.py). Nothing leaves here before the commit it stands in returned.
"""

import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgpack

from flyball_aggregator.power import ledger
from flyball_aggregator.power.ledger import HostLedger, LedgerEffect, LedgerEvent, LedgerState, RowState
from flyball_aggregator.power.ledger_store import Log, StoredLedger, StoreFullError, start_ledger
from flyball_aggregator.power.rows import Row
from flyball_aggregator.site import Host, Policy, Site
from flyball_wire.errors import SignatureError, WireError
from flyball_wire.lease import Lease, Report
from flyball_wire.messages import Command
from flyball_wire.signing import SigningKey, open_signed, sign
from flyball_wire.units import MILLI, cap_milliwatts, commitment_milliwatts

LOG: Final = logging.getLogger(__name__)
PPM: Final = 1_000_000
TURNS: Final = 3  # hosts renew in turns, so that no second renews them all
RENEW_MARGIN_MS: Final = 400  # ticks are not exactly a second apart
REPEAT_MS: Final = 1_800  # a report that repeats the last is read again this often, for its stamp
WATT: Final = 1000  # milliwatts; constants move in whole watts, so that noise writes no ledger event


class LedgerLog(Protocol):
    """The durable side (power/ledger_store.py)."""

    def open_epoch(self, above: int = 0) -> StoredLedger:
        """Take a new epoch durably and read everything back."""
        ...

    def commit(self, effects: Iterable[LedgerEffect]) -> None:
        """Make logs durable as one transaction."""
        ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A signed envelope for one host, durable on our side."""

    host: str
    channel: str  # "lease" or "command"
    envelope: bytes


AlarmHandler = Callable[[ledger.Alarm], None]


class LeaseDesk:
    """One leader's ledger with its log and its key.

    Args:
        site: Hosts, their report keys, and lease life.
        log: Durable store; `open` takes leadership of it.
        key: Signs leases and commands.
        on_alarm: Takes what an operator must see.
    """

    def __init__(self, site: Site, log: LedgerLog, key: SigningKey, on_alarm: AlarmHandler) -> None:
        self.refused: Counter[str] = Counter()  # grants, by reason
        self.refusals: dict[str, ledger.Refused] = {}  # the newest of each host
        self.forged = 0
        self.repeated = 0  # reports that said nothing new, passed over unread
        self.leases_acked = 0  # reports that fenced a newer lease than any before
        self.state = LedgerState(settings=ledger_settings(site))
        self._site = site
        self._log = log
        self._key = key
        self._on_alarm = on_alarm
        self._effects: list[LedgerEffect] = []
        self._log_lock = threading.Lock()  # commits run in a thread, a later epoch is taken on the loop
        self._said: dict[str, dict[str, Any]] = {}  # the newest verified report of each host, as plain values
        self._keys = {host.name: _report_keys(host) for host in site.hosts}

    @property
    def epoch(self) -> int:
        """The epoch of this leader; 0 before `open`."""
        return self.state.epoch

    def open(self, rows: Sequence[Row]) -> None:
        """Take leadership: a new durable epoch, what the store knows of hosts, and the site as declared now."""
        with self._log_lock:
            stored = self._log.open_epoch()
        self.state = start_ledger(self.state.settings, stored)
        for host in self._site.hosts:
            self._step(_enrolment(host))
        self._step(ledger.RowsChanged(tuple(self._ledger_row(row, row.limit_w, _constant_w(row)) for row in rows)))

    def adopt(self, site: Site, rows: Sequence[Row]) -> None:
        """Take a new site: hosts that are new or of another size are enrolled, then its rows stand."""
        known = {host.name: host for host in self._site.hosts}
        self._site = site
        self._keys = {host.name: _report_keys(host) for host in site.hosts}
        for host in site.hosts:
            if host.name not in known or _enrolment(host) != _enrolment(known[host.name]):
                self._step(_enrolment(host))
        self._step(ledger.RowsChanged(tuple(self._ledger_row(row, row.limit_w, _constant_w(row)) for row in rows)))

    def take_report(self, host: str, envelope: bytes) -> Report | None:
        """Verify a signed report and feed it to the ledger; None when it only repeats the last one.

        A repetition is passed over before it is verified: nothing can come of it but a saved signature check.

        Raises:
            WireError: malformed, of another host, or not signed by this host's key; the ledger did not see it.
        """
        keys = self._keys.get(host)
        if keys is None:
            raise WireError(f"report of {host!r}: the site lists no such host")
        said = peek_report(envelope)
        if is_repetition(self._said.get(host), said):
            self.repeated += 1
            return None
        try:
            report = open_signed(Report, envelope, keys)
        except SignatureError:
            self.forged += 1
            raise
        if report.host != host:
            raise WireError(f"report of {report.host!r} on the topic of {host!r}")
        self._said[host] = said or {}
        known = self.state.hosts.get(host)
        self._step(ledger.ReportReceived(report, is_authenticated=True))
        self.leases_acked += known is not None and report.fence > known.fence
        return report

    def set_limit(self, row: Row, limit_w: float, constant_w: float) -> None:
        """Tell the ledger what a row may carry now, when that changed."""
        wanted = self._ledger_row(row, limit_w, constant_w)
        known = self.state.rows.get(row.name)
        is_same = known is not None and (known.limit_milliwatts, known.constant_milliwatts) == (
            wanted.limit_milliwatts,
            wanted.constant_milliwatts,
        )
        if not is_same:
            self._step(ledger.RowLimitChanged(row.name, wanted.limit_milliwatts, wanted.constant_milliwatts))

    def want(self, host: str, milliwatts: int, safe_milliwatts: int, now_s: float) -> None:
        """Ask for a host to be leased these watts."""
        self._step(ledger.GrantWanted(host, milliwatts, safe_milliwatts, _milliseconds(now_s)))

    def release(self, host: str, now_s: float) -> None:
        """Ask for a host's devices to be handed back."""
        self._step(ledger.ReleaseWanted(host, _milliseconds(now_s)))

    def host(self, name: str) -> HostLedger:
        """Return what the ledger knows of a host."""
        return self.state.hosts[name]

    def row(self, name: str) -> RowState:
        """Return what the ledger counts on a row."""
        return self.state.rows[name]

    def is_due(self, host: HostLedger, now_s: float, *, is_turn: bool = False) -> bool:
        """Return whether a host's lease must be sent again to stay alive; on its turn a little before it must."""
        age_ms = _milliseconds(now_s) - host.sent_ms
        settings = self.state.settings
        must_ms = settings.ttl_ms // 3 - RENEW_MARGIN_MS
        return host.sent_milliwatts is None or age_ms >= (settings.renew_ms if is_turn else must_ms)

    def take_batch(self) -> tuple[LedgerEffect, ...]:
        """Return the effects since the last batch, to be committed; alarms and refusals are dealt with here."""
        batch, self._effects = tuple(self._effects), []
        return batch

    def commit(self, batch: tuple[LedgerEffect, ...]) -> tuple[Outgoing, ...]:
        """Make a batch durable and return what may be sent then; blocks for the disk.

        Raises:
            StoreFullError: nothing was written; raises must stop.
            LedgerStoreError: step down, send nothing.
        """
        if any(isinstance(effect, Log) for effect in batch):
            with self._log_lock:
                self._log.commit(batch)
        return tuple(item for effect in batch if (item := self._outgoing(effect)) is not None)

    def report_full(self, error: StoreFullError) -> None:
        """Stop raises: the log takes no more."""
        LOG.error("ledger: %s; no raises until it can be written again", error)
        self._step(ledger.LogAbility(can_log=False))

    def report_writable(self) -> None:
        """Allow raises again after a full log, once there is something to try with."""
        if not self.state.can_log:
            self._step(ledger.LogAbility(can_log=True))

    def _take_epoch(self, above: int) -> None:
        """Take a later epoch and drop what waits under the former one: none of it was sent."""
        with self._log_lock:
            stored = self._log.open_epoch(above)
        self._effects = [effect for effect in self._effects if isinstance(effect, ledger.LogHost | ledger.LogMembers)]
        self._step(ledger.EpochStarted(stored.epoch, stored.epochs, is_restored=True))

    def _step(self, event: LedgerEvent) -> None:
        self.state, effects = ledger.step(self.state, event)
        for effect in effects:
            if isinstance(effect, ledger.Alarm):
                self._on_alarm(effect)
            elif isinstance(effect, ledger.Refused):
                self.refused[effect.reason] += 1
                self.refusals[effect.host] = effect
            elif isinstance(effect, ledger.TakeEpoch):
                self._take_epoch(effect.above)
            else:
                self._effects.append(effect)

    def _outgoing(self, effect: LedgerEffect) -> Outgoing | None:
        if isinstance(effect, ledger.SendLease):
            return Outgoing(effect.lease.host, "lease", self._signed(effect.lease))
        if isinstance(effect, ledger.SendRelease):
            command = Command(
                host=effect.host,
                incarnation=effect.incarnation,
                correlation_id=f"release-{effect.fence.epoch}-{effect.fence.seq}",
                epoch=effect.fence.epoch,
                seq=effect.fence.seq,
                stamp_ms=effect.stamp_ms,
                ttl_ms=effect.ttl_ms,
                action="release",
                arguments=(),
            )
            return Outgoing(effect.host, "command", self._signed(command))
        return None

    def _signed(self, message: Lease | Command) -> bytes:
        return sign(message, self._key)

    def _ledger_row(self, row: Row, limit_w: float, constant_w: float) -> ledger.Row:
        names = self._site.hosts
        return ledger.Row(
            name=row.name,
            limit_milliwatts=cap_milliwatts(limit_w),
            constant_milliwatts=whole_watts(constant_w) * WATT,
            coefficients_ppm=tuple(
                (names[host].name, parts_per_million(coefficient))
                for host, coefficient in zip(row.hosts, row.coefficients, strict=True)
            ),
        )


def ledger_settings(site: Site) -> ledger.LedgerSettings:
    """Return lease life from the policy; the ramp is that of the largest host."""
    policy: Policy = site.policy
    largest_w = max((host.maximum_w for host in site.hosts), default=1.0)
    return ledger.LedgerSettings(
        ttl_ms=round(policy.lease_ttl_s * 1000),
        hold_ms=round(policy.lease_hold_s * 1000),
        ramp_milliwatts_per_s=max(1, round(policy.lease_ramp_ratio_per_s * largest_w * MILLI)),
        renew_ms=max(round(policy.lease_ttl_s * 1000 / 3 / TURNS) - RENEW_MARGIN_MS, 1),
    )


def peek_report(envelope: bytes) -> dict[str, Any] | None:
    """Return the plain values in an envelope, unverified and unchecked; None when it is not one."""
    try:
        parts = msgpack.unpackb(envelope, max_ext_len=0)
        plain = msgpack.unpackb(parts[0], max_ext_len=0)
    except (ValueError, TypeError, IndexError, KeyError, RecursionError, msgpack.UnpackException):
        return None
    return plain if isinstance(plain, dict) else None


def is_repetition(known: dict[str, Any] | None, said: dict[str, Any] | None) -> bool:
    """Return whether a report repeats the last verified one but for a stamp that is hardly newer."""
    if not known or not said:
        return False
    stamp_ms, known_ms = said.get("stamp_ms"), known.get("stamp_ms")
    if not isinstance(stamp_ms, int) or not isinstance(known_ms, int):
        return False
    return stamp_ms < known_ms + REPEAT_MS and {**said, "stamp_ms": 0} == {**known, "stamp_ms": 0}


def parts_per_million(coefficient: float) -> int:
    """Return a row coefficient in whole parts per million, rounded up: what a host weighs may only be overstated."""
    return math.ceil(round(coefficient * PPM, 6))


def whole_watts(power_w: float) -> int:
    """Return watts rounded up to whole ones: constants of a row may only be overstated."""
    return math.ceil(round(power_w, 6))


def _enrolment(host: Host) -> ledger.HostEnrolled:
    return ledger.HostEnrolled(
        host=host.name,
        maximum_milliwatts=commitment_milliwatts(host.maximum_w),
        boot_share_milliwatts=commitment_milliwatts(host.boot_share_w),
    )


def _constant_w(row: Row) -> float:
    return row.unmanaged_w + row.reserve_w


def _report_keys(host: Host) -> dict[str, bytes]:
    if host.report_key_id is None or host.report_public_key is None:
        return {}
    return {host.report_key_id: bytes.fromhex(host.report_public_key)}


def _milliseconds(now_s: float) -> int:
    return int(now_s * 1000)
