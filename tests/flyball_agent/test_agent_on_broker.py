"""The whole agent between a real broker and a fake governor."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
import pytest
from tests.brokers import RunningBroker, free_port
from tests.flyball_agent.fake_governor import HOST, INCARNATION, FakeGovernor, device_event

from flyball_agent.__main__ import run
from flyball_agent.config import AgentConfig, BrokerConfig, ExporterConfig, TelemetryConfig
from flyball_agent.health_config import HealthConfig, IsolationConfig
from flyball_fast import columns
from flyball_fast.ring import Ring
from flyball_fast.ring_layout import COLUMN_INDEX
from flyball_wire.codec import M, decode
from flyball_wire.local_socket import ReportReply
from flyball_wire.messages import Birth, Event, State, Telemetry

SITE = "test"
ROOT = f"flyball/v1/{SITE}/host/{HOST}"
WAIT_S = 20.0


class Ear:
    """A subscriber that remembers what every channel of the host said."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self._messages: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def listen(self) -> None:
        async for message in self.client.messages:
            payload = message.payload
            assert isinstance(payload, bytes)
            self._messages.put_nowait((str(message.topic).rsplit("/", 1)[1], payload))

    async def next_payload(self, channel: str) -> bytes:
        async with asyncio.timeout(WAIT_S):
            while True:
                found, payload = await self._messages.get()
                if found == channel:
                    return payload

    async def next(self, kind: type[M]) -> M:
        return decode(kind, await self.next_payload(kind.KIND))

    async def state(self, *, is_online: bool = True) -> State:
        while (state := await self.next(State)).is_online is not is_online:
            pass
        return state


@contextlib.asynccontextmanager
async def listening(port: int) -> AsyncIterator[Ear]:
    # A lasting session: what comes between two of its connections waits at the broker.
    client = aiomqtt.Client("127.0.0.1", port, identifier="ear", clean_session=False, timeout=WAIT_S)
    async with client:
        await client.subscribe(f"{ROOT}/#", qos=1)
        ear = Ear(client)
        task = asyncio.create_task(ear.listen())
        try:
            yield ear
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def config_for(port: int, directory: Path, **broker: object) -> AgentConfig:
    settings: dict[str, object] = {"port": port, "reconnect_min_s": 0.05, "reconnect_max_s": 0.2, "timeout_s": 2.0}
    return AgentConfig(
        site=SITE,
        host=HOST,
        governor_socket=str(directory / "governor.sock"),
        state_dir=str(directory / "agent"),
        state_period_s=0.1,
        broker=BrokerConfig(**{**settings, **broker}),  # type: ignore[arg-type]  # a table of settings
        telemetry=TelemetryConfig(period_s=0.1),
        exporter=ExporterConfig(port=free_port()),
        health=HealthConfig(file=str(directory / "health.json"), drills=str(directory / "drills"), kernel_log="kmsg"),
        isolation=IsolationConfig(gates=str(directory / "quarantine")),
    )


@contextlib.asynccontextmanager
async def running(config: AgentConfig) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(run(config))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_session_begins_with_birth_and_ends_with_an_offline_state(
    broker: RunningBroker, tmp_path: Path
) -> None:
    async with FakeGovernor(tmp_path / "governor.sock").serving(), listening(broker.port) as ear:
        async with running(config_for(broker.port, tmp_path)):
            birth = await ear.next(Birth)
            while birth.incarnation is None:  # the governor may answer after the session began
                birth = await ear.next(Birth)
            assert (birth.host, birth.incarnation, len(birth.gpus)) == (HOST, INCARNATION, 2)
            state = await ear.state()
            while not state.governor_alive:
                state = await ear.state()
            assert state.session == birth.session
            assert state.gpus.cap_watts == (500.0, 500.0)
            assert state.gpus.power_watts == (None, None)
        assert (await ear.state(is_online=False)).session == birth.session


