"""What would happen under another limit, a lost feed, more load or new work: the real allocation, changing nothing.

New work is admitted where the promised floors and the expected draw both stay within the admission ratio of every row,
those of lost feeds among them; what comes by itself (a limit, a loss, a load) is answered by who would be lowered.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from flyball_aggregator.power.decide import Decision, HostColumns, RowColumns, decide
from flyball_aggregator.power.network import Flow, build_network
from flyball_aggregator.power.rows import Floats, Row
from flyball_aggregator.power.snapshot import PowerSnapshot
from flyball_aggregator.site import Site

MILLI: Final = 1000.0
LOWERED_W: Final = 1.0  # smaller differences are not told
TOP: Final = 20  # hosts told of


@dataclass(frozen=True, slots=True)
class Work:
    """Work that would start on some GPUs of one host; GPU watts of each GPU."""

    gpus: int
    floor_w: float
    expected_w: float
    hosts: tuple[str, ...] = ()  # candidates; none named: all


@dataclass(frozen=True, slots=True)
class Question:
    """What is supposed, all of it together."""

    limits_w: tuple[tuple[str, float], ...] = ()  # row, wall watts
    lost: str | None = None  # a feed
    loads_w: tuple[tuple[str, float], ...] = ()  # element, wall watts drawn from it
    work: Work | None = None


def answer(site: Site, snapshot: PowerSnapshot, question: Question) -> dict[str, Any]:
    """Return what would follow.

    Raises:
        ValueError: naming the row, feed, element or host that is not there, and what there is.
    """
    columns = supposed_rows(site, snapshot, question)
    if question.work is not None:
        return _with_work(site, snapshot, columns, question.work)
    decision = _decide(site, snapshot, columns, snapshot.hosts)
    load_w = snapshot.matrix.load_w(_floors_w(snapshot.hosts)) + columns.unmanaged_w + columns.reserve_w
    return {
        "fits": not decision.allocation.short_rows.any(),
        "floors_kept": bool(decision.allocation.floors_met.all()),
        "short_rows": _names(snapshot.rows, decision.allocation.short_rows),
        "limiting_row": _tightest(snapshot.rows, load_w / np.maximum(columns.limit_w, 1e-9)),
        "rows": _row_views(snapshot, columns),
        "lowered": _lowered(site, snapshot, decision),
    }


def supposed_rows(site: Site, snapshot: PowerSnapshot, question: Question) -> RowColumns:
    """Return the rows' columns under the suppositions.

    Raises:
        ValueError: as `answer`.
    """
    rows, columns = snapshot.rows, snapshot.columns
    limit_w = columns.limit_w.copy()
    for name, watts in question.limits_w:
        limit_w[_place(name, [row.name for row in rows], "row")] = watts
    if question.lost is not None:
        _place(question.lost, [row.lost for row in rows if row.lost is not None], "feed whose loss is planned for")
        lasting_w = np.array([row.continuous_limit_w for row in rows])
        is_survivor = np.array([row.lost == question.lost for row in rows])
        limit_w = np.where(is_survivor, np.minimum(limit_w, lasting_w), limit_w)
    unmanaged_w = columns.unmanaged_w + _added_w(site, rows, question.loads_w)
    ratio = np.array([row.reserve_ratio for row in rows])
    return RowColumns(limit_w, unmanaged_w, ratio * limit_w)


def _added_w(site: Site, rows: Sequence[Row], loads_w: Sequence[tuple[str, float]]) -> Floats:
    """Return (rows,) what the loads add to each row, in the state of the network that the row is about."""
    network = build_network(site)
    known: dict[str | None, dict[str, Flow]] = {}
    added = np.zeros(len(rows))
    for element, watts in loads_w:
        _place(element, list(network.elements), "element")
        for index, row in enumerate(rows):
            if row.element is not None:
                lost = frozenset() if row.lost is None else frozenset({row.lost})
                flow = network.flow_through(element, lost, known.setdefault(row.lost, {}))
                added[index] += watts * flow.get(row.element, 0.0)
    return added


def _with_work(site: Site, snapshot: PowerSnapshot, columns: RowColumns, work: Work) -> dict[str, Any]:
    """Return where the work may start, best place first; the score keeps rows even (sum of squared use)."""
    names = [host.name for host in site.hosts]
    candidates = [_place(name, names, "host") for name in work.hosts or names]
    places = [_place_view(site, snapshot, columns, work, index) for index in candidates]
    fitting = sorted((place for place in places if place["fits"]), key=lambda place: float(place["score"]))
    refused = [place for place in places if not place["fits"]]
    best = fitting[0] if fitting else None
    lowered: list[dict[str, Any]] = []
    if best is not None:
        hosts = _working(site, snapshot.hosts, work, names.index(best["host"]))
        lowered = _lowered(site, snapshot, _decide(site, snapshot, columns, hosts))
    return {
        "fits": best is not None,
        "host": None if best is None else best["host"],
        "limiting_row": (best or min(refused, key=lambda place: float(place["use_ratio"])))["limiting_row"],
        "places": (fitting + refused)[:TOP],
        "rows": _row_views(snapshot, columns),
        "lowered": lowered,
    }


def _place_view(site: Site, snapshot: PowerSnapshot, columns: RowColumns, work: Work, index: int) -> dict[str, Any]:
    host = site.hosts[index]
    hosts = _working(site, snapshot.hosts, work, index)
    constant_w = columns.unmanaged_w + columns.reserve_w
    limit_w = np.maximum(columns.limit_w, 1e-9)
    floor_use = (snapshot.matrix.load_w(_floors_w(hosts)) + constant_w) / limit_w
    expected_use = (snapshot.matrix.load_w(_expected_w(site, snapshot.hosts, work, index)) + constant_w) / limit_w
    mine = np.array([index in row.hosts for row in snapshot.rows])
    use = np.where(mine, np.maximum(floor_use, expected_use), 0.0)
    refusal = _refusal(snapshot, work, host.gpus, index)
    return {
        "host": host.name,
        "fits": refusal is None and bool((use <= site.policy.admission_ratio).all()),
        "refusal": refusal,
        "limiting_row": _tightest(snapshot.rows, use),
        "use_ratio": round(float(use.max(initial=0.0)), 4),
        "admission_ratio": site.policy.admission_ratio,
        "score": round(float((use**2).sum()), 6),
    }


def _refusal(snapshot: PowerSnapshot, work: Work, gpus: int, index: int) -> str | None:
    if work.gpus > gpus:
        return f"it has {gpus} GPUs, {work.gpus} are wanted"
    if not snapshot.hosts.is_led[index]:
        return f"it is not led: {snapshot.reasons[index]}"
    return None


def _working(site: Site, hosts: HostColumns, work: Work, index: int) -> HostColumns:
    """Return the hosts with the work's floor and draw on one of them, within what its devices can be set to."""
    host = site.hosts[index]
    floor_w, demand_w = _floors_w(hosts).copy(), hosts.demand_w.copy()
    most_w = float(hosts.maximum_milliwatts[index]) / MILLI
    present_w = host.minimum_w if np.isnan(demand_w[index]) else float(demand_w[index])
    floor_w[index] = min(floor_w[index] + work.gpus * max(work.floor_w - host.gpu_minimum_w, 0.0), most_w)
    demand_w[index] = min(present_w + work.gpus * max(work.expected_w - host.gpu_minimum_w, 0.0), most_w)
    return replace(hosts, floor_w=floor_w, demand_w=demand_w)


