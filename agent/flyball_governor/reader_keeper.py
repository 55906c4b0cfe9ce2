"""Keeps one reader child sampling: sees a driver call that does not return, and starts another reader without that GPU.

A stuck reader is killed and never waited for. At most `max_stuck` may be left behind; after that there is no reader and
every value is unknown, until one of them goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from flyball_fast._excursions_py import BRAKE, OVER_CAP, THERMAL
from flyball_fast.errors import (
    DeviceError,
    DeviceLost,
    DriverNotLoaded,
    LibraryNotFound,
    NoPermission,
    NotSupported,
)
from flyball_fast.nvml_records import SweepPlan
from flyball_fast.ring import Heartbeat, Ring
from flyball_governor.child_process import Child, Message, start_child
from flyball_governor.device import UNKNOWN, ChildHealth, EventKind, GpuInfo
from flyball_governor.reader import reader_main
from flyball_governor.sampler import SampledDevices

WATCH = "reader-watch"
SOON_S = 1.0  # a reader that ends sooner is not started again at once
REAP_S = 0.05  # a killed process that is not stuck goes within this
Tell = Callable[[EventKind, int | None, int | None, str], None]
_ERRORS = {
    error.__name__: error
    for error in (DeviceError, DeviceLost, DriverNotLoaded, LibraryNotFound, NoPermission, NotSupported)
}


@dataclass(frozen=True, slots=True)
class ReaderTimes:
    """When a reader is given up, and when what failed is tried again; seconds.

    Attributes:
        watch_s: Between two looks at the heartbeat.
        stall_s: A driver call that lasts longer does not return; with two looks it is seen within 2 s.
        silent_s: A sampler that wakes ten times a second at least is given up after this time without waking.
        open_s: Attaching may take seconds per GPU without persistence mode.
        describe_s: One GPU that takes longer to say who it is counts as stalled.
        grace_s: For a reader that was asked to end.
        retry_s: Until a lost or left out GPU is tried again by a fresh reader; doubles up to `retry_most_s`.
    """

    watch_s: float = 0.2
    stall_s: float = 1.4
    silent_s: float = 5.0
    open_s: float = 60.0
    describe_s: float = 5.0
    grace_s: float = 2.0
    retry_s: float = 30.0
    retry_most_s: float = 600.0


class _AskedInVainError(DeviceError):
    def __init__(self, gpu: int) -> None:
        super().__init__(f"gpu {gpu}: its description did not come")
        self.gpu = gpu


class ReaderKeeper:
    """The parent's side of the reader children. Construction starts nothing."""

    def __init__(
        self,
        make_devices: Callable[[], SampledDevices],
        *,
        plan: SweepPlan,
        tell: Tell,
        times: ReaderTimes | None = None,
        max_stuck: int = 2,
    ) -> None:
        self._make_devices = make_devices
        self._plan = plan
        self._tell = tell
        self._times = times or ReaderTimes()
        self._max_stuck = max_stuck
        self._child: Child | None = None
        self._stuck: list[Child] = []
        self._started = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._retry_at = 0.0
        self._began_at = 0.0
        self._budget_steps = 0
        self._alarm_fd: int | None = None
        self._power_watch: tuple[int | None, tuple[int | None, ...], float] = (None, (), 0.0)
        self._excursions: dict[int | None, int] = {}
        self.is_starting = False
        self._retry_wait_s = self._times.retry_s
        self.ring: Ring | None = None
        self.gpus: tuple[GpuInfo, ...] = ()
        self.versions: dict[str, str] = {}
        self.stalled: set[int] = set()
        self.lost: set[int] = set()
        self.error: str | None = None

    async def start(self) -> None:
        """Start a reader and take its inventory; raise `DeviceError` when it cannot attach."""
        await self._start_reader(frozenset())
        asyncio.get_running_loop().add_reader(self._alarm(), self._look_at_excursions)
        self._tasks.append(asyncio.create_task(self._watch(), name=WATCH))

    async def stop(self) -> None:
        """End the reader; a stuck one is left to the kernel."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        child, self._child = self._child, None
        if child is not None and not await child.end(self._times.grace_s):
            self._stuck.append(child)
        if self._alarm_fd is not None:
            asyncio.get_running_loop().remove_reader(self._alarm_fd)
            os.close(self._alarm_fd)
            self._alarm_fd = None

    def watch_power(self, lease_mw: int | None, caps_mw: Sequence[int | None], hold_s: float) -> None:
        """Set what counts as an excursion, for this ring and any later one."""
        self._power_watch = (lease_mw, tuple(caps_mw), hold_s)
        self._apply_power_watch()

    def _apply_power_watch(self) -> None:
        lease_mw, caps_mw, hold_s = self._power_watch
        if self.ring is None:
            return
        self.ring.set_word("hold_ns", round(hold_s * 1e9))
        self.ring.set_word("lease_mw", lease_mw or 0)
        for gpu, cap_mw in zip(range(self.ring.gpu_count), caps_mw, strict=False):
            self.ring.set_gpu_word(gpu, "cap_mw", cap_mw or 0)

    def _alarm(self) -> int:
        if self._alarm_fd is None:
            self._alarm_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return self._alarm_fd

    def _look_at_excursions(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._alarm())
        if self.ring is None:
            return
        for gpu in range(self.ring.gpu_count):
            if self._has_risen(gpu, self.ring.gpu_word(gpu, "excursions")):
                self._tell("excursion", gpu, self.ring.gpu_word(gpu, "excursion_kinds"), _kinds(self.ring, gpu))
        if self._has_risen(None, self.ring.word("host_excursions")):
            self._tell("excursion", None, None, "power of all GPUs over the lease")

    def _has_risen(self, gpu: int | None, count: int) -> bool:
        before = self._excursions.get(gpu, 0)
        self._excursions[gpu] = count
        return count > before

    def close_ring(self) -> None:
        """Unmap the ring; after `stop`."""
        ring, self.ring = self.ring, None
        self._excursions.clear()
        if ring is not None:
            ring.close()

    @property
    def has_reader(self) -> bool:
        """Whether a reader is sampling and watched."""
        is_watched = any(task.get_name() == WATCH and not task.done() for task in self._tasks)
        return is_watched and self._child is not None and not self._child.is_gone

    def health(self) -> ChildHealth:
        """Return how the reader is."""
        beat = self.ring.heartbeat() if self.ring and self.has_reader else None
        call = f"{beat.call} of gpu {beat.gpu}" if beat and beat.call else None
        return ChildHealth(
            pid=self._child.pid if self._child else None,
            is_alive=self.has_reader,
            started=self._started,
            stuck_pids=tuple(child.pid for child in self._stuck if child.is_stuck),
            call_in_progress=call,
        )

    async def _start_reader(self, left_out: frozenset[int]) -> None:
        """Start a reader that does not touch the GPUs left out; leave out those that hang while it attaches."""
        while True:
            plan = replace(self._plan, left_out=self._plan.left_out | left_out)
            child = await start_child(
                "flyball-reader", reader_main(self._make_devices, plan, left_out | frozenset(self.stalled))
            )
            self._started += 1
            try:
                self._take_inventory(await self._await_ready(child))
            except _AskedInVainError as error:
                self._give_up(child)
                self._note_stalled(error.gpu, "it did not say who it is")
                left_out |= {error.gpu}
                await self._refuse_too_many(f"gpu {error.gpu} did not say who it is")
            except DeviceError:
                if not await child.end(self._times.grace_s):
                    self._stuck.append(child)
                raise
            else:
                self._begin(child, left_out)
                return

    async def _await_ready(self, child: Child) -> Message | None:
        """Return the reader's inventory; raise `_AskedInVainError` for a GPU whose description does not come."""
        asked: int | None = None
        try:
            while True:
                wait_s = self._times.open_s if asked is None else self._times.describe_s
                message = await asyncio.wait_for(child.receive(), wait_s)
                gpu = message.get("gpu") if message is not None else None
                if message is None or message.get("kind") != "asking" or not isinstance(gpu, int):
                    return message
                asked = gpu
        except TimeoutError as error:
            if asked is not None:
                raise _AskedInVainError(asked) from error
            self._give_up(child)
            raise DeviceError(f"attaching to the devices took more than {self._times.open_s:g} s") from error

    def _begin(self, child: Child, left_out: frozenset[int]) -> None:
        assert self.ring is not None  # noqa: S101 - made by _take_inventory
        self.ring.end_call()
        for gpu in range(len(self.gpus)):
            self.ring.set_state(gpu, "left_out" if gpu in left_out else "unseen")
        child.hand_over(self.ring.fd, self._alarm())
        self._child, self._began_at = child, time.monotonic()
        self.error = None
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(asyncio.create_task(self._listen(child), name="reader-listen"))

    def _take_inventory(self, ready: Message | None) -> None:
        gpus, self.versions = parse_ready(ready)
        gpus = _with_known(gpus, self.gpus)
        if self.ring is not None and [gpu.uuid for gpu in gpus] != [gpu.uuid for gpu in self.gpus]:
            self._tell("inventory_changed", None, len(gpus), "the GPUs are not those of before")
            self.close_ring()
            self.lost, self.stalled = set(), set()
        self.gpus = gpus
        if self.ring is None:
            if not gpus:
                raise DeviceError("the driver shows no GPU")
            self.ring = Ring.create(len(gpus), uuids=[gpu.uuid for gpu in gpus])
            self._apply_power_watch()

    async def _listen(self, child: Child) -> None:
        while (message := await child.receive()) is not None:
            if message.get("kind") == "event":
                gpu, code = message.get("gpu"), message.get("code")
                self._tell(
                    message["event"],  # type: ignore[arg-type]  # our own reader sends only EventKind
                    gpu if isinstance(gpu, int) else None,
                    code if isinstance(code, int) else None,
                    "",
                )
            elif message.get("kind") == "sampling":
                self._note_rates(message.get("rates_hz"))
            elif message.get("kind") == "no_events":
                self.error = f"no device events: {message.get('message')}"

    def _note_rates(self, rates_hz: object) -> None:
        """Tell when the sampler begins slower than asked, because more would tell nothing or cost too much."""
        asked_hz = self._plan.rates_hz[0]
        if isinstance(rates_hz, list) and rates_hz and rates_hz[0] < asked_hz:
            text = f"sampling at {rates_hz[0]:.3g} Hz: {asked_hz:g} Hz would tell no more or cost too much"
            self._tell("sampler_budget", None, 0, text)

    async def _watch(self) -> None:
        seen_ns = 0
        while True:
            await asyncio.sleep(self._times.watch_s)
            self._stuck = [child for child in self._stuck if child.is_stuck]
            seen_ns = await self._look_at_heartbeat(seen_ns)
            self._look_at_states()
            self._look_at_budget()
            await self._look_at_child()

    async def _look_at_heartbeat(self, seen_ns: int) -> int:
        if self.ring is None or self._child is None:
            return 0
        beat = self.ring.heartbeat()
        is_late = beat.started_ns and time.monotonic_ns() - beat.started_ns > self._times.stall_s * 1e9
        if self._is_silent(beat):
            await self._replace_stuck(None, "the sampler does not wake")
            return 0
        if is_late and beat.started_ns == seen_ns:  # seen twice: we were not the ones that slept
            await self._replace_stuck(beat.gpu, f"{beat.call} did not return")
            return 0
        return beat.started_ns

    def _is_silent(self, beat: Heartbeat) -> bool:
        """Say whether the sampler stopped outside any driver call: a stopped process, a thread that died."""
        silent_ns = self._times.silent_s * 1e9
        is_young = time.monotonic() - self._began_at < self._times.silent_s
        return not (is_young or beat.started_ns) and time.monotonic_ns() - beat.tick_ns > silent_ns

    async def _replace_stuck(self, gpu: int | None, why: str) -> None:
        child, self._child = self._child, None
        assert child is not None  # noqa: S101 - the caller saw its heartbeat
        self._give_up(child)
        if gpu is not None and gpu < len(self.gpus):
            self._note_stalled(gpu, why)
        await self._try_start(f"gpu {gpu}: {why}", frozenset(self.stalled))

    def _note_stalled(self, gpu: int, why: str) -> None:
        if gpu not in self.stalled:
            self.stalled.add(gpu)
            self._tell("stalled", gpu, None, why)
        self._plan_retry()

    def _give_up(self, child: Child) -> None:
        child.kill()
        self._stuck.append(child)

    async def _try_start(self, why: str, left_out: frozenset[int]) -> None:
        self.is_starting = True
        try:
            await self._refuse_too_many(why)
            await self._start_reader(left_out)
        except DeviceError as error:
            self._forget_all(str(error))
        else:
            self._tell("reader_replaced", None, self._started, why)
        finally:
            self.is_starting = False

    async def _refuse_too_many(self, why: str) -> None:
        if self._stuck:
            await self._stuck[-1].wait_gone(REAP_S)
        if sum(child.is_stuck for child in self._stuck) >= self._max_stuck:
            raise DeviceError(f"{why}; {self._max_stuck} readers are stuck, no further one is started")

    def _forget_all(self, why: str) -> None:
        self.error = why
        self._plan_retry()

    def _look_at_states(self) -> None:
        if self.ring is None or not self.has_reader:
            return
        for gpu in range(len(self.gpus)):
            state = self.ring.state(gpu)
            if state == "lost" and gpu not in self.lost:
                self.lost.add(gpu)
                self._plan_retry()
                self._tell("lost", gpu, self.ring.gpu_word(gpu, "last_code"), "")
            elif state == "ok" and gpu in self.lost | self.stalled:
                self.lost.discard(gpu)
                self.stalled.discard(gpu)
                self._retry_wait_s = self._times.retry_s
                self._tell("recovered", gpu, None, "")

    def _look_at_budget(self) -> None:
        steps = self.ring.word("budget_steps") if self.ring else 0
        if steps != self._budget_steps:
            self._budget_steps = steps
            self._tell("sampler_budget", None, steps, f"{steps} halvings of the fast tiers are in force")

    async def _look_at_child(self) -> None:
        """Start a fresh reader when there is none, or when lost and left out GPUs may be tried again."""
        is_due = time.monotonic() >= self._retry_at
        if self._child is not None and self._child.is_gone:
            self._child.kill()  # only its socket is left
            self._child = None
            if time.monotonic() - self._began_at < SOON_S:
                self._forget_all("the reader ended by itself as soon as it began")
            else:
                await self._try_start("the reader ended by itself", frozenset(self.stalled))
        elif self._child is None and is_due:
            self._retry_wait_s = min(self._retry_wait_s * 2, self._times.retry_most_s)
            await self._try_start("there was no reader", frozenset(self.stalled))
        elif self._child is not None and self._is_incomplete() and is_due and not self._stuck:
            await self._try_again()

    def _is_incomplete(self) -> bool:
        return bool(self.lost or self.stalled) or any(gpu.uuid.startswith(UNKNOWN) for gpu in self.gpus)

    async def _try_again(self) -> None:
        self._retry_wait_s = min(self._retry_wait_s * 2, self._times.retry_most_s)
        self._plan_retry()
        child, self._child = self._child, None
        if child is not None and not await child.end(self._times.grace_s):
            self._stuck.append(child)
        await self._try_start(f"GPUs {sorted(self.stalled | self.lost)} are tried again", frozenset())

    def _plan_retry(self) -> None:
        self._retry_at = time.monotonic() + self._retry_wait_s