async def test_leases_and_commands_go_in_and_reports_come_out_unopened(broker: RunningBroker, tmp_path: Path) -> None:
    governor = FakeGovernor(tmp_path / "governor.sock")
    async with governor.serving(), listening(broker.port) as ear, running(config_for(broker.port, tmp_path)):
        await ear.state()
        for channel, body in (("lease", b"\x00\xff not msgpack"), ("command", b"\xc1")):
            await ear.client.publish(f"{ROOT}/{channel}", body, qos=1)
            assert (await governor.next_request(channel)).body == body
            answer = b"report after " + channel.encode() + b" " + body
            while await ear.next_payload("ack") != answer:
                pass
        await governor.send(ReportReply(0, b"unasked"))
        while await ear.next_payload("ack") != b"unasked":
            pass


async def test_bad_orders_and_refusals_stop_nothing(broker: RunningBroker, tmp_path: Path) -> None:
    governor = FakeGovernor(tmp_path / "governor.sock", refusal="not signed by a trusted key")
    async with governor.serving(), listening(broker.port) as ear, running(config_for(broker.port, tmp_path)):
        await ear.state()
        await ear.client.publish(f"{ROOT}/lease", b"", qos=1)
        await ear.client.publish(f"{ROOT}/lease", bytes(100_000), qos=1)
        await ear.client.publish(f"{ROOT}/lease", b"refuse me", qos=1)
        assert (await governor.next_request("lease")).body == b"refuse me"
        event = await ear.next(Event)
        assert event.name == "order_refused"
        assert ("error", "not signed by a trusted key") in event.fields


async def test_device_events_wait_on_disk_while_the_broker_is_away(broker: RunningBroker, tmp_path: Path) -> None:
    governor = FakeGovernor(tmp_path / "governor.sock")
    async with governor.serving(), running(config_for(broker.port, tmp_path)):
        async with listening(broker.port) as ear:
            first = await ear.state()
        await broker.stop()
        for number in range(30):
            await governor.send(device_event(f"event_{number}"))
        await governor.next_request("status")
        await broker.start()
        async with listening(broker.port) as ear:
            names = [(await ear.next(Event)).name for _ in range(30)]
            assert names == [f"event_{number}" for number in range(30)]
            while (await ear.state()).session == first.session:
                pass