def _floors_w(hosts: HostColumns) -> Floats:
    """Return (hosts,) what cannot be taken: promised floors, or the commitment of a host that is not led."""
    promised = np.maximum(hosts.floor_w, hosts.minimum_milliwatts / MILLI)
    floors: Floats = np.where(hosts.is_led, promised, hosts.committed_milliwatts / MILLI)
    return floors


def _expected_w(site: Site, hosts: HostColumns, work: Work, index: int) -> Floats:
    """Return (hosts,) floors, to which all present work can be lowered, and on one host the new work's draw."""
    host = site.hosts[index]
    expected = _floors_w(hosts).copy()
    drawn_w = expected[index] + work.gpus * max(work.expected_w - host.gpu_minimum_w, 0.0)
    expected[index] = min(drawn_w, float(hosts.maximum_milliwatts[index]) / MILLI)
    return expected


def _decide(site: Site, snapshot: PowerSnapshot, columns: RowColumns, hosts: HostColumns) -> Decision:
    return decide(snapshot.matrix, columns, hosts, gives_spare=site.policy.gives_spare)


def _lowered(site: Site, snapshot: PowerSnapshot, decision: Decision) -> list[dict[str, Any]]:
    """Return hosts that would have less than their share of now, the most lowered first."""
    before = snapshot.decision.target_milliwatts / MILLI
    after = decision.target_milliwatts / MILLI
    order = [int(index) for index in np.argsort(after - before) if before[index] - after[index] > LOWERED_W]
    rows = decision.limiting_row
    return [
        {
            "host": site.hosts[index].name,
            "from_watts": float(before[index]),
            "to_watts": float(after[index]),
            "limiting_row": snapshot.rows[rows[index]].name if rows[index] >= 0 else None,
        }
        for index in order[:TOP]
    ]


def _row_views(snapshot: PowerSnapshot, columns: RowColumns) -> list[dict[str, Any]]:
    """Return each row's room before and after, and whether what hosts are committed to now is above it."""
    committed_w = snapshot.committed_w
    return [
        {
            "row": row.name,
            "limit_watts": float(columns.limit_w[index]),
            "slack_watts_before": round(float(snapshot.columns.room_w[index] - committed_w[index]), 3),
            "slack_watts_after": round(float(columns.room_w[index] - committed_w[index]), 3),
        }
        for index, row in enumerate(snapshot.rows)
    ]


def _tightest(rows: Sequence[Row], use: Floats) -> str | None:
    return rows[int(np.argmax(use))].name if len(rows) else None


def _names(rows: Sequence[Row], chosen: np.ndarray) -> list[str]:
    return [rows[int(index)].name for index in np.flatnonzero(chosen)]


def _place(name: str, known: Sequence[str], what: str) -> int:
    if name not in known:
        raise ValueError(f"{what} {name!r} is not known; there are {', '.join(sorted(set(known))[:10]) or 'none'}")
    return list(known).index(name)
