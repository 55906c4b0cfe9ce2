"""Keeps one writer child: one write at a time, each counted from the moment it is sent until it has returned.

A write that does not return stays pending, and its writer is replaced only when the caller says that it is counted.
The host's lock is an open file that every writer inherits, a hung one too: no second governor writes beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flyball_fast.errors import DeviceError
from flyball_governor.child_process import Child, Message, start_child
from flyball_governor.device import ChildHealth, Devices, Limits, PendingWrite, WriteKind, WriteResult
from flyball_governor.writer import writer_main

LOCK_NAME = "writer.lock"
AVOID_S = 30.0  # a GPU whose limits did not come back is not asked again for so long
REAP_S = 0.05  # a killed process that is not stuck goes within this


class _Flight:
    """A request that was sent: what it writes, and its answer once there is one."""

    def __init__(self, child: Child, pending: PendingWrite | None) -> None:
        self.child = child
        self.pending = pending
        self.answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()


class WriterKeeper:
    """The parent's side of the writer children. Construction starts nothing, and the first write starts a writer.

    Args:
        make_devices: Called in the child.
        state_dir: Where the lock file lies.
        wait_s: A call that lasts longer is reported as pending.
        open_s: Attaching may take seconds per GPU without persistence mode.
        max_stuck: Writers that may be left behind; after that every write is refused.
    """

    def __init__(
        self,
        make_devices: Callable[[], Devices],
        *,
        state_dir: Path,
        wait_s: float = 2.0,
        open_s: float = 60.0,
        max_stuck: int = 2,
    ) -> None:
        self._make_devices = make_devices
        self._lock_path = state_dir / LOCK_NAME
        self._lock_fd: int | None = None
        self._wait_s = wait_s
        self._open_s = open_s
        self._max_stuck = max_stuck
        self._child: Child | None = None
        self._child_has_lock = False
        self._avoided: dict[int, float] = {}
        self._apart_until = 0.0
        self._left: list[Child] = []
        self._flights: dict[int, _Flight] = {}
        self._ids = itertools.count(1)
        self._started = 0
        self._turn = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None

    @property
    def holds_lock(self) -> bool:
        """Whether this governor is the one that writes on this host."""
        return self._lock_fd is not None

    def take_lock(self) -> bool:
        """Take the host's writer lock if it is free; True when held."""
        if self._lock_fd is None:
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            self._lock_fd = fd
        return True

    async def stop(self, grace_s: float = 2.0) -> None:
        """End the writer and let the lock go; a hung writer keeps its own hold on it."""
        await self.end_child(grace_s)
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    async def end_child(self, grace_s: float = 2.0) -> None:
        """End the writer, if it does not hang in a write; the lock stays."""
        child, self._child = self._child, None
        if child is None:
            return
        if not await child.end(grace_s):
            self._left.append(child)
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    def pending(self) -> tuple[PendingWrite, ...]:
        """Return every write that was sent and has not returned, oldest first."""
        self._forget_ended()
        return tuple(flight.pending for flight in self._flights.values() if flight.pending)

    def health(self) -> ChildHealth:
        """Return how the writer is."""
        stuck = next(iter(self.pending()), None)
        return ChildHealth(
            pid=self._child.pid if self._child else None,
            is_alive=self._child is not None and not self._child.is_gone,
            started=self._started,
            stuck_pids=tuple(child.pid for child in self._left if child.is_stuck),
            call_in_progress=f"{stuck.kind} of gpu {stuck.gpu}" if stuck else None,
        )

    async def write(self, kind: WriteKind, gpu: int, request: Message, limit_mw: int | None = None) -> WriteResult:
        """Send one write and wait for it, up to `wait_s`; never more than one is on its way in a writer."""
        if not self.take_lock():
            return WriteResult(gpu, kind, "refused", error="another governor on this host holds the writer lock")
        async with self._turn:
            started = time.monotonic()
            try:
                child = await self._ready_child(needs_lock=True)
            except DeviceError as error:
                return WriteResult(gpu, kind, "refused", error=str(error))
            flight = await self._send(child, request, PendingWrite(gpu, kind, limit_mw, started))
            answer = await self._answer(flight)
            if answer is None:
                waited = time.monotonic() - started
                return WriteResult(gpu, kind, "pending", error=f"no answer in {waited:.1f} s", took_s=waited)
        return _result(gpu, kind, answer)

    async def read_all(self, gpus: Sequence[int]) -> list[Limits | None]:
        """Read the limits of these GPUs in one request; where that hangs, one by one to find which GPU it is."""
        found = await self._read_together(gpus) if time.monotonic() >= self._apart_until else None
        if found is not None:
            return found
        return [await self.read_limits(gpu) for gpu in gpus]

    async def _read_together(self, gpus: Sequence[int]) -> list[Limits | None] | None:
        async with self._turn:
            try:
                child = await self._ready_child(needs_lock=False)
            except DeviceError:
                return [None] * len(gpus)
            answer = await self._answer(await self._send(child, {"act": "read_limits", "gpus": list(gpus)}, None))
            if answer is None:
                self._apart_until = time.monotonic() + AVOID_S
                await self.replace()
        limits = answer.get("all_limits") if answer else None
        return [_limits_of(one) for one in limits] if isinstance(limits, list) else None

    async def read_limits(self, gpu: int) -> Limits | None:
        """Read one GPU's limits; None when they cannot be read in time.

        A read that hangs writes nothing, so its writer is left behind at once, and the GPU is not asked for a while.
        """
        async with self._turn:
            if time.monotonic() < self._avoided.get(gpu, 0.0):
                return None
            try:
                child = await self._ready_child(needs_lock=False)
            except DeviceError:
                return None
            flight = await self._send(child, {"act": "read_limits", "gpu": gpu}, None)
            answer = await self._answer(flight)
            if answer is None:
                self._avoided[gpu] = time.monotonic() + AVOID_S
                await self.replace()
        return _limits(answer) if answer else None

    async def replace(self) -> None:
        """Leave a writer behind that does not answer; the next request starts another."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            self._left.append(child)
            await child.wait_gone(REAP_S)
        self._forget_ended()

    def _is_busy(self, child: Child) -> bool:
        return any(flight.child is child for flight in self._flights.values())

    async def _ready_child(self, *, needs_lock: bool) -> Child:
        """Return a writer that is idle; start one if there is none.

        Raises:
            DeviceError: the writer hangs in an earlier call, too many do, or it cannot attach.
        """
        self._forget_ended()
        if self._child is not None and self._child.is_gone:
            self._child.kill()  # only its socket is left
            self._child = None
        if self._child is not None and self._is_busy(self._child):
            raise DeviceError("the writer hangs in an earlier call; it was not sent")
        if self._child is not None and needs_lock and not self._child_has_lock:
            await self.end_child()
        return self._child or await self._start()

    async def _start(self) -> Child:
        if sum(child.is_stuck for child in self._left) >= self._max_stuck:
            raise DeviceError(f"{self._max_stuck} writers are stuck, no further one is started")
        keep = [] if self._lock_fd is None else [self._lock_fd]
        child = await start_child("flyball-writer", writer_main(self._make_devices), keep=keep)
        self._started += 1
        try:
            ready = await asyncio.wait_for(child.receive(), self._open_s)
        except TimeoutError:
            ready = {"message": f"the writer did not attach in {self._open_s:g} s"}
        if ready is None or ready.get("kind") != "ready":
            child.kill()
            self._left.append(child)
            raise DeviceError(str((ready or {}).get("message", "the writer ended before it was ready")))
        self._child, self._child_has_lock = child, bool(keep)
        self._listener = asyncio.create_task(self._listen(child), name="writer-listen")
        return child

    async def _send(self, child: Child, request: Message, pending: PendingWrite | None) -> _Flight:
        number = next(self._ids)
        flight = self._flights[number] = _Flight(child, pending)
        await child.send({**request, "id": number})
        return flight

    async def _answer(self, flight: _Flight) -> Message | None:
        done, _ = await asyncio.wait([flight.answer], timeout=self._wait_s)
        return flight.answer.result() if done else None

    async def _listen(self, child: Child) -> None:
        while (message := await child.receive()) is not None:
            number = message.get("id")
            flight = self._flights.pop(number, None) if isinstance(number, int) else None
            if flight is not None:
                flight.answer.set_result(message)
        await child.wait_gone()
        self._forget_ended()

    def _forget_ended(self) -> None:
        """Drop what ended writers were doing: no call of a reaped process is in progress any more."""
        for number, flight in list(self._flights.items()):
            if flight.child.is_gone:
                del self._flights[number]
                with contextlib.suppress(asyncio.InvalidStateError):
                    flight.answer.set_result({"error": "the writer ended during the call", "limits": None})
        self._left = [child for child in self._left if child.is_stuck]


def _result(gpu: int, kind: WriteKind, answer: Message) -> WriteResult:
    error, took = answer.get("error"), answer.get("took_s")
    return WriteResult(
        gpu=gpu,
        kind=kind,
        outcome="done" if error is None else "refused",
        limits=_limits(answer),
        error=None if error is None else str(error),
        took_s=took if isinstance(took, float) else 0.0,
    )


def _limits(answer: Message) -> Limits | None:
    return _limits_of(answer.get("limits"))


def _limits_of(values: object) -> Limits | None:
    if not isinstance(values, list):
        return None
    enforced, requested = values
    return Limits(enforced, requested)
