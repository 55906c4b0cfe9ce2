"""One forked child of the governor and the socket between them: length-prefixed msgpack both ways.

A child inherits its socket and the descriptors it is told to keep, nothing else; it dies with its parent and leaves
Ctrl-C to it. A killed child that does not go (it hangs in the kernel) is never waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgpack

MAX_MESSAGE_BYTES = 1 << 20  # an inventory of 64 GPUs is about 32 KiB
_LENGTH = struct.Struct(">I")
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # linux/prctl.h

Message = dict[str, object]


class ChildError(Exception):
    """The other end said something that is no message."""


class Channel:
    """The child's end: blocking, one thread reads, any may send."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, message: Message) -> None:
        """Send one message whole; silently nothing once the parent has gone."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.sendall(_frame(message))

    def receive(self) -> Message | None:
        """Return the next message, or None when the parent has gone."""
        head = self._read(_LENGTH.size)
        body = self._read(_checked_length(head)) if head else b""
        return _message(body) if body else None

    def receive_fds(self, count: int) -> list[int] | None:
        """Return the descriptors the parent hands over, or None when it has gone."""
        try:
            data, fds, _, _ = socket.recv_fds(self._connection, 1, count)
        except ConnectionResetError:
            return None
        return fds if data and len(fds) == count else None

    def _read(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            try:
                part = self._connection.recv(count - len(parts))
            except ConnectionResetError:
                return b""
            if not part:
                return b""
            parts += part
        return bytes(parts)


class Child:
    """The parent's end of one child; make it with `start_child`."""

    def __init__(
        self, name: str, pid: int, handover: socket.socket, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    ) -> None:
        self.name = name
        self.pid = pid
        self.is_killed = False
        self._handover = handover
        self._incoming, self._outgoing = streams
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = os.pidfd_open(pid)
        self._loop.add_reader(self._pidfd, self._reap)

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended and was reaped: no call of it is in progress any more."""
        return self._ended.done()

    @property
    def is_stuck(self) -> bool:
        """Whether it was killed and is still there."""
        return self.is_killed and not self.is_gone

    async def wait_gone(self, timeout_s: float | None = None) -> bool:
        """Wait until the process has gone; False when it has not in that time."""
        await asyncio.wait([self._ended], timeout=timeout_s)
        return self.is_gone

    async def send(self, message: Message) -> None:
        """Send one message; harmless when the child has gone."""
        with contextlib.suppress(OSError):
            self._outgoing.write(_frame(message))
            await self._outgoing.drain()

    def hand_over(self, *fds: int) -> None:
        """Give the child duplicates of these descriptors."""
        with contextlib.suppress(OSError):
            socket.send_fds(self._handover, [b"f"], fds)

    async def receive(self) -> Message | None:
        """Return the next message, or None when the child has closed its end."""
        try:
            head = await self._incoming.readexactly(_LENGTH.size)
            return _message(await self._incoming.readexactly(_checked_length(head)))
        except (asyncio.IncompleteReadError, OSError):
            return None

    def kill(self) -> None:
        """Send SIGKILL and close the socket; a child stuck in the kernel goes when its call returns, if ever."""
        self.is_killed = True
        if not self.is_gone:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._hang_up()

    async def end(self, grace_s: float) -> bool:
        """Close the socket, which asks the child to end; kill it after the grace. False when it is stuck."""
        self._hang_up()
        if not await self.wait_gone(grace_s):
            self.kill()
            return await self.wait_gone(grace_s)
        return True

    def _hang_up(self) -> None:
        self._handover.close()
        self._outgoing.close()

    def _reap(self) -> None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            if not self._ended.done():
                self._ended.set_result(os.waitstatus_to_exitcode(status))


async def start_child(name: str, main: Callable[[Channel], None], *, keep: Iterable[int] = ()) -> Child:
    """Fork a child that runs `main` with its end of the socket, and exits.

    Args:
        name: What the process is called (15 characters show).
        main: Runs in the child only; it returns when its channel ends.
        keep: Descriptors that stay open in the child, besides standard input and outputs.
    """
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_child(name, parent, theirs, main, {0, 1, 2, theirs.fileno(), *keep})
    theirs.close()
    handover = ours.dup()
    return Child(name, pid, handover, await asyncio.open_unix_connection(sock=ours))


def _be_child(
    name: str, parent: int, connection: socket.socket, main: Callable[[Channel], None], keep: set[int]
) -> NoReturn:
    status = 1
    try:
        gc.freeze()  # what was the parent's stays shared: no collection writes to it
        _set_signals()
        _set_process(name, parent)
        _close_others(keep)
        main(Channel(connection))
        status = 0
    except SystemExit:
        status = 0
    except BaseException:  # noqa: BLE001 - the child must never run on in its parent's code
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(status)


def _set_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _end)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _set_process(name: str, parent: int) -> None:
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    prctl(_PR_SET_NAME, name.encode()[:15] + b"\0", 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked to be told
        raise SystemExit(0)


def _close_others(keep: set[int]) -> None:
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) not in keep:
            with contextlib.suppress(OSError):
                os.close(int(entry.name))


def _frame(message: Message) -> bytes:
    body: bytes = msgpack.packb(message)
    return _LENGTH.pack(len(body)) + body


def _checked_length(head: bytes) -> int:
    (length,) = _LENGTH.unpack(head)
    if not 0 < length <= MAX_MESSAGE_BYTES:
        raise ChildError(f"a message of {length} bytes, expected 1..{MAX_MESSAGE_BYTES}")
    return int(length)


def _message(body: bytes) -> Message:
    message = msgpack.unpackb(body)
    if not isinstance(message, dict):
        raise ChildError(f"a message of type {type(message).__name__}, expected a map")
    return message
