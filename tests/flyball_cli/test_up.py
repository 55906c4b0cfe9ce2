"""A whole site of real processes: governed under its limit, whatever is killed, on either broker."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from flyball_cli.broker import BrokerKind
from flyball_wire.facility import FleetPower, from_json

pytestmark = pytest.mark.broker
UP_S = 90.0  # starting, governing and ending included
LIMIT_W = 4000.0  # two hosts of two H100s: 720 W of their own, and 2,000 W of caps after reserve


@dataclass(slots=True)
class Site:
    """A running `flyball up` and what it said."""

    process: asyncio.subprocess.Process
    state: Path

    async def lines(self) -> AsyncIterator[str]:
        """Yield what it tells on stderr."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            yield line.decode().strip()

    async def result(self) -> dict[str, Any]:
        """Wait for its end and return the JSON it printed."""
        async with asyncio.timeout(UP_S):
            output, told = await self.process.communicate()
        assert self.process.returncode == 0, told.decode() + logs_of(self.state)
        found: dict[str, Any] = json.loads(output)
        return found


@contextlib.asynccontextmanager
async def site(state: Path, broker: BrokerKind, *flags: str) -> AsyncIterator[Site]:
    """Run `flyball up` on private ports for the length of the block."""
    command = [sys.executable, "-m", "flyball_cli", "up", "--json", "--hosts", "2", "--gpus", "2", "--simulated-only"]
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
        *command, *flags, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
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
        port = 0
        async for line in running.lines():
            if line.startswith("broker: "):
                port = int(line.rsplit(":", 1)[1])
            if line.startswith("every lease is acknowledged"):
                break
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
        async for line in running.lines():
            if line.startswith("every lease is acknowledged"):
                break
        assert len(pids_under(tmp_path)) > 6

        running.process.send_signal(signal.SIGINT)
        await running.result()

    assert pids_under(tmp_path) == []
