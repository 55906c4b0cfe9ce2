"""Webhooks: each change of a feed is posted as JSON where an operator wants it; a slow address loses the oldest."""

import asyncio
import json
import logging
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable
from typing import Any, Final

LOG: Final = logging.getLogger(__name__)
MAX_HOOKS: Final = 16
MAX_WAITING: Final = 100
TRIES: Final = 3
TIMEOUT_S: Final = 5.0
BACK_OFF_S: Final = 1.0

Post = Callable[[str, bytes], None]


class Webhooks:
    """All addresses and what waits for each."""

    def __init__(self, post: Post | None = None) -> None:
        self.delivered = 0
        self.failed = 0
        self._post: Post = post_json if post is None else post
        self._waiting: dict[str, deque[bytes]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def addresses(self) -> list[str]:
        """Where changes are posted."""
        return sorted(self._waiting)

    def add(self, address: str) -> None:
        """Post changes there from now on.

        Raises:
            ValueError: no http or https address, or too many.
        """
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
            raise ValueError(f"webhook {address[:100]!r}: expected an http or https address without a password in it")
        if address not in self._waiting and len(self._waiting) >= MAX_HOOKS:
            raise ValueError(f"{len(self._waiting)} webhooks, expected at most {MAX_HOOKS}")
        self._waiting.setdefault(address, deque(maxlen=MAX_WAITING))

    def remove(self, address: str) -> bool:
        """Post nothing there any more; False when it was not there."""
        task = self._tasks.pop(address, None)
        if task is not None:
            task.cancel()
        return self._waiting.pop(address, None) is not None

    def send(self, change: dict[str, Any]) -> None:
        """Post a change to every address, without waiting."""
        body = json.dumps(change, allow_nan=False).encode()
        for address, waiting in self._waiting.items():
            waiting.append(body)
            task = self._tasks.get(address)
            if task is None or task.done():
                self._tasks[address] = asyncio.get_running_loop().create_task(self._drain(address))

    async def wait_idle(self) -> None:
        """Wait until nothing waits any more."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _drain(self, address: str) -> None:
        waiting = self._waiting[address]
        while waiting:
            await self._deliver(address, waiting.popleft())

    async def _deliver(self, address: str, body: bytes) -> None:
        for attempt in range(TRIES):
            try:
                await asyncio.to_thread(self._post, address, body)
            except (OSError, urllib.error.URLError, ValueError) as error:
                LOG.warning("webhook %s: %s", address, error)
                await asyncio.sleep(BACK_OFF_S * attempt)
            else:
                self.delivered += 1
                return
        self.failed += 1


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any, **_more: Any) -> None:
        """Follow nowhere: the operator named one address."""


def post_json(address: str, body: bytes) -> None:
    """Post a body and follow no redirect.

    Raises:
        OSError: not delivered.
    """
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})  # noqa: S310 - checked in add
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as answer:
        answer.read(1024)
