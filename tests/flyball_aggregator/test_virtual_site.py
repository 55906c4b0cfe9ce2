"""The whole budget in virtual time: real loop, ledger and store against hosts that follow their leases."""

import asyncio
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from tests.flyball_aggregator.small_site import GPUS, SmallSite, build_site, build_small_site

from flyball_aggregator.power.journal import replay
from flyball_aggregator.site import Element, Parent, Policy, Site
from flyball_wire.facility import FleetPower, from_json


@pytest.fixture
def small(tmp_path: Path) -> SmallSite:
    return build_small_site(tmp_path)


async def test_greedy_fleet_uses_the_limit_within_five_seconds_and_never_passes_it(small: SmallSite) -> None:
    await small.seconds(5)

    assert small.wall_w >= 0.95 * small.limit_w
    assert small.seconds_over == 0


async def test_every_commitment_sum_stays_within_the_row(small: SmallSite) -> None:
    for tick in range(60):
        for number, host in enumerate(small.hosts.values()):
            host.want_w = 400.0 + 300.0 * math.sin(tick / 7 + 2 * number)
        snapshot = await small.second()

        if tick > 3:
            assert snapshot.slack_w(0) >= 0.0
    assert small.seconds_over == 0
    assert small.loop.certificate_failures == 0


async def test_unused_watts_move_to_the_host_that_wants_them(small: SmallSite) -> None:
    quiet, *_others = small.hosts.values()
    quiet.want_w = 100.0
    await small.seconds(30)
    used_w = small.wall_w

    quiet.want_w = 700.0
    await small.seconds(6)

    assert used_w >= 0.9 * small.limit_w
    assert quiet.gpu_w > 300.0
    assert small.seconds_over == 0


async def test_constant_demand_moves_no_lease_after_a_minute(small: SmallSite) -> None:
    await small.seconds(60)
    before = {name: host.cap_milliwatts for name, host in small.hosts.items()}

    for _ in range(30):
        snapshot = await small.second()
        assert not (snapshot.decision.order_milliwatts >= 0).any()
    assert before == {name: host.cap_milliwatts for name, host in small.hosts.items()}


async def test_leases_are_renewed_at_least_every_third_of_their_life(small: SmallSite) -> None:
    await small.seconds(10)
    host = small.hosts["host-0"]
    before = host.leases

    await small.seconds(10)

    assert host.leases - before >= 3


async def test_limit_drop_is_met_in_two_seconds_and_takes_no_raise_meanwhile(small: SmallSite) -> None:
    await small.seconds(5)
    small.loop.limits.put("feed", "grid", 16_000.0, small.now_s)
    small.seconds_over = 0

    await small.second()
    await small.second()

    assert small.wall_w <= 16_000.0
    assert small.seconds_over <= 1
    await small.seconds(3)
    assert small.loop.seconds_in_descent[0] <= 5
    assert small.loop.seconds_over[0] <= 2


async def test_watts_of_a_silent_host_are_never_given_away(small: SmallSite) -> None:
    await small.seconds(5)
    silent = small.hosts["host-0"]
    silent.is_reachable = False

    snapshot = await small.seconds(60)

    assert small.loop.parts.desk.host("host-0").commitment_milliwatts >= silent.cap_milliwatts
    assert small.seconds_over == 0
    assert int(snapshot.hosts.is_fresh.sum()) == 3


async def test_restarted_aggregator_takes_a_later_epoch_and_leads_on(small: SmallSite) -> None:
    await small.seconds(5)
    epoch = small.loop.parts.desk.epoch
    small.stop()
    small.now_s += 20.0
    small.start()

    await small.seconds(5)

    assert small.loop.parts.desk.epoch > epoch
    assert small.wall_w >= 0.95 * small.limit_w
    assert small.seconds_over == 0


async def test_restarted_governor_is_probed_before_it_is_leased_to(small: SmallSite) -> None:
    await small.seconds(5)
    host = small.hosts["host-1"]
    host.restart()

    await small.seconds(3)

    assert small.loop.parts.desk.host("host-1").incarnation == host.incarnation
    assert small.seconds_over == 0


