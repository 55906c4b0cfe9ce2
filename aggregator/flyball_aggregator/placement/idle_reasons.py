"""Say of each GPU with room left the one reason why nothing runs there."""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from flyball_aggregator.placement.engine import Engine
from flyball_aggregator.placement.gangs import charged_until
from flyball_aggregator.placement.needs import members_that_fit, role_need, row_view
from flyball_aggregator.placement.work import Work


class IdleReason(StrEnum):
    """In the order in which they are judged."""

    FAULT = "fault"
    RESERVED = "reserved"
    NO_JOB = "no job"
    WATTS = "watts"
    QUOTA = "quota"
    FRAGMENT = "fragment"


def idle_reasons(engine: Engine, now_s: float) -> dict[tuple[int, int], IdleReason]:
    """Return the reason of every (host, GPU) that is not wholly given out.

    A GPU held for a nominated job or a planned start is reserved; one that a waiting job would fit is held back by
    watts or quota; one that fits no waiting job is a fragment.
    """
    fleet = engine.board.fleet
    waiting = _classes(engine)
    reasons = np.full(len(fleet), IdleReason.NO_JOB if not waiting else IdleReason.FRAGMENT, object)
    for work in waiting:
        _judge(engine, work, reasons, now_s)
    for hold in engine.holds.values():
        reasons[hold.hosts != 0] = IdleReason.RESERVED
    reasons[fleet.ready == 0] = IdleReason.FAULT
    idle = {
        (int(host), int(gpu)): IdleReason(reasons[host])
        for host, gpu in zip(*np.nonzero(fleet.gpu_left > 0), strict=True)
    }
    for work in engine.works.values():
        for seat in work.next_seats:
            idle.update({(seat.held.claim.host, gpu): IdleReason.RESERVED for gpu in seat.held.claim.gpus})
    return idle


def _classes(engine: Engine) -> list[Work]:
    """Return one waiting job for each signature."""
    return list({work.job.signature: work for work in engine.pending()}.values())


def _judge(engine: Engine, work: Work, reasons: NDArray[np.object_], now_s: float) -> None:
    """Mark the hosts that a waiting job fits: held back by its rows, else by its quota or its gang."""
    fleet = engine.board.fleet
    terms = engine.terms(work.job, now_s)
    for role in work.job.gang.roles():
        fits = members_that_fit(fleet, role.asked) > 0
        need = role_need(role, engine.board.idle_w, engine.board.busy_w, terms)
        view = row_view(engine.overlay, need, terms, charged_until(work.job, now_s))
        asks = view.share * need.add_w[fleet.model][:, None]
        short = ((view.rows >= 0) & (asks > view.room_w[view.rows])).any(axis=1) if len(view.room_w) else ~fits & False
        reasons[fits & short] = IdleReason.WATTS
        if work.blocked is not None and work.blocked.reason == "quota":
            reasons[fits & ~short] = IdleReason.QUOTA
