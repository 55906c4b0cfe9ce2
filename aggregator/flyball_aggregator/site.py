"""SITE.toml: what the site is, as frozen dataclasses: power elements, hosts, groups and the policy.

One schema serves the aggregator, `flyball init`, `flyball apply` and the twin. Names may stand in topics. Powers named
`_w` are at the wall unless they say GPU.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from flyball_wire.codec import Length, Range
from flyball_wire.config import load_config
from flyball_wire.errors import ConfigError, WireError
from flyball_wire.lease import HostMode
from flyball_wire.topics import check_name

Name = Annotated[str, Length(64, least=1)]
Power = Annotated[float, Range(0.0, 1e10)]  # 10 GW: above any site
Share = Annotated[float, Range(1e-6, 1.0)]
Tier = Annotated[int, Range(0, 9)]
ElementKind = Literal[
    "utility", "feed", "transformer", "ups", "switchboard", "busway", "pdu", "breaker", "rack", "cooling", "element"
]
PolicyUnit = Literal["gpu", "host", "rack"]
SHARE_SLACK: Final = 1e-6  # rounding allowed in shares that must sum to one
NO_LIMIT_KEYS: Final = "rating_w, or rating_amperes with volts"


@dataclass(frozen=True, slots=True)
class Parent:
    """One supply of an element or host, and the share of its load that this supply carries in the normal state."""

    name: Name
    share: Share = 1.0


@dataclass(frozen=True, slots=True)
class Element:
    """One thing of the power network with a rating: feed, UPS, PDU, breaker, rack.

    The rating is in watts, or in amperes x volts x power factor (volts between phases, times the root of three, where
    `phases` is 3). `continuous_factor` is what of it may be used without end (0.8 is usual for breakers). Without any
    rating the element only passes load on. `efficiency` is load below over load above.
    """

    name: Name
    kind: ElementKind = "element"
    parents: tuple[Parent, ...] = ()
    rating_w: Power | None = None
    rating_amperes: Annotated[float, Range(0.0, 1e6)] | None = None
    volts: Annotated[float, Range(1.0, 1e6)] | None = None
    phases: Literal[1, 3] = 3
    power_factor: Annotated[float, Range(0.1, 1.0)] = 1.0
    continuous_factor: Annotated[float, Range(0.1, 1.0)] = 1.0
    emergency_rating_w: Power | None = None
    emergency_duration_s: Annotated[float, Range(0.0, 1e6)] | None = None
    efficiency: Annotated[float, Range(0.5, 1.0)] = 1.0
    unmanaged_w: Power = 0.0  # load here that is no host's: switches, fans, storage
    has_meter: bool = False  # a meter publishes on flyball/v1/SITE/meter/NAME
    reserve_ratio: Annotated[float, Range(0.0, 0.5)] | None = None
    mode: HostMode | None = None  # for every host below that does not say otherwise
    feed_tag: str | None = None

    @property
    def rated_w(self) -> float | None:
        """What the element is rated for, in watts; None without a rating."""
        if self.rating_w is not None:
            return self.rating_w
        if self.rating_amperes is None or self.volts is None:
            return None
        return self.rating_amperes * self.volts * self.power_factor * (math.sqrt(3.0) if self.phases == 3 else 1.0)

    @property
    def continuous_w(self) -> float | None:
        """What it may carry without end, in watts; None without a rating."""
        rated_w = self.rated_w
        return None if rated_w is None else rated_w * self.continuous_factor


@dataclass(frozen=True, slots=True)
class Host:
    """One GPU host: where it hangs, what it can draw and whose reports are believed.

    `wall_watts_per_gpu_watt` is what a watt of GPU board power costs at the wall (supplies, fans); `own_power_w` is
    what the host draws with its GPUs at zero. `boot_share_w` (GPU watts) is never taken out of its commitment.
    """

    name: Name
    element: Name | None = None  # short for one parent with share 1
    parents: tuple[Parent, ...] = ()
    gpus: Annotated[int, Range(1, 64)] = 8
    gpu_model: str = ""
    gpu_minimum_w: Power = 200.0
    gpu_maximum_w: Power = 700.0
    own_power_w: Power = 0.0
    wall_watts_per_gpu_watt: Annotated[float, Range(1.0, 5.0)] = 1.0
    boot_share_w: Power = 0.0
    report_key_id: str | None = None
    report_public_key: Annotated[str, Length(64, least=64)] | None = None  # hex; none: the host cannot be leased to
    mode: HostMode | None = None
    policy: Name | None = None  # a named set of [policy]
    labels: tuple[str, ...] = ()

    @property
    def supplies(self) -> tuple[Parent, ...]:
        """Its parents, with the short form written out."""
        return (Parent(self.element),) if self.element is not None else self.parents

    @property
    def minimum_w(self) -> float:
        """Sum of its device minima, GPU watts."""
        return self.gpus * self.gpu_minimum_w

    @property
    def maximum_w(self) -> float:
        """Sum of its device maxima, GPU watts."""
        return self.gpus * self.gpu_maximum_w


@dataclass(frozen=True, slots=True)
class Group:
    """Hosts that share a budget at the wall (a tenant, a project); groups may overlap."""

    name: Name
    hosts: tuple[Name, ...]
    limit_w: Power
    policy: Name | None = None


@dataclass(frozen=True, slots=True)
class PolicySet:
    """A named set of what the allocation may do with a host; limits in watts, or as a ratio of the device maximum."""

    name: Name
    unit: PolicyUnit = "gpu"  # what floor_w and ceiling_w count
    floor_w: Power | None = None
    floor_ratio: Annotated[float, Range(0.0, 1.0)] | None = None
    ceiling_w: Power | None = None
    ceiling_ratio: Annotated[float, Range(0.0, 1.0)] | None = None
    weight: Annotated[float, Range(0.01, 100.0)] = 1.0
    tier: Tier | None = None  # 0 is the most important


@dataclass(frozen=True, slots=True)
class Policy:
    """How watts are shared out, and how leases live."""

    mode: HostMode = "observe"  # of the site; elements and hosts may say otherwise
    reserve_ratio: Annotated[float, Range(0.0, 0.5)] = 0.03  # caps are means of a second and devices overshoot them
    admission_ratio: Annotated[float, Range(0.1, 1.0)] = 0.93
    has_tiers: bool = True  # False: weights alone
    gives_spare: bool = True  # what nobody asks for goes out as headroom, taken back first
    default_tier: Tier = 1  # the middle of 0, 1, 2
    default_set: Name | None = None
    sets: tuple[PolicySet, ...] = ()
    lease_ttl_s: Annotated[float, Range(1.0, 3600.0)] = 10.0
    lease_hold_s: Annotated[float, Range(0.0, 86_400.0)] = 30.0
    lease_ramp_ratio_per_s: Annotated[float, Range(0.001, 1.0)] = 0.05  # of the host's maximum
    safe_ratio: Annotated[float, Range(0.1, 1.0)] = 1.0  # of the contingency rows, for safe shares
    meter_stale_s: Annotated[float, Range(1.0, 3600.0)] = 5.0
    state_stale_s: Annotated[float, Range(1.0, 3600.0)] = 3.0


@dataclass(frozen=True, slots=True)
class Site:
    """The whole SITE.toml."""

    name: Name = "site"
    is_simulated: bool = False
    policy: Policy = Policy()
    elements: tuple[Element, ...] = ()
    hosts: tuple[Host, ...] = ()
    groups: tuple[Group, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what each part alone allows but the whole does not.

        Raises:
            ValueError: naming the element, host, group or policy set and the mistake.
        """
        check_site(self)