async def test_nothing_is_granted_while_the_broker_is_away(small: SmallSite) -> None:
    await small.seconds(5)
    small.broker.is_connected = False
    seq = small.loop.parts.desk.state.seq

    await small.seconds(30)
    assert small.loop.parts.desk.state.seq == seq

    small.broker.is_connected = True
    await small.seconds(5)
    assert small.wall_w >= 0.95 * small.limit_w
    assert small.seconds_over == 0


async def test_unheard_host_counts_at_its_maximum(small: SmallSite) -> None:
    small.hosts["host-3"].is_reachable = False

    snapshot = await small.seconds(6)

    assert snapshot.hosts.committed_milliwatts[3] == 8 * 700_000
    assert snapshot.reasons[3] == "not heard yet"
    assert small.hosts["host-0"].cap_milliwatts < 2_000_000


async def test_observing_host_counts_at_its_maximum_and_is_told_why(small: SmallSite) -> None:
    small.hosts["host-2"].mode = "observe"

    snapshot = await small.seconds(6)

    assert snapshot.hosts.committed_milliwatts[2] == 8 * 700_000
    assert not snapshot.hosts.is_led[2]
    assert "observe" in snapshot.reasons[2] or "probe" in snapshot.reasons[2]


async def test_site_in_observe_sends_no_lease(tmp_path: Path) -> None:
    small = build_small_site(tmp_path, policy=Policy(mode="observe"))

    snapshot = await small.seconds(5)

    assert all(host.leases == 0 for host in small.hosts.values())
    assert set(snapshot.reasons) == {"the site file says observe"}


async def test_unmanaged_load_that_appears_is_made_room_for(small: SmallSite) -> None:
    await small.seconds(10)
    small.unmanaged_extra_w = 2_000.0
    small.seconds_over = 0

    await small.seconds(4)

    assert small.wall_w <= small.limit_w
    assert small.seconds_over <= 3


async def test_stale_meter_keeps_the_unmanaged_load_it_found(small: SmallSite) -> None:
    small.unmanaged_extra_w = 1_500.0
    await small.seconds(10)
    small.has_meter = False

    snapshot = await small.seconds(60)

    assert snapshot.columns.unmanaged_w[0] >= 5_760.0 + 1_400.0
    assert snapshot.draw_w[1] == "model"


async def test_frozen_host_keeps_its_lease(small: SmallSite) -> None:
    small.hosts["host-0"].want_w = 300.0
    await small.seconds(20)
    small.loop.holds.put(["host-0"], "frozen")
    before = small.hosts["host-0"].cap_milliwatts

    small.hosts["host-0"].want_w = 700.0
    snapshot = await small.seconds(10)

    assert small.hosts["host-0"].cap_milliwatts == before
    assert snapshot.reasons[0] == "frozen by an operator"


async def test_journalled_decision_is_made_again_exactly(small: SmallSite) -> None:
    await small.seconds(5)
    newest = small.store.decisions_before(1e11, 1)[0]
    record = small.store.decision(newest["id"])
    assert record is not None

    decision = replay(record["input"])

    names = list(small.hosts)
    orders = {names[index]: value / 1000 for index, value in enumerate(decision.order_milliwatts) if value >= 0}
    assert newest["orders"] == json.dumps(orders)


async def test_fleet_power_is_published_as_json_every_second(small: SmallSite) -> None:
    await small.seconds(5)

    power = from_json(FleetPower, small.broker.said["flyball/v1/demo/fleet/power"])

    assert power.draw_watts == pytest.approx(small.wall_w)
    assert power.headroom_watts == pytest.approx(small.limit_w - small.wall_w)
    assert (power.draw_source, power.hosts_online, power.limiting_row) == ("meter", 4, "feed")


