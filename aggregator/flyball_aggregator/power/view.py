"""Rows and hosts of a snapshot as plain values for people: names and units spelled whole, None for unknown."""

from typing import Any, Final

import numpy as np

from flyball_aggregator.fleet import Fleet, HostRecord, is_fresh
from flyball_aggregator.power.reason import host_sentence
from flyball_aggregator.power.snapshot import PowerSnapshot, number

MILLI: Final = 1000.0


def host_view(fleet: Fleet, snapshot: PowerSnapshot, record: HostRecord, now_s: float) -> dict[str, Any]:
    """Return one host: how it is, what it draws and may draw, and why."""
    index = record.index
    hosts, decision = snapshot.hosts, snapshot.decision
    lease, limiting = int(hosts.lease_milliwatts[index]), int(decision.limiting_row[index])
    state, site_host = record.state, fleet.site.hosts[index]
    return {
        "host": record.name,
        "is_online": is_fresh(record, now_s, fleet.site.policy.state_stale_s),
        "heard_seconds_ago": None if record.state_at_s is None else round(now_s - record.state_at_s, 1),
        "mode": state.mode if state is not None else None,
        "is_gated": state.is_gated if state is not None else None,
        "governor_alive": state.governor_alive if state is not None else None,
        "samples_total": state.samples_total if state is not None else None,
        "rate_hertz": state.rate_hz if state is not None else None,
        "supplies": [parent.name for parent in site_host.supplies],
        "gpu_model": record.birth.gpus[0].model if record.birth and record.birth.gpus else site_host.gpu_model,
        "gpus_total": len(record.birth.gpus) if record.birth and record.birth.gpus else site_host.gpus,
        "is_simulated": record.birth.is_simulated if record.birth else fleet.site.is_simulated,
        "power_watts": number(snapshot.measured_w[index]),
        "demand_watts": number(hosts.demand_w[index]),
        "lease_watts": lease / MILLI if lease >= 0 else None,
        "committed_watts": int(hosts.committed_milliwatts[index]) / MILLI,
        "safe_watts": int(snapshot.safe_milliwatts[index]) / MILLI,
        "maximum_watts": int(hosts.maximum_milliwatts[index]) / MILLI,
        "tier": int(hosts.tier[index]),
        "is_led": bool(hosts.is_led[index]),
        "limiting_row": snapshot.rows[limiting].name if limiting >= 0 else None,
        "why": host_sentence(snapshot, index),
        "since": number(snapshot.since_s[index]),
    }


def gpu_views(fleet: Fleet, record: HostRecord) -> list[dict[str, Any]]:
    """Return the GPUs of a host in inventory order."""
    index = record.index
    columns = fleet.columns
    health = fleet.health[index]
    inventory = record.birth.gpus if record.birth else ()
    return [
        {
            "gpu": gpu,
            "uuid": inventory[gpu].uuid if gpu < len(inventory) else None,
            "power_watts": number(columns["power_watts"][index, gpu]),
            "power_peak_watts": number(columns["power_peak_watts"][index, gpu]),
            "cap_watts": number(columns["cap_watts"][index, gpu]),
            "maximum_watts": number(fleet.maximum_w[index, gpu]),
            "throttled_ratio": number(columns["throttled_ratio"][index, gpu]),
            "utilisation_ratio": number(columns["utilisation_ratio"][index, gpu]),
            "temperature_celsius": number(columns["temperature_celsius"][index, gpu]),
            "sm_clock_hertz": number(columns["sm_clock_hz"][index, gpu]),
            "health": health[gpu] if gpu < len(health) else "unknown",
        }
        for gpu in np.flatnonzero(np.isfinite(fleet.maximum_w[index])).tolist()
    ]


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


def _draw(snapshot: PowerSnapshot, index: int) -> float | None:
    if np.isfinite(snapshot.meter_w[index]):
        return number(snapshot.meter_w[index])
    return number(snapshot.managed_w[index] + snapshot.columns.unmanaged_w[index])
