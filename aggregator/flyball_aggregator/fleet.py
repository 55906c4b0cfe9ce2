"""The fleet as columns: the newest state of every host and GPU, NaN or None where nothing is known.

Rows of the arrays are hosts in the site file's order; columns are GPUs in inventory order. Hosts that the site file
does not list are counted and shown, but stand in no row of power. Written by the intake alone, read by everyone.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from flyball_aggregator.site import Site
from flyball_wire.lease import Report
from flyball_wire.messages import Birth, GpuColumns, State

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
GPU_FLOATS: Final = (
    "power_watts",
    "power_peak_watts",
    "cap_watts",
    "energy_joules",
    "throttled_ratio",
    "utilisation_ratio",
    "temperature_celsius",
    "sm_clock_hz",
)
MAX_UNLISTED: Final = 1000  # names remembered of hosts that the site does not list


@dataclass(slots=True)
class HostRecord:
    """What is known of one host beside its columns."""

    name: str
    index: int
    birth: Birth | None = None
    state: State | None = None
    report: Report | None = None
    state_at_s: float | None = None  # this program's monotonic clock
    report_at_s: float | None = None
    events: int = 0


@dataclass(frozen=True, slots=True)
class MeterReading:
    """The newest value of one meter; `read_at_s` on this program's monotonic clock."""

    power_w: float
    read_at_s: float


@dataclass(slots=True)
class Fleet:
    """All hosts of a site."""

    site: Site
    width: int
    hosts: dict[str, HostRecord]
    columns: dict[str, Floats]  # by name in GPU_FLOATS, each (hosts, width)
    health: list[tuple[str, ...]]  # per host, in inventory order
    minimum_w: Floats  # (hosts, width) of the devices, NaN where there is no GPU
    maximum_w: Floats
    meters: dict[str, MeterReading] = field(default_factory=dict)
    unlisted: dict[str, int] = field(default_factory=dict)  # host id -> messages

    def take_birth(self, birth: Birth) -> None:
        """Remember who a host is; its devices' own limits replace those of the site file."""
        record = self.record_of(birth.host)
        if record is None:
            return
        record.birth = birth
        count = len(birth.gpus)
        self._widen(count)
        if not count:
            return
        self.minimum_w[record.index] = np.nan
        self.maximum_w[record.index] = np.nan
        self.minimum_w[record.index, :count] = [gpu.minimum_milliwatts / 1000 for gpu in birth.gpus]
        self.maximum_w[record.index, :count] = [gpu.maximum_milliwatts / 1000 for gpu in birth.gpus]

    def take_state(self, state: State, now_s: float) -> None:
        """Put one second of a host into the columns; a last will, or an older sequence number, empties or changes none.

        Args:
            state: Decoded and in bounds.
            now_s: This program's monotonic clock.
        """
        record = self.record_of(state.host)
        if record is None or _is_older(state, record.state):
            return
        record.state = state
        record.state_at_s = now_s
        self._widen(len(state.gpus.power_watts))
        for name in GPU_FLOATS:
            self._write(name, record.index, getattr(state.gpus, name))
        self.health[record.index] = state.gpus.health

    def take_report(self, report: Report, now_s: float) -> None:
        """Remember the newest authenticated report, for people; the ledger decides by its own copy."""
        record = self.record_of(report.host)
        if record is not None and (record.report is None or not _is_report_older(report, record.report)):
            record.report = report
            record.report_at_s = now_s

    def take_meter(self, meter: str, power_w: float, now_s: float) -> None:
        """Remember a meter's newest value."""
        self.meters[meter] = MeterReading(power_w, now_s)

    def adopt(self, site: Site) -> None:
        """Take a new site: hosts that stay keep all that is known of them, at their new places."""
        before, fresh = self.hosts, build_fleet(site)
        fresh._widen(self.width)  # noqa: SLF001 - its own class
        for name, record in fresh.hosts.items():
            known = before.get(name)
            if known is None:
                continue
            self._carry(fresh, known.index, record.index, is_born=known.birth is not None)
            known.index = record.index
            fresh.hosts[name] = known
        self.site, self.width, self.hosts = site, fresh.width, fresh.hosts
        self.columns, self.health = fresh.columns, fresh.health
        self.minimum_w, self.maximum_w = fresh.minimum_w, fresh.maximum_w
        self.unlisted = {name: count for name, count in self.unlisted.items() if name not in fresh.hosts}

    def _carry(self, fresh: "Fleet", old: int, new: int, *, is_born: bool) -> None:
        for name, column in fresh.columns.items():
            column[new, : self.width] = self.columns[name][old]
        fresh.health[new] = self.health[old]
        if is_born:  # the devices' own limits stand above those of the site file
            fresh.minimum_w[new, : self.width] = self.minimum_w[old]
            fresh.maximum_w[new, : self.width] = self.maximum_w[old]

    def record_of(self, host: str) -> HostRecord | None:
        """Return the record of a listed host; an unlisted one is counted."""
        record = self.hosts.get(host)
        if record is None and (host in self.unlisted or len(self.unlisted) < MAX_UNLISTED):
            self.unlisted[host] = self.unlisted.get(host, 0) + 1
        return record

    def fresh_hosts(self, now_s: float, stale_s: float) -> Flags:
        """Return (hosts,) whether each host is online with a state no older than this."""
        fresh = np.zeros(len(self.hosts), dtype=np.bool_)
        for record in self.hosts.values():
            fresh[record.index] = is_fresh(record, now_s, stale_s)
        return fresh

    def meter_w(self, meter: str, now_s: float, stale_s: float) -> float | None:
        """Return a meter's value; None when it is unknown or stale."""
        reading = self.meters.get(meter)
        if reading is None or now_s - reading.read_at_s > stale_s:
            return None
        return reading.power_w

    def host_power_w(self) -> Floats:
        """Return (hosts,) measured GPU watts; NaN where any GPU of the host is unknown."""
        power = self.columns["power_watts"]
        exists = np.isfinite(self.maximum_w)
        unknown = (np.isnan(power) & exists).any(axis=1) | ~exists.any(axis=1)
        sums = np.where(exists, np.nan_to_num(power), 0.0).sum(axis=1)
        return np.where(unknown, np.nan, sums)

    def _write(self, name: str, index: int, values: tuple[float | None, ...]) -> None:
        row = self.columns[name][index]
        row[:] = np.nan
        row[: len(values)] = [np.nan if value is None else value for value in values]

    def _widen(self, count: int) -> None:
        """Add columns when a host has more GPUs than the site file said of any."""
        if count <= self.width:
            return
        extra = ((0, 0), (0, count - self.width))
        self.columns = {name: np.pad(column, extra, constant_values=np.nan) for name, column in self.columns.items()}
        self.minimum_w = np.pad(self.minimum_w, extra, constant_values=np.nan)
        self.maximum_w = np.pad(self.maximum_w, extra, constant_values=np.nan)
        self.width = count


