"""The OpenADR 3 VEN against an in-tree VTN, written from the specification (paths, OAuth2 and objects of 3.0.1)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Form, Header, HTTPException

from flyball_aggregator.exchange.cloud_event import show_time
from flyball_aggregator.exchange.openadr_events import read_duration, read_event
from flyball_aggregator.exchange.openadr_ven import OpenAdrVen, VenConfig
from flyball_aggregator.flex.engine import FlexEngine
from flyball_aggregator.flex.feeds import Feed, FeedReading
from flyball_aggregator.flex.targets import LoadTarget
from flyball_wire.errors import BrokerError, WireError

NOW_S = 1_800_000_000.0
FEEDS = {"a": Feed("a", "row-a", 0, ("a",), 2e5, 1e6)}


def _event(kind: str, value: float, **more: Any) -> dict[str, Any]:
    period = {"start": show_time(NOW_S), "duration": "PT1H", **more.pop("period", {})}
    return {
        "id": "e1", "programID": "p1", "intervalPeriod": period, "modificationDateTime": "1",
        "intervals": [{"id": 0, "payloads": [{"type": kind, "values": [value]}]}], **more,
    }  # fmt: skip


@dataclass
class Port:
    """An engine that takes targets."""

    engine: FlexEngine = field(default_factory=lambda: FlexEngine(FEEDS))

    def set_targets(self, targets: Sequence[LoadTarget]) -> None:
        self.engine.take(targets, NOW_S)


def _held(port: Port) -> float | None:
    return port.engine.states["a"].target_w


@dataclass
class Vtn:
    """A VTN with one program."""

    events: list[dict[str, Any]] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> FastAPI:
        api = FastAPI()

        @api.post("/auth/token")
        async def token(
            client_id: str = Form(), client_secret: str = Form(), grant_type: str = Form()
        ) -> dict[str, Any]:
            if (client_id, client_secret, grant_type) != ("ven", "secret", "client_credentials"):
                raise HTTPException(401)
            return {"access_token": "token", "token_type": "Bearer"}

        @api.get("/programs")
        async def programs(authorization: str = Header()) -> list[dict[str, Any]]:
            if authorization != "Bearer token":
                raise HTTPException(403)
            return [{"id": "p1", "programName": "dr"}, {"id": "p2", "programName": "other"}]

        @api.get("/events")
        async def events(programID: str) -> list[dict[str, Any]]:  # noqa: N803 - the standard's name
            return [event for event in self.events if event["programID"] == programID]

        @api.post("/reports")
        async def reports(body: dict[str, Any]) -> dict[str, Any]:
            self.reports.append(body)
            return body

        return api


@contextlib.asynccontextmanager
async def _served(vtn: Vtn) -> AsyncIterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(vtn.app(), log_level="error"))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started:
                await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


async def test_events_become_targets_change_and_are_lifted_and_use_is_reported() -> None:
    vtn, port = Vtn(), Port()
    port.engine.step({"a": FeedReading(8e5, 8e5, is_metered=True)}, NOW_S)
    async with _served(vtn) as url:
        ven = OpenAdrVen(VenConfig(url, "ven", "secret", program="dr"), port, lambda: NOW_S)
        vtn.events.append(_event("IMPORT_CAPACITY_LIMIT", 600))
        await ven.poll()
        assert _held(port) == 6e5
        assert vtn.reports[0]["resources"][0]["intervals"][0]["payloads"] == [{"type": "DEMAND", "values": [800.0]}]
        vtn.events[0] = _event("IMPORT_CAPACITY_LIMIT", 500, modificationDateTime="2")
        await ven.poll()
        assert _held(port) == 5e5
        vtn.events.clear()
        await ven.poll()
        assert _held(port) is None
        with pytest.raises(BrokerError, match="401"):
            await OpenAdrVen(VenConfig(url, "ven", "wrong"), port, lambda: NOW_S).poll()


async def test_a_bad_event_does_not_stop_the_others() -> None:
    vtn, port = Vtn(), Port()
    async with _served(vtn) as url:
        ven = OpenAdrVen(VenConfig(url, "ven", "secret"), port, lambda: NOW_S)
        vtn.events += [_event("IMPORT_CAPACITY_LIMIT", -1, id="bad"), _event("IMPORT_CAPACITY_LIMIT", 700, id="good")]
        await ven.poll()
    assert (port.engine.states["a"].target_w, ven.failures) == (7e5, 1)


def test_simple_levels_go_through_the_sites_table() -> None:
    assert [read_event(_event("SIMPLE", level), FEEDS, "s")[0].limit_w for level in (0, 1, 2, 3)] == [
        None,
        8e5,
        6e5,
        4e5,
    ]


def test_an_open_end_units_and_a_randomised_start_are_read() -> None:
    endless = read_event(_event("IMPORT_CAPACITY_LIMIT", 600, period={"duration": "P9999Y"}), FEEDS, "s")[0]
    assert endless.end_s is None
    descriptors = [{"payloadType": "IMPORT_CAPACITY_LIMIT", "units": "MW"}]
    event = _event("IMPORT_CAPACITY_LIMIT", 0.6, payloadDescriptors=descriptors, period={"randomizeStart": "PT5M"})
    first, again = (read_event(event, FEEDS, "s")[0] for _ in range(2))
    assert first.limit_w == pytest.approx(6e5)
    assert first.start_s == again.start_s
    assert NOW_S <= first.start_s <= NOW_S + 300


@pytest.mark.parametrize(
    "bad", [{"intervals": None}, {"intervals": [{}]}, {"intervalPeriod": {"start": "x"}}, {"id": None}]
)
def test_what_breaks_the_standard_is_refused(bad: dict[str, Any]) -> None:
    event = {**_event("IMPORT_CAPACITY_LIMIT", 0), **bad}
    with pytest.raises(WireError):
        read_event(event, FEEDS, "s")


@pytest.mark.parametrize(("text", "seconds"), [("PT1H", 3600.0), ("P1DT1M30S", 86_490.0), ("PT0S", 0.0)])
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds
    with pytest.raises(ValueError, match="duration"):
        read_duration("1h")