def load_site(path: Path) -> Site:
    """Read and check a SITE.toml.

    Raises:
        ConfigError: naming the file, the key or the element, and the mistake.
    """
    site = load_config(Site, "site", path, {})
    if not site.hosts:
        raise ConfigError(f"{path}: no [[hosts]], expected at least one")
    return site


def check_site(site: Site) -> None:
    """Raise ValueError on the first mistake: names, parents, shares, ratings, cycles, groups and policy sets."""
    _check_names(site)
    elements = {element.name: element for element in site.elements}
    for element in site.elements:
        _check_rating(element)
        _check_parents(f"element {element.name!r}", element.parents, elements)
    for host in site.hosts:
        _check_host(host, elements)
    _check_cycles(elements)
    _check_groups(site)
    _check_policy(site)


def policy_set_of(site: Site, host: Host) -> PolicySet | None:
    """Return the set that applies: the host's own, else its group's, else the site's."""
    sets = {item.name: item for item in site.policy.sets}
    of_group = next((group.policy for group in site.groups if group.policy and host.name in group.hosts), None)
    name = host.policy or of_group or site.policy.default_set
    return sets[name] if name is not None else None


def _check_names(site: Site) -> None:
    named: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("element", tuple(element.name for element in site.elements)),
        ("host", tuple(host.name for host in site.hosts)),
        ("group", tuple(group.name for group in site.groups)),
        ("policy set", tuple(item.name for item in site.policy.sets)),
    )
    _checked("site", site.name)
    for what, names in named:
        seen: set[str] = set()
        for name in names:
            if _checked(what, name) in seen:
                raise ValueError(f"{what} {name!r} is named twice")
            seen.add(name)


def _checked(what: str, name: str) -> str:
    try:
        return check_name(what, name)
    except WireError as error:
        raise ValueError(str(error)) from None


