import asyncio
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.flyball_governor.device_side_fake import FakeDeviceSide
from tests.flyball_governor.rig import Rig, enforcing

from flyball_fast.errors import DeviceError, DriverNotLoaded
from flyball_governor.config import DriverConfig
from flyball_governor.device import DeviceEvent
from flyball_governor.errors import AlreadyRunning, Unavailable
from flyball_governor.events import event_reply, pump_events
from flyball_governor.identity import load_identity, lock_state_folder
from flyball_governor.notify import notify, watchdog_period_s
from flyball_governor.service import begin, make_control_socket
from flyball_wire.errors import ConfigError, WireError
from flyball_wire.local_socket import DeviceEvent as EventReply
from flyball_wire.local_socket import HelloReply, Request


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The datagram socket that systemd would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


class LateDriver(FakeDeviceSide):
    """Has no driver until the given start."""

    arrives_at = 3

    async def start(self) -> None:
        self.start_error = None if self.starts + 1 >= self.arrives_at else DriverNotLoaded("nvmlInit: error 9", 9)
        await super().start()


def test_systemd_is_told_where_it_listens(systemd: socket.socket) -> None:
    assert notify("READY=1", {"NOTIFY_SOCKET": str(systemd.getsockname())})
    assert systemd.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/notify"])
def test_nobody_listening_is_no_error(address: str) -> None:
    assert not notify("READY=1", {"NOTIFY_SOCKET": address})


def test_the_watchdog_is_fed_at_half_its_period_and_only_by_whom_it_watches() -> None:
    assert watchdog_period_s({"WATCHDOG_USEC": "10000000"}) == 5.0
    assert watchdog_period_s({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}) == 5.0
    assert watchdog_period_s({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_period_s({}) is None


async def test_without_a_driver_it_is_unavailable_and_says_why(tmp_path: Path) -> None:
    rig = Rig(enforcing(tmp_path), LateDriver())

    with pytest.raises(Unavailable, match="error 9"):
        await begin(rig.governor, asyncio.Event())


async def test_told_to_wait_it_begins_when_the_driver_arrives(tmp_path: Path) -> None:
    config = replace(enforcing(tmp_path), driver=DriverConfig(wait_for_driver=True, retry_s=0.1))
    side = LateDriver()

    assert await begin(Rig(config, side).governor, asyncio.Event())
    assert side.starts == 3


async def test_told_to_stop_while_it_waits_it_stops(tmp_path: Path) -> None:
    config = replace(enforcing(tmp_path), driver=DriverConfig(wait_for_driver=True, retry_s=3600.0))
    stopping = asyncio.Event()
    waiting = asyncio.create_task(begin(Rig(config, LateDriver()).governor, stopping))
    await asyncio.sleep(0)
    stopping.set()

    assert not await waiting


async def test_a_sampler_that_stands_still_is_not_vouched_for(tmp_path: Path) -> None:
    rig = await Rig(enforcing(tmp_path)).begin()
    assert rig.side.ring is not None
    before = rig.governor.is_sampler_ticking()
    rig.side.ring.set_word("tick_ns", 2**63)

    assert not before
    assert rig.governor.is_sampler_ticking()


async def test_events_are_passed_on_with_their_severity_and_count(tmp_path: Path) -> None:
    rig = await Rig(enforcing(tmp_path)).begin()
    pump = asyncio.create_task(pump_events(rig.governor))
    await rig.side.queue.put(DeviceEvent("xid", 1, 79, 0, 3, "fell off"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    pump.cancel()
    (event,) = [reply for reply in rig.heard if isinstance(reply, EventReply)]

    assert (event.name, event.severity, event.gpu) == ("xid", "critical", 1)
    assert event.fields == (("count", "3"), ("code", "79"), ("detail", "fell off"))


def test_an_unknown_kind_of_event_is_a_warning() -> None:
    assert event_reply(DeviceEvent("power_source", None, None, 0, 1)).severity == "warning"


async def drain(rig: Rig, event: DeviceEvent) -> None:
    """Have one event passed through the pump."""
    pump = asyncio.create_task(pump_events(rig.governor))
    await rig.side.queue.put(event)
    for _ in range(20):
        await asyncio.sleep(0)
    pump.cancel()


async def test_other_gpus_than_before_mean_a_fresh_start(tmp_path: Path) -> None:
    rig = await Rig(enforcing(tmp_path)).begin()
    await drain(rig, DeviceEvent("inventory_changed", None, None, 0, 1))

    assert rig.governor.restart_reason


async def test_a_driver_being_unloaded_finds_nobody_and_is_met_again_later(tmp_path: Path) -> None:
    rig = await Rig(enforcing(tmp_path, host_limit_w=900.0, needs_lease=False)).begin()
    await rig.run(3)
    await drain(rig, DeviceEvent("driver_unbound", None, None, 0, 1))
    await rig.run(5)
    quiesced = (rig.side.is_quiesced, rig.governor.gate.is_open)
    await rig.run(40)

    assert quiesced == (True, False)
    assert not rig.side.is_quiesced
    assert rig.governor.gate.is_open


class Unresumable(FakeDeviceSide):
    """Lets go and cannot take hold again."""

    async def resume(self) -> None:
        raise DeviceError("gpu 0: still away")


async def test_a_resume_that_fails_is_refused_with_the_reason_and_stays_quiesced(tmp_path: Path) -> None:
    rig = await Rig(enforcing(tmp_path), Unresumable()).begin()
    await rig.requests.handle_request(Request(1, "quiesce"))

    with pytest.raises(WireError, match="still away"):
        await rig.requests.handle_request(Request(2, "resume"))
    assert rig.governor.is_quiesced


async def test_hello_brings_a_ring_that_cannot_be_written(tmp_path: Path) -> None:
    rig = await Rig(enforcing(tmp_path)).begin()
    answer = await rig.requests.handle_request(Request(1, "hello"))
    assert isinstance(answer.reply, HelloReply)
    ring_fd = answer.descriptors[0]

    assert answer.reply.has_ring
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(ring_fd, b"x")
    for descriptor in answer.descriptors:
        os.close(descriptor)


async def test_before_the_first_report_a_client_is_told_to_wait(tmp_path: Path) -> None:
    rig = await Rig(enforcing(tmp_path)).begin()

    with pytest.raises(WireError, match="none yet"):
        await rig.requests.handle_request(Request(1, "report"))


async def test_root_and_the_governors_uid_are_the_operators(tmp_path: Path) -> None:
    control = make_control_socket((await Rig(enforcing(tmp_path)).begin()).governor)

    assert control.operator_uids == {0, os.geteuid()}


def test_a_key_is_made_once_and_the_incarnation_every_time(tmp_path: Path) -> None:
    first, second = load_identity("h1", tmp_path), load_identity("h1", tmp_path)

    assert first.key.public_bytes == second.key.public_bytes
    assert first.incarnation != second.incarnation
    assert (tmp_path / "report.key").stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_identity("h1", tmp_path)
    (tmp_path / "report.key").chmod(0o644)

    with pytest.raises(ConfigError, match="0600"):
        load_identity("h1", tmp_path)


def test_the_state_folder_has_one_governor(tmp_path: Path) -> None:
    held = lock_state_folder(tmp_path)
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}"):
        lock_state_folder(tmp_path)
    os.close(held)
