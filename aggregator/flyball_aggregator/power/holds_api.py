"""Holding hosts still over HTTP: freeze, release, and lead again, by the name of the site, an element or a host."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, HTTPException

from flyball_aggregator.power.holds import hosts_under
from flyball_aggregator.power.loop import PowerLoop
from flyball_wire.errors import ConfigError


def hold_routes(loop: PowerLoop, guard: Any) -> APIRouter:
    """Return the routes of holds; writing passes the guard."""
    router = APIRouter(prefix="/v1", tags=["orders"])

    @router.get("/holds")
    async def holds() -> dict[str, Any]:
        """Hosts that operators hold still, and which of the released have handed their devices back."""
        return _view(loop)

    @router.put("/holds/{name}", dependencies=[guard])
    async def hold(name: str, hold: Annotated[Literal["frozen", "released"], Body(embed=True)]) -> dict[str, Any]:
        """Freeze or release all hosts under a name."""
        hosts = _hosts(loop, name)
        try:
            loop.holds.put(hosts, hold)
        except ConfigError as error:
            raise HTTPException(507, str(error)) from None
        return {"hosts": hosts, **_view(loop)}

    @router.delete("/holds/{name}", dependencies=[guard])
    async def lead(name: str) -> dict[str, Any]:
        """Lead all hosts under a name again."""
        hosts = _hosts(loop, name)
        try:
            loop.holds.take_away(hosts)
        except ConfigError as error:
            raise HTTPException(507, str(error)) from None
        return {"hosts": hosts, **_view(loop)}

    return router


def _view(loop: PowerLoop) -> dict[str, Any]:
    released = loop.holds.all("released")
    back = [name for name in released if name in loop.parts.fleet.hosts and loop.has_handed_back(name)]
    return {"frozen": loop.holds.all("frozen"), "released": released, "handed_back": back}


def _hosts(loop: PowerLoop, name: str) -> list[str]:
    try:
        return hosts_under(loop.parts.fleet.site, name)
    except ValueError as error:
        raise HTTPException(404, str(error)) from None
