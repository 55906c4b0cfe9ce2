"""Hand each second's picture to everyone who watches; a slow watcher misses pictures and never holds anyone up."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

QUEUED: Final = 2  # pictures kept for a slow watcher; older ones are worth nothing
KEEPALIVE_S: Final = 15.0  # a comment line, so that proxies keep the connection


class Broadcast:
    """One source, any number of watchers."""

    def __init__(self, most_watchers: int = 100) -> None:
        self._watchers: set[asyncio.Queue[bytes]] = set()
        self._most_watchers = most_watchers
        self._is_closed = False

    @property
    def watchers(self) -> int:
        """How many watch now."""
        return len(self._watchers)

    @property
    def is_full(self) -> bool:
        """Whether no further watcher is taken."""
        return len(self._watchers) >= self._most_watchers

    def send(self, name: str, picture: dict[str, Any]) -> None:
        """Hand a picture on as one server-sent event."""
        if not self._watchers:
            return
        data = json.dumps(picture, separators=(",", ":"), allow_nan=False)
        self._put_all(f"event: {name}\ndata: {data}\n\n".encode())

    def close(self) -> None:
        """End every watcher's stream."""
        self._is_closed = True
        self._put_all(b"")

    async def watch(self) -> AsyncIterator[bytes]:
        """Yield events until closed."""
        queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUED)
        self._watchers.add(queue)
        try:
            yield b"retry: 1000\n\n"
            while not self._is_closed:
                try:
                    event = await asyncio.wait_for(queue.get(), KEEPALIVE_S)
                except TimeoutError:
                    event = b": alive\n\n"
                if event:
                    yield event
        finally:
            self._watchers.discard(queue)

    def _put_all(self, event: bytes) -> None:
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)
