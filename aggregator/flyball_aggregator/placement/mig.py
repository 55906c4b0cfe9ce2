"""Plan MIG instances on one GPU: where a profile fits, and which empty instances must go to make it fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from flyball_aggregator.placement.errors import RequestError

SLICES = 8  # memory slices of an A100, H100 or H200


@dataclass(frozen=True, slots=True)
class Profile:
    """Memory slices an instance takes, the slices it may start at, and its compute sevenths."""

    size: int
    starts: tuple[int, ...]
    compute: int


# Source: NVIDIA MIG user guide, placements of the seven-slice boards. Names without memory: 80 GB boards write 1g.10gb.
PROFILES = {
    "1g": Profile(1, (0, 1, 2, 3, 4, 5, 6), 1),
    "1g+": Profile(2, (0, 2, 4, 6), 1),
    "2g": Profile(2, (0, 2, 4), 2),
    "3g": Profile(4, (0, 4), 3),
    "4g": Profile(4, (0,), 4),
    "7g": Profile(8, (0,), 7),
}
COMPUTE = 7


@dataclass(frozen=True, slots=True)
class Instance:
    """A profile at its first slice, in use or empty."""

    profile: str
    start: int
    is_used: bool = False

    @property
    def span(self) -> range:
        """Memory slices it covers."""
        return range(self.start, self.start + PROFILES[self.profile].size)


@dataclass(frozen=True, slots=True)
class MigPlan:
    """What to destroy and what to create; nothing of either where an empty instance of the profile exists."""

    destroy: tuple[Instance, ...]
    create: Instance | None
    use: Instance

    @property
    def cost(self) -> int:
        """Instances destroyed and created: each takes the driver about a second, and never touches one in use."""
        return len(self.destroy) + (self.create is not None)


def plan_profile(present: Sequence[Instance], profile: str) -> MigPlan | None:
    """Return the cheapest way to an instance of the profile, None where instances in use leave no room.

    Among equal costs the one that leaves the largest profile possible afterwards wins, then the highest start: low
    starts are the only ones large profiles accept.

    Raises:
        RequestError: the profile is unknown.
    """
    if profile not in PROFILES:
        raise RequestError(f"MIG profile {profile!r} is unknown: expected one of {', '.join(PROFILES)}")
    ready = [part for part in present if part.profile == profile and not part.is_used]
    if ready:
        return MigPlan((), None, max(ready, key=lambda part: part.start))
    plans = [plan for start in PROFILES[profile].starts if (plan := _at(present, profile, start)) is not None]
    return min(plans, key=lambda plan: (plan.cost, -_largest_left(present, plan), -plan.use.start), default=None)


def fits(instances: Sequence[Instance]) -> bool:
    """Return True where the instances overlap nowhere and stay within the compute slices."""
    covered = [number for part in instances for number in part.span]
    compute = sum(PROFILES[part.profile].compute for part in instances)
    return len(set(covered)) == len(covered) and max(covered, default=0) < SLICES and compute <= COMPUTE


def _at(present: Sequence[Instance], profile: str, start: int) -> MigPlan | None:
    """Return the plan with the fewest empty instances destroyed that puts the profile at `start`."""
    wanted = Instance(profile, start)
    empty = [part for part in present if not part.is_used]
    for number in range(len(empty) + 1):
        for gone in combinations(empty, number):
            if fits([part for part in present if part not in gone] + [wanted]):
                return MigPlan(gone, wanted, wanted)
    return None


def _largest_left(present: Sequence[Instance], plan: MigPlan) -> int:
    after = [part for part in present if part.is_used] + [plan.use]
    sizes = [
        shape.compute for name, shape in PROFILES.items() for at in shape.starts if fits([*after, Instance(name, at)])
    ]
    return max(sizes, default=0)
