"""The HTTP API and the page: what is, why, and a stream of it; writing needs a token.

Errors are JSON `{"error": "..."}` that name what was asked for and what there is.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException as StarletteHttpError
from starlette.middleware.trustedhost import TrustedHostMiddleware

from flyball_aggregator.broadcast import Broadcast
from flyball_aggregator.broker import BrokerSession
from flyball_aggregator.config import ApiConfig
from flyball_aggregator.health.health_api import build_health_routers
from flyball_aggregator.health.health_desk import HealthDesk
from flyball_aggregator.intake import Intake
from flyball_aggregator.metrics import render_metrics
from flyball_aggregator.picture import picture_of, status_of
from flyball_aggregator.power.explain import explain_gpu, explain_host, explain_row
from flyball_aggregator.power.holds_api import hold_routes
from flyball_aggregator.power.loop import PowerLoop
from flyball_aggregator.power.snapshot import PowerSnapshot
from flyball_aggregator.power.view import gpu_views, host_view, row_view
from flyball_aggregator.power.what_if_api import what_if_routes
from flyball_aggregator.site_api import site_routes
from flyball_aggregator.site_versions import SiteVersions
from flyball_aggregator.store import Store

CONSOLE: Final = Path(__file__).parent / "console"
LATE_S: Final = 5.0  # without a decision for this long the program is not well
PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
MAX_WATTS: Final = 1e10


@dataclass(frozen=True, slots=True)
class ApiParts:
    """What the API shows."""

    loop: PowerLoop
    intake: Intake
    session: BrokerSession
    store: Store
    broadcast: Broadcast
    config: ApiConfig
    token: str | None  # None: nothing can be written
    version: str
    health: HealthDesk | None = None  # None: nothing is known of faults
    sites: SiteVersions | None = None  # None: the site cannot be changed here


def build_api(parts: ApiParts, routers: Sequence[APIRouter] = ()) -> FastAPI:
    """Return the application; other rooms bring their own routers."""
    api = FastAPI(title="flyball", version=parts.version, docs_url=None, redoc_url=None)
    api.add_middleware(TrustedHostMiddleware, allowed_hosts=list(parts.config.allowed_hosts))
    api.add_exception_handler(StarletteHttpError, _show_error)
    api.add_exception_handler(RequestValidationError, _show_invalid)
    own = [_reading(parts), _history(parts), _writing(parts), _pages(parts), what_if_routes(parts.loop)]
    own.append(hold_routes(parts.loop, token_guard(parts.token)))
    if parts.sites is not None:
        own.append(site_routes(parts.loop, parts.sites, token_guard(parts.token)))
    if parts.health is not None:
        own += build_health_routers(parts.health, parts.loop.parts.unix_s, token_guard(parts.token))
    for router in (*own, *routers):
        api.include_router(router)
    return api


def token_guard(token: str | None) -> Any:
    """Return a dependency that lets only the token's bearer write."""

    def check(request: Request) -> None:
        if token is None:
            raise HTTPException(403, "writing is off: api.token_file is not set")
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "expected 'Authorization: Bearer TOKEN' with the token of api.token_file")

    return Depends(check)


async def _show_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, StarletteHttpError):
        raise error
    return JSONResponse({"error": str(error.detail)}, status_code=error.status_code)


async def _show_invalid(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    said = "; ".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors())
    return JSONResponse({"error": said}, status_code=422)


def _reading(parts: ApiParts) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["state"])
    loop, fleet = parts.loop, parts.loop.parts.fleet

    @router.get("/status")
    async def status() -> dict[str, Any]:
        """The site in one object."""
        return status_of(loop, parts.intake, parts.session, parts.version)

    @router.get("/hosts")
    async def hosts() -> dict[str, Any]:
        """Every host, without its GPUs."""
        snapshot = _snapshot(loop)
        now_s = loop.parts.monotonic_s()
        views = [host_view(fleet, snapshot, record, now_s) for record in fleet.hosts.values()]
        return {"hosts": views, "unlisted": dict(fleet.unlisted)}

    @router.get("/hosts/{host}")
    async def host(host: str) -> dict[str, Any]:
        """One host with its GPUs."""
        record = fleet.hosts.get(host)
        if record is None:
            raise HTTPException(404, f"host {host!r} is not in the site file; it lists {_some(list(fleet.hosts))}")
        view = host_view(fleet, _snapshot(loop), record, loop.parts.monotonic_s())
        return {**view, "gpus": gpu_views(fleet, record)}

    @router.get("/rows")
    async def rows() -> dict[str, Any]:
        """Every limit of the power network."""
        snapshot = _snapshot(loop)
        return {"rows": [row_view(snapshot, index) for index in range(len(snapshot.rows))]}

    @router.get("/explain/host/{host}")
    async def why_host(host: str) -> dict[str, Any]:
        """Why a host has its lease."""
        return _found(explain_host(fleet, _snapshot(loop), host), "host", host, list(fleet.hosts))

    @router.get("/explain/gpu/{host}/{gpu}")
    async def why_gpu(host: str, gpu: int) -> dict[str, Any]:
        """Why a GPU has its cap."""
        return _found(explain_gpu(fleet, _snapshot(loop), host, gpu), "gpu", f"{host}/{gpu}", list(fleet.hosts))

    @router.get("/explain/row/{row:path}")
    async def why_row(row: str) -> dict[str, Any]:
        """What stands on a row."""
        names = [item.name for item in loop.rows]
        return _found(explain_row(fleet, _snapshot(loop), row), "row", row, names)

    @router.get("/events")
    async def events() -> StreamingResponse:
        """One picture of the site each second, as server-sent events."""
        if parts.broadcast.is_full:
            raise HTTPException(503, "too many watchers; close one and try again")
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(parts.broadcast.watch(), media_type="text/event-stream", headers=headers)

    return router


