"""Hierarchical queues: what each may take, in GPUs and in watts, and whose turn it is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from flyball_aggregator.placement.errors import RequestError


@dataclass(frozen=True, slots=True)
class Amount:
    """GPU milli and milliwatts, both whole numbers so that sums come back to zero."""

    milli: int = 0
    milliwatts: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.milli + other.milli, self.milliwatts + other.milliwatts)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.milli - other.milli, self.milliwatts - other.milliwatts)


@dataclass(frozen=True, slots=True)
class Bound:
    """One figure for GPUs and one for watts; inf is no bound."""

    gpus: float = inf
    watts: float = inf

    def covers(self, amount: Amount) -> bool:
        """Return True where the amount is within both figures."""
        return amount.milli <= self.gpus * 1000 and amount.milliwatts <= self.watts * 1000


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue: quota is deserved, limit never passed; weight divides what is left over, priority orders it."""

    name: str
    parent: str | None = None
    quota: Bound = Bound(0.0, inf)
    limit: Bound = Bound()
    weight: float = 1.0
    priority: int = 0
    min_runtime_s: float = 0.0
    preemption_delay_s: float = 0.0


@dataclass(slots=True)
class QueueTree:
    """Queues with what they hold; only leaves take jobs, every ancestor is charged."""

    specs: dict[str, QueueSpec]
    held: dict[str, Amount]
    firm: dict[str, Amount]
    children: dict[str | None, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, specs: Sequence[QueueSpec]) -> "QueueTree":
        """Return an empty tree.

        Raises:
            RequestError: a name repeats, a parent is missing, parents form a circle, or children deserve more GPUs
                than their parent.
        """
        by_name = {spec.name: spec for spec in specs}
        if len(by_name) != len(specs):
            raise RequestError("queue names repeat: expected each once")
        children: dict[str | None, list[str]] = {}
        for spec in specs:
            if spec.parent is not None and spec.parent not in by_name:
                raise RequestError(f"queue {spec.name!r}: parent {spec.parent!r} is unknown")
            children.setdefault(spec.parent, []).append(spec.name)
        tree = cls(by_name, dict.fromkeys(by_name, Amount()), dict.fromkeys(by_name, Amount()), children)
        for spec in specs:
            tree._check(spec)
        return tree

    def path(self, name: str) -> Iterator[QueueSpec]:
        """Yield the queue and its ancestors.

        Raises:
            RequestError: the queue is unknown.
        """
        if name not in self.specs:
            raise RequestError(f"queue {name!r} is unknown: expected one of {sorted(self.specs)}")
        at: str | None = name
        while at is not None:
            yield self.specs[at]
            at = self.specs[at].parent

    def refusal(self, name: str, amount: Amount, *, is_firm: bool) -> str | None:
        """Return the first queue whose limit (or, for firm jobs, quota) the amount would pass, as `queue: why`.

        A firm job is not preemptible: it may only take what its queues deserve, or it could never be made to give
        borrowed GPUs back.
        """
        for spec in self.path(name):
            if not spec.limit.covers(self.held[spec.name] + amount):
                return f"{spec.name}: limit"
            if is_firm and not spec.quota.covers(self.firm[spec.name] + amount):
                return f"{spec.name}: quota of jobs that cannot be preempted"
        return None

    def take(self, name: str, amount: Amount, *, is_firm: bool) -> None:
        """Charge the queue and its ancestors."""
        for spec in self.path(name):
            self.held[spec.name] += amount
            if is_firm:
                self.firm[spec.name] += amount

    def give(self, name: str, amount: Amount, *, is_firm: bool) -> None:
        """Take a charge back."""
        for spec in self.path(name):
            self.held[spec.name] -= amount
            if is_firm:
                self.firm[spec.name] -= amount

    def is_leaf(self, name: str) -> bool:
        """Return True where the queue takes jobs itself."""
        return not self.children.get(name)

    def leaves(self) -> list[str]:
        """Return the queues that take jobs."""
        return [name for name in self.specs if self.is_leaf(name)]

    def _check(self, spec: QueueSpec) -> None:
        seen = {spec.name}
        at = spec.parent
        while at is not None:
            if at in seen:
                raise RequestError(f"queue {spec.name!r}: its parents form a circle")
            seen.add(at)
            at = self.specs[at].parent
        deserved = sum(self.specs[child].quota.gpus for child in self.children.get(spec.name, ()))
        if deserved > spec.quota.gpus + 1e-9:
            raise RequestError(f"queue {spec.name!r}: children deserve {deserved} GPUs, itself {spec.quota.gpus}")


def dominant_share(amount: Amount, total: Mapping[str, float]) -> float:
    """Return the larger of the GPU and the watt share of the site; 0 where the site has none of either."""
    gpus = amount.milli / (total["gpus"] * 1000) if total.get("gpus") else 0.0
    watts = amount.milliwatts / (total["watts"] * 1000) if total.get("watts") else 0.0
    return max(gpus, watts)
