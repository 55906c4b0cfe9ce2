"""The HTTP API: what it shows, what it refuses and how it says so."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.flyball_aggregator.small_site import SmallSite, build_small_site

from flyball_aggregator.api import ApiParts, build_api
from flyball_aggregator.broadcast import Broadcast
from flyball_aggregator.broker import BrokerSession
from flyball_aggregator.config import ApiConfig, BrokerConfig
from flyball_aggregator.history import History
from flyball_aggregator.picture import picture_of

TOKEN = "0123456789abcdef"
WRITE = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def small(tmp_path: Path) -> SmallSite:
    return build_small_site(tmp_path)


def parts_of(small: SmallSite, token: str | None = TOKEN) -> ApiParts:
    session = BrokerSession(BrokerConfig(), (), small.intake.take)
    return ApiParts(small.loop, small.intake, session, small.store, Broadcast(), ApiConfig(), token, "test")


@pytest.fixture
async def client(small: SmallSite) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_api(parts_of(small)))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as made:
        yield made


async def get(client: httpx.AsyncClient, path: str, code: int = 200) -> dict[str, Any]:
    answer = await client.get(path)
    assert answer.status_code == code, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_status_says_draw_limit_and_headroom(small: SmallSite, client: httpx.AsyncClient) -> None:
    await small.seconds(5)
    status = await get(client, "/v1/status")

    assert status["limit_watts"] == 20_000.0
    assert status["draw_watts"] + status["headroom_watts"] == pytest.approx(20_000.0)
    assert status["hosts_enforcing"] == 4


async def test_before_the_first_decision_it_says_so(client: httpx.AsyncClient) -> None:
    assert "no decision" in (await get(client, "/v1/rows", 503))["error"]
    assert (await get(client, "/v1/status"))["decisions"] == 0
    assert (await get(client, "/healthz", 503))["ok"] is False


async def test_host_shows_each_gpu_and_why(small: SmallSite, client: httpx.AsyncClient) -> None:
    await small.seconds(5)
    host = await get(client, "/v1/hosts/host-0")

    assert len(host["gpus"]) == 8
    assert host["gpus"][0]["cap_watts"] == pytest.approx(335.6, abs=0.1)
    assert host["limiting_row"] == "feed"
    assert "feed is full" in host["why"]


async def test_explanations_name_who_has_the_watts(small: SmallSite, client: httpx.AsyncClient) -> None:
    await small.seconds(5)

    host = await get(client, "/v1/explain/host/host-1")
    gpu = await get(client, "/v1/explain/gpu/host-1/3")
    row = await get(client, "/v1/explain/row/feed")

    assert {holder["host"] for holder in host["holders"]} == set(small.hosts)
    assert gpu["host_lease"]["limiting_row"] == "feed"
    assert row["committed_watts"] == pytest.approx(20_000.0, abs=1.0)
    assert sum(holder["wall_watts"] for holder in row["holders"]) == pytest.approx(row["leased_watts"], abs=0.01)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/hosts/nobody", "host-0"),
        ("/v1/explain/row/nothing", "feed"),
        ("/v1/explain/gpu/host-0/77", "host-0/77"),
        ("/v1/decisions/999", "999"),
        ("/console/../api.py", ""),
        ("/console/secret", "no file"),
    ],
)
async def test_what_is_not_there_is_a_clear_error(
    small: SmallSite, client: httpx.AsyncClient, path: str, said: str
) -> None:
    await small.seconds(2)

    assert said in (await get(client, path, 404))["error"]


async def test_bad_parameter_is_named(client: httpx.AsyncClient) -> None:
    assert "query.limit" in (await get(client, "/v1/power?limit=many", 422))["error"]


async def test_writing_needs_the_token(small: SmallSite, client: httpx.AsyncClient) -> None:
    await small.seconds(3)
    body = {"limit_watts": 15_000.0, "source": "test"}

    assert (await client.put("/v1/limits/feed", json=body)).status_code == 401
    answer = await client.put("/v1/limits/feed", json=body, headers=WRITE)
    assert answer.json() == {"row": "feed", "limit_watts": 15_000.0, "limit_source": "test"}
    await small.seconds(3)
    assert small.wall_w <= 15_000.0

    assert (await client.put("/v1/limits/none", json=body, headers=WRITE)).status_code == 404
    assert (await client.delete("/v1/limits/feed?source=test", headers=WRITE)).status_code == 200
    assert small.limit_w == 20_000.0


async def test_without_a_token_file_nothing_can_be_written(small: SmallSite) -> None:
    transport = httpx.ASGITransport(build_api(parts_of(small, token=None)))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.put("/v1/holds/host-0", json={"hold": "frozen"}, headers=WRITE)).status_code == 403


async def test_host_is_frozen_and_thawed(small: SmallSite, client: httpx.AsyncClient) -> None:
    held = await client.put("/v1/holds/feed", json={"hold": "frozen"}, headers=WRITE)
    assert held.json()["frozen"] == ["host-0", "host-1", "host-2", "host-3"]
    assert (await client.delete("/v1/holds/host-0", headers=WRITE)).json()["frozen"] == ["host-1", "host-2", "host-3"]
    assert (await client.delete("/v1/holds/demo", headers=WRITE)).json()["frozen"] == []
    assert "'food'" in (await client.delete("/v1/holds/food", headers=WRITE)).json()["error"]


async def test_question_under_another_host_name_is_refused(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/status", headers={"Host": "evil.example"})).status_code == 400


async def test_metrics_leave_out_what_is_unknown(small: SmallSite, client: httpx.AsyncClient) -> None:
    small.hosts["host-3"].is_reachable = False
    await small.seconds(5)
    text = (await client.get("/metrics")).text

    assert 'flyball_row_limit_watts{row="feed"} 20000' in text
    assert 'flyball_host_power_watts{host="host-0"}' in text
    assert 'flyball_host_power_watts{host="host-3"}' not in text
    assert "nan" not in text


async def test_page_takes_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    texts = [page.text] + [(await client.get(f"/console/{name}")).text for name in ("console.css", "console.js")]

    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert not any("//" in text.replace("// ", "").replace("http://www.w3.org", "") for text in texts)


async def test_history_and_decisions_can_be_read(small: SmallSite, client: httpx.AsyncClient) -> None:
    history = History(small.store)
    small.loop.on_tick.append(history.note_second)
    await small.seconds(5)
    history.flush(is_pruning=False)

    power = (await get(client, "/v1/power?since=0"))["power"]
    decisions = (await get(client, "/v1/decisions"))["decisions"]
    whole = await get(client, f"/v1/decisions/{decisions[0]['id']}")

    assert len(power) == 5
    assert power[0]["time_s"] < power[-1]["time_s"]
    assert json.loads(decisions[0]["orders"])
    assert bytes.fromhex(whole["input"])


async def test_watcher_gets_pictures_and_a_slow_one_misses_some(small: SmallSite) -> None:
    broadcast = Broadcast()
    events = broadcast.watch()
    assert (await anext(events)).startswith(b"retry")
    waiting = anext(events)
    snapshot = await small.seconds(3)
    parts = parts_of(small)
    for number in range(5):
        picture = picture_of(small.loop, small.intake, parts.session, str(number))
        broadcast.send("picture", picture)

    first = json.loads((await waiting).decode().split("data: ")[1])
    assert first["status"]["version"] == "3"
    assert first["rows"][0]["row"] == snapshot.rows[0].name
    broadcast.close()
    assert not [event async for event in events]
