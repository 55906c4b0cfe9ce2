import csv
import io
import random
from pathlib import Path

import httpx
import pytest
from tests.flyball_aggregator.small_site import SmallSite, build_small_site

from flyball_aggregator.exchange.exchange_config import ExchangeBrokerConfig, ExchangeConfig
from flyball_aggregator.exchange.exchange_room import ExchangeRoom, build_room
from flyball_aggregator.flex.emergency import FrequencyRules, FrequencyState, brake_targets, step_frequency
from flyball_aggregator.flex.engine import FlexEngine, StaleLooseningError
from flyball_aggregator.flex.feeds import Feed, FeedReading
from flyball_aggregator.flex.flex_api import flex_router
from flyball_aggregator.flex.offers import make_offer
from flyball_aggregator.flex.settlement import DEADLINE_S, REBOUND_S, settlement_csv
from flyball_aggregator.flex.targets import LoadTarget, TooManyTargetsError
from flyball_aggregator.flex.webhooks import Webhooks

NOW_S = 1_800_000_000.0
FEEDS = {"a": Feed("a", "row-a", 0, ("a",), 2e5, 1e6)}


def _target(watts: float | None, start_s: float = NOW_S, end_s: float | None = None, name: str = "x") -> LoadTarget:
    return LoadTarget("isv", ("a",), start_s, end_s, watts, name)


def _run(engine: FlexEngine, start_s: float, seconds: int, watts: float) -> float:
    for second in range(seconds):
        now_s = start_s + second
        allowed = min(engine.limits(now_s).values(), default=1e9)
        drawn = min(watts, allowed)
        engine.step({"a": FeedReading(drawn, drawn, is_metered=True)}, now_s)
    return start_s + seconds


def _room(site: SmallSite, directory: Path) -> ExchangeRoom:
    room = build_room(ExchangeConfig(), site.loop, directory, ExchangeBrokerConfig())
    site.loop.on_tick.append(room.handle)
    return room


def test_the_baseline_is_frozen_at_notice_not_at_the_start() -> None:
    engine = FlexEngine(FEEDS)
    now_s = _run(engine, NOW_S, 600, 8e5)
    engine.take([_target(5e5, now_s + 600, now_s + 1200)], now_s)
    now_s = _run(engine, now_s, 600, 9.5e5)
    _run(engine, now_s, 700, 9.5e5)
    record = engine.meter.records["x", "a"]
    assert record.baseline_w == pytest.approx(8e5)
    assert record.is_compliant


def test_back_to_back_events_reuse_the_first_baseline_and_the_rebound_is_recorded() -> None:
    engine = FlexEngine(FEEDS)
    now_s = _run(engine, NOW_S, 300, 8e5)
    engine.take([_target(5e5, now_s, now_s + 300, "first")], now_s)
    now_s = _run(engine, now_s, 600, 9e5)
    engine.take([_target(4e5, now_s, now_s + 300, "second")], now_s)
    now_s = _run(engine, now_s, 600, 9e5)
    first, second = engine.meter.records["first", "a"], engine.meter.records["second", "a"]
    assert [first.baseline_w, second.baseline_w] == pytest.approx([8e5, 8e5])
    assert (first.is_baseline_reused, second.is_baseline_reused) == (False, True)
    assert first.rebound_peak_w == pytest.approx(9e5)
    engine.take([_target(4e5, now_s + REBOUND_S, None, "third")], now_s)
    assert engine.meter.records["third", "a"].is_baseline_reused


def test_an_event_with_a_long_run_over_its_target_is_not_compliant() -> None:
    engine = FlexEngine(FEEDS)
    now_s = _run(engine, NOW_S, 60, 8e5)
    engine.take([_target(5e5, now_s, now_s + 600)], now_s)
    now_s = _run(engine, now_s, int(DEADLINE_S) + 10, 8e5)
    for second in range(6):
        engine.step({"a": FeedReading(5e5, 5.01e5, is_metered=True)}, now_s + second)
    record = engine.meter.records["x", "a"]
    assert (record.longest_over_s, record.is_compliant) == (6.0, False)


def test_seconds_without_a_meter_are_missing_not_zero() -> None:
    engine = FlexEngine(FEEDS)
    now_s = _run(engine, NOW_S, 60, 8e5)
    engine.take([_target(5e5, now_s, now_s + 300)], now_s)
    for second in range(100):
        engine.step({"a": FeedReading(4e5, None if second > 50 else 4e5, is_metered=True)}, now_s + second)
    interval = engine.meter.records["x", "a"].intervals[0]
    assert (interval.metered_s, interval.missing_s) == (51.0, 49.0)
    assert not engine.meter.records["x", "a"].is_compliant


def test_settlement_is_one_line_for_each_five_minutes() -> None:
    engine = FlexEngine(FEEDS)
    now_s = _run(engine, NOW_S, 300, 8e5)
    engine.take([_target(5e5, now_s, now_s + 900)], now_s)
    _run(engine, now_s, 900, 8e5)
    lines = list(csv.DictReader(io.StringIO(settlement_csv(list(engine.meter.records.values())))))
    assert len(lines) == 3
    assert float(lines[1]["energy_kwh"]) == pytest.approx(5e5 * 300 / 3.6e6)
    assert float(lines[1]["shed_kwh"]) == pytest.approx(3e5 * 300 / 3.6e6)


