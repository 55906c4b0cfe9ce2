"""The agent's end of the governor's unix socket: asks, relays signed envelopes unopened, keeps the ring's descriptor.

One connection, made again with back-off for as long as `run` runs. Nothing here waits for the governor: offers are
queued up to a bound and dropped (counted) beyond it, since a lease comes again within a third of its life.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

from flyball_agent.backoff import Backoff
from flyball_agent.together import run_together
from flyball_wire.codec import encode
from flyball_wire.errors import WireError
from flyball_wire.local_socket import (
    Action,
    DeviceEvent,
    ErrorReply,
    HelloReply,
    Reply,
    ReportReply,
    Request,
    StatusReply,
    decode_reply,
    frame,
    frame_length,
)

HEADER_BYTES: Final = 4
RECEIVE_BYTES: Final = 65_536
MAX_DESCRIPTORS: Final = 4
MAX_WAITING: Final = 64  # frames not yet taken by the socket
_log = logging.getLogger(__name__)


class GovernorListener(Protocol):
    """Who wants to hear what the governor says."""

    def handle_hello(self, hello: HelloReply, descriptors: "Descriptors") -> None:
        """Take the inventory; the descriptors are the listener's own from now on."""

    def handle_report(self, envelope: bytes) -> None:
        """Relay a signed report as it is."""

    def handle_status(self, status: StatusReply) -> None:
        """Take the governor's state."""

    def handle_device_event(self, event: DeviceEvent) -> None:
        """Take something the device side noticed."""

    def handle_refusal(self, action: str, error: str) -> None:
        """Take note that the governor refused an order."""

    def handle_governor_lost(self) -> None:
        """The connection is gone; what it last said no longer holds."""


@dataclass(slots=True)
class Descriptors:
    """What came beside the hello reply; None where the governor gave none."""

    ring: int | None = None
    kernel_log: int | None = None

    def close(self) -> None:
        """Close what is still held."""
        for descriptor in (self.ring, self.kernel_log):
            if descriptor is not None:
                os.close(descriptor)
        self.ring = self.kernel_log = None


@dataclass(slots=True)
class LinkCounters:
    """What went over the link, for the exporter."""

    connects_total: int = 0
    dropped_total: int = 0  # requests that found the queue full or nobody there
    bad_frames_total: int = 0
    refusals_total: int = 0


class GovernorLink:
    """Keeps one connection to the governor's socket; construction starts nothing."""

    def __init__(self, path: str, listener: GovernorListener, backoff: Backoff) -> None:
        self.counters = LinkCounters()
        self._path = path
        self._listener = listener
        self._backoff = backoff
        self._connection: _Connection | None = None
        self._next_id = 1
        self._told = ""

    @property
    def is_connected(self) -> bool:
        """Whether the governor said hello on the present connection."""
        return self._connection is not None and self._connection.said_hello

    async def run(self) -> None:
        """Connect, hand on what comes, connect again; only cancelling ends it."""
        while True:
            try:
                await self._run_once()
            except (OSError, WireError, EOFError) as error:
                self._tell(str(error))
            await asyncio.sleep(self._backoff.next_s())

    def _tell(self, problem: str) -> None:
        """Log why there is no governor, once for each reason in a row."""
        if problem != self._told:
            _log.warning("governor %s: %s; tried again until it answers", self._path, problem)
        self._told = problem

    def send(self, action: Action, body: bytes = b"") -> bool:
        """Send a request without waiting for its answer; False when it had to be dropped (counted)."""
        connection = self._connection
        if connection is None or len(connection.outgoing) >= MAX_WAITING:
            self.counters.dropped_total += 1
            return False
        try:
            connection.send(Request(request_id=self._next_id, action=action, body=body))
        except WireError as error:
            self.counters.dropped_total += 1
            _log.warning("%s for the governor dropped: %s", action, error)
            return False
        self._next_id += 1
        return True

    def ask_status(self) -> bool:
        """Ask for the status unless an earlier question is still open; False when the last one was not answered."""
        return self._ask_once("status")

    def ask_report(self) -> bool:
        """Ask for a fresh signed report unless that question is still open."""
        return self._ask_once("report")

    def _ask_once(self, action: Action) -> bool:
        connection = self._connection
        if connection is None or action in connection.asked.values():
            return False
        return self.send(action)

    async def _run_once(self) -> None:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)) as sock:
            await asyncio.get_running_loop().sock_connect(sock, self._path)
            connection = _Connection(sock, self)
            self._connection = connection
            self.counters.connects_total += 1
            self.send("hello")
            try:
                await connection.run()
            finally:
                self._connection = None
                connection.close_descriptors()
                self._listener.handle_governor_lost()

    def _handle(self, connection: "_Connection", reply: Reply) -> None:
        """Hand one reply on to where it belongs."""
        if isinstance(reply, DeviceEvent):
            self._listener.handle_device_event(reply)
            return
        action = connection.asked.pop(reply.request_id, None)
        if isinstance(reply, HelloReply):
            self._backoff.succeeded()
            self._told = ""
            connection.said_hello = True
            self._listener.handle_hello(reply, connection.take_descriptors(reply))
        elif isinstance(reply, ReportReply):
            self._listener.handle_report(reply.envelope)
        elif isinstance(reply, StatusReply):
            self._listener.handle_status(reply)
        elif isinstance(reply, ErrorReply):
            self.counters.refusals_total += 1
            self._listener.handle_refusal(action or "unknown request", reply.error)


