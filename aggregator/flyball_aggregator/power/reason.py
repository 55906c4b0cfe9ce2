"""One sentence for a person on why a host has what it has."""

from typing import Final

from flyball_aggregator.power.snapshot import PowerSnapshot

MILLI: Final = 1000.0


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


def _row_name(snapshot: PowerSnapshot, index: int) -> str:
    limiting = int(snapshot.decision.limiting_row[index])
    return snapshot.rows[limiting].name if limiting >= 0 else "its rows"
