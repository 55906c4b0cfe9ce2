"""The MQTT session against real brokers: subscribed before connected, back after a loss, refusals named."""

import asyncio
from contextlib import suppress

import aiomqtt
import pytest
from tests.brokers import RunningBroker

from flyball_aggregator.broker import BrokerSession
from flyball_aggregator.config import BrokerConfig
from flyball_wire.errors import ConfigError

TOPIC = "flyball/v1/demo/host/host-0/state"


async def wait_connects(session: BrokerSession, count: int) -> None:
    while session.connects < count or not session.is_connected:
        await asyncio.sleep(0.02)


@pytest.mark.timeout(60)
async def test_session_takes_messages_and_comes_back_after_the_broker_died(broker: RunningBroker) -> None:
    taken: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    config = BrokerConfig(port=broker.port, reconnect_max_s=0.5)
    session = BrokerSession(
        config, [("flyball/v1/demo/host/+/state", 1)], lambda topic, payload, _now_s: taken.put_nowait((topic, payload))
    )
    running = asyncio.create_task(session.run())
    try:
        await wait_connects(session, 1)
        async with aiomqtt.Client("127.0.0.1", broker.port) as host:
            await host.publish(TOPIC, b"one", qos=1)
        assert await taken.get() == (TOPIC, b"one")

        await broker.stop()
        assert not await session.publish(TOPIC, b"lost", qos=1)
        await broker.start()
        await wait_connects(session, 2)
        assert await session.publish(TOPIC, b"two", qos=1)
        assert await taken.get() == (TOPIC, b"two")
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_missing_password_file_is_a_configuration_error() -> None:
    session = BrokerSession(BrokerConfig(username="u", password_file="/nowhere/password"), (), lambda *_: None)

    with pytest.raises(ConfigError, match="password_file"):
        await session.run()