def _check_rating(element: Element) -> None:
    where = f"element {element.name!r}"
    if element.rating_w is not None and element.rating_amperes is not None:
        raise ValueError(f"{where}: rating_w and rating_amperes are both set, expected one of {NO_LIMIT_KEYS}")
    if element.rating_amperes is not None and element.volts is None:
        raise ValueError(f"{where}: rating_amperes without volts")
    rated_w = element.rated_w
    if element.emergency_rating_w is not None:
        if rated_w is None or element.emergency_rating_w < rated_w:
            raise ValueError(f"{where}: emergency_rating_w {element.emergency_rating_w} is below its rating {rated_w}")
        if element.emergency_duration_s is None:
            raise ValueError(f"{where}: emergency_rating_w without emergency_duration_s")


def _check_parents(where: str, parents: tuple[Parent, ...], elements: dict[str, Element]) -> None:
    names = [parent.name for parent in parents]
    for name in names:
        if name not in elements:
            raise ValueError(f"{where}: parent {name!r} is no element of the site")
    if len(set(names)) != len(names):
        raise ValueError(f"{where}: a parent is named twice in {names}")
    total = sum(parent.share for parent in parents)
    if parents and abs(total - 1.0) > SHARE_SLACK:
        raise ValueError(f"{where}: shares of its parents sum to {total:g}, expected 1")


def _check_host(host: Host, elements: dict[str, Element]) -> None:
    where = f"host {host.name!r}"
    if host.element is not None and host.parents:
        raise ValueError(f"{where}: element and parents are both set, expected one")
    if not host.supplies:
        raise ValueError(f"{where}: neither element nor parents, expected where it is supplied from")
    _check_parents(where, host.supplies, elements)
    if host.gpu_minimum_w > host.gpu_maximum_w:
        raise ValueError(f"{where}: gpu_minimum_w {host.gpu_minimum_w} is above gpu_maximum_w {host.gpu_maximum_w}")
    if host.boot_share_w > host.maximum_w:
        raise ValueError(f"{where}: boot_share_w {host.boot_share_w} is above the host's {host.maximum_w} GPU watts")
    if (host.report_public_key is None) != (host.report_key_id is None):
        raise ValueError(f"{where}: report_key_id and report_public_key belong together, one is missing")
    if host.report_public_key is not None and not _is_hex(host.report_public_key):
        raise ValueError(f"{where}: report_public_key is not 64 hexadecimal digits")


def _is_hex(text: str) -> bool:
    return all(letter in "0123456789abcdefABCDEF" for letter in text)


def _check_cycles(elements: dict[str, Element]) -> None:
    """Follow parents upwards from each element; whoever is met while still open closes a circle."""
    done: set[str] = set()
    for start in elements:
        open_path: list[str] = []
        stack: list[tuple[str, bool]] = [(start, False)]
        while stack:
            name, is_leaving = stack.pop()
            if is_leaving:
                done.add(open_path.pop())
            elif name in open_path:
                circle = [*open_path[open_path.index(name) :], name]
                raise ValueError(f"element {name!r}: supplied by itself through {' <- '.join(circle)}")
            elif name not in done:
                open_path.append(name)
                stack.append((name, True))
                stack.extend((parent.name, False) for parent in elements[name].parents)


def _check_groups(site: Site) -> None:
    hosts = {host.name for host in site.hosts}
    for group in site.groups:
        if not group.hosts:
            raise ValueError(f"group {group.name!r}: no hosts, expected at least one")
        unknown = [name for name in group.hosts if name not in hosts]
        if unknown:
            raise ValueError(f"group {group.name!r}: {unknown[0]!r} is no host of the site")
        if len(set(group.hosts)) != len(group.hosts):
            raise ValueError(f"group {group.name!r}: a host is named twice")


def _check_policy(site: Site) -> None:
    sets = {item.name for item in site.policy.sets}
    users = [("policy.default_set", site.policy.default_set)]
    users += [(f"host {host.name!r}", host.policy) for host in site.hosts]
    users += [(f"group {group.name!r}", group.policy) for group in site.groups]
    for where, name in users:
        if name is not None and name not in sets:
            raise ValueError(f"{where}: policy {name!r} is none of the sets {sorted(sets)}")
    for item in site.policy.sets:
        for low, high in ((item.floor_w, item.ceiling_w), (item.floor_ratio, item.ceiling_ratio)):
            if low is not None and high is not None and low > high:
                raise ValueError(f"policy set {item.name!r}: floor {low} is above ceiling {high}")
        if item.floor_w is not None and item.floor_ratio is not None:
            raise ValueError(f"policy set {item.name!r}: floor_w and floor_ratio are both set, expected one")
        if item.ceiling_w is not None and item.ceiling_ratio is not None:
            raise ValueError(f"policy set {item.name!r}: ceiling_w and ceiling_ratio are both set, expected one")
