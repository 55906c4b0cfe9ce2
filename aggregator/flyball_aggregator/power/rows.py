"""Every limit as one linear row: sum over hosts of a x GPU watts + unmanaged + reserve <= limit, all at the wall.

Rows come from elements in the normal state, from each element with a feed lost, and from groups. Their order is fixed
by the site file, and so is the matrix in compressed form.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from flyball_aggregator.power.network import Flow, Network, build_network, lost_feeds
from flyball_aggregator.site import Element, Site

RowKind = Literal["element", "loss", "group", "target"]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
SHED_S = 10.0  # all shedding is over by then (power-budgeting.md 5.1); an emergency rating must last longer
MILLION = 1_000_000
SAME = 1e-12  # coefficients that differ by less are the same row


@dataclass(frozen=True, slots=True)
class Row:
    """One limit; `hosts` are indices in the site file's order, `coefficients` wall watts per GPU watt of each."""

    name: str
    kind: RowKind
    element: str | None  # whose rating it is; None for a group
    lost: str | None  # the feed that is out in this contingency
    hosts: tuple[int, ...]
    coefficients: tuple[float, ...]
    limit_w: float
    continuous_limit_w: float  # without any emergency rating
    unmanaged_w: float  # configured: hosts' own power and other loads
    reserve_ratio: float
    meter: str | None  # element whose meter reads this row, in the normal state

    @property
    def reserve_w(self) -> float:
        """Watts that are never lent."""
        return self.reserve_ratio * self.limit_w


@dataclass(frozen=True, slots=True)
class RowMatrix:
    """The coefficients of all rows in row order: entry k says that host `host[k]` draws on row `row[k]`.

    Every host has at least one entry: one that no limit covers hangs on a last row without a name and a limit.
    """

    hosts: int
    rows: int
    row: Integers
    host: Integers
    coefficient: Floats
    start: Integers  # (rows + 1,): entries of row i are start[i] to start[i + 1]

    def load_w(self, power_w: Floats) -> Floats:
        """Return (rows,) wall watts of (hosts,) GPU watts on each row."""
        weighted = self.coefficient * power_w[self.host]
        load: Floats = np.bincount(self.row, weighted, minlength=self.rows)[: self.rows].astype(np.float64, copy=False)
        return load


def build_rows(site: Site) -> tuple[Row, ...]:
    """Return all rows of a checked site, elements first, then losses, then groups."""
    network = build_network(site)
    normal = _flows(network, site, frozenset())
    rows = [*_element_rows(site, normal), *_group_rows(site), *_target_rows(site, normal)]
    for lost in lost_feeds(site):
        rows += _loss_rows(site, normal, _flows(network, site, frozenset({lost})), lost)
    return _without_copies(rows)


def build_matrix(rows: Sequence[Row], hosts: int) -> RowMatrix:
    """Return rows in compressed form over this many hosts."""
    covered = {host for row in rows for host in row.hosts}
    members = [list(row.hosts) for row in rows]
    weights = [list(row.coefficients) for row in rows]
    free = [host for host in range(hosts) if host not in covered]
    if free:
        members.append(free)
        weights.append([0.0] * len(free))
    lengths = [len(item) for item in members]
    start = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])
    return RowMatrix(
        hosts=hosts,
        rows=len(rows),
        row=np.repeat(np.arange(len(members), dtype=np.int64), lengths),
        host=np.array([host for item in members for host in item], dtype=np.int64),
        coefficient=np.array([weight for item in weights for weight in item], dtype=np.float64),
        start=start,
    )


@dataclass(frozen=True, slots=True)
class _Flows:
    """What passes each element in one state of the network."""

    hosts: tuple[Flow, ...]
    unmanaged_w: dict[str, float]
    members: dict[str, list[int]]


def _flows(network: Network, site: Site, lost: frozenset[str]) -> _Flows:
    known: dict[str, Flow] = {}
    hosts = tuple(network.flow_above(host.supplies, lost, known) for host in site.hosts)
    unmanaged: dict[str, float] = {}
    members: dict[str, list[int]] = {}
    for index, (host, flow) in enumerate(zip(site.hosts, hosts, strict=True)):
        for name, watts in flow.items():
            unmanaged[name] = unmanaged.get(name, 0.0) + host.own_power_w * watts
            members.setdefault(name, []).append(index)
    for element in site.elements:
        if element.unmanaged_w:
            for name, watts in network.flow_through(element.name, lost, known).items():
                at_element = element.efficiency if name == element.name else 1.0
                unmanaged[name] = unmanaged.get(name, 0.0) + element.unmanaged_w * watts * at_element
    return _Flows(hosts, unmanaged, members)


def _element_rows(site: Site, flows: _Flows) -> list[Row]:
    rows = []
    for element in site.elements:
        limit_w = element.continuous_w
        if limit_w is not None and element.name in flows.members:
            rows.append(_row_of(site, element, flows, None, limit_w))
    return rows


def _loss_rows(site: Site, normal: _Flows, after: _Flows, lost: str) -> list[Row]:
    """Return a row for each element that carries more of any host once a feed is out."""
    rows = []
    for element in site.elements:
        continuous_w = element.continuous_w
        members = after.members.get(element.name, [])
        is_burdened = any(
            after.hosts[host][element.name] > normal.hosts[host].get(element.name, 0.0) + SAME for host in members
        )
        if continuous_w is not None and is_burdened:
            rows.append(_row_of(site, element, after, lost, _survivor_limit_w(element, continuous_w)))
    return rows


