"""A whole site of real processes: governed under its limit, whatever is killed, on either broker."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from flyball_cli.api_client import ApiClient
from flyball_cli.broker import BrokerKind
from flyball_simgpu.control import sim_environment
from flyball_simgpu.plant_state import create
from flyball_wire.facility import FleetPower, from_json

pytestmark = pytest.mark.broker
UP_S = 90.0  # starting, governing and ending included
LIMIT_W = 4000.0  # two hosts of two H100s: 720 W of their own, and 2,000 W of caps after reserve


@dataclass(slots=True)
class Site:
    """A running `flyball up` and what it said."""

    process: asyncio.subprocess.Process
    state: Path

    async def governed(self) -> list[str]:
        """Wait until every lease is acknowledged; return what it told until then."""
        assert self.process.stderr is not None
        told = []
        async with asyncio.timeout(UP_S):
            async for line in self.process.stderr:
                told.append(line.decode().strip())
                if told[-1].startswith("every lease is acknowledged"):
                    return told
        raise AssertionError("\n".join(told) + logs_of(self.state))

    async def result(self) -> dict[str, Any]:
        """Wait for its end and return the JSON it printed."""
        async with asyncio.timeout(UP_S):
            output, told = await self.process.communicate()
        assert self.process.returncode == 0, told.decode() + logs_of(self.state)
        found: dict[str, Any] = json.loads(output)
        return found


@contextlib.asynccontextmanager
async def site(
    state: Path, broker: BrokerKind, *flags: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Site]:
    """Run `flyball up` on private ports for the length of the block; with an environment, on own GPUs as well."""
    command = [sys.executable, "-m", "flyball_cli", "up", "--json", "--hosts", "2", "--gpus", "2"]
    command += [] if environment else ["--simulated-only"]
    command += [
        "--limit-w",
        str(LIMIT_W),
        "--port",
        "0",
        "--broker-port",
        "0",
        "--broker",
        broker,
        "--state",
        str(state),
    ]
    process = await asyncio.create_subprocess_exec(
        *command,
        *flags,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield Site(process, state)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.communicate()


def logs_of(state: Path) -> str:
    """Return the end of every log, for a failed test."""
    return "".join(f"\n{path.name}: {path.read_text()[-800:]}" for path in sorted((state / "log").glob("*.log")))


def pids_under(state: Path) -> list[int]:
    """Return processes that have this state folder in their arguments."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                if str(state).encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
    return found


async def test_no_second_is_over_the_limit_whatever_is_killed(tmp_path: Path, broker_kind: BrokerKind) -> None:
    kills = ("4:kill:aggregator", "7:kill:governor/host-1", "10:kill:agent", "13:kill:broker", "17:kill:governor")
    flags = [part for event in kills for part in ("--event", event)]

    async with site(tmp_path, broker_kind, "--for", "24", *flags) as running:
        result = await running.result()

    assert result["seconds_over_limit"] == 0
    assert result["peak_1s_w"] <= LIMIT_W
    assert result["use_of_limit"] >= 0.80
    assert result["broker"].startswith(broker_kind)
    assert result["restarts"]["aggregator"] == 1
    assert result["restarts"]["governor/host-1"] == 2
    assert result["simulated"] is True


async def test_a_facility_reads_draw_limit_and_headroom_as_json(tmp_path: Path, broker_kind: BrokerKind) -> None:
    async with site(tmp_path, broker_kind, "--for", "60") as running:
        told = await running.governed()
        port = next(int(line.rsplit(":", 1)[1]) for line in told if line.startswith("broker: "))
        async with asyncio.timeout(UP_S), aiomqtt.Client("127.0.0.1", port) as client:
            await client.subscribe("flyball/v1/local/fleet/power")
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                power = from_json(FleetPower, message.payload)
                if power.draw_source == "meter" and power.hosts_enforcing == 2:
                    break

    assert power.limit_watts == LIMIT_W
    assert power.draw_watts is not None
    assert power.headroom_watts == pytest.approx(LIMIT_W - power.draw_watts, abs=0.01)
    assert power.is_simulated


async def test_an_interrupt_ends_every_process(tmp_path: Path) -> None:
    async with site(tmp_path, "nats", "--for", "60") as running:
        await running.governed()
        assert len(pids_under(tmp_path)) > 6

        running.process.send_signal(signal.SIGINT)
        await running.result()

    assert pids_under(tmp_path) == []


async def test_gpus_of_this_machine_are_one_more_host_in_observe(tmp_path: Path) -> None:
    """The simulated library stands in for this machine's own, as the loader finds it."""
    with create(tmp_path / "own", hosts=["own"], gpus=2) as own:
        default_milliwatts = own.gpu("own", 0).default_limit_mw
        environment = sim_environment(tmp_path / "own", "own")
        async with site(tmp_path / "up", "nats", "--for", "60", environment=environment) as running:
            told = await running.governed()
            client = ApiClient(next(line.split("page: ")[1] for line in told if "page: " in line))
            async with asyncio.timeout(UP_S):
                view = await asyncio.to_thread(client.get, "/v1/hosts/this-machine")
                while view["mode"] is None:
                    view = await asyncio.to_thread(client.get, "/v1/hosts/this-machine")

        assert view["mode"] == "observe"
        assert view["committed_watts"] == view["maximum_watts"]
        assert [own.gpu("own", gpu).requested_limit_mw for gpu in range(2)] == [default_milliwatts] * 2
