"""Topology levels over hosts: which domains could take a gang, and how far apart its members ended up."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flyball_aggregator.placement.errors import RequestError
from flyball_aggregator.placement.fleet import Fleet, HostShape

Mask = NDArray[np.uint8]
LEVELS = ("nvlink", "rack", "leaf", "spine", "site")


class Topology:
    """The fleet's domains under the names of its levels, the narrowest first."""

    def __init__(self, fleet: Fleet, levels: Sequence[str]) -> None:
        if len(levels) != len(fleet.domains):
            raise RequestError(f"levels {list(levels)}: hosts name {len(fleet.domains)} domains each")
        self.levels = tuple(levels)
        self._domains = fleet.domains
        # hosts that the largest 1, 2, ... domains of each level hold
        self._most_held = [np.cumsum(np.sort(np.bincount(row[row >= 0]))[::-1]) for row in fleet.domains]

    def number(self, level: str) -> int:
        """Return the index of a level.

        Raises:
            RequestError: the site has no such level.
        """
        if level not in self.levels:
            raise RequestError(f"topology level {level!r} is unknown: expected one of {', '.join(self.levels)}")
        return self.levels.index(level)

    def inside(self, level: int, domain: int, mask: Mask) -> Mask:
        """Return the part of the mask in one domain."""
        return np.where(self._domains[level] == domain, mask, np.uint8(0)).astype(np.uint8)

    def domain_of(self, level: int, host: int) -> int:
        """Return the domain of a host, -1 where it names none."""
        return int(self._domains[level, host])

    def capacities(self, level: int, mask: Mask, fits: NDArray[np.int64]) -> dict[int, int]:
        """Return what each domain holds of `fits` (a figure per host) inside the mask; empty domains are left out."""
        chosen = (mask != 0) & (self._domains[level] >= 0) & (fits > 0)
        sums = np.bincount(self._domains[level][chosen], weights=fits[chosen])
        return {int(domain): int(sums[domain]) for domain in np.nonzero(sums)[0]}

    def best_fit(self, level: int, mask: Mask, fits: NDArray[np.int64], need: int) -> Iterator[Mask]:
        """Yield the domains that hold `need`, the tightest first."""
        capacity = self.capacities(level, mask, fits)
        for domain in sorted(
            (key for key, value in capacity.items() if value >= need), key=lambda key: (capacity[key], key)
        ):
            yield self.inside(level, domain, mask)

    def roomiest(self, level: int, mask: Mask, fits: NDArray[np.int64]) -> Iterator[tuple[Mask, int]]:
        """Yield (domain, what it holds), the one that holds most first."""
        capacity = self.capacities(level, mask, fits)
        for domain in sorted(capacity, key=lambda key: (-capacity[key], key)):
            yield self.inside(level, domain, mask), capacity[domain]

    def score(self, hosts: Sequence[int]) -> float:
        """Return how close these hosts are, 1 the closest the levels allow, 0 the farthest.

        1 - (domains used - fewest possible) / (most possible - fewest possible), summed over the levels.
        """
        used = best = worst = 0
        distinct = sorted(set(hosts))
        for row, held in zip(self._domains, self._most_held, strict=True):
            fewest = int(np.searchsorted(held, len(distinct)) + 1) if len(held) and held[-1] >= len(distinct) else 1
            used += len({int(row[host]) for host in distinct})
            best += fewest
            worst += max(fewest, min(len(distinct), len(held)))
        return 1.0 if worst <= best else min(1.0, max(0.0, 1.0 - (used - best) / (worst - best)))


def import_graph(hosts: Sequence[HostShape], graph: Sequence[Mapping[str, object]]) -> list[HostShape]:
    """Return the hosts with domains of a Topograph `graph`: id, network_layers closest first, accelerator domain.

    Raises:
        RequestError: a vertex has no id, or a host is missing from the graph.
    """
    found: dict[str, tuple[str, ...]] = {}
    for vertex in graph:
        name, layers, accelerator = vertex.get("id"), vertex.get("network_layers", []), vertex.get("accelerator", "")
        if not isinstance(name, str) or not isinstance(layers, list):
            raise RequestError(f"vertex {vertex}: expected an id and a list of network_layers")
        domain = accelerator.get("domain", "") if isinstance(accelerator, Mapping) else accelerator
        found[name] = (str(domain or ""), *(str(layer) for layer in layers))
    missing = sorted({host.name for host in hosts} - set(found))
    if missing:
        raise RequestError(f"hosts {missing[:3]} are missing from the graph: expected every host")
    return [replace(host, domains=found[host.name]) for host in hosts]
