"""The power network as flows: which share of a host's wall power passes each element, with and without lost feeds."""

from collections.abc import Iterable
from dataclasses import dataclass

from flyball_aggregator.site import Element, Host, Parent, Site

Flow = dict[str, float]  # element name -> watts through it per watt drawn below


@dataclass(frozen=True, slots=True)
class Network:
    """Elements by name, in the order of the site file."""

    elements: dict[str, Element]

    def flow_above(self, supplies: tuple[Parent, ...], lost: frozenset[str], known: dict[str, Flow]) -> Flow:
        """Return watts through each element per watt drawn by something with these supplies.

        Args:
            supplies: Parents and shares of the drawing thing.
            lost: Elements that are out; their load moves to the parents that are left, in proportion to their shares.
            known: Flows of elements already worked out under the same `lost`; filled here.

        Returns:
            Empty when nothing supplies it any more: what is dark draws nothing.
        """
        flow: Flow = {}
        for name, share in self.living_shares(supplies, lost, known).items():
            above = self.flow_through(name, lost, known)
            for element, watts in above.items():
                flow[element] = flow.get(element, 0.0) + share * watts
        return flow

    def flow_through(self, name: str, lost: frozenset[str], known: dict[str, Flow]) -> Flow:
        """Return watts through an element and all above it per watt drawn from it; empty when it is dark."""
        if name not in known:
            known[name] = self._work_out_flow(name, lost, known)
        return known[name]

    def living_shares(
        self, supplies: tuple[Parent, ...], lost: frozenset[str], known: dict[str, Flow]
    ) -> dict[str, float]:
        """Return the shares of the supplies that still have power; they sum to one, or there are none."""
        living = {parent.name: parent.share for parent in supplies if self.flow_through(parent.name, lost, known)}
        total = sum(living.values())
        return {name: share / total for name, share in living.items()}

    def _work_out_flow(self, name: str, lost: frozenset[str], known: dict[str, Flow]) -> Flow:
        element = self.elements[name]
        if name in lost:
            return {}
        above = self.flow_above(element.parents, lost, known)
        if element.parents and not above:
            return {}
        taken = 1.0 / element.efficiency
        return {name: taken, **{higher: watts * taken for higher, watts in above.items()}}


def build_network(site: Site) -> Network:
    """Return the network of a checked site."""
    return Network({element.name: element for element in site.elements})


def lost_feeds(site: Site) -> tuple[str, ...]:
    """Return the elements whose loss some load survives: those that share a load with another supply.

    The loss of anything above such an element is the loss of the feed itself, so roots come first, and an element is
    left out when a root above it already says the same.
    """
    shared: set[str] = set()
    supplied: Iterable[Element | Host] = (*site.elements, *site.hosts)
    for thing in supplied:
        parents = thing.supplies if isinstance(thing, Host) else thing.parents
        if len(parents) > 1:
            shared.update(parent.name for parent in parents)
    network = build_network(site)
    known: dict[str, Flow] = {}
    above: set[str] = set()
    for name in shared:
        above.update(network.flow_through(name, frozenset(), known))
    return tuple(element.name for element in site.elements if element.name in above)
