"""Turns of the budget loop: one a period, one at once for a change, the next one early for an excursion."""

import asyncio
from collections.abc import AsyncIterator

from flyball_aggregator.power.turns import Turn, Turns

LONG_S = 3600.0


async def next_of(turns: AsyncIterator[Turn]) -> Turn:
    async with asyncio.timeout(5.0):
        return await anext(turns)


async def test_a_change_gets_a_turn_at_once_and_the_period_stays() -> None:
    turns, stop = Turns(), asyncio.Event()
    followed = turns.follow(stop, LONG_S)
    assert await next_of(followed) is Turn.DUE

    turns.decide_between()

    assert await next_of(followed) is Turn.BETWEEN


async def test_an_excursion_brings_the_next_second_forward() -> None:
    turns, stop = Turns(), asyncio.Event()
    followed = turns.follow(stop, LONG_S)
    await next_of(followed)

    turns.decide_between()
    turns.bring_forward()

    assert await next_of(followed) is Turn.DUE


async def test_many_changes_at_once_are_one_turn() -> None:
    turns, stop = Turns(), asyncio.Event()
    followed = turns.follow(stop, 0.3)
    await next_of(followed)
    for _ in range(100):
        turns.decide_between()

    assert await next_of(followed) is Turn.BETWEEN
    assert await next_of(followed) is Turn.DUE


async def test_no_turn_after_the_stop() -> None:
    turns, stop = Turns(), asyncio.Event()
    followed = turns.follow(stop, LONG_S)
    await next_of(followed)

    stop.set()

    assert [turn async for turn in followed] == []