async def test_a_frozen_broker_is_left_and_found_again(
    broker: RunningBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    governor = FakeGovernor(tmp_path / "governor.sock")
    async with governor.serving(), running(config_for(broker.port, tmp_path, timeout_s=0.3)):
        async with listening(broker.port) as ear:
            first = await ear.state()
        broker.send_signal(signal.SIGSTOP)
        while "next attempt follows" not in caplog.text:  # the agent goes on asking its governor
            await governor.next_request("status")
        broker.send_signal(signal.SIGCONT)
        async with listening(broker.port) as ear:
            while (await ear.next(Birth)).session == first.session:
                pass


async def test_a_killed_governor_is_said_and_found_again(broker: RunningBroker, tmp_path: Path) -> None:
    governor = FakeGovernor(tmp_path / "governor.sock")
    async with listening(broker.port) as ear, running(config_for(broker.port, tmp_path)):
        async with governor.serving():
            while not (await ear.state()).governor_alive:
                pass
        while (state := await ear.state()).governor_alive:
            pass
        assert state.is_gated
        assert state.gpus.power_watts == (None, None)
        async with FakeGovernor(tmp_path / "governor.sock").serving():
            while not (await ear.state()).governor_alive:
                pass


async def test_rubbish_from_the_governor_stops_nothing(broker: RunningBroker, tmp_path: Path) -> None:
    governor = FakeGovernor(tmp_path / "governor.sock")
    async with governor.serving(), listening(broker.port) as ear, running(config_for(broker.port, tmp_path)):
        await ear.state()
        await governor.send_raw(b"\x00\x00\x00\x03\xc1\xc1\xc1")
        await governor.send_raw(b"\x00\x00\x00\x04\xff\xff")  # the rest of this frame never comes
        governor.drop()
        await governor.next_request("hello")
        await governor.send_raw(b"\xff\xff\xff\xff")  # a length that no frame may have
        await governor.next_request("hello")
        await governor.send(device_event())
        assert (await ear.next(Event)).name == "xid"


async def test_power_comes_from_the_ring_that_the_governor_passed(broker: RunningBroker, tmp_path: Path) -> None:
    ring = Ring.create(2, capacity=64)
    governor = FakeGovernor(tmp_path / "governor.sock", ring=ring)
    with ring:
        async with governor.serving(), listening(broker.port) as ear, running(config_for(broker.port, tmp_path)):
            while not (state := await ear.state()).governor_alive or state.gpus.power_watts[0] is None:
                now_ns = time.monotonic_ns()
                for tick in range(10):
                    row = [now_ns + tick, None, None, None, None, None, 300_000 + tick * 1000, None]
                    ring.append(0, [*row, None, 1500, None, 61, 88])
                ring.set_state(0, "ok")
            assert state.gpus.power_watts == (304.5, None)
            assert state.gpus.power_peak_watts == (309.0, None)
            assert state.gpus.temperature_celsius == (61.0, None)


async def test_no_row_of_the_ring_is_lost_in_an_outage(broker: RunningBroker, tmp_path: Path) -> None:
    ring = Ring.create(2, capacity=1024)
    governor = FakeGovernor(tmp_path / "governor.sock", ring=ring)
    with ring:
        async with governor.serving(), running(config_for(broker.port, tmp_path)):
            async with listening(broker.port) as ear:
                while not (await ear.state()).governor_alive:
                    pass
            for value in range(900):
                if value == 300:
                    await broker.stop()
                if value == 600:
                    await broker.start()
                ring.append(value % 2, [time.monotonic_ns(), *[None] * 5, value * 10, *[None] * 6])
                if value % 100 == 99:
                    await governor.next_request("status")
            powers: list[int | None] = []
            async with listening(broker.port) as ear:
                while len(set(powers)) < 900:
                    _, blocks = columns.decode((await ear.next(Telemetry)).columns)
                    for block in blocks:
                        powers += columns.known(block, COLUMN_INDEX["power_instant_mw"])
    assert set(powers) == {value * 10 for value in range(900)}


async def test_mutual_tls_and_a_topic_prefix_carry_a_session(tls_broker: RunningBroker, tmp_path: Path) -> None:
    authority = tls_broker.authority
    assert authority is not None
    files = authority.issue(HOST)
    certificates = {
        "ca_file": str(authority.ca_file),
        "certificate_file": str(files.certificate),
        "key_file": str(files.key),
    }
    tls = aiomqtt.TLSParameters(str(authority.ca_file), str(files.certificate), str(files.key))
    config = config_for(tls_broker.port, tmp_path, topic_prefix="dc1/power", **certificates)
    async with aiomqtt.Client("127.0.0.1", tls_broker.port, identifier="ear", tls_params=tls) as client:
        await client.subscribe(f"dc1/power/{ROOT}/#", qos=1)
        async with running(config):
            async with asyncio.timeout(WAIT_S):
                message = await anext(aiter(client.messages))
            assert str(message.topic) == f"dc1/power/{ROOT}/birth"


async def test_a_client_without_a_certificate_keeps_trying_and_says_why(
    tls_broker: RunningBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = tls_broker.authority
    assert authority is not None
    config = config_for(tls_broker.port, tmp_path, ca_file=str(authority.ca_file), timeout_s=0.3)
    governor = FakeGovernor(tmp_path / "governor.sock")
    async with governor.serving(), running(config):
        caplog.set_level("DEBUG", "flyball_agent.session")
        while caplog.text.count("next attempt follows") < 4:
            await governor.next_request("status")
    assert f"broker 127.0.0.1:{tls_broker.port}" in caplog.text
    assert not [record for record in caplog.records if record.name == "asyncio"]
