"""Say why a host has its cap: the limiting row, the tiers on it, and who has the watts."""

from typing import Any, Final

import numpy as np

from flyball_aggregator.fleet import Fleet
from flyball_aggregator.power.reason import host_sentence
from flyball_aggregator.power.snapshot import PowerSnapshot, number
from flyball_aggregator.power.view import gpu_views, row_view

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
        "time": number(snapshot.time_s),
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


def explain_row(fleet: Fleet, snapshot: PowerSnapshot, name: str) -> dict[str, Any] | None:
    """Return what stands on a row; None when there is no such row."""
    index = next((number for number, row in enumerate(snapshot.rows) if row.name == name), None)
    if index is None:
        return None
    return {**row_view(snapshot, index), "holders": row_holders(fleet, snapshot, index)}


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


def explain_gpu(fleet: Fleet, snapshot: PowerSnapshot, host: str, gpu: int) -> dict[str, Any] | None:
    """Return why a GPU has its cap: its host's lease, and the governor's split inside it."""
    whole = explain_host(fleet, snapshot, host)
    if whole is None:
        return None
    views = [view for view in gpu_views(fleet, fleet.hosts[host]) if view["gpu"] == gpu]
    if not views:
        return None
    return {**views[0], "host": host, "split_by": "the governor of the host, inside its lease", "host_lease": whole}