def test_a_source_with_too_many_targets_is_refused_whole() -> None:
    engine = FlexEngine(FEEDS)
    many = [_target(5e5 - index, NOW_S + index * 10, NOW_S + index * 10 + 5, str(index)) for index in range(513)]
    with pytest.raises(TooManyTargetsError):
        engine.take(many, NOW_S)
    assert engine.book.all() == ()


def test_random_schedules_never_allow_more_than_the_lowest_source() -> None:
    rng = random.Random(7)
    engine = FlexEngine(FEEDS, restart_w_per_s=1e4)
    for step in range(400):
        now_s = NOW_S + step
        if rng.random() < 0.2:
            watts = rng.choice([None, 3e5, 5e5, 7e5])
            target = LoadTarget(rng.choice("pqr"), ("a",), now_s, now_s + rng.randint(1, 60), watts, str(step))
            try:
                engine.take([target], now_s)
            except StaleLooseningError:
                pytest.fail("a fresh target near now may loosen")
        _run(engine, now_s, 1, 9e5)
        lowest = engine.book.lowest("a", now_s)
        allowed = min(engine.limits(now_s).values(), default=1e9)
        assert lowest is None or lowest.limit_w is None or allowed <= lowest.limit_w


def test_frequency_brakes_on_the_first_low_reading_and_lets_go_late() -> None:
    rules = FrequencyRules()
    state = step_frequency(FrequencyState(), 49.79, 0.0, rules)
    assert state.is_braking
    assert step_frequency(state, None, 1.0, rules) == state
    assert step_frequency(FrequencyState(), 0.0, 1.0, rules) == FrequencyState()
    state = step_frequency(state, 49.95, 10.0, rules)
    assert step_frequency(state, 49.95, 69.0, rules).is_braking
    assert not step_frequency(state, 49.95, 70.0, rules).is_braking
    with pytest.raises(ValueError, match="ratio"):
        brake_targets(FlexEngine(FEEDS), 1.1, 0.0, None)


async def test_offers_count_no_silent_host_and_no_watt_below_the_floor(tmp_path: Path) -> None:
    site = build_small_site(tmp_path, hosts=4, limit_w=40_000.0)
    room = _room(site, tmp_path)
    snapshot = await site.seconds(6)
    feed = room.engine.feeds["feed"]
    full = make_offer(feed, snapshot, room.engine.readings["feed"], 30.0)
    assert 0 < full.offer_w <= site.wall_w - full.reachable_w + 1.0
    site.hosts["host-0"].is_reachable = False
    snapshot = await site.seconds(6)
    less = make_offer(feed, snapshot, room.engine.readings["feed"], 30.0)
    assert less.reachable_w > full.reachable_w
    assert sum(watts for _tier, watts in less.tiers) < sum(watts for _tier, watts in full.tiers)
    site.stop()


async def test_http_sets_lists_brakes_and_settles(tmp_path: Path) -> None:
    from fastapi import FastAPI

    site = build_small_site(tmp_path, hosts=4, limit_w=40_000.0)
    room = _room(site, tmp_path)
    heard: list[bytes] = []
    hooks = room.webhooks = Webhooks(lambda _address, body: heard.append(body))
    api = FastAPI()
    token = "t" * 32
    api.include_router(flex_router(room, hooks, token, site.loop.parts.unix_s, lambda: site.loop.snapshot))
    headers = {"Authorization": f"Bearer {token}"}
    transport = httpx.ASGITransport(app=api)
    async with httpx.AsyncClient(transport=transport, base_url="http://flex", headers=headers) as client:
        assert (await client.get("/v1/flex/offer")).status_code == 503
        await site.seconds(5)
        assert (await client.put("/v1/flex/targets", json={"limit_watts": 1.0}, headers={"Authorization": ""})).is_error
        assert (await client.put("/v1/flex/webhooks", json={"address": "http://hooks.example/x"})).is_success
        assert (await client.put("/v1/flex/webhooks", json={"address": "file:///etc/passwd"})).status_code == 422
        assert (await client.put("/v1/flex/targets", json={"limit_watts": 25_000.0})).is_success
        assert (await client.put("/v1/flex/targets", json={"limit_watts": 1.0, "feeds": ["x"]})).status_code == 422
        await site.seconds(4)
        status = (await client.get("/v1/flex/status")).json()["feeds"][0]
        assert (status["target_watts"], status["compliant"]) == (25_000.0, True)
        assert site.wall_w <= 25_000.0
        assert len((await client.get("/v1/flex/targets")).json()["targets"]) == 1
        await client.put("/v1/flex/brake", json={"ratio": 0.0})
        await site.second()
        assert site.wall_w < 16_000.0
        await client.delete("/v1/flex/brake")
        await client.put("/v1/flex/targets", json={})
        await site.seconds(10)
        assert site.wall_w > 25_000.0
        assert (await client.get("/v1/flex/offer?minutes=15")).json()["offers"][0]["offer_watts"] > 0
        assert (await client.get("/v1/flex/settlement")).json()["events"]
        assert (await client.get("/v1/flex/settlement.csv")).text.startswith("correlation_id")
        await hooks.wait_idle()
    assert b"start_ramp_down" in b"".join(heard)
    site.stop()
