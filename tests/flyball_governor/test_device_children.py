"""The device side over real child processes and the simulated library."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import flyball_simgpu
from flyball_fast.errors import DriverNotLoaded, LibraryNotFound
from flyball_fast.nvml_records import SweepPlan
from flyball_fast.ring import Ring, Row
from flyball_governor.device import DeviceEvent, DeviceSide, EventKind
from flyball_governor.device_children import DeviceChildren
from flyball_governor.nvidia import NvidiaDevices
from flyball_governor.reader_keeper import ReaderTimes
from flyball_simgpu import control, plant_state

LIBRARY = str(Path(flyball_simgpu.__file__).parent / "lib" / "libnvidia-ml.so.1")
HOST = "host-00"
PLAN = SweepPlan(rates_hz=(100, 50, 20, 10))
QUICK = ReaderTimes(watch_s=0.05, stall_s=0.3, silent_s=1.0, retry_s=0.3, grace_s=1.0)
FIELDS, LIMIT_GET, LIMIT_SET = 1 << 2, 1 << 4, 1 << 5  # kinds of calls that can hang (plant_layout.CALL_KINDS)


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> plant_state.PlantFile:
    monkeypatch.setenv("FLYBALL_SIM_PLANT", str(tmp_path / "plant"))
    monkeypatch.setenv("FLYBALL_SIM_HOST", HOST)
    return plant_state.create(tmp_path / "plant", hosts=[HOST], gpus=2)


def make(state_dir: Path, *, library: str = LIBRARY, times: ReaderTimes = QUICK) -> DeviceChildren:
    return DeviceChildren(lambda: NvidiaDevices(library), state_dir=state_dir, plan=PLAN, times=times, write_wait_s=0.3)


@asynccontextmanager
async def running(state_dir: Path) -> AsyncIterator[DeviceChildren]:
    side = make(state_dir)
    await side.start()
    try:
        yield side
    finally:
        await side.stop()


async def wait_until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)


async def next_event(side: DeviceChildren, kind: EventKind) -> DeviceEvent:
    async with asyncio.timeout(10):
        stream = side.events()
        while (event := await anext(stream)).kind != kind:
            pass
        await stream.aclose()
        return event


def samples(side: DeviceChildren, gpu: int) -> int:
    return side.ring.head(gpu) if side.ring else 0


def open_files(pid: int | None) -> list[str]:
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(entry.readlink()))
    return links


def is_running(pid: int | None) -> bool:
    return Path(f"/proc/{pid}").exists()


def is_device_side(side: DeviceSide) -> bool:
    return bool(side)


async def test_the_parent_learns_the_inventory_and_sees_samples(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    plant.gpu(HOST, 1).power_instant_mw = 234_000
    async with running(tmp_path) as side:
        assert is_device_side(side)
        assert [gpu.name for gpu in side.inventory()] == ["NVIDIA H100 80GB HBM3"] * 2
        assert side.inventory()[0].capabilities >= {"power_instant", "energy", "set_limit", "lock_clocks", "events"}
        assert side.versions()["driver"] == "580.95.05"
        await wait_until(lambda: samples(side, 1) > 3)
        fd = side.ring_fd()
        assert fd is not None
        with Ring.attach(os.dup(fd)) as ring:
            row = ring.latest(1)
        assert row is not None
        assert row.power_instant_mw == 234_000
        assert side.health().mode == "running"
        assert side.health().holds_writer_lock


async def test_a_limit_is_written_and_read_back(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    async with running(tmp_path) as side:
        result = await side.set_limit_mw(0, 450_000)

        assert (result.outcome, result.error) == ("done", None)
        assert result.limits is not None
        assert result.limits.requested_mw == 450_000
        assert side.pending_writes() == ()
        assert [limits.requested_mw for limits in await side.read_back() if limits] == [450_000, 700_000]
        assert plant.gpu(HOST, 0).requested_limit_mw == 450_000

        await side.stop()
        assert plant.gpu(HOST, 0).requested_limit_mw == 450_000


async def test_clocks_are_locked_in_hertz_and_let_go(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    async with running(tmp_path) as side:
        assert (await side.lock_clocks(0, 600_000_000, 1_200_000_000)).outcome == "done"
        assert plant.gpu(HOST, 0).locked_clock_max_mhz == 1200
        assert (await side.lock_clocks(0, 0, 0)).outcome == "done"
        assert plant.gpu(HOST, 0).locked_clock_max_mhz == 0
        assert (await side.lock_clocks(0, 5, 1)).outcome == "refused"


async def test_a_limit_outside_the_bounds_never_reaches_the_device(
    tmp_path: Path, plant: plant_state.PlantFile
) -> None:
    async with running(tmp_path) as side:
        result = await side.set_limit_mw(0, 900_000)

        assert result.outcome == "refused"
        assert result.error == "gpu 0: limit 900000 mW outside 200000..700000 mW"
        assert (await side.set_limit_mw(7, 500_000)).outcome == "refused"
        assert plant.gpu(HOST, 0).limit_post_count == 0


async def test_a_refusing_device_is_told_with_what_it_holds(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    plant.gpu(HOST, 0).set_error = 4
    async with running(tmp_path) as side:
        result = await side.set_limit_mw(0, 450_000)

    assert result.outcome == "refused"
    assert result.error is not None
    assert "NO_PERMISSION" in result.error
    assert result.limits is not None
    assert result.limits.requested_mw == 700_000


async def test_a_read_that_hangs_stalls_its_gpu_alone_within_two_seconds(
    tmp_path: Path, plant: plant_state.PlantFile
) -> None:
    side = make(tmp_path, times=ReaderTimes(retry_s=0.5))  # the real times to see a stall
    await side.start()
    try:
        await wait_until(lambda: samples(side, 0) > 3)
        first = side.health().reader.pid
        plant.gpu(HOST, 1).hang_calls = FIELDS
        await wait_until(lambda: side.health().stalled == {1}, limit_s=2.0)
        before = samples(side, 0)
        await wait_until(lambda: side.health().reader.is_alive and samples(side, 0) > before + 5)

        assert side.health().reader.pid != first
        assert (await next_event(side, "stalled")).gpu == 1
        assert (await side.read_back())[1] is None
        assert (await side.set_limit_mw(1, 500_000)).outcome == "refused"
        assert (await side.set_limit_mw(0, 500_000)).outcome == "done"

        plant.gpu(HOST, 1).hang_calls = 0
        assert (await next_event(side, "recovered")).gpu == 1
        await wait_until(lambda: not side.health().stalled)
    finally:
        plant.gpu(HOST, 1).hang_calls = 0
        await side.stop()


async def test_a_write_that_hangs_is_pending_until_its_writer_is_replaced(
    tmp_path: Path, plant: plant_state.PlantFile
) -> None:
    plant.gpu(HOST, 0).hang_calls = LIMIT_SET
    async with running(tmp_path) as side:
        result = await side.set_limit_mw(0, 450_000)

        assert result.outcome == "pending"
        assert [(write.gpu, write.limit_mw) for write in side.pending_writes()] == [(0, 450_000)]
        held_back = await side.set_limit_mw(1, 450_000)
        assert held_back.outcome == "refused"
        assert held_back.error is not None
        assert "not sent" in held_back.error
        assert [write.gpu for write in side.pending_writes()] == [0]

        await side.replace_writer()
        await wait_until(lambda: not side.pending_writes())  # it could be killed, so nothing is in flight any more
        plant.gpu(HOST, 0).hang_calls = 0
        assert (await side.set_limit_mw(1, 450_000)).outcome == "done"


async def test_a_write_that_returns_late_is_no_longer_pending(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    plant.gpu(HOST, 0).hang_calls = LIMIT_SET
    async with running(tmp_path) as side:
        assert (await side.set_limit_mw(0, 450_000)).outcome == "pending"
        plant.gpu(HOST, 0).hang_calls = 0
        await wait_until(lambda: not side.pending_writes())

        assert (await side.set_limit_mw(0, 460_000)).outcome == "done"


async def test_a_second_governor_on_the_host_may_not_write(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    async with running(tmp_path) as first, running(tmp_path) as second:
        assert first.health().holds_writer_lock
        assert not second.health().holds_writer_lock
        result = await second.set_limit_mw(0, 450_000)
        assert result.outcome == "refused"
        assert result.error is not None
        assert "lock" in result.error
        assert (await second.read_back())[0] is not None

        await first.stop()
        assert (await second.set_limit_mw(0, 450_000)).outcome == "done"
    assert plant.gpu(HOST, 0).requested_limit_mw == 450_000


async def test_a_lost_gpu_is_told_and_so_is_its_return(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    async with running(tmp_path) as side:
        await wait_until(lambda: samples(side, 1) > 3)
        plant.gpu(HOST, 0).is_lost = 1
        assert (await next_event(side, "lost")).code == 15
        assert side.health().lost == {0}

        plant.gpu(HOST, 0).is_lost = 0
        assert (await next_event(side, "recovered")).gpu == 0
        assert side.health().lost == frozenset()


async def test_an_xid_comes_as_an_event_with_its_count(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    async with running(tmp_path) as side:
        await wait_until(lambda: samples(side, 1) > 3)
        gpu = plant.gpu(HOST, 1)
        found = []
        for number in (1, 2):
            event = gpu.events[number - 1]
            event.type, event.data, event.sequence = 8, 63, number
            gpu.event_count = number
            found.append(await next_event(side, "xid"))

    assert [(event.gpu, event.code, event.count) for event in found] == [(1, 63, 1), (1, 63, 2)]


async def test_a_killed_reader_is_replaced_and_the_ring_goes_on(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    async with running(tmp_path) as side:
        await wait_until(lambda: samples(side, 0) > 3)
        pid, fd = side.health().reader.pid, side.ring_fd()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await next_event(side, "reader_replaced")
        before = samples(side, 0)
        await wait_until(lambda: samples(side, 0) > before)

        assert side.health().reader.pid != pid
        assert side.ring_fd() == fd


async def test_quiesce_leaves_no_device_descriptor_and_resume_attaches_again(
    tmp_path: Path, plant: plant_state.PlantFile
) -> None:
    async with running(tmp_path) as side:
        await side.set_limit_mw(0, 450_000)
        pids = [side.health().reader.pid, side.health().writer.pid]
        assert None not in pids

        await side.quiesce()

        assert side.health().mode == "quiesced"
        assert not any(is_running(pid) for pid in pids)
        assert not any("nvidia" in link for link in open_files(os.getpid()))
        assert (await side.set_limit_mw(0, 500_000)).outcome == "refused"
        assert await side.read_back() == (None, None)

        await side.resume()
        before = samples(side, 0)
        await wait_until(lambda: samples(side, 0) > before)
        assert (await side.set_limit_mw(0, 500_000)).outcome == "done"


async def test_children_end_with_their_parent_side(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    side = make(tmp_path)
    await side.start()
    await side.set_limit_mw(0, 450_000)
    pids = [side.health().reader.pid, side.health().writer.pid]

    await side.stop()

    assert None not in pids
    assert not any(is_running(pid) for pid in pids)


async def test_a_child_inherits_only_what_it_needs(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    secret = os.open(tmp_path / "secret", os.O_CREAT | os.O_RDWR)
    async with running(tmp_path) as side:
        await side.set_limit_mw(0, 450_000)
        for pid in (side.health().reader.pid, side.health().writer.pid):
            links = open_files(pid)
            assert str(tmp_path / "secret") not in links
            assert (str(tmp_path / "writer.lock") in links) == (pid == side.health().writer.pid)
    os.close(secret)


async def test_no_library_is_an_error_that_names_what_was_tried(tmp_path: Path) -> None:
    side = make(tmp_path, library="/nowhere/libnvidia-ml.so.1")

    with pytest.raises(LibraryNotFound, match="tried /nowhere"):
        await side.start()
    assert side.health().mode == "failed"


async def test_no_driver_is_error_9(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    plant.host(HOST).is_driver_loaded = 0

    with pytest.raises(DriverNotLoaded, match="error 9"):
        await make(tmp_path).start()


async def test_a_driver_that_goes_and_comes_is_survived(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    async with running(tmp_path) as side:
        await wait_until(lambda: samples(side, 0) > 3)
        plant.host(HOST).is_driver_loaded = 0
        await next_event(side, "lost")
        plant.host(HOST).is_driver_loaded = 1
        await next_event(side, "recovered")
        await wait_until(lambda: not side.health().lost)
        assert side.health().mode == "running"


async def test_an_announced_unbind_is_told_in_time_to_let_go(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    async with running(tmp_path) as side:
        await wait_until(lambda: samples(side, 0) > 2)
        await asyncio.sleep(0.1)  # the events thread registers beside the sampler
        control.announce_unbind(plant, HOST)

        assert (await next_event(side, "driver_unbound")).gpu is None
        await side.quiesce()
        await wait_until(lambda: not control.is_driver_open(plant, HOST))
        control.unload_driver(plant, HOST)  # refused while anything is open
        control.load_driver(plant, HOST)
        await side.resume()
        before = samples(side, 0)
        await wait_until(lambda: samples(side, 0) > before)


async def test_a_hot_reset_brings_default_limits_that_are_read_back(
    tmp_path: Path, plant: plant_state.PlantFile
) -> None:
    async with running(tmp_path) as side:
        await side.set_limit_mw(0, 400_000)
        control.require_reset(plant, HOST, 0)
        assert (await next_event(side, "lost")).gpu == 0
        control.reset_gpu(plant, HOST, 0, is_forced=True)
        assert (await next_event(side, "recovered")).gpu == 0

        limits = (await side.read_back())[0]
        assert limits is not None
        assert limits.requested_mw == 700_000


async def test_a_change_of_the_gpu_count_is_told(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    async with running(tmp_path) as side:
        await wait_until(lambda: samples(side, 1) > 2)
        control.show_gpus(plant, HOST, 1)

        assert (await next_event(side, "inventory_changed")).code == 1
        await wait_until(lambda: len(side.inventory()) == 1 and samples(side, 0) > 2)


async def test_with_mig_switched_on_utilisation_is_unknown_and_power_goes_on(
    tmp_path: Path, plant: plant_state.PlantFile
) -> None:
    def newest(side: DeviceChildren) -> Row:
        row = side.ring.latest(0) if side.ring else None
        return row or Row()

    async with running(tmp_path) as side:
        await wait_until(lambda: newest(side).utilization_percent is not None)
        control.set_mig(plant, HOST, 0, is_on=True)

        await wait_until(lambda: newest(side).utilization_percent is None)
        assert newest(side).power_instant_mw is not None
        assert side.health().lost == frozenset()


async def test_a_sampler_that_no_longer_wakes_is_replaced(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    async with running(tmp_path) as side:
        await wait_until(lambda: samples(side, 0) > 2)
        stopped = side.health().reader.pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)

        assert "does not wake" in (await next_event(side, "reader_replaced")).detail
        before = samples(side, 0)
        await wait_until(lambda: samples(side, 0) > before)


async def test_a_gpu_that_hangs_at_the_start_is_left_out_and_the_other_serves(
    tmp_path: Path, plant: plant_state.PlantFile
) -> None:
    plant.gpu(HOST, 0).hang_calls = FIELDS
    side = make(tmp_path, times=ReaderTimes(watch_s=0.05, describe_s=0.3, retry_s=600))
    await side.start()
    try:
        await wait_until(lambda: samples(side, 1) > 3)
        assert side.health().stalled == {0}
        assert side.inventory()[0].uuid == "unknown-0"
        assert (await side.set_limit_mw(1, 500_000)).outcome == "done"
    finally:
        await side.stop()


async def test_a_stall_that_lasts_stays_stalled_when_it_is_tried_again(
    tmp_path: Path, plant: plant_state.PlantFile
) -> None:
    async with running(tmp_path) as side:
        await wait_until(lambda: samples(side, 0) > 3)
        plant.gpu(HOST, 1).hang_calls = FIELDS
        await wait_until(lambda: side.health().stalled == {1})
        started = side.health().reader.started
        await wait_until(lambda: side.health().reader.started >= started + 3)
        before = samples(side, 0)
        await wait_until(lambda: samples(side, 0) > before)

        assert side.health().stalled == {1}
        plant.gpu(HOST, 1).hang_calls = 0


async def test_power_over_a_cap_or_the_lease_is_told_at_once(tmp_path: Path, plant: plant_state.PlantFile) -> None:
    for gpu in (0, 1):
        plant.gpu(HOST, gpu).power_instant_mw = 400_000
    async with running(tmp_path) as side:
        side.watch_power(900_000, [500_000, None], 0.02)
        await wait_until(lambda: samples(side, 1) > 3)

        plant.gpu(HOST, 0).power_instant_mw = 501_000
        over_lease = await next_event(side, "excursion")
        assert over_lease.gpu == 0
        assert over_lease.detail == "power over the cap"

        plant.gpu(HOST, 0).power_instant_mw = 400_000
        plant.gpu(HOST, 1).power_instant_mw = 600_000
        while (event := await next_event(side, "excursion")).gpu is not None:
            pass
        assert event.detail == "power of all GPUs over the lease"
