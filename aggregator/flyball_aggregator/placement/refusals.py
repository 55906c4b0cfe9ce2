"""Why a job has no place: the first constraint that shuts it out, by name."""

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from flyball_aggregator.placement.board import RowView
from flyball_aggregator.placement.jobs import Job
from flyball_aggregator.placement.needs import Need, Terms, members_that_fit, row_view
from flyball_aggregator.placement.overlay import Overlay


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job has no place: what ran out (quota, limit, row, topology, gpus, hosts) and which one."""

    reason: str
    subject: str


def diagnose(overlay: Overlay, job: Job, terms: Terms, needs: dict[str, Need], end_s: float) -> Refusal:
    """Return the first constraint that leaves a role without hosts; `topology` where each role alone would fit."""
    fleet = overlay.board.fleet
    for role in job.gang.roles():
        member, wanted = role.asked, role.least * role.count
        fits = members_that_fit(fleet, member)
        if not (fits > 0).any():
            ask = f"{member.gpus} x {member.gpu_milli} milli with its CPU and memory"
            return Refusal("gpus", f"{role.name}: no host has {ask}")
        open_hosts = (fits > 0) & (terms.allowed != 0)
        if not open_hosts.any():
            return Refusal("hosts", f"{role.name}: the hosts that fit are closed, reserved or another tenant's")
        if int(fits[open_hosts].sum()) < wanted:
            return Refusal("gpus", f"{role.name}: {int(fits[open_hosts].sum())} of {wanted} members fit")
        row = _full_row(overlay, open_hosts, row_view(overlay, needs[role.name], terms, end_s), wanted)
        if row is not None:
            return Refusal("row", row)
    return Refusal("topology", job.gang.topology.required or "no combination of domains was found")


def _full_row(overlay: Overlay, hosts: NDArray[np.bool_], view: RowView, members: int) -> str | None:
    """Return the row that shuts out most of these hosts, or that cannot carry all members; None where none does."""
    fleet, rows = overlay.board.fleet, view.rows[hosts]
    need = view.share[hosts] * view.need_w[fleet.model[hosts]][:, None]
    room = np.where(rows >= 0, view.room_w[rows], inf)
    short = need > room
    if short.any(axis=1).all() and short.any():
        return overlay.rows.names[int(np.bincount(rows[short]).argmax())]
    for number, name in enumerate(overlay.rows.names):
        over = rows == number
        if over.any(axis=1).all() and float(need[over].min(initial=inf)) * members > view.room_w[number]:
            return name
    return None
