"""Differences between sites, versions on disk, and the declared site over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from tests.flyball_aggregator.small_site import SmallSite, build_small_site
from tests.flyball_aggregator.test_api import WRITE, parts_of

from flyball_aggregator.api import build_api
from flyball_aggregator.site import Site, load_site
from flyball_aggregator.site_changes import changes_of
from flyball_aggregator.site_versions import SiteVersions
from flyball_wire.config import print_config


@pytest.fixture
def small(tmp_path: Path) -> SmallSite:
    return build_small_site(tmp_path)


@pytest.fixture
async def client(small: SmallSite, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    sites = SiteVersions(tmp_path / "site.toml", tmp_path / "versions")
    transport = httpx.ASGITransport(build_api(replace(parts_of(small), sites=sites)))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as made:
        yield made


def with_rating(site: Site, rating_w: float) -> Site:
    return replace(site, elements=tuple(replace(element, rating_w=rating_w) for element in site.elements))


def test_a_difference_names_the_element_and_both_values(small: SmallSite) -> None:
    changes = changes_of(small.site, with_rating(small.site, 18_000.0))

    assert [str(change) for change in changes] == ["~ elements.feed.rating_w: 20000 -> 18000"]
    assert changes_of(small.site, small.site) == ()


def test_hosts_that_come_and_go_are_named(small: SmallSite) -> None:
    new = replace(small.site.hosts[0], name="host-9")
    lines = [str(change) for change in changes_of(small.site, replace(small.site, hosts=(*small.site.hosts[1:], new)))]

    assert lines[0].startswith("- hosts.host-0: element feed")
    assert lines[1].startswith("+ hosts.host-9: element feed")


async def test_an_applied_site_is_led_declared_and_kept(
    small: SmallSite, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    await small.seconds(3)
    wanted = with_rating(small.site, 18_000.0)
    body = {"toml": print_config(wanted), "operator": "ada"}

    asking = asyncio.create_task(client.put("/v1/site", json=body, headers=WRITE))
    while not asking.done():
        await small.second()
    answer = asking.result()

    assert answer.json() == {
        "version": 1,
        "changes": ["~ elements.feed.rating_w: 20000 -> 18000"],
        "is_applied": True,
    }
    assert load_site(tmp_path / "site.toml") == wanted
    assert small.limit_w == 18_000.0
    versions = (await client.get("/v1/site/versions")).json()["versions"]
    assert [(version["number"], version["operator"]) for version in versions] == [(1, "ada")]


async def test_a_site_with_a_mistake_is_refused_by_name_and_changes_nothing(
    small: SmallSite, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    await small.seconds(3)
    text = print_config(small.site).replace('element = "feed"', 'element = "food"', 1)

    answer = await client.put("/v1/site", json={"toml": text}, headers=WRITE)

    assert answer.status_code == 422
    assert "'food' is no element of the site" in answer.json()["error"]
    assert not (tmp_path / "site.toml").exists()


async def test_a_dry_run_and_a_stranger_apply_nothing(small: SmallSite, client: httpx.AsyncClient) -> None:
    await small.seconds(3)
    body = {"toml": print_config(with_rating(small.site, 18_000.0)), "is_dry_run": True}

    assert (await client.put("/v1/site", json=body)).status_code == 401
    assert (await client.put("/v1/site", json=body, headers=WRITE)).json()["is_applied"] is False
    assert small.limit_w == 20_000.0