class _Connection:
    """One connected socket: frames in, frames out, descriptors beside them."""

    def __init__(self, sock: socket.socket, link: GovernorLink) -> None:
        self.outgoing: deque[bytes] = deque()
        self.asked: dict[int, Action] = {}
        self.said_hello = False
        self._sock = sock
        self._link = link
        self._received = bytearray()
        self._descriptors: list[int] = []
        self._has_outgoing = asyncio.Event()

    def send(self, request: Request) -> None:
        """Queue a request."""
        self.outgoing.append(frame(encode(request)))
        self.asked[request.request_id] = request.action
        if len(self.asked) > 2 * MAX_WAITING:  # a peer that never answers must not make this grow
            self.asked.pop(next(iter(self.asked)))
        self._has_outgoing.set()

    async def run(self) -> None:
        """Carry frames both ways until the peer is gone; raises EOFError, OSError or WireError then."""
        await run_together(self._write(), self._read())

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._has_outgoing.wait()
            while self.outgoing:
                await loop.sock_sendall(self._sock, self.outgoing.popleft())
            self._has_outgoing.clear()

    async def _read(self) -> None:
        """Read by `recvmsg`, because a stream transport would lose the descriptors."""
        while True:
            await _wait_readable(self._sock)
            with contextlib.suppress(BlockingIOError):
                self._receive()

    def _receive(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._sock, RECEIVE_BYTES, MAX_DESCRIPTORS)
        self._descriptors += descriptors
        if not data:
            raise EOFError("the governor closed the connection")
        self._received += data
        while (payload := self._next_frame()) is not None:
            self._handle(payload)

    def _next_frame(self) -> bytes | None:
        if len(self._received) < HEADER_BYTES:
            return None
        end = HEADER_BYTES + frame_length(bytes(self._received[:HEADER_BYTES]))
        if len(self._received) < end:
            return None
        payload = bytes(self._received[HEADER_BYTES:end])
        del self._received[:end]
        return payload

    def _handle(self, payload: bytes) -> None:
        try:
            reply = decode_reply(payload)
        except WireError as error:
            self._link.counters.bad_frames_total += 1
            _log.warning("bad frame of the governor dropped: %s", error)
            return
        self._link._handle(self, reply)  # noqa: SLF001 - two halves of one thing

    def take_descriptors(self, hello: HelloReply) -> Descriptors:
        """Return the descriptors that belong to a hello; what nobody announced is closed."""
        ring = self._descriptors.pop(0) if hello.has_ring and self._descriptors else None
        kernel_log = self._descriptors.pop(0) if hello.has_kernel_log and self._descriptors else None
        self.close_descriptors()
        return Descriptors(ring, kernel_log)

    def close_descriptors(self) -> None:
        """Close what came and was not taken."""
        while self._descriptors:
            os.close(self._descriptors.pop())


async def _wait_readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _set_once, readable)
    try:
        await readable
    finally:
        loop.remove_reader(sock)


def _set_once(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
