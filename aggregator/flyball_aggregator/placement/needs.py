"""What a role needs of a host: GPUs, CPU, memory, a NUMA zone and the watts of its rows."""

from dataclasses import dataclass
from math import ceil, inf

import numpy as np
from numpy.typing import NDArray

from flyball_aggregator.placement.board import Floats, RowView
from flyball_aggregator.placement.fleet import WHOLE, Fleet
from flyball_aggregator.placement.jobs import Group, Member
from flyball_aggregator.placement.overlay import Overlay
from flyball_aggregator.placement.rows import MILLI
from flyball_aggregator.placement.topology import Mask


@dataclass(frozen=True, slots=True)
class Terms:
    """How a plan is to be made: policy and power weight, hosts allowed, soft penalties, the cap ratio tried."""

    policy: int
    allowed: Mask
    penalty: Floats
    now_s: float
    alpha: float = 0.0
    cap_ratio: float = 1.0
    held_back_w: Floats | None = None


@dataclass(slots=True)
class Need:
    """Watts of one role on each model: added, and while held to its floor."""

    cap_w: float | None
    add_w: Floats
    floor_w: Floats


def role_need(role: Group, idle_w: Floats, busy_w: Floats, terms: Terms) -> Need:
    """Return the watts a role adds over an idle host; a role that says nothing counts at the board's busy watts."""
    member = role.asked
    scale = member.gpus * member.gpu_milli / WHOLE
    if role.draw is None:
        add_w = np.maximum(busy_w - idle_w, 0.0) * scale
        return Need(None, add_w, add_w)
    cap_w = role.draw.least_w + (role.draw.pred_w - role.draw.least_w) * terms.cap_ratio
    add_w = np.maximum(cap_w - idle_w, 0.0) * scale
    return Need(cap_w, add_w, np.maximum(role.draw.floor_w - idle_w, 0.0) * scale)


def row_view(overlay: Overlay, need: Need, terms: Terms, end_s: float) -> RowView:
    """Return the room the scan may use: now, and in promised windows scaled to what the role is held to there."""
    rows = overlay.rows
    room_w = (rows.room_mw(terms.now_s) - 1) / MILLI  # the charge is rounded up, by less than this
    if terms.held_back_w is not None:
        room_w = room_w - terms.held_back_w
    event = rows.event_room_mw(terms.now_s, end_s)
    if event is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(need.add_w > 0, need.floor_w / need.add_w, 0.0)
        ratio = float(ratios.max(initial=0.0))
        scaled = (event - 1) / MILLI / ratio if ratio > 0 else np.where(event > 0, inf, -1.0)
        room_w = np.minimum(room_w, scaled)
    return RowView(rows.rows, rows.share, room_w, need.add_w)


def members_that_fit(fleet: Fleet, member: Member) -> NDArray[np.int64]:
    """Return how many members each host could take, watts aside."""
    milli = milli_of(fleet, member)
    ample = fleet.gpu_memory_left >= member.gpu_memory_mib
    if member.gpus == 0:
        count = np.full(len(fleet), 1_000_000, np.int64)
    elif milli < WHOLE:
        count = np.where(ample, fleet.gpu_left // max(milli, 1), 0).sum(axis=1)
    else:
        count = ((fleet.gpu_left >= WHOLE) & ample).sum(axis=1) // member.gpus
    if member.cpu_milli:
        count = np.minimum(count, fleet.cpu_left // member.cpu_milli)
    if member.memory_mib:
        count = np.minimum(count, fleet.memory_left // member.memory_mib)
    if member.models:
        allowed = np.array([model in member.models for model in fleet.models])
        count = np.where(allowed[fleet.model], count, 0)
    return np.where(fleet.ready != 0, count, 0).astype(np.int64)


def single_zone(fleet: Fleet, member: Member) -> Mask:
    """Return the hosts where one NUMA zone holds all GPUs of a member; hosts with unknown zones are left out."""
    free = fleet.gpu_left >= member.gpu_milli
    zones = [((fleet.numa == zone) & free).sum(axis=1) >= member.gpus for zone in range(int(fleet.numa.max()) + 1)]
    return np.any(zones, axis=0).astype(np.uint8) if zones else np.zeros(len(fleet), np.uint8)


def milli_of(fleet: Fleet, member: Member) -> int:
    """Return the share of a GPU a member takes; one asked by memory alone gets that part of the smallest board."""
    if member.gpu_milli or not member.gpu_memory_mib:
        return member.gpu_milli
    boards = [
        int(fleet.gpu_memory_total[fleet.model == number].max(initial=0))
        for number, model in enumerate(fleet.models)
        if not member.models or model in member.models
    ]
    smallest = min((size for size in boards if size >= member.gpu_memory_mib), default=member.gpu_memory_mib)
    return min(WHOLE, ceil(WHOLE * member.gpu_memory_mib / smallest))


def board_request(overlay: Overlay, member: Member) -> int:
    """Return the scorer's number of a member's request."""
    return overlay.board.request(
        member.cpu_milli,
        member.memory_mib,
        member.gpus,
        milli_of(overlay.board.fleet, member),
        gpu_memory_mib=member.gpu_memory_mib,
        models=member.models,
    )
