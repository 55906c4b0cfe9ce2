"""Run coroutines side by side until the first of them ends, and leave none behind."""

import asyncio
from collections.abc import Coroutine


async def run_together(*coroutines: Coroutine[None, None, None]) -> None:
    """Run all; when one returns or raises, cancel the others and do as it did.

    Unlike a task group this raises the error itself, so that the caller can name what it expects.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
