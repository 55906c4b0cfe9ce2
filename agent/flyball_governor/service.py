"""Run a governor as a service: parts together, ready and watchdog told to systemd, ended by SIGTERM or SIGINT."""

import asyncio
import logging
import os
import pwd
import signal
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from flyball_fast.errors import DeviceError
from flyball_governor.config import GovernorConfig
from flyball_governor.control_socket import ControlSocket
from flyball_governor.device import DeviceSide, PowerWatch
from flyball_governor.errors import EXIT_LOCKED, Unavailable
from flyball_governor.events import pump_events
from flyball_governor.governor import Governor
from flyball_governor.identity import Identity
from flyball_governor.notify import notify, watchdog_period_s
from flyball_governor.requests import Requests

EXIT_RESTART: Final = EXIT_LOCKED  # systemd starts it again, with a fresh incarnation

log = logging.getLogger(__name__)


async def serve(config: GovernorConfig, identity: Identity, side: DeviceSide, watch: PowerWatch | None = None) -> int:
    """Govern until told to stop; return the exit code.

    Raises:
        Unavailable: there is no device, and the configuration does not say to wait for one.
    """
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="journal"))
    governor = Governor(config, identity, side, watch=watch)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if not await begin(governor, stopping):
        return 0
    try:
        await _run_parts(governor, stopping)
    finally:
        notify("STOPPING=1")
        await governor.close()
    return EXIT_RESTART if governor.restart_reason else 0


async def begin(governor: Governor, stopping: asyncio.Event) -> bool:
    """Start the governor, again and again where the configuration says to wait; False when told to stop meanwhile.

    Raises:
        Unavailable: naming what was tried.
    """
    driver = governor.config.driver
    while not stopping.is_set():
        try:
            await governor.begin()
        except DeviceError as error:
            await governor.side.stop()
            if not driver.wait_for_driver:
                raise Unavailable(f"no device to govern: {error}") from None
            log.warning("no device to govern: %s; trying again every %g s", error, driver.retry_s)
            notify(f"READY=1\nSTATUS=waiting for a driver: {error}")
            await _wait_fed(stopping, driver.retry_s)
        else:
            return True
    return False


async def _wait_fed(stopping: asyncio.Event, period_s: float) -> None:
    """Wait that long or until told to stop; the watchdog is fed meanwhile, for waiting is all there is to do."""
    step_s = min(period_s, (watchdog_period_s() or period_s) / 2)
    left_s = period_s
    while left_s > 0 and not stopping.is_set():
        notify("WATCHDOG=1")
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), min(step_s, left_s))
        left_s -= step_s


async def _run_parts(governor: Governor, stopping: asyncio.Event) -> None:
    """Run loop, socket, events and watchdog until the first ends; an error of any ends all."""
    control = make_control_socket(governor)
    governor.publish = control.broadcast
    governor.on_new_ring = control.hang_up_all
    loop_task = asyncio.create_task(governor.run(), name="governor-loop")
    helpers = [
        asyncio.create_task(control.serve(lambda: _tell_ready(governor)), name="control-socket"),
        asyncio.create_task(pump_events(governor), name="device-events"),
        asyncio.create_task(feed_watchdog(governor), name="watchdog"),
    ]
    stop_task = asyncio.create_task(stopping.wait(), name="stop-signal")
    await asyncio.wait([loop_task, stop_task, *helpers], return_when=asyncio.FIRST_COMPLETED)
    governor.stop()
    await loop_task
    for task in [stop_task, *helpers]:
        task.cancel()
    for result in await asyncio.gather(*helpers, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result


def make_control_socket(governor: Governor) -> ControlSocket:
    """Return the governor's socket; root and our own uid are operators."""
    settings = governor.config.socket
    operators = frozenset({0, os.geteuid()})
    allowed = frozenset(settings.allowed_uids) | known_uids(settings.allowed_users)
    return ControlSocket(Path(settings.path), allowed, operators, Requests(governor))


def known_uids(names: Iterable[str]) -> frozenset[int]:
    """Return the uids of the users that this host has, by name; root is no agent and is left out."""
    found = set()
    for name in names:
        try:
            found.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            log.warning("control socket: no user %r here", name)
    return frozenset(found - {0})


async def feed_watchdog(governor: Governor) -> None:
    """Feed systemd's watchdog for as long as the sampler ticks; without a watchdog there is nothing to do."""
    period_s = watchdog_period_s()
    if period_s is None:
        await asyncio.Event().wait()
        return
    while True:
        if governor.is_sampler_ticking():
            notify("WATCHDOG=1")
        await asyncio.sleep(period_s / 2)


def _tell_ready(governor: Governor) -> None:
    gpus = len(governor.side.inventory())
    log.info("host %s: governing %d GPUs in %s", governor.identity.host, gpus, governor.config.effective_mode)
    notify(f"READY=1\nSTATUS=governing {gpus} GPUs in {governor.config.effective_mode}")
