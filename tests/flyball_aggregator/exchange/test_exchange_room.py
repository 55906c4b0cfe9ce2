"""The whole way over real brokers: an ISV publishes, hosts get lower leases, the status comes back."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiomqtt
import pytest
from cryptography.hazmat.primitives import serialization
from tests.brokers import RunningBroker
from tests.flyball_aggregator.exchange.grid_rig import AGENT_KEY, ISV_KEY, GridRig, Said, opened, target
from tests.flyball_aggregator.small_site import SmallSite, build_small_site

from flyball_aggregator.exchange.check_message import check_message
from flyball_aggregator.exchange.cloud_event import Outgoing
from flyball_aggregator.exchange.exchange_config import ExchangeBrokerConfig, ExchangeConfig
from flyball_aggregator.exchange.exchange_room import ExchangeRoom, build_room
from flyball_aggregator.exchange.jws import public_jwk
from flyball_aggregator.power.rows import build_rows
from flyball_aggregator.site import Element, Host, Parent, Site

WAIT_S = 10.0
STATUS = "grid/v1/dsx-flex-agent/flyball/powerstate/status"


def _key_files(directory: Path) -> tuple[str, str]:
    keys = directory / "keys.json"
    keys.write_text(json.dumps({"keys": [public_jwk(ISV_KEY, "//grid/v1/isv/acme-energy")]}), encoding="utf-8")
    private = directory / "agent.pem"
    private.write_bytes(
        AGENT_KEY.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return str(keys), str(private)


def _room(site: SmallSite, directory: Path, port: int) -> ExchangeRoom:
    keys, private = _key_files(directory)
    config = ExchangeConfig(is_on=True, keys_file=keys, signing_key_file=private)
    room = build_room(config, site.loop, directory, ExchangeBrokerConfig(port=port, reconnect_min_s=0.05))
    site.loop.on_tick.append(room.handle)
    return room


@contextlib.asynccontextmanager
async def _running(room: ExchangeRoom) -> AsyncIterator[ExchangeRoom]:
    task = asyncio.create_task(room.open().run())
    try:
        yield room
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _until(site: SmallSite, condition: object) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.005)
    assert site is not None


async def _next_status(client: aiomqtt.Client) -> Said:
    async with asyncio.timeout(WAIT_S):
        async for message in client.messages:
            assert check_message(str(message.topic), json.loads(message.payload)) == []
            said = opened(Outgoing(str(message.topic), message.payload, message.qos))
            if said.topic == STATUS:
                return said
    raise AssertionError("no status")


def _isv_set(site: SmallSite, watts: float, **more: object) -> Outgoing:
    rig = GridRig(now_s=site.loop.parts.unix_s())
    return rig.signed_set([{**target(watts, start_s=rig.now_s), **more}])


async def test_a_target_over_either_broker_lowers_leases_and_its_status_comes_back(
    broker: RunningBroker, tmp_path: Path
) -> None:
    site = build_small_site(tmp_path, hosts=4, limit_w=40_000.0)
    await site.seconds(5)
    before = [host.cap_milliwatts for host in site.hosts.values()]
    async with _running(_room(site, tmp_path, broker.port)) as room, aiomqtt.Client("127.0.0.1", broker.port) as isv:
        await isv.subscribe(STATUS, qos=1)
        session = room.session
        assert session is not None
        await _until(site, lambda: session.is_connected)
        message = _isv_set(site, 20_000.0)
        await isv.publish(message.topic, message.payload, qos=1)
        assert (await _next_status(isv)).feed("feed")["event"] == "target_set"
        await site.seconds(3)
        assert (await _next_status(isv)).feed("feed")["event"] == "start_ramp_down"
        assert (await _next_status(isv)).feed("feed")["compliant"] is True

        after = [host.cap_milliwatts for host in site.hosts.values()]
        assert all(lower < higher for lower, higher in zip(after, before, strict=True))
        assert site.wall_w <= 20_000.0
        assert site.loop.limits.in_force("feed", site.now_s) == (20_000.0, "grid/acme-energy")
        await _until(site, lambda: not session._waiting)
        assert (session.unconfirmed, room.handler_failures) == (0, 0)
    site.stop()


async def test_a_falling_limit_hurries_the_loop(tmp_path: Path) -> None:
    site = build_small_site(tmp_path, hosts=2, limit_w=20_000.0)
    await site.seconds(3)
    room = _room(site, tmp_path, 1)
    stop = asyncio.Event()
    running = asyncio.create_task(site.loop.run(stop, 3600.0))
    await _until(site, lambda: site.loop.ticks > 3)
    site.hear()
    ticks = site.loop.ticks
    message = _isv_set(site, 9_000.0)
    started_s = time.monotonic()
    room.take(message.topic, message.payload, 0.0)
    await _until(site, lambda: site.loop.ticks > ticks)
    await site.loop.wait_sent()
    assert time.monotonic() - started_s < 1.0
    assert site.wall_w <= 9_000.0
    stop.set()
    await running
    site.stop()


async def test_a_broker_that_drops_publishes_is_noticed(tmp_path: Path) -> None:
    site = build_small_site(tmp_path)
    session = _room(site, tmp_path, 1).open()
    session._waiting.append((100.0, b"x", STATUS))
    assert session.check_echoes(104.0) == []
    assert session.check_echoes(106.0) == [STATUS]
    assert session.unconfirmed == 1
    site.stop()


async def test_hostile_messages_over_the_wire_change_nothing(tmp_path: Path) -> None:
    site = build_small_site(tmp_path)
    await site.seconds(2)
    room = _room(site, tmp_path, 1)
    for topic in ("grid/v1/isv/acme-energy/loadtarget/set", "BMS/v1/PUB/Value/x", "", "cpc", "cpc/a/b/c", "grid/v1"):
        for payload in (b"", b"{}", b"\xff" * 1000, b'{"specversion": "1.0.2"}'):
            room.take(topic, payload, 0.0)
    assert (room.handler_failures, room.engine.book.all()) == (0, ())
    site.stop()


def test_elements_of_one_tag_are_one_feed_with_a_row_over_their_sum() -> None:
    pair = tuple(Element(name, "feed", rating_w=10_000.0, has_meter=True, feed_tag="main") for name in ("a", "b"))
    host = Host("host-0", parents=(Parent("a", 0.5), Parent("b", 0.5)), own_power_w=1000.0, wall_watts_per_gpu_watt=1.2)
    site = replace(Site("demo"), elements=pair, hosts=(host,))
    row = next(row for row in build_rows(site) if row.name == "target/main")
    assert (row.kind, row.limit_w, row.unmanaged_w) == ("target", 20_000.0, 1000.0)
    assert list(row.coefficients) == pytest.approx([1.2], abs=2e-6)
