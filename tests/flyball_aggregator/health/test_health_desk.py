"""Fleet health from events: incidents, permits, mode, lives, the store and HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from tests.flyball_aggregator.small_site import build_small_site

from flyball_aggregator.api import token_guard
from flyball_aggregator.config import StoreConfig
from flyball_aggregator.health.health_api import build_health_routers
from flyball_aggregator.health.health_desk import HealthDesk
from flyball_aggregator.health.lifecycle import Life
from flyball_aggregator.health.mode import FleetMode
from flyball_aggregator.health.order_sender import OrderSender
from flyball_aggregator.site import Element, Host, Site
from flyball_aggregator.store import SqliteStore
from flyball_wire.messages import Command, Event
from flyball_wire.signing import open_signed

TOKEN = "0123456789abcdef"
NOW_S = 2e9


@dataclass
class Sent:
    """Orders as they went out."""

    orders: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    is_reachable: bool = True

    def send(self, host: str, act: str, fields: Mapping[str, str]) -> bool:
        if self.is_reachable:
            self.orders.append((host, act, dict(fields)))
        return self.is_reachable


def site_of(hosts: int) -> Site:
    return Site(
        name="s",
        elements=(Element("feed", kind="feed", rating_w=1e6),),
        hosts=tuple(Host(name=f"h{index}", element="feed", gpus=8) for index in range(hosts)),
    )


def event(host: str, name: str, correlation_id: str | None = None, at_s: float = NOW_S, **fields: str) -> Event:
    return Event(host, "ab" * 16, 0, at_s, name, "critical", 0, correlation_id, tuple(fields.items()))


def incident(host: str, number: str = "1", entity: str = "gpu:0000:01:00.0", at_s: float = NOW_S, **more: str) -> Event:
    fields = {"id": number, "entity": entity, "group": "memory", "level": "QUARANTINED", "is_open": "true"}
    fields |= {"codes": "xid.48", "action": "reset_gpu", "is_hard": "true", "count": "1", "injected": "false"}
    return event(host, "incident", at_s=at_s, **{**fields, "opened_s": str(at_s), "state": "QUARANTINED", **more})


def desk_of(hosts: int = 100) -> tuple[HealthDesk, Sent, list[dict[str, Any]]]:
    sent, alarms = Sent(), list[dict[str, Any]]()
    return HealthDesk(site_of(hosts), sent, alarms.append, lambda: NOW_S), sent, alarms


def test_an_incident_is_kept_once_with_the_story_of_what_was_done() -> None:
    desk, _, alarms = desk_of()
    desk.take_event(incident("h1"))
    desk.take_event(incident("h1", state="DRAINING", count="7"))
    desk.take_event(event("h1", "health", incident="1", kind="isolate", allowed="true", rule="r", results="[]"))

    found = desk.book.incidents["h1/1"]
    assert (found.count, found.state, len(found.steps)) == (7, "DRAINING", 1)
    assert len(alarms) == 2
    assert desk.host_view("h1")["risk"] > 0


def test_permits_stop_at_the_pools_limit_and_each_is_answered() -> None:
    desk, sent, _ = desk_of(100)
    for index in range(20):
        desk.take_event(event(f"h{index}", "permit_request", f"c{index}", entity="node", codes="xid.79"))
    granted = [host for host, _, fields in sent.orders if fields["granted"] == "true"]
    assert len(sent.orders) == 20
    assert len(granted) == 5


def test_one_code_on_many_hosts_makes_the_fleet_careful_and_every_host_is_told() -> None:
    desk, sent, alarms = desk_of(100)
    for index in range(5):
        desk.take_event(incident(f"h{index}"))
    assert desk.mode is FleetMode.CAREFUL
    assert sum(act == "mode" for _, act, _ in sent.orders) == 100
    assert any(alarm["kind"] == "mode" for alarm in alarms)

    desk.choose_mode(FleetMode.NORMAL, "op")
    assert sum(act == "mode" for _, act, _ in sent.orders) == 200


def test_a_drill_counts_against_nobody() -> None:
    desk, _, _ = desk_of(20)
    for index in range(10):
        desk.take_event(incident(f"h{index}", injected="true"))
    assert desk.mode is FleetMode.NORMAL
    assert desk.host_view("h1")["risk"] == 0


def test_the_life_of_a_ready_host_follows_what_its_agent_does() -> None:
    desk, _, _ = desk_of()
    steps = (
        (Life.ENROLLED, {"certificate": "c", "inventory": "8"}),
        (Life.VALIDATED, {"burn_in": "b"}),
        (Life.READY, {"golden_record": "g"}),
    )
    for after, evidence in steps:
        desk.move("h1", after, by="op", why="w", evidence=evidence)
    desk.take_event(incident("h1", entity="node"))
    assert desk.host_view("h1")["life"]["stands"] == "quarantined"
    assert desk.permits.usage()["fleet"][0] == 1

    desk.take_event(incident("h1", entity="node", state="HEALTHY", is_open="false"))
    assert desk.host_view("h1")["life"]["stands"] == "ready"
    assert desk.permits.usage()["fleet"][0] == 0


def test_rubbish_of_a_host_is_counted_and_stops_nothing() -> None:
    desk, _, _ = desk_of()
    desk.take_event(incident("h1", opened_s="x"))
    desk.take_event(incident("h1", count="1e400"))
    desk.take_event(incident("stranger"))
    assert desk.refused == 2
    assert not desk.book.incidents


def test_what_the_store_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    desk, _, _ = desk_of()
    desk.take_event(incident("h1", entity="node"))
    desk.move("h2", Life.ENROLLED, by="op", why="w", evidence={"certificate": "c", "inventory": "8"})
    store = SqliteStore(tmp_path / "h.db", StoreConfig())
    store.put_documents(desk.dirty, NOW_S)

    fresh, _, _ = desk_of()
    fresh.restore(store.documents())
    store.close()
    assert fresh.book.incidents["h1/1"].codes == ("xid.48",)
    assert fresh.lives["h2"].stands is Life.ENROLLED
    assert fresh.permits.usage()["fleet"][0] == 1


async def test_http_shows_incidents_and_takes_orders_of_the_tokens_bearer_only() -> None:
    desk, sent, _ = desk_of()
    desk.take_event(incident("h1"))
    api = FastAPI()
    for router in build_health_routers(desk, lambda: NOW_S, token_guard(TOKEN)):
        api.include_router(router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://127.0.0.1") as client:
        assert (await client.get("/v1/incidents?open=true")).json()["incidents"][0]["name"] == "h1/1"
        assert "xid.48" in (await client.get("/v1/explain/incident/h1/1")).text
        assert (await client.get("/v1/explain/incident/h1/9")).status_code == 404
        assert (await client.get("/v1/hosts/h1/health")).json()["state"] == "UNKNOWN"
        assert (await client.put("/v1/hosts/h1/orders/resume", json={})).status_code == 401

        client.headers["Authorization"] = f"Bearer {TOKEN}"
        order = {"entity": "gpu:0000:01:00.0", "hours": 2}
        assert (await client.put("/v1/hosts/h1/orders/resume", json=order)).status_code == 200
        moved = await client.put("/v1/hosts/h1/lifecycle", json={"to": "ready", "why": "w"})
        assert moved.status_code == 409
        sent.is_reachable = False
        assert (await client.put("/v1/hosts/h1/maintenance", json={"hours": 2})).status_code in {422, 503}
    assert sent.orders[0][1:] == ("resume", {"entity": order["entity"], "by": "operator", "hours": "2.0"})


async def test_orders_are_signed_for_the_governor_that_reported(tmp_path: Path) -> None:
    small = build_small_site(tmp_path)
    await small.seconds(3)
    host = next(iter(small.hosts.values()))
    sender = OrderSender(small.loop.parts.fleet, small.lease_key, small.broker, lambda: 7, small.loop.publish_soon)
    assert sender.send(host.name, "mode", {"mode": "careful"})
    await small.loop.wait_sent()

    envelope = next(said for topic, said in small.broker.said.items() if topic.endswith("/command"))
    command = open_signed(Command, envelope, {"lease-1": host.lease_public_key})
    assert (command.incarnation, command.action, command.epoch) == (host.incarnation, "health", 7)
    assert dict(command.arguments) == {"act": "mode", "mode": "careful"}
    assert not sender.send("nobody", "mode", {})