def _kinds(ring: Ring, gpu: int) -> str:
    bits = ring.gpu_word(gpu, "excursion_kinds")
    names = {OVER_CAP: "power over the cap", BRAKE: "power brake", THERMAL: "hardware thermal slowdown"}
    return ", ".join(name for bit, name in names.items() if bits & bit)


def _with_known(gpus: tuple[GpuInfo, ...], known: tuple[GpuInfo, ...]) -> tuple[GpuInfo, ...]:
    """Return the inventory, with what was known of those GPUs that tell nothing now."""
    if len(gpus) != len(known):
        return gpus
    return tuple(old if new.uuid.startswith(UNKNOWN) else new for new, old in zip(gpus, known, strict=True))


def parse_ready(message: Message | None) -> tuple[tuple[GpuInfo, ...], dict[str, str]]:
    """Return inventory and versions of a reader's first message; raise the `DeviceError` it carries instead."""
    if message is None:
        raise DeviceError("the reader ended before it told its inventory")
    if message.get("kind") == "failed":
        code = message.get("code")
        kind = _ERRORS.get(str(message.get("error")), DeviceError)
        raise kind(str(message.get("message")), code if isinstance(code, int) else None)
    with contextlib.suppress(KeyError, TypeError):
        gpus = [GpuInfo(**{**gpu, "capabilities": frozenset(gpu["capabilities"])}) for gpu in message["gpus"]]  # type: ignore[attr-defined]  # our own reader's message
        return tuple(gpus), dict(message["versions"])  # type: ignore[call-overload]  # our own reader's message
    raise DeviceError(f"the reader's first message is {message.get('kind')!r}, expected 'ready'")