async def test_loss_of_a_feed_leaves_the_survivor_under_its_emergency_rating(tmp_path: Path) -> None:
    feeds = tuple(
        Element(name, "feed", rating_w=16_000.0, emergency_rating_w=20_000.0, emergency_duration_s=60.0)
        for name in ("a", "b")
    )
    rack = Element("rack", "rack", parents=(Parent("a", 0.5), Parent("b", 0.5)))
    small = build_site(tmp_path, Site("demo", policy=Policy(mode="enforce"), elements=(*feeds, rack)), ["rack"] * 4)
    small.has_meter = False

    snapshot = await small.seconds(8)

    assert 0.9 * 20_000.0 <= small.wall_w <= 20_000.0
    assert {row.name for row in snapshot.rows} == {"a", "b", "a/without/b", "b/without/a"}
    assert snapshot.tightest_row in {"a/without/b", "b/without/a"}


async def test_more_important_tier_is_served_first(tmp_path: Path) -> None:
    small = build_small_site(tmp_path)
    policy = small.loop._policy
    policy.tier[0] = 0

    await small.seconds(12)

    assert small.hosts["host-0"].cap_milliwatts == pytest.approx(GPUS * 700_000, rel=0.01)
    assert small.hosts["host-1"].cap_milliwatts < GPUS * 320_000
    assert small.seconds_over == 0


async def test_a_cut_limit_is_decided_on_between_two_seconds_and_counts_as_none(small: SmallSite) -> None:
    await small.seconds(5)
    ticks = small.loop.ticks
    small.loop.limits.put("feed", "grid", 16_000.0, small.now_s)

    await small.loop.tick(is_between=True)
    await small.loop.wait_sent()

    assert small.wall_w <= 16_000.0
    assert small.loop.ticks == ticks


async def test_a_cut_limit_makes_no_unmanaged_load_of_the_cuts_in_flight(small: SmallSite) -> None:
    for host in small.hosts.values():
        host.want_w = 300.0
    await small.seconds(20)
    before_w = float(small.loop.snapshot.columns.unmanaged_w[0]) if small.loop.snapshot else 0.0
    for host in small.hosts.values():
        host.want_w = 340.0
    small.loop.limits.put("feed", "grid", 16_000.0, small.now_s)

    snapshot = await small.seconds(5)

    assert snapshot.columns.unmanaged_w[0] == before_w


async def apply(small: SmallSite, site: Site) -> None:
    taking = asyncio.create_task(small.loop.take_site(site))
    await asyncio.sleep(0)
    await small.second()
    await taking


async def test_a_rating_is_changed_live_and_held_without_a_stop(small: SmallSite) -> None:
    await small.seconds(8)
    lower = tuple(replace(element, rating_w=16_000.0) for element in small.loop.parts.fleet.site.elements)

    await apply(small, replace(small.loop.parts.fleet.site, elements=lower))
    await small.seconds(2)

    assert small.limit_w == 16_000.0
    assert small.wall_w <= 16_000.0


async def test_a_row_and_hosts_in_another_order_are_adopted_live(small: SmallSite) -> None:
    await small.seconds(8)
    site = small.loop.parts.fleet.site
    rack = Element("rack", "rack", parents=(Parent("feed"),), rating_w=4_000.0)
    hosts = tuple(replace(host, element="rack" if host.name == "host-0" else "feed") for host in reversed(site.hosts))

    await apply(small, replace(site, elements=(*site.elements, rack), hosts=hosts))
    snapshot = await small.seconds(3)

    assert small.hosts["host-0"].wall_w <= 4_000.0
    assert [row.name for row in snapshot.rows] == ["feed", "rack"]
    assert small.loop.parts.fleet.hosts["host-0"].index == 3
    assert small.seconds_over == 0


async def test_a_host_does_not_vanish_from_a_running_site(small: SmallSite) -> None:
    await small.seconds(3)
    site = small.loop.parts.fleet.site

    with pytest.raises(ValueError, match=r"host-3.*released or written off"):
        await apply(small, replace(site, hosts=site.hosts[:3]))

    assert len(small.loop.parts.fleet.hosts) == 4
