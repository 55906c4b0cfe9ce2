"""Fair shares: what each queue deserves of what there is, with past use fading out of memory."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flyball_aggregator.placement.queues import QueueTree

EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Claimant:
    """One queue in a division: what it deserves, asks, may hold at most, and how surplus is split."""

    name: str
    quota: float
    wanted: float
    limit: float
    weight: float
    priority: int


def divide(total: float, claimants: Sequence[Claimant]) -> dict[str, float]:
    """Return each queue's fair share of the total.

    First every queue gets the lesser of quota and request (scaled down where quotas exceed the total), then what is
    left goes by priority, within a priority by weight, until nobody wants more or nothing is left.

    Source: the two phases of KAI's fair-share division.
    """
    first = {part.name: min(part.quota, part.wanted, part.limit) for part in claimants}
    asked = sum(first.values())
    scale = min(1.0, total / asked) if asked > EPSILON else 1.0
    shares = {name: value * scale for name, value in first.items()}
    left = total - sum(shares.values())
    for priority in sorted({part.priority for part in claimants}, reverse=True):
        left = _fill(left, [part for part in claimants if part.priority == priority], shares)
    return shares


def _fill(left: float, claimants: Sequence[Claimant], shares: dict[str, float]) -> float:
    """Pour `left` over the claimants by weight; return what nobody wanted."""
    hungry = list(claimants)
    while left > EPSILON and hungry:
        weights = sum(part.weight for part in hungry)
        if weights <= 0:
            break
        poured = 0.0
        for part in hungry:
            most = min(part.wanted, part.limit) - shares[part.name]
            given = max(0.0, min(left * part.weight / weights, most))
            shares[part.name] += given
            poured += given
        left -= poured
        hungry = [part for part in hungry if min(part.wanted, part.limit) - shares[part.name] > EPSILON]
        if poured <= EPSILON:
            break
    return left


def fair_gpus(
    tree: QueueTree, total: float, wanted: Mapping[str, float], past: Mapping[str, float]
) -> dict[str, float]:
    """Return every queue's fair share of GPUs, recursively down the tree.

    Args:
        tree: The queues.
        total: GPUs of the site.
        wanted: GPUs each leaf holds and asks for.
        past: Faded use of each leaf over what the site could give in the time remembered; takes weight off queues that
            had more than their part among their siblings.
    """
    asked = {name: _below(tree, name, wanted) for name in tree.specs}
    used = {name: _below(tree, name, past) for name in tree.specs}
    shares: dict[str, float] = {}
    pending: list[tuple[str | None, float]] = [(None, total)]
    while pending:
        parent, amount = pending.pop()
        part = divide(amount, _claimants(tree, tree.children.get(parent, []), asked, used))
        shares.update(part)
        pending.extend(part.items())
    return shares


def _below(tree: QueueTree, name: str, leaves: Mapping[str, float]) -> float:
    children = tree.children.get(name, [])
    return sum(_below(tree, child, leaves) for child in children) if children else leaves.get(name, 0.0)


def _claimants(
    tree: QueueTree, names: Sequence[str], asked: Mapping[str, float], used: Mapping[str, float]
) -> list[Claimant]:
    """Return the siblings; the weight of one that used more than its part shrinks by the excess, to nearly nothing."""
    weights = sum(tree.specs[name].weight for name in names) or 1.0
    total = sum(used[name] for name in names)
    claimants = []
    for name in names:
        spec = tree.specs[name]
        part = spec.weight / weights
        excess = max(0.0, used[name] - part * total)
        weight = max(part - excess, part * EPSILON)
        claimants.append(Claimant(name, spec.quota.gpus, asked[name], spec.limit.gpus, weight, spec.priority))
    return claimants


@dataclass(slots=True)
class Usage:
    """GPU hours and kilowatt hours by queue; what was used half_life_s ago counts half."""

    half_life_s: float = 7 * 86_400.0
    at_s: float = 0.0
    gpu_hours: dict[str, float] = field(default_factory=dict)
    kwh: dict[str, float] = field(default_factory=dict)

    def advance(self, now_s: float, gpus: Mapping[str, float], watts: Mapping[str, float]) -> None:
        """Fade what was, then add what the queues held since the last call."""
        hours = max(0.0, now_s - self.at_s) / 3600.0
        fade = 0.5 ** (hours * 3600.0 / self.half_life_s)
        for table, held, unit in ((self.gpu_hours, gpus, 1.0), (self.kwh, watts, 1e-3)):
            for name in table:
                table[name] *= fade
            for name, amount in held.items():
                table[name] = table.get(name, 0.0) + amount * unit * hours
        self.at_s = max(self.at_s, now_s)

    def past(self, gpus: float, watts: float) -> dict[str, float]:
        """Return each queue's use over what a site of these GPUs and watts gives in the time remembered, 0..1.

        GPU hours or kWh, whichever is more. A short history counts for little.
        """
        remembered_h = self.half_life_s / math.log(2) / 3600.0
        result: dict[str, float] = {}
        for table, capacity in ((self.gpu_hours, gpus), (self.kwh, watts * 1e-3)):
            for name, value in table.items() if capacity > EPSILON else ():
                result[name] = max(result.get(name, 0.0), value / (capacity * remembered_h))
        return result
