"""`/v1/flex`: targets, status, offers, settlement, the brake and webhooks over HTTP; writing needs the token."""

import uuid
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Body, HTTPException, Query
from fastapi.responses import PlainTextResponse

from flyball_aggregator.api import token_guard
from flyball_aggregator.flex.emergency import brake_targets, release_targets
from flyball_aggregator.flex.engine import FlexEngine
from flyball_aggregator.flex.offers import make_offer
from flyball_aggregator.flex.settlement import settlement_csv
from flyball_aggregator.flex.targets import LoadTarget
from flyball_aggregator.flex.webhooks import Webhooks
from flyball_aggregator.power.snapshot import PowerSnapshot

MAX_WATTS: Final = 1e10
UNIX_MOST: Final = 1e11


class TargetPort(Protocol):
    """Where targets are put, so that limits and status follow at once."""

    @property
    def engine(self) -> FlexEngine:
        """The feeds and their targets."""
        ...

    def set_targets(self, targets: Sequence[LoadTarget]) -> None:
        """Put targets."""
        ...


def flex_router(
    port: TargetPort,
    webhooks: Webhooks,
    token: str | None,
    unix_s: Callable[[], float],
    snapshot: Callable[[], PowerSnapshot | None],
) -> APIRouter:
    """Return the router."""
    router = APIRouter(prefix="/v1/flex", tags=["flex"])
    _add_reading(router, port.engine, unix_s, snapshot)
    writing = APIRouter(dependencies=[token_guard(token)])
    _add_targets(writing, port, unix_s)
    _add_webhooks(writing, webhooks)
    router.include_router(writing)
    return router


def feed_view(engine: FlexEngine, tag: str, now_s: float) -> dict[str, Any]:
    """Return one feed as plain values."""
    feed, state, reading = engine.feeds[tag], engine.states[tag], engine.readings.get(tag)
    return {
        "feed": tag,
        "row": feed.row,
        "minimum_watts": round(feed.minimum_w, 3),
        "maximum_watts": round(feed.maximum_w, 3),
        "phase": state.phase,
        "in_flight": state.is_in_flight,
        "target_watts": state.target_w,
        "calculated_watts": None if reading is None else round(reading.calculated_w, 3),
        "draw_watts": None if reading is None or reading.drawn_w is None else round(reading.drawn_w, 3),
        "draw_source": None if reading is None else "meter" if reading.is_metered else "model",
        "compliant": engine.is_compliant(tag),
        "targets": [target_view(item, is_active=active) for item, active in engine.book.listed(tag, now_s)],
    }


def target_view(target: LoadTarget, *, is_active: bool) -> dict[str, Any]:
    """Return one target as plain values; times are Unix seconds."""
    return {
        "source": target.source,
        "feeds": list(target.feeds),
        "limit_watts": target.limit_w,
        "start": target.start_s,
        "end": target.end_s,
        "active": is_active,
        "best_effort": target.best_effort,
        "correlation_id": target.correlation_id,
    }


def _add_reading(
    router: APIRouter,
    engine: FlexEngine,
    unix_s: Callable[[], float],
    snapshot: Callable[[], PowerSnapshot | None],
) -> None:
    @router.get("/status")
    async def status() -> dict[str, Any]:
        """Every feed: its targets, its load and whether it complies."""
        return {"feeds": [feed_view(engine, tag, unix_s()) for tag in engine.feeds]}

    @router.get("/targets")
    async def targets() -> dict[str, Any]:
        """Every target that counts now or will."""
        now_s = unix_s()
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for tag in engine.feeds:
            for item, active in engine.book.listed(tag, now_s):
                view = found.setdefault((item.source, item.correlation_id), target_view(item, is_active=False))
                view["active"] = view["active"] or active
        return {"targets": list(found.values())}

    @router.get("/offer")
    async def offer(minutes: Annotated[float, Query(gt=0, le=1440)] = 30.0) -> dict[str, Any]:
        """What each feed can shed for some minutes."""
        now = snapshot()
        if now is None:
            raise HTTPException(503, "no decision was made yet; try again in a second")
        offers = [make_offer(feed, now, engine.readings.get(tag), minutes) for tag, feed in engine.feeds.items()]
        return {"offers": [item.as_plain() for item in offers]}

    @router.get("/settlement")
    async def settlement() -> dict[str, Any]:
        """Baseline, metered energy in 5-minute intervals and compliance of each event."""
        return {"events": [record.as_plain() for record in engine.meter.records.values()]}

    @router.get("/settlement.csv")
    async def settlement_as_csv() -> PlainTextResponse:
        """The same, a line for each interval."""
        return PlainTextResponse(settlement_csv(list(engine.meter.records.values())), media_type="text/csv")


def _add_targets(router: APIRouter, port: TargetPort, unix_s: Callable[[], float]) -> None:
    @router.put("/targets")
    async def put_target(
        *,
        limit_watts: Annotated[float | None, Body(gt=0, le=MAX_WATTS)] = None,
        feeds: Annotated[list[str] | None, Body(max_length=1000)] = None,
        source: Annotated[str, Body(min_length=1, max_length=64, pattern="^[A-Za-z0-9_-]+$")] = "operator",
        start: Annotated[float | None, Body(ge=0, le=UNIX_MOST)] = None,
        end: Annotated[float | None, Body(ge=0, le=UNIX_MOST)] = None,
        for_seconds: Annotated[float | None, Body(gt=0, le=UNIX_MOST)] = None,
        best_effort: Annotated[bool, Body()] = False,
    ) -> dict[str, Any]:
        """Set what a source allows on some feeds (all, where none is named); without watts its limit is taken away."""
        start_s = unix_s() if start is None else start
        end_s = start_s + for_seconds if end is None and for_seconds is not None else end
        try:
            target = LoadTarget(
                f"http-{source}", tuple(feeds or port.engine.feeds), start_s, end_s, limit_watts, str(uuid.uuid4()),
                best_effort,
            )  # fmt: skip
            port.set_targets([target])
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        return target_view(target, is_active=target.covers(target.feeds[0], unix_s()))

    @router.put("/brake")
    async def brake(
        ratio: Annotated[float, Body(ge=0, le=1)], seconds: Annotated[float | None, Body(gt=0, le=86_400)] = None
    ) -> dict[str, Any]:
        """Cut every feed at once to a share of the span between its minimum and its draw."""
        targets = brake_targets(port.engine, ratio, unix_s(), seconds)
        port.set_targets(targets)
        return {"limits_watts": {target.feeds[0]: target.limit_w for target in targets}}

    @router.delete("/brake")
    async def release() -> dict[str, Any]:
        """Let go of the brake."""
        port.set_targets(release_targets(port.engine.feeds.values(), unix_s()))
        return {"limits_watts": {}}


def _add_webhooks(router: APIRouter, webhooks: Webhooks) -> None:
    @router.get("/webhooks")
    async def listed() -> dict[str, Any]:
        """Where changes are posted."""
        return {"webhooks": webhooks.addresses, "delivered": webhooks.delivered, "failed": webhooks.failed}

    @router.put("/webhooks")
    async def add(address: Annotated[str, Body(embed=True, max_length=500)]) -> dict[str, Any]:
        """Post changes there from now on."""
        try:
            webhooks.add(address)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        return {"webhooks": webhooks.addresses}

    @router.delete("/webhooks")
    async def remove(address: Annotated[str, Query(max_length=500)]) -> dict[str, Any]:
        """Post nothing there any more."""
        if not webhooks.remove(address):
            raise HTTPException(404, f"webhook {address!r} is not set")
        return {"webhooks": webhooks.addresses}
