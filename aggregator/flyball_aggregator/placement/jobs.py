"""What a job asks: one recursive gang type, its power, its limits and how much it minds being disturbed."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from flyball_aggregator.placement.errors import RequestError
from flyball_aggregator.placement.fleet import WHOLE


@dataclass(frozen=True, slots=True)
class Member:
    """What one member takes on one host.

    gpu_milli and gpu_memory_mib are requested of each GPU; the limits say how far a fraction may burst.
    A fraction asked by memory alone has gpu_milli 0 and gets the share of the smallest allowed model.
    """

    gpus: int = 1
    gpu_milli: int = WHOLE
    cpu_milli: int = 0
    memory_mib: int = 0
    gpu_memory_mib: int = 0
    gpu_milli_limit: int | None = None
    gpu_memory_limit_mib: int | None = None
    models: tuple[str, ...] = ()
    is_single_numa: bool = False

    def __post_init__(self) -> None:
        if self.gpus > 1 and self.gpu_milli != WHOLE:
            raise RequestError(f"{self.gpus} GPUs of {self.gpu_milli} milli: expected whole GPUs, or one fraction")
        if self.gpus < 0 or not 0 <= self.gpu_milli <= WHOLE:
            raise RequestError(f"{self.gpus} GPUs of {self.gpu_milli} milli: expected 0..{WHOLE} milli of each")
        limit = self.gpu_milli_limit
        if limit is not None and not self.gpu_milli <= limit <= WHOLE:
            raise RequestError(f"burst to {limit} milli: expected {self.gpu_milli}..{WHOLE}")


@dataclass(frozen=True, slots=True)
class Draw:
    """Board watts of each GPU of a member: predicted, the floor it may be capped to, and what a cap costs.

    At a cap c below pred_w the job is slower by (pred_w / c) ** slowdown_exponent; max_slowdown is its objective.
    """

    pred_w: float
    floor_w: float
    slowdown_exponent: float = 1.0
    max_slowdown: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.floor_w <= self.pred_w or self.max_slowdown < 1 or self.slowdown_exponent <= 0:
            raise RequestError(f"draw {self}: expected 0 < floor_w <= pred_w, max_slowdown >= 1, exponent > 0")

    @property
    def least_w(self) -> float:
        """Lowest cap the objective allows."""
        return float(max(self.floor_w, self.pred_w * self.max_slowdown ** (-1 / self.slowdown_exponent)))


@dataclass(frozen=True, slots=True)
class Wish:
    """Where members may stand: required and preferred levels by name, siblings to be near, a level to spread over.

    segment: every so many members share one domain of the required level.
    """

    required: str | None = None
    preferred: str | None = None
    near: str | None = None
    spread: str | None = None
    segment: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """A gang: either a role (member x count, min..max replicas) or named children that start together."""

    name: str
    member: Member | None = None
    count: int = 1
    least: int = 1
    most: int = 1
    children: tuple["Group", ...] = ()
    after: tuple[str, ...] = ()
    topology: Wish = Wish()
    draw: Draw | None = None

    def __post_init__(self) -> None:
        if (self.member is None) == (not self.children):
            raise RequestError(f"group {self.name!r}: expected a member or children, and not both")
        if self.count < 1 or not 0 <= self.least <= self.most:
            raise RequestError(f"group {self.name!r}: expected count >= 1 and 0 <= least <= most")
        start_order(self)

    @property
    def asked(self) -> Member:
        """The member of a role.

        Raises:
            RequestError: the group has children instead.
        """
        if self.member is None:
            raise RequestError(f"group {self.name!r} has children: expected a role")
        return self.member

    @property
    def least_gpu_milli(self) -> int:
        """GPU milli of the guaranteed members."""
        return sum(role.least * role.count * role.asked.gpus * role.asked.gpu_milli for role in self.roles())

    def roles(self) -> Iterator["Group"]:
        """Yield the leaves, in the order written."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.roles()


@dataclass(frozen=True, slots=True)
class Job:
    """One unit of work as the engine sees it; times are seconds on the engine's clock."""

    id: str
    queue: str
    gang: Group
    priority: int = 50
    tenant: str = ""
    is_preemptible: bool = True
    is_movable: bool = False
    min_runtime_s: float = 0.0
    max_runtime_s: float = inf
    max_queued_s: float = inf
    idle_limit_s: float = inf
    preemption_delay_s: float = 0.0
    broken_grace_s: float = 14_400.0  # 4 h, as Grove's termination delay
    checkpoint_every_s: float = inf
    restart_s: float = 60.0
    reuse: str | None = None
    is_exclusive: bool = False

    @property
    def least_gpu_milli(self) -> int:
        """GPU milli of the guaranteed members."""
        return self.gang.least_gpu_milli

    @property
    def is_elastic(self) -> bool:
        """Return True where a role may have more members than guaranteed."""
        return any(role.most > role.least for role in self.gang.roles())

    @property
    def signature(self) -> tuple[object, ...]:
        """What makes two pending jobs equally hopeless."""
        return (self.queue, self.gang, self.priority, self.is_preemptible, self.max_runtime_s, self.tenant)


def start_order(group: Group) -> list[list[str]]:
    """Return the children in waves: each wave may start when the one before it is ready.

    Raises:
        RequestError: a child waits for an unknown sibling, or the waits form a circle.
    """
    waiting = {child.name: set(child.after) for child in group.children}
    for name, needs in waiting.items():
        if needs - set(waiting):
            raise RequestError(f"group {name!r} starts after {sorted(needs - set(waiting))}: expected siblings")
    waves: list[list[str]] = []
    started: set[str] = set()
    while waiting:
        wave = [name for name, needs in waiting.items() if needs <= started]
        if not wave:
            raise RequestError(f"groups {sorted(waiting)} wait for each other: expected an order without a circle")
        waves.append(wave)
        started.update(wave)
        waiting = {name: needs for name, needs in waiting.items() if name not in started}
    return waves


def single(job_id: str, queue: str, member: Member, *, draw: Draw | None = None, count: int = 1) -> Job:
    """Return a job of one role; the everyday case."""
    return Job(job_id, queue, Group("main", member=member, count=count, draw=draw))
