"""SITE.toml: what is refused, and that the refusal names the thing and the mistake."""

from pathlib import Path

import pytest

from flyball_aggregator.power.policy import build_policy
from flyball_aggregator.site import load_site
from flyball_wire.errors import ConfigError

GOOD = """
name = "hall"
[policy]
mode = "enforce"
default_set = "plain"
[[policy.sets]]
name = "plain"
floor_w = 250.0
tier = 1
[[policy.sets]]
name = "first"
unit = "host"
floor_w = 4000.0
weight = 2.0
tier = 0
[[policy.sets]]
name = "rack-share"
unit = "rack"
ceiling_w = 6000.0
[[elements]]
name = "feed-a"
kind = "feed"
rating_amperes = 100.0
volts = 400.0
power_factor = 0.9
continuous_factor = 0.8
[[elements]]
name = "rack-1"
kind = "rack"
rating_w = 30000.0
mode = "observe"
parents = [{ name = "feed-a" }]
[[hosts]]
name = "h0"
element = "rack-1"
policy = "first"
[[hosts]]
name = "h1"
element = "rack-1"
mode = "enforce"
[[hosts]]
name = "h2"
element = "feed-a"
[[groups]]
name = "tenant"
hosts = ["h2"]
limit_w = 9000.0
policy = "rack-share"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(text)
    return path


def test_rating_in_amperes_is_volts_times_root_three_times_power_factor(tmp_path: Path) -> None:
    feed = load_site(write(tmp_path, GOOD)).elements[0]

    assert feed.rated_w == pytest.approx(100 * 400 * 3**0.5 * 0.9)
    assert feed.continuous_w == pytest.approx(0.8 * 100 * 400 * 3**0.5 * 0.9)


def test_host_policy_beats_group_policy_beats_site_policy(tmp_path: Path) -> None:
    policy = build_policy(load_site(write(tmp_path, GOOD)))

    assert policy.floor_w.tolist() == [4000.0, 2000.0, 1600.0]
    assert policy.ceiling_w.tolist() == [5600.0, 5600.0, 5600.0]
    assert policy.tier.tolist() == [0, 1, 1]
    assert policy.weight.tolist() == [2.0, 1.0, 1.0]


def test_mode_is_the_nearest_that_is_declared(tmp_path: Path) -> None:
    assert build_policy(load_site(write(tmp_path, GOOD))).modes == ("observe", "enforce", "enforce")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("rating_w = 30000.0", "rating_w = 30000.0\nratingw = 1"), "elements[1].ratingw"),
        (("rating_w = 30000.0", 'rating_w = "30 kW"'), "elements[1].rating_w"),
        (("volts = 400.0", ""), "element 'feed-a': rating_amperes without volts"),
        (
            ("rating_w = 30000.0", "rating_w = 3.0\nrating_amperes = 2.0\nvolts = 230.0"),
            "element 'rack-1': rating_w and",
        ),
        (('parents = [{ name = "feed-a" }]', 'parents = [{ name = "feed-b" }]'), "parent 'feed-b' is no element"),
        (('parents = [{ name = "feed-a" }]', 'parents = [{ name = "feed-a", share = 0.5 }]'), "sum to 0.5, expected 1"),
        (('kind = "feed"', 'kind = "feed"\nparents = [{ name = "rack-1" }]'), "supplied by itself"),
        (('name = "h1"', 'name = "h0"'), "host 'h0' is named twice"),
        (('name = "h1"', 'name = "h/1"'), "host 'h/1'"),
        (('hosts = ["h2"]', 'hosts = ["h7"]'), "group 'tenant': 'h7' is no host"),
        (('policy = "first"', 'policy = "last"'), "host 'h0': policy 'last' is none of the sets"),
        (('element = "feed-a"', ""), "host 'h2': neither element nor parents"),
        (('element = "feed-a"', 'element = "feed-a"\nreport_key_id = "k"'), "host 'h2': report_key_id and"),
        (('element = "feed-a"', 'element = "feed-a"\ngpu_minimum_w = 800.0'), "host 'h2': gpu_minimum_w"),
        (("rating_w = 30000.0", "rating_w = 3.0\nemergency_rating_w = 2.0"), "element 'rack-1': emergency_rating_w"),
        (('kind = "rack"', 'kind = "shelf"'), "elements[1].kind"),
    ],
)
def test_refusal_names_the_thing_and_the_mistake(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_site(write(tmp_path, GOOD.replace(*change)))

    assert said in str(refusal.value)


def test_site_without_hosts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no \\[\\[hosts\\]\\]"):
        load_site(write(tmp_path, 'name = "empty"'))