def _survivor_limit_w(element: Element, continuous_w: float) -> float:
    """Return the emergency rating where it lasts until all shedding is over, else the continuous one."""
    has_time = element.emergency_duration_s is not None and element.emergency_duration_s >= SHED_S
    if element.emergency_rating_w is None or not has_time:
        return continuous_w
    return element.emergency_rating_w


def _row_of(site: Site, element: Element, flows: _Flows, lost: str | None, limit_w: float) -> Row:
    members = flows.members[element.name]
    return Row(
        name=element.name if lost is None else f"{element.name}/without/{lost}",
        kind="element" if lost is None else "loss",
        element=element.name,
        lost=lost,
        hosts=tuple(members),
        coefficients=tuple(
            _rounded_up(flows.hosts[host][element.name] * site.hosts[host].wall_watts_per_gpu_watt) for host in members
        ),
        limit_w=limit_w,
        continuous_limit_w=element.continuous_w or limit_w,
        unmanaged_w=flows.unmanaged_w.get(element.name, 0.0),
        reserve_ratio=site.policy.reserve_ratio if element.reserve_ratio is None else element.reserve_ratio,
        meter=element.name if element.has_meter and lost is None else None,
    )


def _rounded_up(coefficient: float) -> float:
    """Return a coefficient in whole parts per million, as the ledger counts it, never less than it is."""
    return math.ceil(round(coefficient * MILLION, 3)) / MILLION


def _group_rows(site: Site) -> list[Row]:
    index: Mapping[str, int] = {host.name: number for number, host in enumerate(site.hosts)}
    rows = []
    for group in site.groups:
        members = sorted(index[name] for name in group.hosts)
        rows.append(
            Row(
                name=f"group/{group.name}",
                kind="group",
                element=None,
                lost=None,
                hosts=tuple(members),
                coefficients=tuple(_rounded_up(site.hosts[host].wall_watts_per_gpu_watt) for host in members),
                limit_w=group.limit_w,
                continuous_limit_w=group.limit_w,
                unmanaged_w=sum(site.hosts[host].own_power_w for host in members),
                reserve_ratio=site.policy.reserve_ratio,
                meter=None,
            )
        )
    return rows


def _target_rows(site: Site, flows: _Flows) -> list[Row]:
    """Return a row over the sum of all elements that carry one feed tag, where no single rated element has it."""
    tags: dict[str, list[Element]] = {}
    for element in site.elements:
        if element.feed_tag is not None and element.name in flows.members:
            tags.setdefault(element.feed_tag, []).append(element)
    return [
        _sum_row(site, tag, elements, flows)
        for tag, elements in tags.items()
        if len(elements) > 1 or elements[0].continuous_w is None
    ]


def _sum_row(site: Site, tag: str, elements: list[Element], flows: _Flows) -> Row:
    """Return the row of a feed; without ratings its limit is what everything on it can draw."""
    names = [element.name for element in elements]
    members = sorted({host for name in names for host in flows.members[name]})
    shares = [sum(flows.hosts[host].get(name, 0.0) for name in names) for host in members]
    coefficients = tuple(
        _rounded_up(share * site.hosts[host].wall_watts_per_gpu_watt)
        for host, share in zip(members, shares, strict=True)
    )
    unmanaged_w = sum(flows.unmanaged_w.get(name, 0.0) for name in names)
    most_w = sum(
        coefficient * site.hosts[host].maximum_w for host, coefficient in zip(members, coefficients, strict=True)
    )
    ratings = [element.continuous_w for element in elements]
    most_w = (most_w + unmanaged_w) / (1.0 - site.policy.reserve_ratio)
    limit_w = sum(most_w if rating is None else rating for rating in ratings)
    return Row(
        name=f"target/{tag}",
        kind="target",
        element=None,
        lost=None,
        hosts=tuple(members),
        coefficients=coefficients,
        limit_w=limit_w,
        continuous_limit_w=limit_w,
        unmanaged_w=unmanaged_w,
        reserve_ratio=site.policy.reserve_ratio,
        meter=names[0] if len(names) == 1 and elements[0].has_meter else None,
    )


def _without_copies(rows: list[Row]) -> tuple[Row, ...]:
    """Drop loss rows that another lost element already states: the feed, its UPS and its PDU go out alike."""
    seen: set[tuple[object, ...]] = set()
    kept = []
    for row in rows:
        key = (row.element, row.hosts, row.coefficients, row.limit_w)
        if row.kind != "loss" or key not in seen:
            kept.append(row)
        seen.add(key)
    return tuple(kept)


def root_rows(site: Site, rows: Sequence[Row]) -> tuple[int, ...]:
    """Return the indices of rows that together carry the whole site once: rated elements with no rated one above."""
    network = build_network(site)
    known: dict[str, Flow] = {}
    index = {row.name: number for number, row in enumerate(rows) if row.kind == "element"}
    roots = []
    for name, number in index.items():
        above = [higher for higher in network.flow_through(name, frozenset(), known) if higher != name]
        if not any(higher in index for higher in above):
            roots.append(number)
    return tuple(roots)
