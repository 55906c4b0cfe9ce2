"""SCENARIO.toml: a site, its hosts, what they work on, what happens to them, and the policy that is tried.

A mistake is reported with the file, the line and what was expected.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from flyball_aggregator.site import Element, Host, Name, Parent, Policy, Power, Site, load_site
from flyball_simgpu.models import MODELS, find_model
from flyball_twin.plant import HOST_OWN_W_PER_GPU, HOST_OWN_W_PER_GPU_W
from flyball_wire.codec import Range
from flyball_wire.config import load_config
from flyball_wire.errors import ConfigError

WorkKind = Literal["serving", "training", "greedy", "idle"]
EventKind = Literal["limit", "grid", "silent", "aggregator_dead", "write_failure", "meter_loss", "leak"]
ControlName = Literal["ours", "static", "none"]
Seconds = Annotated[float, Range(0.0, 1e7)]
Share = Annotated[float, Range(0.0, 1.0)]


@dataclass(frozen=True, slots=True)
class FleetPart:
    """Equal hosts; `tier` 0 is the most important."""

    model: str
    hosts: Annotated[int, Range(1, 20_000)]
    gpus: Annotated[int, Range(1, 16)] = 8
    tier: Annotated[int, Range(0, 9)] | None = None


@dataclass(frozen=True, slots=True)
class WorkPart:
    """What the next `hosts` hosts work on; parts are laid over the fleet in their order.

    `load` is the mean share of full work (serving: of the replicas' capacity). `trace`: a request list or rate series
    whose shape the load follows, relative to the scenario file.
    """

    kind: WorkKind
    hosts: Annotated[int, Range(1, 20_000)]
    load: Share = 0.8
    trace: str | None = None
    job_hosts: Annotated[int, Range(1, 20_000)] = 4  # of one training job: its GPUs step together
    step_s: Annotated[float, Range(0.5, 60.0)] = 4.0
    checkpoint_every_s: Seconds = 1200.0
    checkpoint_s: Seconds = 15.0


@dataclass(frozen=True, slots=True)
class ScenarioEvent:
    """Something that happens at `at_s` for `for_s` seconds.

    limit: a row's limit becomes `ratio` of its rating. grid: the whole site sheds to `ratio` of its baseline.
    silent: the agents of `hosts` say nothing and hear nothing. aggregator_dead: nobody leads. write_failure: caps of
    `hosts` are not written. meter_loss: the site's meter is silent. leak: `watts` that no host owns appear.
    """

    kind: EventKind
    at_s: Seconds
    for_s: Seconds = 600.0
    ratio: Annotated[float, Range(0.0, 1.5)] = 0.8
    hosts: Annotated[int, Range(0, 20_000)] = 1
    row: Name | None = None
    watts: Power = 0.0
    within_s: Seconds = 30.0


@dataclass(frozen=True, slots=True)
class Goals:
    """What a run must keep to pass."""

    seconds_over_1pct_most: Annotated[int, Range(0, 10_000_000)] = 0
    over_commitment_most: Annotated[int, Range(0, 10_000_000)] = 0
    work_ratio_least: Share | None = None
    compliance_least: Share | None = None


@dataclass(frozen=True, slots=True)
class SitePart:
    """The power network in short: one feed and racks below it; or a SITE.toml (`file`)."""

    name: Name = "twin"
    limit_w: Power | None = None
    limit_ratio: Annotated[float, Range(0.05, 2.0)] = 0.7  # of the fleet's greatest wall power, without limit_w
    rack_hosts: Annotated[int, Range(0, 1000)] = 0  # 0: no racks
    rack_ratio: Annotated[float, Range(0.05, 2.0)] = 0.9
    file: str | None = None


ENFORCED = Policy(mode="enforce")


@dataclass(frozen=True, slots=True)
class Scenario:
    """The whole file."""

    seed: int = 0
    seconds: Annotated[int, Range(10, 10_000_000)] = 3600
    control: ControlName = "ours"
    spread_ratio: Annotated[float, Range(0.0, 0.2)] = 0.025
    actuation_s: Annotated[int, Range(1, 600)] = 1
    site: SitePart = SitePart()
    policy: Policy = ENFORCED
    fleet: tuple[FleetPart, ...] = ()
    work: tuple[WorkPart, ...] = ()
    event: tuple[ScenarioEvent, ...] = ()
    goals: Goals = Goals()

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            ValueError: naming the key and the mistake.
        """
        if not self.fleet:
            raise ValueError("fleet: expected at least one [[fleet]]")
        for part in self.fleet:
            if part.model not in MODELS:
                raise ValueError(f"model: {part.model!r}, expected one of {', '.join(sorted(MODELS))}")
        hosts, working = sum(part.hosts for part in self.fleet), sum(part.hosts for part in self.work)
        if working > hosts:
            raise ValueError(f"work: {working} hosts, expected at most the {hosts} of the fleet")
        for event in self.event:
            if event.at_s >= self.seconds:
                raise ValueError(f"at_s: {event.at_s:g}, expected before the end at {self.seconds} s")


def load_scenario(path: Path) -> Scenario:
    """Read and check a scenario.

    Raises:
        ConfigError: naming file, line and what was expected.
    """
    try:
        scenario = load_config(Scenario, "scenario", path, {})
        _check_traces(scenario, path)
        site_of(scenario, path.parent)
    except ConfigError as error:
        raise ConfigError(_with_line(path, str(error))) from None
    return scenario


def _check_traces(scenario: Scenario, path: Path) -> None:
    for part in scenario.work:
        if part.trace is not None and not (path.parent / part.trace).is_file():
            raise ConfigError(f"{path}: trace: {part.trace!r} is no file beside the scenario")


def _with_line(path: Path, text: str) -> str:
    """Add the line of the key that a message names, where it can be found."""
    prefix = f"{path}: "
    if text.startswith("site."):
        text = prefix + text
    if not text.startswith(prefix) or " (at line" in text:
        return text
    rest = text.removeprefix(prefix)
    quoted = [word for value in re.findall(r"'([^']+)'", rest) for word in (value, *reversed(_parts(value)))]
    keys = list(reversed(_parts(rest.split(":", 1)[0])))
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for wanted in (*quoted, *keys):
        for number, line in enumerate(lines, start=1):
            is_key = re.match(rf"\s*{re.escape(wanted)}\s*=", line) or re.match(rf"\s*\[+{re.escape(wanted)}\]+", line)
            if is_key or f'"{wanted}"' in line:
                return f"{path}: line {number}: {rest}"
    return f"{path}: line 1: {rest}"


def _parts(path: str) -> list[str]:
    """Return the keys of a path such as work[0].hosts."""
    return [word for word in re.split(r"[^A-Za-z_0-9-]+", path) if word and not word.isdigit()]


def site_of(scenario: Scenario, folder: Path) -> Site:
    """Return the site: a SITE.toml, or a feed with racks.

    Raises:
        ConfigError: the site file is wrong, or does not fit the fleet.
    """
    if scenario.site.file is not None:
        site = load_site(folder / scenario.site.file)
        wanted = sum(part.hosts for part in scenario.fleet)
        if len(site.hosts) != wanted:
            where = folder / scenario.site.file
            raise ConfigError(f"{where}: {len(site.hosts)} hosts, expected the fleet's {wanted}")
        return replace(site, policy=replace(site.policy, mode="enforce"))
    short = scenario.site
    hosts = tuple(_host(index, part, short) for index, part in enumerate(_parts_by_host(scenario)))
    most_w = [host.own_power_w + host.wall_watts_per_gpu_watt * host.maximum_w for host in hosts]
    limit_w = short.limit_w if short.limit_w is not None else short.limit_ratio * sum(most_w)
    least_w = sum(host.own_power_w + host.wall_watts_per_gpu_watt * host.minimum_w for host in hosts)
    room_w = limit_w * (1.0 - scenario.policy.reserve_ratio)
    if room_w < least_w:
        raise ConfigError(
            f"site.limit_w: {limit_w:.0f} W leaves {room_w:.0f} W, expected at least the {least_w:.0f} W that hosts "
            "draw at their lowest caps"
        )
    elements = [Element("feed", "feed", rating_w=limit_w, has_meter=True)]
    if short.rack_hosts:
        for first in range(0, len(hosts), short.rack_hosts):
            rating_w = short.rack_ratio * sum(most_w[first : first + short.rack_hosts])
            name = f"rack-{first // short.rack_hosts}"
            elements.append(Element(name, "rack", parents=(Parent("feed"),), rating_w=rating_w))
    return Site(name=short.name, is_simulated=True, policy=scenario.policy, elements=tuple(elements), hosts=hosts)


def _parts_by_host(scenario: Scenario) -> list[FleetPart]:
    return [part for part in scenario.fleet for _ in range(part.hosts)]


def _host(index: int, part: FleetPart, short: SitePart) -> Host:
    model = find_model(part.model)
    return Host(
        name=f"host-{index:05d}",
        element=f"rack-{index // short.rack_hosts}" if short.rack_hosts else "feed",
        gpus=part.gpus,
        gpu_model=part.model,
        gpu_minimum_w=float(model.min_limit_w),
        gpu_maximum_w=float(model.max_limit_w),
        own_power_w=HOST_OWN_W_PER_GPU * part.gpus,
        wall_watts_per_gpu_watt=1.0 + HOST_OWN_W_PER_GPU_W,
    )
