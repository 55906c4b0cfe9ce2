"""Suppositions over HTTP: nothing is changed, so no token is asked for."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException

from flyball_aggregator.power.loop import PowerLoop
from flyball_aggregator.power.what_if import Question, Work, answer

MAX_WATTS = 1e10
Watts = Annotated[float, Body(ge=0, le=MAX_WATTS)]


def what_if_routes(loop: PowerLoop) -> APIRouter:
    """Return the route of suppositions."""
    router = APIRouter(prefix="/v1", tags=["state"])

    @router.post("/what-if")
    async def what_if(  # noqa: PLR0917 - keys of the body
        limits_watts: Annotated[dict[str, float] | None, Body()] = None,
        lost: Annotated[str | None, Body()] = None,
        loads_watts: Annotated[dict[str, float] | None, Body()] = None,
        gpus: Annotated[int, Body(ge=0, le=64)] = 0,
        floor_watts: Watts = 0.0,
        expected_watts: Watts = 0.0,
        hosts: Annotated[tuple[str, ...], Body()] = (),
    ) -> dict[str, Any]:
        """What would follow of other limits, a lost feed, loads at elements, or work on GPUs of one host."""
        if loop.snapshot is None:
            raise HTTPException(503, "no decision was made yet; try again in a second")
        given = [*(limits_watts or {}).items(), *(loads_watts or {}).items()]
        wrong = [name for name, watts in given if not 0 <= watts <= MAX_WATTS]
        if wrong:
            raise HTTPException(422, f"{wrong[0]!r}: expected 0 to {MAX_WATTS:g} W")
        work = Work(gpus, floor_watts, max(expected_watts, floor_watts), hosts) if gpus else None
        question = Question(tuple((limits_watts or {}).items()), lost, tuple((loads_watts or {}).items()), work)
        try:
            return answer(loop.parts.fleet.site, loop.snapshot, question)
        except ValueError as error:
            raise HTTPException(404, str(error)) from None

    return router
