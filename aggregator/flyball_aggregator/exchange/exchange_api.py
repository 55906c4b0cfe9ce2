"""`/v1/exchange`: how the exchange side is: what was taken and refused, the building's points, machines of others."""

from typing import Any

from fastapi import APIRouter

from flyball_aggregator.exchange.exchange_room import ExchangeRoom


def exchange_router(room: ExchangeRoom) -> APIRouter:
    """Return the router; it only reads."""
    router = APIRouter(prefix="/v1/exchange", tags=["exchange"])

    @router.get("")
    async def view() -> dict[str, Any]:
        """The exchange side in one object."""
        return room.view()

    @router.get("/machines")
    async def machines() -> dict[str, Any]:
        """What other managers say of their machines."""
        return {"machines": dict(room.host_states.verdicts)}

    return router
