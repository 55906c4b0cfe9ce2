"""When the budget loop takes its turns: once a period, at once between two periods, or the next one early."""

import asyncio
import enum
from collections.abc import AsyncIterator
from typing import Final

LEAST_GAP_S: Final = 0.1  # between two turns, however much changes: a flood of limits must not eat the program


class Turn(enum.Enum):
    """Why it is a turn."""

    DUE = "due"  # a period is over, or was brought forward
    BETWEEN = "between"


class Turns:
    """Yields turns; who learns of something asks for one sooner, from the same event loop."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self._is_forward = False

    def decide_between(self) -> None:
        """Ask for a turn between two periods."""
        self._woken.set()

    def bring_forward(self) -> None:
        """Ask for the next period to begin now; the ones after follow from it."""
        self._is_forward = True
        self._woken.set()

    async def follow(self, stop: asyncio.Event, period_s: float) -> AsyncIterator[Turn]:
        """Yield turns until told to stop; a late period is not made up for."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        turn = Turn.DUE
        while not stop.is_set():
            started_s = loop.time()
            yield turn
            if turn is Turn.DUE:
                due_s = max(due_s + period_s, loop.time())
            await _wait_any(stop, self._woken, due_s - loop.time())
            await _wait_any(stop, None, min(started_s + LEAST_GAP_S, due_s) - loop.time())
            turn = self._next(is_due=loop.time() >= due_s)
            if turn is Turn.DUE:
                due_s = min(due_s, loop.time())

    def _next(self, *, is_due: bool) -> Turn:
        turn = Turn.DUE if is_due or self._is_forward else Turn.BETWEEN
        self._woken.clear()
        self._is_forward = False
        return turn


async def _wait_any(stop: asyncio.Event, woken: asyncio.Event | None, limit_s: float) -> None:
    """Wait for either event, no longer than this."""
    if limit_s <= 0 or stop.is_set() or (woken is not None and woken.is_set()):
        await asyncio.sleep(0)
        return
    waits = [asyncio.ensure_future(event.wait()) for event in (stop, woken) if event is not None]
    try:
        await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
