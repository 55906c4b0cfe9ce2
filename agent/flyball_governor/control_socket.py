"""The governor's unix socket: who may ask what, frames in and out, descriptors beside a reply.

The peer's uid comes from the kernel (SO_PEERCRED). Root and the governor's own uid may ask everything, other allowed
uids all but quiesce and resume. A client that sends rubbish or does not read is dropped; it never holds the others up.
"""

import asyncio
import logging
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from flyball_wire.codec import decode, encode
from flyball_wire.errors import WireError
from flyball_wire.local_socket import ErrorReply, Reply, Request, frame, frame_length

OPERATOR_ACTIONS: Final = frozenset({"quiesce", "resume"})
MAX_CLIENTS: Final = 16
MAX_QUEUED_FRAMES: Final = 64  # of a client that does not read
SEND_TIMEOUT_S: Final = 2.0
REQUESTS_PER_S: Final = 100.0  # a client that asks faster is read slower
_HEADER_BYTES: Final = 4
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid; unix(7)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply and the descriptors that go with it; they belong to the socket, which closes its copies once sent."""

    reply: Reply
    descriptors: tuple[int, ...] = ()


class Handler(Protocol):
    """Whoever answers requests."""

    async def handle_request(self, request: Request) -> Answer:
        """Return the answer; a WireError becomes an error reply."""
        ...


@dataclass(slots=True, eq=False)
class Client:
    """One connection: its kernel-given uid and what waits to be sent."""

    connection: socket.socket
    uid: int
    outgoing: asyncio.Queue[tuple[bytes, tuple[int, ...]]] = field(
        default_factory=lambda: asyncio.Queue(MAX_QUEUED_FRAMES)
    )
    is_subscribed: bool = False  # said hello, hence hears events

    def offer(self, reply: Reply, descriptors: tuple[int, ...] = ()) -> None:
        """Queue a reply; a client that leaves too many unread loses its connection."""
        try:
            self.outgoing.put_nowait((frame(encode(reply)), descriptors))
        except asyncio.QueueFull:
            _close_all(descriptors)
            _hang_up(self.connection)

    def drop_unsent(self) -> None:
        """Close the descriptors that will not be sent any more."""
        while not self.outgoing.empty():
            _close_all(self.outgoing.get_nowait()[1])


@dataclass(slots=True)
class ControlSocket:
    """The listening socket and its clients; construction opens nothing."""

    path: Path
    allowed_uids: frozenset[int]
    operator_uids: frozenset[int]
    handler: Handler
    clock: Callable[[], float] = time.monotonic
    clients: set[Client] = field(default_factory=set)

    async def serve(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Listen and answer until cancelled. A stale socket file is replaced: by the state lock nobody lives there."""
        loop = asyncio.get_running_loop()
        with _listener(self.path) as listener:
            on_ready()
            async with asyncio.TaskGroup() as tasks:
                while True:
                    connection, _ = await loop.sock_accept(listener)
                    self._admit(connection, tasks)

    def broadcast(self, reply: Reply) -> None:
        """Send a reply nobody asked for to every client that said hello."""
        for client in tuple(self.clients):
            if client.is_subscribed:
                client.offer(reply)

    def hang_up_all(self) -> None:
        """End every connection, so that clients say hello again and get the descriptors of now."""
        for client in tuple(self.clients):
            _hang_up(client.connection)

    def _admit(self, connection: socket.socket, tasks: asyncio.TaskGroup) -> None:
        connection.setblocking(False)
        uid = peer_uid(connection)
        if uid not in self.allowed_uids | self.operator_uids or len(self.clients) >= MAX_CLIENTS:
            log.warning("control socket: uid %d refused: not allowed, or %d clients already", uid, len(self.clients))
            connection.close()
            return
        client = Client(connection, uid)
        self.clients.add(client)
        tasks.create_task(self._attend(client), name=f"control-client-{uid}")

    async def _attend(self, client: Client) -> None:
        sender = asyncio.create_task(_send_queued(client), name="control-sender")
        try:
            await self._answer_all(client)
        except (OSError, EOFError, WireError) as error:
            log.debug("control socket: uid %d left: %s", client.uid, error)
        finally:
            self.clients.discard(client)
            sender.cancel()
            with suppress(asyncio.CancelledError, OSError, TimeoutError):
                await sender
            client.drop_unsent()
            client.connection.close()

    async def _answer_all(self, client: Client) -> None:
        allowance, last = REQUESTS_PER_S, self.clock()
        while True:
            payload = await _read_frame(client.connection)
            now = self.clock()
            allowance = min(REQUESTS_PER_S, allowance + (now - last) * REQUESTS_PER_S) - 1
            last = now
            if allowance < 0:
                await asyncio.sleep(-allowance / REQUESTS_PER_S)
            answer = await self._answer(client, payload)
            client.offer(answer.reply, answer.descriptors)

    async def _answer(self, client: Client, payload: bytes) -> Answer:
        try:
            request = decode(Request, payload)
        except WireError as error:
            return Answer(ErrorReply(0, str(error)[:1024]))
        if request.action in OPERATOR_ACTIONS and client.uid not in self.operator_uids:
            return _refusal(request, f"{request.action}: uid {client.uid} may not, expected root or the governor's uid")
        try:
            answer = await self.handler.handle_request(request)
        except WireError as error:
            return _refusal(request, str(error))
        if request.action == "hello":
            client.is_subscribed = True
        return answer


def _refusal(request: Request, reason: str) -> Answer:
    return Answer(ErrorReply(request.request_id, reason[:1024]))


def peer_uid(connection: socket.socket) -> int:
    """Return the uid of the process that connected, as the kernel knows it."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return int(uid)


def _listener(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setblocking(False)
        listener.bind(str(path))
        path.chmod(0o666)  # who may ask is decided by the peer's uid, not by the file's mode
        listener.listen(MAX_CLIENTS)
    except OSError:
        listener.close()
        raise
    return listener


async def _read_frame(connection: socket.socket) -> bytes:
    return await _read_exactly(connection, frame_length(await _read_exactly(connection, _HEADER_BYTES)))


async def _read_exactly(connection: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    received = bytearray()
    while len(received) < size:
        chunk = await loop.sock_recv(connection, size - len(received))
        if not chunk:
            raise EOFError("closed by the peer")
        received += chunk
    return bytes(received)


async def _send_queued(client: Client) -> None:
    """Send what is queued; a client that does not read in time is cut off, which also ends its reader."""
    try:
        while True:
            payload, descriptors = await client.outgoing.get()
            try:
                await asyncio.wait_for(_send(client.connection, payload, descriptors), SEND_TIMEOUT_S)
            finally:
                _close_all(descriptors)
    except (OSError, TimeoutError):
        _hang_up(client.connection)


def _close_all(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _hang_up(connection: socket.socket) -> None:
    """End a connection so that its reader wakes and closes it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


async def _send(connection: socket.socket, payload: bytes, descriptors: tuple[int, ...]) -> None:
    sent = 0
    if descriptors:
        sent = await _send_descriptors(connection, payload, descriptors)
    await asyncio.get_running_loop().sock_sendall(connection, payload[sent:])


async def _send_descriptors(connection: socket.socket, payload: bytes, descriptors: tuple[int, ...]) -> int:
    while True:
        try:
            return socket.send_fds(connection, [payload], list(descriptors))
        except BlockingIOError:
            await _wait_writable(connection)


def _wait_writable(connection: socket.socket) -> Awaitable[None]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_writer(connection, wake)
    future.add_done_callback(lambda _: loop.remove_writer(connection))
    return future
