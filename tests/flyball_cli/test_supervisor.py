"""Children are kept running, held down on request and ended without leftovers."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from flyball_cli.supervisor import Child, ChildSpec, Supervisor

LOOPS = "import time, sys; print('up', flush=True)\nwhile True: time.sleep(0.05)"


def spec(tmp_path: Path, name: str, code: str) -> ChildSpec:
    return ChildSpec(name, (sys.executable, "-c", code), tmp_path / f"{name.replace('/', '-')}.log")


async def wait_ups(log: Path, count: int) -> None:
    async with asyncio.timeout(20):
        while not log.exists() or log.read_text().count("up") < count:
            await asyncio.sleep(0.01)


async def wait_pid(child: Child) -> int:
    async with asyncio.timeout(20):
        while child.pid is None:
            await asyncio.sleep(0.01)
    return child.pid


async def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    async with Supervisor() as supervisor:
        child = supervisor.add(spec(tmp_path, "agent/host-1", LOOPS))
        await wait_ups(child.spec.log_path, 1)
        first = child.pid

        child.kill(hold=False)
        await wait_ups(child.spec.log_path, 2)

        assert child.pid != first
        assert supervisor.restarts == {"agent/host-1": 1}


async def test_a_held_child_stays_down_until_it_is_started(tmp_path: Path) -> None:
    async with Supervisor() as supervisor:
        child = supervisor.add(spec(tmp_path, "aggregator", LOOPS))
        await wait_ups(child.spec.log_path, 1)

        child.kill(hold=True)
        async with asyncio.timeout(20):
            while child.restarts == 0:
                await asyncio.sleep(0.01)
        assert child.pid is None

        child.start()
        await wait_ups(child.spec.log_path, 2)
        assert child.pid is not None


async def test_leaving_ends_every_child_even_a_stopped_one(tmp_path: Path) -> None:
    async with Supervisor() as supervisor:
        running = supervisor.add(spec(tmp_path, "broker", LOOPS))
        stopped = supervisor.add(spec(tmp_path, "agent/host-2", LOOPS))
        await wait_ups(running.spec.log_path, 1)
        await wait_ups(stopped.spec.log_path, 1)
        pids = [await wait_pid(running), await wait_pid(stopped)]
        stopped.send(signal.SIGSTOP)

    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_target_means_one_child_or_all_of_a_kind() -> None:
    supervisor = Supervisor()
    for name in ("agent/host-1", "agent/host-2", "aggregator"):
        supervisor.children[name] = Child(ChildSpec(name, ("true",), Path("/dev/null")))

    assert [child.spec.name for child in supervisor.matching("agent")] == ["agent/host-1", "agent/host-2"]
    assert [child.spec.name for child in supervisor.matching("agent/host-2")] == ["agent/host-2"]
    assert [child.spec.name for child in supervisor.matching("broker")] == []
