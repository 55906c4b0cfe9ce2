"""Gangs are seated whole, where their topology, NUMA, fractions and watts allow it."""

from typing import TYPE_CHECKING

import pytest

from flyball_aggregator.placement.errors import RequestError
from flyball_aggregator.placement.jobs import Draw, Group, Job, Member, Wish, single, start_order
from flyball_aggregator.placement.refusals import Refusal
from flyball_aggregator.placement.work import Phase

if TYPE_CHECKING:
    from tests.flyball_aggregator.placement.conftest import NewSite

FOUR = Member(gpus=4)
ONE = Member()


def gang(name: str, count: int, wish: Wish, member: Member = FOUR) -> Job:
    return Job(name, "all", Group("main", member=member, count=count, topology=wish))


def test_gang_that_does_not_fit_whole_takes_nothing(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(gang("big", 9, Wish()))
    site.turn()

    assert site.phase("big") is Phase.QUEUED
    assert site.engine.board.fleet.gpu_left.sum() == 32_000
    assert site.engine.rows.committed_mw.sum() == 0


def test_required_level_keeps_all_members_in_one_domain(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(gang("pair", 2, Wish(required="rack")), gang("leaf", 4, Wish(required="leaf")))
    site.turn()

    assert len({host // 2 for host in site.hosts_of("pair")}) == 1
    assert len({host // 4 for host in site.hosts_of("leaf")}) == 1


def test_required_level_without_room_is_named(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(gang("wide", 3, Wish(required="rack")))
    site.turn()

    assert site.engine.works["wide"].blocked == Refusal("topology", "rack")


def test_tightest_domain_is_taken_first(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(gang("first", 1, Wish()))
    site.turn()
    used = site.hosts_of("first")[0] // 2
    site.submit(gang("second", 1, Wish(required="rack")))
    site.turn()

    assert site.hosts_of("second")[0] // 2 == used


def test_preferred_level_is_kept_where_it_can_be_and_given_up_where_not(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(gang("near", 2, Wish(preferred="rack")), gang("far", 6, Wish(preferred="rack")))
    site.turn()

    assert len({host // 2 for host in site.hosts_of("near")}) == 1
    assert site.phase("far") is Phase.RUNNING
    assert site.engine.works["near"].score == 1.0


def test_segments_put_every_k_ranks_into_one_domain(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(gang("rings", 8, Wish(required="rack", segment=2)))
    site.turn()

    hosts = site.hosts_of("rings")
    assert all(hosts[rank] // 2 == hosts[rank + 1] // 2 for rank in range(0, 8, 2))


def test_spread_uses_a_domain_twice_only_when_all_are_used(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(gang("wide", 4, Wish(spread="rack"), ONE))
    site.turn()

    assert len({host // 2 for host in site.hosts_of("wide")}) == 4


def test_near_puts_a_role_beside_its_sibling(new_site: "NewSite") -> None:
    site = new_site()
    prefill = Group("prefill", member=FOUR)
    decode = Group("decode", member=FOUR, topology=Wish(near="prefill"))
    site.submit(Job("chat", "all", Group("chat", children=(decode, prefill))))
    site.turn()

    hosts = site.hosts_of("chat")
    assert hosts[0] // 2 == hosts[1] // 2


def test_nested_gang_is_all_or_nothing(new_site: "NewSite") -> None:
    site = new_site()
    fits = Group("fits", member=FOUR, count=2)
    never = Group("never", member=Member(gpus=5))
    site.submit(Job("both", "all", Group("both", children=(fits, never))))
    site.turn()

    assert site.phase("both") is Phase.QUEUED
    assert site.engine.board.fleet.gpu_left.sum() == 32_000


def test_start_order_follows_after_and_refuses_circles() -> None:
    router, prefill = Group("router", member=ONE), Group("prefill", member=ONE, after=("router",))
    decode = Group("decode", member=ONE, after=("prefill",))

    assert start_order(Group("chat", children=(decode, prefill, router))) == [["router"], ["prefill"], ["decode"]]
    with pytest.raises(RequestError, match="wait for each other"):
        Group("loop", children=(Group("a", member=ONE, after=("b",)), Group("b", member=ONE, after=("a",))))
    with pytest.raises(RequestError, match="expected siblings"):
        Group("lost", children=(Group("a", member=ONE, after=("ghost",)),))


def test_members_stay_in_one_numa_zone_where_they_must(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(*(single(f"one{number}", "all", ONE) for number in range(2)))
    site.turn()
    site.submit(single("pair", "all", Member(gpus=2, is_single_numa=True)))
    site.turn()

    claim = site.engine.works["pair"].seats[0].held.claim
    assert set(claim.gpus) in ({0, 1}, {2, 3})


def test_fraction_by_memory_gets_that_share_of_the_board(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(*(single(f"part{number}", "all", Member(gpu_milli=0, gpu_memory_mib=40_960)) for number in range(2)))
    site.turn()

    claims = [site.engine.works[f"part{number}"].seats[0].held.claim for number in range(2)]
    assert [claim.gpu_milli for claim in claims] == [500, 500]
    assert claims[0].gpus == claims[1].gpus


def test_short_watts_lower_the_cap_as_far_as_the_objective_allows(new_site: "NewSite") -> None:
    site = new_site(row_limit_w=400.0)
    site.submit(single("elastic", "all", ONE, draw=Draw(700.0, 300.0, max_slowdown=2.0)))
    site.turn()

    cap_w = site.engine.works["elastic"].seats[0].cap_w
    assert cap_w is not None
    assert 350.0 <= cap_w <= 460.0


def test_refusal_for_watts_names_the_row(new_site: "NewSite") -> None:
    site = new_site(row_limit_w=400.0)
    site.submit(single("stiff", "all", ONE, draw=Draw(700.0, 300.0)))
    site.turn()

    assert site.engine.works["stiff"].blocked == Refusal("row", "site")


def test_exclusive_host_takes_no_other_tenant(new_site: "NewSite") -> None:
    site = new_site()
    jobs = [
        Job(f"{tenant}{number}", "all", Group("main", member=ONE), tenant=tenant, is_exclusive=tenant == "a")
        for number in range(6)
        for tenant in "ab"
    ]
    site.submit(*jobs)
    site.turn()

    a_hosts = {host for job in jobs if job.tenant == "a" for host in site.hosts_of(job.id)}
    b_hosts = {host for job in jobs if job.tenant == "b" for host in site.hosts_of(job.id)}
    assert a_hosts
    assert not a_hosts & b_hosts