def build_fleet(site: Site) -> Fleet:
    """Return the fleet of a site before anything was heard."""
    count = len(site.hosts)
    width = max((host.gpus for host in site.hosts), default=1)
    gpu = np.arange(width)[np.newaxis, :] < np.array([[host.gpus] for host in site.hosts])
    least = np.array([[host.gpu_minimum_w] for host in site.hosts])
    most = np.array([[host.gpu_maximum_w] for host in site.hosts])
    return Fleet(
        site=site,
        width=width,
        hosts={host.name: HostRecord(host.name, index) for index, host in enumerate(site.hosts)},
        columns={name: np.full((count, width), np.nan) for name in GPU_FLOATS},
        health=[()] * count,
        minimum_w=np.where(gpu, least, np.nan),
        maximum_w=np.where(gpu, most, np.nan),
    )


def is_fresh(record: HostRecord, now_s: float, stale_s: float) -> bool:
    """Return whether a host is online and was heard lately."""
    if record.state is None or record.state_at_s is None:
        return False
    return record.state.is_online and now_s - record.state_at_s <= stale_s


def empty_columns() -> GpuColumns:
    """Return the columns of a host that knows nothing of its GPUs."""
    return GpuColumns((), (), (), (), (), (), (), (), ())


def _is_older(state: State, known: State | None) -> bool:
    return known is not None and known.session == state.session and state.is_online and state.seq <= known.seq


def _is_report_older(report: Report, known: Report) -> bool:
    return report.incarnation == known.incarnation and report.stamp_ms < known.stamp_ms
