"""The exporter serves what is known, in names that dcgm-exporter users recognise, whatever clients do."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.brokers import free_port
from tests.flyball_agent.fake_governor import HOST, FakeGovernor

from flyball_agent.agent import Agent
from flyball_agent.config import AgentConfig, ExporterConfig
from flyball_agent.exporter import Exporter
from flyball_agent.exposition import Family, exposition_text
from flyball_agent.governor_link import Descriptors
from flyball_agent.host_metrics import agent_families
from flyball_agent.state_window import GpuWindow

LINE = re.compile(r'[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_]\w*="(\\.|[^"\\])*",?)+\})? -?[0-9.e+-]+')


@contextlib.asynccontextmanager
async def serving(exporter: Exporter) -> AsyncIterator[Exporter]:
    task = asyncio.create_task(exporter.run())
    await exporter.is_settled.wait()
    try:
        yield exporter
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(exporter: Exporter, request: bytes) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", exporter.port)
    writer.write(request)
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    try:
        return (await reader.read()).decode()
    except ConnectionError:
        return "reset"
    finally:
        writer.close()


def known_agent() -> Agent:
    governor = FakeGovernor(Path("unused"))
    agent = Agent(AgentConfig(host=HOST))
    agent.handle_hello(governor.hello(1), Descriptors())
    agent.handle_status(governor.status(2))
    agent.view.windows = (
        GpuWindow(power_w=431.5, temperature_celsius=61.0, energy_j=7.5, is_sampled=True, state="ok"),
    )
    return agent


def test_names_units_and_labels_are_those_of_dcgm_exporter_and_ours_in_base_units() -> None:
    text = exposition_text(agent_families(known_agent()))
    labels = '{gpu="0",UUID="GPU-0",pci_bus_id="0000:00:00.0",device="nvidia0",modelName="Simulated 700 W",Hostname='
    for line in (
        f"DCGM_FI_DEV_POWER_USAGE{labels}",
        f"DCGM_FI_DEV_GPU_TEMP{labels}",
        f"flyball_gpu_power_watts{labels}",
    ):
        assert line in text
    assert re.search(r"^DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION\{.*} 7500$", text, re.MULTILINE)
    assert re.search(r"^flyball_gpu_energy_joules_total\{.*} 7.5$", text, re.MULTILINE)
    assert "flyball_host_lease_watts 1000\n" in text
    assert all(LINE.fullmatch(line) for line in text.splitlines() if not line.startswith("#"))


def test_unknown_values_have_no_sample() -> None:
    text = exposition_text(agent_families(known_agent()))
    assert 'DCGM_FI_DEV_POWER_USAGE{gpu="1"' not in text
    assert "DCGM_FI_DEV_SM_CLOCK" not in text
    silent = exposition_text(agent_families(Agent(AgentConfig(host=HOST))))
    assert "flyball_governor_alive 0\n" in silent
    assert "lease" not in silent


def test_hostile_label_values_are_escaped() -> None:
    text = exposition_text([Family("a", "gauge", "help").add(1, {"x": 'q"\\\n'}).add(float("nan")).add(None)])
    assert text.splitlines()[2:] == ['a{x="q\\"\\\\\\n"} 1']


async def test_every_request_gets_an_answer_and_stops_nothing() -> None:
    exporter = Exporter(ExporterConfig(port=free_port()), [lambda: agent_families(known_agent())])
    async with serving(exporter):
        assert "flyball_governor_alive 1" in await ask(exporter, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await ask(exporter, b"HEAD /metrics HTTP/1.1\r\n\r\n")
        assert head.startswith("HTTP/1.1 200 OK")
        assert head.endswith("\r\n\r\n")
        for request, status in (
            (b"GET /other HTTP/1.1\r\n\r\n", "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"\x00\xff\r\n\r\n", "400"),
            (b"GET " + b"x" * 9000 + b"\r\n\r\n", "431|reset"),
        ):
            assert re.search(status, (await ask(exporter, request))[:40])
        assert "200 OK" in await ask(exporter, b"GET / HTTP/1.1\r\n\r\n")


async def test_a_port_that_is_taken_is_said_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    config = ExporterConfig(port=free_port())
    async with serving(Exporter(config, [])), serving(Exporter(config, [])) as second:
        assert second.port is None
        assert "tried again" in caplog.text
