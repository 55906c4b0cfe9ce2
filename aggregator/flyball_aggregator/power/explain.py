"""Say why a host has its cap: the limiting row, the tiers on it, and who has the watts."""

from typing import Any, Final

import numpy as np

from flyball_aggregator.fleet import Fleet
from flyball_aggregator.power.snapshot import PowerSnapshot, number

TOP: Final = 10  # holders named; the rest is summed
MILLI: Final = 1000.0


def explain_host(fleet: Fleet, snapshot: PowerSnapshot, name: str) -> dict[str, Any] | None:
    """Return why a host has its lease; None for a host that the site does not list."""
    record = fleet.hosts.get(name)
    if record is None:
        return None
    index = record.index
    hosts, decision = snapshot.hosts, snapshot.decision
    limiting = int(decision.limiting_row[index])
    lease = int(hosts.lease_milliwatts[index])
    return {
        "host": name,
        "lease_watts": lease / MILLI if lease >= 0 else None,
        "committed_watts": int(hosts.committed_milliwatts[index]) / MILLI,
        "target_watts": int(decision.target_milliwatts[index]) / MILLI,
        "demand_watts": number(hosts.demand_w[index]),
        "floor_watts": number(hosts.floor_w[index]),
        "ceiling_watts": number(hosts.ceiling_w[index]),
        "measured_watts": number(snapshot.measured_w[index]),
        "safe_watts": int(snapshot.safe_milliwatts[index]) / MILLI,
        "tier": int(hosts.tier[index]),
        "weight": float(hosts.weight[index]),
        "since": number(snapshot.since_s[index]),
        "is_led": bool(hosts.is_led[index]),
        "limiting_row": snapshot.rows[limiting].name if limiting >= 0 else None,
        "holders": row_holders(fleet, snapshot, limiting) if limiting >= 0 else [],
        "sentence": host_sentence(snapshot, index),
    }


def host_sentence(snapshot: PowerSnapshot, index: int) -> str:
    """Return one sentence for a person."""
    hosts, decision = snapshot.hosts, snapshot.decision
    if snapshot.reasons[index]:
        committed_w = int(hosts.committed_milliwatts[index]) / MILLI
        return f"not led: {snapshot.reasons[index]}; counts at {committed_w:.0f} W"
    limiting = int(decision.limiting_row[index])
    granted_w = float(decision.granted_w[index])
    if not decision.allocation.floors_met[index]:
        return f"below its floor of {hosts.floor_w[index]:.0f} W: the floors do not fit on {_row_name(snapshot, index)}"
    if limiting >= 0:
        row = snapshot.rows[limiting].name
        return f"wants {hosts.demand_w[index]:.0f} W, has {granted_w:.0f} W: {row} is full, tier {hosts.tier[index]}"
    spare_w = int(decision.target_milliwatts[index]) / MILLI - granted_w
    return f"has what it wants ({granted_w:.0f} W) and {max(spare_w, 0.0):.0f} W of headroom"


def explain_row(fleet: Fleet, snapshot: PowerSnapshot, name: str) -> dict[str, Any] | None:
    """Return what stands on a row; None when there is no such row."""
    index = next((number for number, row in enumerate(snapshot.rows) if row.name == name), None)
    if index is None:
        return None
    return {**row_view(snapshot, index), "holders": row_holders(fleet, snapshot, index)}


def row_view(snapshot: PowerSnapshot, index: int) -> dict[str, Any]:
    """Return one row as plain values, wall watts."""
    row, columns = snapshot.rows[index], snapshot.columns
    limit_w = float(columns.limit_w[index])
    committed_w = float(snapshot.committed_w[index] + columns.unmanaged_w[index] + columns.reserve_w[index])
    return {
        "row": row.name,
        "kind": row.kind,
        "element": row.element,
        "lost": row.lost,
        "hosts": len(row.hosts),
        "limit_watts": round(limit_w, 3),
        "limit_source": snapshot.limit_source[index],
        "rating_watts": row.limit_w,
        "committed_watts": round(committed_w, 3),
        "leased_watts": round(float(snapshot.committed_w[index]), 3),
        "unmanaged_watts": round(float(columns.unmanaged_w[index]), 3),
        "reserve_watts": round(float(columns.reserve_w[index]), 3),
        "slack_watts": round(limit_w - committed_w, 3),
        "draw_watts": _draw(snapshot, index),
        "draw_source": "meter" if np.isfinite(snapshot.meter_w[index]) else "model",
        "is_binding": snapshot.is_binding(index),
        "is_in_descent": committed_w > limit_w + 1e-3,
        "is_short": bool(snapshot.decision.allocation.short_rows[index]),
        "survivable_unreachable_fraction": number(snapshot.survivable_ratio[index]),
    }


def row_holders(fleet: Fleet, snapshot: PowerSnapshot, row: int) -> list[dict[str, Any]]:
    """Return who has the watts of a row, most first: host, tier, wall watts."""
    names = list(fleet.hosts)
    members = np.array(snapshot.rows[row].hosts, dtype=np.int64)
    weights = np.array(snapshot.rows[row].coefficients)
    wall_w = weights * snapshot.hosts.committed_milliwatts[members] / MILLI
    order = np.argsort(-wall_w, kind="stable")[:TOP]
    holders = [
        {
            "host": names[members[place]],
            "tier": int(snapshot.hosts.tier[members[place]]),
            "wall_watts": round(float(wall_w[place]), 3),
        }
        for place in order
    ]
    if len(members) > TOP:
        rest = float(wall_w.sum() - wall_w[order].sum())
        holders.append({"host": f"{len(members) - TOP} others", "tier": None, "wall_watts": round(rest, 3)})
    return holders


def _draw(snapshot: PowerSnapshot, index: int) -> float | None:
    if np.isfinite(snapshot.meter_w[index]):
        return number(snapshot.meter_w[index])
    return number(snapshot.managed_w[index] + snapshot.columns.unmanaged_w[index])


def _row_name(snapshot: PowerSnapshot, index: int) -> str:
    limiting = int(snapshot.decision.limiting_row[index])
    return snapshot.rows[limiting].name if limiting >= 0 else "its rows"
