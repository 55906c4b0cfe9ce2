"""Reference designs as sites: power network, racks, hosts, floors and tiers to start from.

Nameplate figures are the makers' published ones; `own_power_w` is what is left of a node's published maximum once its
GPUs are counted, so that GPU and own power together never pass the nameplate. Domains stand in labels: `nvlink:NAME`
(hosts that share NVLink), `network:NAME` (a leaf of the fabric), `cooling:NAME` (a coolant or air loop).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from flyball_aggregator.site import Element, Host, Parent, Policy, PolicySet, Site

SETS: Final = (
    PolicySet("guaranteed", floor_ratio=0.8, tier=0),
    PolicySet("standard", floor_ratio=0.45, tier=1),
    PolicySet("spare", tier=2),
)


@dataclass(frozen=True, slots=True)
class Node:
    """One host of a design, at the wall where it does not say GPU."""

    model: str
    gpus: int
    gpu_minimum_w: float
    gpu_maximum_w: float
    own_power_w: float
    wall_watts_per_gpu_watt: float

    @property
    def maximum_w(self) -> float:
        """What it draws at most."""
        return self.own_power_w + self.gpus * self.gpu_maximum_w * self.wall_watts_per_gpu_watt


HGX_H100: Final = Node("NVIDIA H100 80GB HBM3", 8, 200.0, 700.0, 3080.0, 1.27)  # 10.2 kW, maker's data sheet
DGX_B200: Final = Node("NVIDIA B200", 8, 200.0, 1000.0, 4140.0, 1.27)  # 14.3 kW, maker's data sheet
GB200_TRAY: Final = Node("NVIDIA GB200", 4, 200.0, 1200.0, 1050.0, 1.08)  # liquid-cooled; 18 trays + switches < 132 kW
HOME_PC: Final = Node("NVIDIA GeForce RTX 4090", 4, 150.0, 450.0, 350.0, 1.1)
NVL72_TRAYS: Final = 18
NVL72_SWITCHES_W: Final = 9_000.0  # nine NVLink switch trays and the rack's own, of 132 kW a rack


def hgx_h100(racks: int) -> Site:
    """Air-cooled racks of four HGX H100 nodes on two feeds, 1.25 times oversubscribed."""
    return _paired_feeds("hgx-h100", HGX_H100, racks, 4, rack_w=45_000.0, oversubscription=1.25)


def dgx_b200(racks: int) -> Site:
    """Racks of four DGX B200 on two feeds, 1.2 times oversubscribed."""
    return _paired_feeds("dgx-b200", DGX_B200, racks, 4, rack_w=60_000.0, oversubscription=1.2)


def gb200_nvl72(racks: int) -> Site:
    """Liquid-cooled NVL72 racks of eighteen trays, one NVLink domain each, on two feeds."""
    return _paired_feeds(
        "gb200-nvl72", GB200_TRAY, racks, NVL72_TRAYS, rack_w=132_000.0, rack_unmanaged_w=NVL72_SWITCHES_W,
        oversubscription=1.15, is_rack_nvlink=True,
    )  # fmt: skip


def homelab_8(racks: int) -> Site:
    """Two machines of four cards, each on a 16 A circuit of a 25 A, 230 V supply."""
    del racks
    main = Element(
        "main", "utility", rating_amperes=25.0, volts=230.0, phases=1, power_factor=0.98, continuous_factor=0.8
    )
    circuits = tuple(
        Element(
            f"circuit-{number}", "breaker", (Parent("main"),), rating_amperes=16.0, volts=230.0, phases=1,
            power_factor=0.98, continuous_factor=0.8,
        )
        for number in (1, 2)
    )  # fmt: skip
    hosts = tuple(_host(HOME_PC, f"pc-{number}", f"circuit-{number}", ("network:home",)) for number in (1, 2))
    return Site("homelab-8", policy=_policy(), elements=(main, *circuits), hosts=hosts)


DESIGNS: Final[dict[str, Callable[[int], Site]]] = {
    "hgx-h100": hgx_h100,
    "dgx-b200": dgx_b200,
    "gb200-nvl72": gb200_nvl72,
    "homelab-8": homelab_8,
}


def _paired_feeds(
    name: str,
    node: Node,
    racks: int,
    in_rack: int,
    *,
    rack_w: float,
    oversubscription: float,
    rack_unmanaged_w: float = 0.0,
    is_rack_nvlink: bool = False,
) -> Site:
    """Return racks fed by halves from two feeds; one feed carries all of it for ten minutes at its emergency rating."""
    whole_w = racks * (in_rack * node.maximum_w + rack_unmanaged_w)
    survivor_w = whole_w / oversubscription
    feeds = tuple(
        Element(
            f"feed-{letter}",
            "feed",
            rating_w=round(survivor_w / 1.1, -2),
            emergency_rating_w=round(survivor_w, -2),
            emergency_duration_s=600.0,
            has_meter=True,
            feed_tag=letter,
        )
        for letter in ("a", "b")
    )
    halves = (Parent("feed-a", 0.5), Parent("feed-b", 0.5))
    elements, hosts = list(feeds), []
    for number in range(1, racks + 1):
        rack = f"rack-{number:02d}"
        elements.append(Element(rack, "rack", halves, rating_w=rack_w, unmanaged_w=rack_unmanaged_w))
        for place in range(1, in_rack + 1):
            host = f"{rack}-host-{place:02d}"
            nvlink = rack if is_rack_nvlink else host
            labels = (
                f"network:leaf-{(number + 1) // 2:02d}",
                f"nvlink:{nvlink}",
                f"cooling:row-{(number + 7) // 8:02d}",
            )
            hosts.append(_host(node, host, rack, labels))
    return Site(name, policy=_policy(), elements=tuple(elements), hosts=tuple(hosts))


def _policy() -> Policy:
    return Policy(mode="observe", default_set="standard", sets=SETS)


def _host(node: Node, name: str, element: str, labels: tuple[str, ...]) -> Host:
    return Host(
        name=name,
        element=element,
        gpus=node.gpus,
        gpu_model=node.model,
        gpu_minimum_w=node.gpu_minimum_w,
        gpu_maximum_w=node.gpu_maximum_w,
        own_power_w=node.own_power_w,
        wall_watts_per_gpu_watt=node.wall_watts_per_gpu_watt,
        labels=labels,
    )
