"""HTTP of fleet health: incidents, lives, permits, mode, maintenance windows, and orders to a host's agent."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, HTTPException, Query

from flyball_aggregator.health.health_desk import HealthDesk, life_to_plain
from flyball_aggregator.health.incident_book import explain
from flyball_aggregator.health.lifecycle import Life, LifecycleError
from flyball_aggregator.health.mode import FleetMode

Text = Annotated[str, Body(min_length=1, max_length=200)]
Name = Annotated[str, Body(min_length=1, max_length=64)]
Act = Literal["resume", "hold", "unhold", "isolate", "clear"]


def build_health_routers(desk: HealthDesk, unix_s: Callable[[], float], guard: Any) -> tuple[APIRouter, APIRouter]:
    """Return the routers that read and that write; `guard` lets only the token's bearer write."""
    return _reading(desk), _writing(desk, unix_s, guard)


def _reading(desk: HealthDesk) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["health"])

    @router.get("/incidents")
    async def incidents(
        host: str | None = None,
        is_open: Annotated[bool | None, Query(alias="open")] = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    ) -> dict[str, Any]:
        """Incidents of all hosts, newest first, without their stories."""
        found = desk.book.select(host=host, is_open=is_open, limit=limit)
        return {"incidents": [incident.to_plain() | {"steps": len(incident.steps)} for incident in found]}

    @router.get("/explain/incident/{host}/{number}")
    async def why_incident(host: str, number: str) -> dict[str, Any]:
        """The story of one incident: evidence, what was done or would have been, by which rule."""
        incident = desk.book.incidents.get(f"{host}/{number}")
        if incident is None:
            raise HTTPException(404, f"incident {host}/{number} is not known; see /v1/incidents")
        return {**incident.to_plain(), "sentences": explain(incident)}

    @router.get("/health")
    async def summary() -> dict[str, Any]:
        """The fleet's health in short."""
        return desk.summary()

    @router.get("/hosts/{host}/health")
    async def host_health(host: str) -> dict[str, Any]:
        """One host: state, life, open incidents, risk, and the repair that is due."""
        _check_host(desk, host)
        return desk.host_view(host)

    @router.get("/hosts/{host}/lifecycle")
    async def lifecycle(host: str) -> dict[str, Any]:
        """One host's life so far."""
        _check_host(desk, host)
        return life_to_plain(desk.lives[host])

    @router.get("/permits")
    async def permits() -> dict[str, Any]:
        """How many hosts are out of each pool, and may be."""
        usage = {name: {"out": out, "places": places} for name, (out, places) in desk.permits.usage().items()}
        return {"mode": desk.mode.value, "why": desk.guard.why, "pools": usage}

    return router


def _writing(desk: HealthDesk, unix_s: Callable[[], float], guard: Any) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["health"], dependencies=[guard])

    @router.put("/hosts/{host}/lifecycle")
    async def put_lifecycle(
        host: str,
        to: Annotated[Life, Body()],
        why: Text,
        by: Name = "operator",
        evidence: Annotated[dict[str, str] | None, Body()] = None,
    ) -> dict[str, Any]:
        """Take a step in a host's life; only legal ones, each with its evidence."""
        _check_host(desk, host)
        try:
            desk.move(host, to, by=by, why=why, evidence=evidence or {})
        except LifecycleError as error:
            raise HTTPException(409, str(error)) from None
        return life_to_plain(desk.lives[host])

    @router.put("/permits/{host}")
    async def approve(host: str, by: Annotated[str, Body(embed=True, min_length=1, max_length=64)]) -> dict[str, Any]:
        """Allow one host to isolate itself beyond limits and mode, once."""
        _check_host(desk, host)
        desk.permits.approve(host, by)
        return {"host": host, "by": by}

    @router.put("/health/mode")
    async def put_mode(mode: Annotated[FleetMode, Body()], by: Name = "operator") -> dict[str, Any]:
        """Choose what hosts may do: normal, careful (hosts only with an approval) or observe."""
        desk.choose_mode(mode, by)
        return {"mode": desk.mode.value}

    @router.put("/hosts/{host}/orders/{act}")
    async def order(
        host: str,
        act: Act,
        entity: Annotated[str, Body(pattern=r"^(node|fabric|(gpu|mig|nic):.{1,64})$")] = "node",
        by: Name = "operator",
        hours: Annotated[float | None, Body(ge=0, le=720)] = None,
    ) -> dict[str, Any]:
        """Order a host's agent: resume, hold, unhold, isolate or clear an entity."""
        _check_host(desk, host)
        fields = {"entity": entity, "by": by} | ({} if hours is None else {"hours": str(hours)})
        return _sent(desk, host, act, fields)

    @router.put("/hosts/{host}/maintenance")
    async def maintain(
        host: str,
        hours: Annotated[float, Body(gt=0, le=720)],
        covers: Annotated[str, Body(max_length=64)] = "",
        by: Name = "operator",
    ) -> dict[str, Any]:
        """Open a maintenance window on a host, or on a rack or PDU it belongs to: isolation and repair rest."""
        _check_host(desk, host)
        now_s = unix_s()
        window = {"begins_s": str(now_s), "ends_s": str(now_s + hours * 3600.0), "covers": covers or host, "by": by}
        return _sent(desk, host, "window", window)

    return router


def _check_host(desk: HealthDesk, host: str) -> None:
    if host not in desk.lives:
        raise HTTPException(404, f"host {host!r} is not in the site file")


def _sent(desk: HealthDesk, host: str, act: str, fields: dict[str, str]) -> dict[str, Any]:
    if not desk.order(host, act, fields):
        raise HTTPException(503, f"{act}: host {host!r} cannot be reached: no report of its governor, or no broker")
    return {"host": host, "act": act, **fields}
