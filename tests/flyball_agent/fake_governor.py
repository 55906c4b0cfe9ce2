"""A governor's socket without a governor: answers as the protocol says, and whatever rubbish a test wants."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from flyball_fast.ring import Ring
from flyball_wire.codec import decode, encode
from flyball_wire.local_socket import (
    DeviceEvent,
    ErrorReply,
    HelloReply,
    Reply,
    ReportReply,
    Request,
    StatusReply,
    frame,
    frame_length,
)
from flyball_wire.messages import GpuInventory

INCARNATION = "ab" * 16
HOST = "host-a"


def inventory(count: int) -> tuple[GpuInventory, ...]:
    """Return that many boards of 200 to 700 W."""
    return tuple(
        GpuInventory(gpu, f"GPU-{gpu}", "Simulated 700 W", f"0000:{gpu:02x}:00.0", "nvidia", 200_000, 700_000, 700_000)
        for gpu in range(count)
    )


@dataclass(slots=True)
class FakeGovernor:
    """Serves one agent at a time; `requests` holds what it was asked."""

    path: Path
    ring: Ring | None = None
    gpus: tuple[GpuInventory, ...] = field(default_factory=lambda: inventory(2))
    host: str = HOST
    refusal: str | None = None  # answers leases with this error
    requests: asyncio.Queue[Request] = field(default_factory=asyncio.Queue)
    connection: socket.socket | None = None
    connections: int = 0
    answers: bool = True

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeGovernor"]:
        """Listen for the length of the block."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.setblocking(False)
            self.path.unlink(missing_ok=True)
            listener.bind(str(self.path))
            listener.listen()
            task = asyncio.create_task(self._serve(listener))
            try:
                yield self
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                self.drop()

    def drop(self) -> None:
        """Close the agent's connection, as a killed governor would."""
        if self.connection is not None:
            with contextlib.suppress(OSError):  # the agent may have gone first
                self.connection.shutdown(socket.SHUT_RDWR)
            self.connection = None

    async def send_raw(self, data: bytes) -> None:
        """Send these bytes as they are."""
        if self.connection is not None:
            await asyncio.get_running_loop().sock_sendall(self.connection, data)

    async def send(self, reply: Reply) -> None:
        """Send a reply or event that nobody asked for."""
        await self.send_raw(frame(encode(reply)))

    async def next_request(self, action: str) -> Request:
        """Return the next request of this action; others are passed over."""
        while True:
            request = await asyncio.wait_for(self.requests.get(), 10.0)
            if request.action == action:
                return request

    async def _serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setblocking(False)
            self.connection = connection
            self.connections += 1
            with connection, contextlib.suppress(OSError, EOFError):
                await self._answer_all(connection)

    async def _answer_all(self, connection: socket.socket) -> None:
        while True:
            length = frame_length(await _read_exactly(connection, 4))
            request = decode(Request, await _read_exactly(connection, length))
            self.requests.put_nowait(request)
            if self.answers:
                await self._answer(connection, request)

    async def _answer(self, connection: socket.socket, request: Request) -> None:
        reply = self._reply(request)
        if isinstance(reply, HelloReply) and self.ring is not None:
            descriptor = self.ring.read_only_fd()
            socket.send_fds(connection, [frame(encode(reply))], [descriptor])
            os.close(descriptor)
        else:
            await asyncio.get_running_loop().sock_sendall(connection, frame(encode(reply)))

    def _reply(self, request: Request) -> Reply:
        number = request.request_id
        if request.action == "hello":
            return self.hello(number)
        if request.action == "status":
            return self.status(number)
        if request.action in ("lease", "command") and self.refusal is not None:
            return ErrorReply(number, self.refusal)
        return ReportReply(number, b"report after " + request.action.encode() + b" " + request.body)

    def hello(self, number: int) -> HelloReply:
        """Return who this governor is."""
        return HelloReply(
            request_id=number,
            host=self.host,
            incarnation=INCARNATION,
            boot_id="boot-1",
            key_id="gov-host-a",
            public_key=bytes(32),
            is_simulated=True,
            gpus=self.gpus,
            has_ring=self.ring is not None,
            has_kernel_log=False,
        )

    def status(self, number: int) -> StatusReply:
        """Return a leased host with every cap at 500 W."""
        return StatusReply(
            request_id=number,
            mode="enforce",
            is_gated=False,
            is_quiesced=False,
            phase="leased",
            lease_milliwatts=1_000_000,
            lease_remaining_ms=9000,
            bound_milliwatts=1_000_000,
            caps_milliwatts=tuple(500_000 for _ in self.gpus),
            health=tuple("ok" for _ in self.gpus),
            samples_total=1234,
            missed_ticks_total=5,
            rate_hz=20.0,
            notes=(),
        )


def device_event(name: str = "xid", gpu: int | None = 1) -> DeviceEvent:
    """Return an event as the governor sends it unasked."""
    return DeviceEvent(0, 1_700_000_000.0, name, "critical", gpu, (("xid", "79"),))


async def _read_exactly(connection: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    received = bytearray()
    while len(received) < size:
        chunk = await loop.sock_recv(connection, size - len(received))
        if not chunk:
            raise EOFError
        received += chunk
    return bytes(received)
