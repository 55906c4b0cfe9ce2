import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import pytest

from flyball_governor.control_socket import Answer, ControlSocket
from flyball_wire.codec import decode, encode
from flyball_wire.errors import WireError
from flyball_wire.local_socket import Action, DeviceEvent, ErrorReply, GateReply, Request, frame, frame_length

ME = os.getuid()


class Echo:
    """Answers every request with the gate; `lower` is refused; `hello` brings a descriptor."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.descriptors: tuple[int, ...] = ()

    async def handle_request(self, request: Request) -> Answer:
        self.asked.append(request.action)
        if request.action == "lower":
            raise WireError("lower: not now")
        descriptors = self.descriptors if request.action == "hello" else ()
        return Answer(GateReply(request.request_id, is_open=True, reason=request.action), descriptors)


@asynccontextmanager
async def serving(
    path: Path, handler: Echo, *, allowed: set[int] | None = None, operators: set[int] | None = None
) -> AsyncIterator[ControlSocket]:
    """Run a control socket for the length of a block."""
    ready = asyncio.Event()
    control = ControlSocket(
        path, frozenset({ME} if allowed is None else allowed), frozenset(operators or set()), handler
    )
    task = asyncio.create_task(control.serve(ready.set))
    await ready.wait()
    try:
        yield control
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class Caller:
    """A client that talks frames."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.path = path

    async def __aenter__(self) -> Self:
        await asyncio.get_running_loop().sock_connect(self.socket, str(self.path))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.socket.close()

    async def send(self, raw: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, raw)

    async def receive(self) -> bytes:
        header = await self._exactly(4)
        return await self._exactly(frame_length(header))

    async def ask(self, action: Action, request_id: int = 1) -> bytes:
        await self.send(frame(encode(Request(request_id, action))))
        return await self.receive()

    async def _exactly(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            chunk = await asyncio.get_running_loop().sock_recv(self.socket, size - len(received))
            if not chunk:
                raise EOFError
            received += chunk
        return received


async def test_each_request_is_answered_under_its_own_id(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", Echo()), Caller(tmp_path / "s") as caller:
        replies = [decode(GateReply, await caller.ask("gate", request_id)) for request_id in (7, 8)]

    assert [reply.request_id for reply in replies] == [7, 8]


async def test_a_uid_that_is_not_allowed_is_hung_up_on(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", Echo(), allowed=set()), Caller(tmp_path / "s") as caller:
        with pytest.raises((EOFError, OSError)):
            await caller.ask("gate")


async def test_only_operators_quiesce_and_resume(tmp_path: Path) -> None:
    handler = Echo()
    async with serving(tmp_path / "s", handler), Caller(tmp_path / "s") as caller:
        reply = decode(ErrorReply, await caller.ask("quiesce"))

    assert "may not" in reply.error
    assert handler.asked == []


async def test_an_operator_may_quiesce(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", Echo(), operators={ME}), Caller(tmp_path / "s") as caller:
        assert decode(GateReply, await caller.ask("quiesce")).reason == "quiesce"


async def test_a_refused_request_says_why_and_the_next_one_is_served(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", Echo()), Caller(tmp_path / "s") as caller:
        refused = decode(ErrorReply, await caller.ask("lower", 3))
        served = decode(GateReply, await caller.ask("gate", 4))

    assert (refused.request_id, refused.error) == (3, "lower: not now")
    assert served.request_id == 4


@pytest.mark.parametrize("payload", [b"\xc1", b"\x80", encode(GateReply(1, is_open=True, reason=""))])
async def test_a_payload_that_is_no_request_is_answered_and_stops_nobody(tmp_path: Path, payload: bytes) -> None:
    async with serving(tmp_path / "s", Echo()), Caller(tmp_path / "s") as caller:
        await caller.send(frame(payload))
        refused = decode(ErrorReply, await caller.receive())
        served = decode(GateReply, await caller.ask("gate"))

    assert refused.request_id == 0
    assert served.is_open


@pytest.mark.parametrize("raw", [b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n"])
async def test_a_frame_of_impossible_length_ends_that_client_only(tmp_path: Path, raw: bytes) -> None:
    async with serving(tmp_path / "s", Echo()), Caller(tmp_path / "s") as good:
        async with Caller(tmp_path / "s") as bad:
            await bad.send(raw)
            with pytest.raises((EOFError, OSError)):
                await bad.receive()

        assert decode(GateReply, await good.ask("gate")).is_open


async def test_descriptors_travel_beside_the_hello_reply(tmp_path: Path) -> None:
    handler = Echo()
    read_end, write_end = os.pipe()
    handler.descriptors = (read_end,)
    async with serving(tmp_path / "s", handler), Caller(tmp_path / "s") as caller:
        await caller.send(frame(encode(Request(1, "hello"))))
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(caller.socket, 65_536, 4)
                break
            except BlockingIOError:
                await asyncio.sleep(0)
    os.write(write_end, b"x")

    assert decode(GateReply, data[4:]).reason == "hello"
    assert os.read(descriptors[0], 1) == b"x"
    for descriptor in (write_end, *descriptors):
        os.close(descriptor)


async def test_events_reach_those_who_said_hello(tmp_path: Path) -> None:
    async with (
        serving(tmp_path / "s", Echo()) as control,
        Caller(tmp_path / "s") as listener,
        Caller(tmp_path / "s") as other,
    ):
        await listener.ask("hello")
        await other.ask("gate")
        control.broadcast(DeviceEvent(0, 1.0, "xid", "critical", 0, ()))
        event = decode(DeviceEvent, await listener.receive())
        reply = decode(GateReply, await other.ask("gate", 9))

    assert event.name == "xid"
    assert reply.request_id == 9


async def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    async with serving(tmp_path / "s", Echo()), Caller(tmp_path / "s") as caller:
        assert decode(GateReply, await caller.ask("gate")).is_open
