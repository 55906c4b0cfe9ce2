"""Prometheus text at /metrics: a very small HTTP/1.1 server that reads only what is already known."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final

from flyball_agent.config import ExporterConfig
from flyball_agent.exposition import Family, exposition_text

MAX_HEAD_BYTES: Final = 8192
MAX_CLIENTS: Final = 16
CLIENT_TIMEOUT_S: Final = 5.0
RETRY_S: Final = 30.0
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
Source = Callable[[], Iterable[Family]]
_log = logging.getLogger(__name__)


class Exporter:
    """Serves the families of its sources; construction opens nothing."""

    def __init__(self, config: ExporterConfig, sources: Iterable[Source]) -> None:
        self.sources = list(sources)
        self.port: int | None = None  # the one in use, once listening
        self.is_settled = asyncio.Event()  # listening, or found the port taken
        self._config = config
        self._clients = 0

    async def run(self) -> None:
        """Listen until cancelled; a port that is taken is tried again, since nothing else depends on it."""
        while True:
            try:
                await self._serve()
            except OSError as error:
                _log.error("exporter %s:%d: %s; tried again", self._config.address, self._config.port, error)
                self.is_settled.set()
                await asyncio.sleep(RETRY_S)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._answer, self._config.address, self._config.port, limit=MAX_HEAD_BYTES)
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            self.is_settled.set()
            await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            async with asyncio.timeout(CLIENT_TIMEOUT_S):
                writer.write(await self._response(reader))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client left or was too slow
        finally:
            self._clients -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _response(self, reader: asyncio.StreamReader) -> bytes:
        if self._clients > MAX_CLIENTS:
            return _http(HTTPStatus.SERVICE_UNAVAILABLE, "too many clients\n")
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _http(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request too large\n")
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3:
            return _http(HTTPStatus.BAD_REQUEST, "not HTTP\n")
        method, path = words[0], words[1].split(b"?", 1)[0]
        if method not in (b"GET", b"HEAD"):
            return _http(HTTPStatus.METHOD_NOT_ALLOWED, "expected GET\n")
        if path not in (b"/", b"/metrics"):
            return _http(HTTPStatus.NOT_FOUND, "expected /metrics\n")
        body = self.text() if path == b"/metrics" else "flyball-agent: metrics are at /metrics\n"
        return _http(HTTPStatus.OK, body, with_body=method == b"GET")

    def text(self) -> str:
        """Return the page."""
        return exposition_text(family for source in self.sources for family in source())


def _http(status: HTTPStatus, text: str, *, with_body: bool = True) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
