"""Policy as columns: floor, ceiling, weight and tier of each host, and whether it is enforced or only observed."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from flyball_aggregator.power.rows import Floats, Integers
from flyball_aggregator.site import Element, Host, PolicySet, Site, policy_set_of
from flyball_wire.lease import HostMode


@dataclass(frozen=True, slots=True)
class PolicyColumns:
    """Each (hosts,), GPU watts."""

    floor_w: Floats
    ceiling_w: Floats
    weight: Floats
    tier: Integers
    modes: tuple[HostMode, ...]


def build_policy(site: Site) -> PolicyColumns:
    """Return the policy of each host of a checked site."""
    racks = Counter(_rack_of(host) for host in site.hosts)
    sets = [policy_set_of(site, host) or PolicySet(name="default") for host in site.hosts]
    pairs = list(zip(site.hosts, sets, strict=True))
    elements = {element.name: element for element in site.elements}
    default_tier = site.policy.default_tier
    tiers = [item.tier if item.tier is not None else default_tier for item in sets]
    return PolicyColumns(
        floor_w=np.array([_floor_w(host, item, racks[_rack_of(host)]) for host, item in pairs]),
        ceiling_w=np.array([_ceiling_w(host, item, racks[_rack_of(host)]) for host, item in pairs]),
        weight=np.array([item.weight for item in sets]),
        tier=np.array(tiers if site.policy.has_tiers else [0] * len(tiers), dtype=np.int64),
        modes=tuple(mode_of(site, elements, host) for host in site.hosts),
    )


def mode_of(site: Site, elements: dict[str, Element], host: Host) -> HostMode:
    """Return what is declared nearest to a host: by itself, an element above it, or the site.

    Where two supplies say different things, observe wins.
    """
    if host.mode is not None:
        return host.mode
    level = [parent.name for parent in host.supplies]
    while level:
        said = {elements[name].mode for name in level} - {None}
        if said:
            return "enforce" if said == {"enforce"} else "observe"
        level = [parent.name for name in level for parent in elements[name].parents]
    return site.policy.mode


def _rack_of(host: Host) -> tuple[str, ...]:
    return tuple(parent.name for parent in host.supplies)


def _floor_w(host: Host, item: PolicySet, in_rack: int) -> float:
    if item.floor_ratio is not None:
        return _within(host, item.floor_ratio * host.maximum_w)
    return host.minimum_w if item.floor_w is None else _within(host, _of_host_w(item.floor_w, host, item, in_rack))


def _ceiling_w(host: Host, item: PolicySet, in_rack: int) -> float:
    if item.ceiling_ratio is not None:
        return _within(host, item.ceiling_ratio * host.maximum_w)
    return host.maximum_w if item.ceiling_w is None else _within(host, _of_host_w(item.ceiling_w, host, item, in_rack))


def _within(host: Host, power_w: float) -> float:
    """Return watts that the host's devices can be set to."""
    return min(max(power_w, host.minimum_w), host.maximum_w)


def _of_host_w(power_w: float, host: Host, item: PolicySet, in_rack: int) -> float:
    """Return a host's part of watts that are per GPU, per host, or for all hosts of its rack together."""
    if item.unit == "gpu":
        return power_w * host.gpus
    return power_w if item.unit == "host" else power_w / in_rack
