"""Broker configurations as generated: host A cannot publish as, read or command host B; clients hear summaries only."""

import asyncio
import contextlib
import datetime
import itertools
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
import pytest
from tests.brokers import RunningBroker, broker_kind, free_port

from flyball_cli import ca_certificates as certificates
from flyball_cli.broker import BrokerKind, BrokerPlan, find_program
from flyball_cli.ca_broker import AGGREGATOR, BrokerFiles, mosquitto_acl, mosquitto_conf, nats_conf
from flyball_cli.ca_store import Store, write_private

__all__ = ["broker_kind"]

SITE = "hall"
ROOT = f"flyball/v1/{SITE}"
NAMES = ("host-a", "host-b", "facility.grid", "meter.row", AGGREGATOR)
HEARD_S = 10.0
COUNT = itertools.count()


class SiteBroker:
    """A broker with a site's authority, and clients that bear its certificates."""

    def __init__(self, kind: BrokerKind, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.store = Store.create(folder / "ca", SITE, datetime.datetime.now(datetime.UTC))
        for name in (*NAMES, "flyball.broker"):
            self.issue(name)
        (folder / "state").mkdir()
        self.files = BrokerFiles(
            folder / "ca/ca.pem", folder / "ca/crl.pem", folder / "flyball.broker.pem", folder / "flyball.broker.key",
            folder / "state", "127.0.0.1", free_port(),
        )  # fmt: skip
        self.write()
        program = find_program(kind)
        assert program is not None
        plan = BrokerPlan(kind, "", (program, "-c", str(folder / "broker.conf")), self.files.port, is_tls=True)
        self.running = RunningBroker(plan, folder)

    def issue(self, name: str) -> None:
        key, pem = certificates.make_request(name)
        _, public = certificates.read_request(pem)
        addresses = ["127.0.0.1"] if name == "flyball.broker" else []
        chain = self.store.sign(name, public, datetime.datetime.now(datetime.UTC), addresses=addresses)
        (self.folder / f"{name}.pem").write_bytes(chain)
        write_private(self.folder / f"{name}.key", certificates.key_pem(key))

    def write(self) -> None:
        if self.kind == "mosquitto":
            (self.folder / "acl").write_text(mosquitto_acl(self.store.hosts(), SITE), encoding="utf-8")
            text = mosquitto_conf(self.files, self.folder / "acl", as_root=True)
        else:
            text = nats_conf(self.files, self.store.hosts(), SITE)
        (self.folder / "broker.conf").write_text(text, encoding="utf-8")

    def client(self, name: str) -> aiomqtt.Client:
        context = ssl.create_default_context(cafile=str(self.folder / "ca/ca.pem"))
        context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        return aiomqtt.Client(
            "127.0.0.1", self.files.port, tls_context=context, identifier=f"client-{next(COUNT)}", timeout=5
        )


@pytest.fixture
async def site(broker_kind: BrokerKind, tmp_path: Path) -> AsyncIterator[SiteBroker]:
    made = SiteBroker(broker_kind, tmp_path)
    try:
        await made.running.start()
        yield made
    finally:
        await made.running.stop()


async def heard_before(listener: aiomqtt.Client, speakers: list[tuple[aiomqtt.Client, str]], last: str) -> list[str]:
    """Publish on each topic in turn, at QoS 1 and 0, and return what was heard until the last one came through."""
    for speaker, topic in speakers:
        with contextlib.suppress(aiomqtt.MqttError):
            await speaker.publish(topic, b"x", qos=1)
            await speaker.publish(topic, b"x", qos=0)
    found = []
    async with asyncio.timeout(HEARD_S):
        async for message in listener.messages:
            found.append(str(message.topic))
            if found[-1] == last:
                break
    return found


async def test_a_host_speaks_for_itself_alone(site: SiteBroker) -> None:
    async with site.client(AGGREGATOR) as hub, site.client("host-a") as a, site.client("host-b") as b:
        for channel in ("birth", "state", "telemetry", "event", "ack"):
            await hub.subscribe(f"{ROOT}/host/+/{channel}", qos=1)
        await hub.subscribe(f"{ROOT}/meter/+", qos=1)
        spoken = [(a, f"{ROOT}/host/host-b/{channel}") for channel in ("birth", "state", "telemetry", "event", "ack")]
        spoken += [(a, f"{ROOT}/meter/row"), (a, f"{ROOT}/host/host-a/state"), (b, f"{ROOT}/host/host-b/event")]
        heard = await heard_before(hub, spoken, f"{ROOT}/host/host-b/event")
    assert set(heard) == {f"{ROOT}/host/host-a/state", f"{ROOT}/host/host-b/event"}


async def test_a_host_neither_commands_nor_hears_another(site: SiteBroker) -> None:
    async with site.client(AGGREGATOR) as hub, site.client("host-a") as a, site.client("host-b") as b:
        await b.subscribe(f"{ROOT}/host/host-b/lease", qos=1)
        await b.subscribe(f"{ROOT}/host/host-b/command", qos=1)
        with contextlib.suppress(aiomqtt.MqttError):
            await a.subscribe(f"{ROOT}/host/+/lease", qos=1)
        await a.subscribe(f"{ROOT}/host/host-a/lease", qos=1)
        spoken = [(a, f"{ROOT}/host/host-b/lease"), (a, f"{ROOT}/host/host-b/command"), (a, f"{ROOT}/fleet/power")]
        spoken += [(hub, f"{ROOT}/host/host-b/lease"), (hub, f"{ROOT}/host/host-b/command")]
        heard_b = await heard_before(b, spoken, f"{ROOT}/host/host-b/command")
        heard_a = await heard_before(a, [(hub, f"{ROOT}/host/host-a/lease")], f"{ROOT}/host/host-a/lease")
    assert heard_b.count(f"{ROOT}/host/host-b/lease") == 2  # the aggregator's two, none of host A's
    assert heard_a == [f"{ROOT}/host/host-a/lease"]


SPYING = ("#", f"{ROOT}/#", f"{ROOT}/host/+/lease", f"{ROOT}/host/host-b/lease", f"{ROOT}/fleet/#", "$MQTT/msgs/#")


async def test_no_spying_subscription_of_a_host_hears_anything(site: SiteBroker) -> None:
    for pattern in SPYING:
        await try_subscribe(site, "host-a", pattern)


async def try_subscribe(site: SiteBroker, name: str, pattern: str) -> None:
    """A forbidden subscription is refused or silent: nothing of the aggregator's to host B comes through it."""
    got: list[str] = []
    own = site.client(name)
    try:
        async with own, site.client(AGGREGATOR) as hub:
            await own.subscribe(pattern, qos=0)
            await own.subscribe(f"{ROOT}/host/{name}/command", qos=0)
            for topic in ("host/host-b/lease", "fleet/power", f"host/{name}/command"):
                await hub.publish(f"{ROOT}/{topic}", b"x", qos=1)
            async with asyncio.timeout(HEARD_S):
                async for message in own.messages:
                    got.append(str(message.topic))
                    if got[-1] == f"{ROOT}/host/{name}/command":
                        break
    except (aiomqtt.MqttError, TimeoutError):
        pass  # the broker may also hang up on whoever asks for what is not his
    assert set(got) <= {f"{ROOT}/host/{name}/command"}, pattern


async def test_a_facility_client_hears_summaries_and_says_nothing(site: SiteBroker) -> None:
    async with site.client(AGGREGATOR) as hub, site.client("facility.grid") as grid:
        await hub.subscribe(f"{ROOT}/meter/+", qos=1)
        for pattern in (f"{ROOT}/host/+/state", f"{ROOT}/meter/+"):
            with contextlib.suppress(aiomqtt.MqttError):
                await grid.subscribe(pattern, qos=1)
        await grid.subscribe(f"{ROOT}/fleet/#", qos=1)
        async with site.client("host-b") as b, site.client("meter.row") as meter:
            spoken = [(b, f"{ROOT}/host/host-b/state"), (meter, f"{ROOT}/meter/row"), (grid, f"{ROOT}/meter/row")]
            spoken += [
                (grid, f"{ROOT}/fleet/summary"),
                (grid, f"{ROOT}/host/host-b/lease"),
                (hub, f"{ROOT}/fleet/power"),
            ]
            heard = await heard_before(grid, spoken, f"{ROOT}/fleet/power")
    assert set(heard) == {f"{ROOT}/fleet/power"}


async def test_without_a_certificate_of_the_site_nobody_gets_in(site: SiteBroker, tmp_path: Path) -> None:
    stranger = Store.create(tmp_path / "stranger", SITE, datetime.datetime.now(datetime.UTC))
    key, pem = certificates.make_request("host-a")
    _, public = certificates.read_request(pem)
    forged = stranger.sign("host-a", public, datetime.datetime.now(datetime.UTC))
    (tmp_path / "forged.pem").write_bytes(forged)
    write_private(tmp_path / "forged.key", certificates.key_pem(key))
    for files in (None, (tmp_path / "forged.pem", tmp_path / "forged.key")):
        context = ssl.create_default_context(cafile=str(tmp_path / "ca/ca.pem"))
        if files is not None:
            context.load_cert_chain(*files)
        with pytest.raises(aiomqtt.MqttError):
            async with aiomqtt.Client("127.0.0.1", site.files.port, tls_context=context, timeout=2):
                pass


async def test_a_revoked_host_is_cut_off_at_the_reload_even_in_a_session_that_stands(site: SiteBroker) -> None:
    async with site.client(AGGREGATOR) as hub, site.client("host-a") as a, site.client("host-b") as b:
        await hub.subscribe(f"{ROOT}/host/+/state", qos=1)
        first = await heard_before(hub, [(a, f"{ROOT}/host/host-a/state")], f"{ROOT}/host/host-a/state")
        site.store.revoke("host-a", datetime.datetime.now(datetime.UTC))
        site.write()
        site.running.send_signal(signal.SIGHUP)
        await until_refused(site, "host-a")
        spoken = [(a, f"{ROOT}/host/host-a/state"), (b, f"{ROOT}/host/host-b/state")]
        heard = await heard_before(hub, spoken, f"{ROOT}/host/host-b/state")
    assert first
    assert heard.count(f"{ROOT}/host/host-a/state") <= 1  # at most the second of the two sent before


async def until_refused(site: SiteBroker, name: str) -> None:
    async with asyncio.timeout(HEARD_S):
        while True:
            own = site.client(name)
            own.timeout = 1
            try:
                async with own:
                    await asyncio.sleep(0.05)
            except aiomqtt.MqttError:
                return