def _history(parts: ApiParts) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["history"])
    store = parts.store

    @router.get("/power")
    def power(
        since: Annotated[float | None, Query(ge=0)] = None, limit: Annotated[int, Query(ge=1, le=100_000)] = 600
    ) -> dict[str, Any]:
        """Draw against limit, second by second; the last ten minutes unless `since` (Unix seconds) says otherwise."""
        since_s = parts.loop.parts.unix_s() - 600.0 if since is None else since
        return {"power": store.power_since(since_s, limit)}

    @router.get("/decisions")
    def decisions(
        before: Annotated[float, Query(ge=0)] = 1e11, limit: Annotated[int, Query(ge=1, le=10_000)] = 100
    ) -> dict[str, Any]:
        """Decisions that sent something, newest first."""
        return {"decisions": store.decisions_before(before, limit)}

    @router.get("/decisions/{number}")
    def decision(number: int) -> dict[str, Any]:
        """One decision, its input as hexadecimal."""
        record = store.decision(number)
        if record is None:
            raise HTTPException(404, f"decision {number} is not in the journal")
        return {**record, "input": bytes(record["input"]).hex()}

    @router.get("/host-events")
    def host_events(
        host: str | None = None,
        before: Annotated[float, Query(ge=0)] = 1e11,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    ) -> dict[str, Any]:
        """Events of hosts and of the loop, newest first."""
        return {"events": store.events_before(before, limit, host)}

    return router


def _writing(parts: ApiParts) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["orders"], dependencies=[token_guard(parts.token)])
    loop = parts.loop

    @router.put("/limits/{row:path}")
    async def put_limit(
        row: str,
        limit_watts: Annotated[float, Body(ge=0, le=MAX_WATTS)],
        source: Annotated[str, Body(min_length=1, max_length=64)] = "operator",
        ramp_watts_per_second: Annotated[float | None, Body(gt=0, le=MAX_WATTS)] = None,
        for_seconds: Annotated[float | None, Body(gt=0)] = None,
    ) -> dict[str, Any]:
        """Set what a source allows on a row; the lowest of all sources and the rating is in force."""
        now_s = loop.parts.monotonic_s()
        until_s = None if for_seconds is None else now_s + for_seconds
        try:
            loop.limits.put(row, source, limit_watts, now_s, ramp_w_per_s=ramp_watts_per_second, until_s=until_s)
        except ValueError as error:
            raise HTTPException(404, str(error)) from None
        limit_w, whose = loop.limits.in_force(row, now_s)
        return {"row": row, "limit_watts": limit_w, "limit_source": whose}

    @router.delete("/limits/{row:path}")
    async def take_limit(row: str, source: str = "operator") -> dict[str, Any]:
        """Take a source's limit off a row."""
        if not loop.limits.take_away(row, source):
            raise HTTPException(404, f"row {row!r}: {source!r} has set no limit there")
        return {"row": row, "source": source}

    return router


def _pages(parts: ApiParts) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/healthz")
    async def healthz() -> JSONResponse:
        """Whether decisions are made and can be sent."""
        snapshot = parts.loop.snapshot
        age_s = None if snapshot is None else parts.loop.parts.unix_s() - snapshot.time_s
        is_deciding = age_s is not None and age_s < LATE_S
        body = {"ok": is_deciding and parts.session.is_connected, "is_deciding": is_deciding}
        return JSONResponse({**body, "broker_connected": parts.session.is_connected}, 200 if body["ok"] else 503)

    @router.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """Prometheus text."""
        return PlainTextResponse(render_metrics(parts.loop, parts.intake, parts.session))

    @router.get("/v1/picture")
    async def picture() -> dict[str, Any]:
        """The picture that the stream sends each second."""
        return picture_of(parts.loop, parts.intake, parts.session, parts.version, parts.health)

    @router.get("/")
    async def page() -> FileResponse:
        """The page."""
        return FileResponse(CONSOLE / "index.html", headers=PAGE_HEADERS)

    @router.get("/console/{name}")
    async def asset(name: str) -> FileResponse:
        """A file of the page."""
        if name not in {"console.css", "console.js", "icon.svg"}:
            raise HTTPException(404, f"no file {name!r} in the console")
        return FileResponse(CONSOLE / name, headers=PAGE_HEADERS)

    return router


def _snapshot(loop: PowerLoop) -> PowerSnapshot:
    if loop.snapshot is None:
        raise HTTPException(503, "no decision was made yet; try again in a second")
    return loop.snapshot


def _found(view: dict[str, Any] | None, what: str, name: str, known: list[str]) -> dict[str, Any]:
    if view is None:
        raise HTTPException(404, f"{what} {name!r} is not known; there are {_some(known)}")
    return view


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown
