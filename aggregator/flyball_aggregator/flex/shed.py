"""Share a shed over jobs so that the weighted loss is the least: each gives watts where a watt costs it the least.

Speed against power is taken as its concave hull, so taking the cheapest watts first is exact: no other shares lose
less. No job goes below its floor while any other has watts to give; when floors do not fit, the lowest tier gives its
floor up first, and that is said. Pure: numbers in, numbers out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

TINY_W = 1e-6
Hull = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class ShedClass:
    """One job, or all that may be treated alike.

    Attributes:
        count: GPUs. weight: What a loss of its speed counts. tier: 0 is the most important.
        floor: Least speed promised, 0..1. keep: Speed kept while others still have watts above their floors and keeps;
            None: the floor. points: (watts of a GPU, relative speed), measured.
        pause_w: Watts of a GPU while paused; None where it cannot be paused.
    """

    name: str
    count: int
    weight: float
    tier: int
    floor: float
    points: tuple[tuple[float, float], ...]
    pause_w: float | None = None
    keep: float | None = None

    def __post_init__(self) -> None:
        """Refuse a job that nothing can be said of.

        Raises:
            ValueError: naming the job and the mistake.
        """
        if self.count < 1 or self.weight <= 0.0 or not 0.0 <= self.floor <= 1.0:
            raise ValueError(f"job {self.name!r}: expected a count of 1 or more, a weight above 0, a floor of 0 to 1")
        if len(self.points) < 2 or len({watts for watts, _ in self.points}) < len(self.points):
            raise ValueError(f"job {self.name!r}: expected two or more points of different power")

    @property
    def full_w(self) -> float:
        """Watts of all its GPUs at full speed."""
        return self.count * max(watts for watts, _ in self.points)


@dataclass(frozen=True, slots=True)
class ShedShare:
    """What a job gets: watts of one GPU and the speed it keeps there."""

    name: str
    gpu_w: float
    speed: float
    is_below_floor: bool


@dataclass(frozen=True, slots=True)
class ShedPlan:
    """The shares in the order of the jobs, their total, and whether it is inside the target."""

    shares: tuple[ShedShare, ...]
    total_w: float
    is_met: bool
    price_per_w: float  # weighted speed that the last watt cost; equal for all that could still give


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of a job's hull on which a watt costs the same."""

    job: int
    price: float  # weighted speed lost per watt of the whole job
    watts: float  # of the whole job
    stage: int  # 0 free to give, 1 below what is kept, 2 below the floor
    tier: int


def concave_hull(points: Sequence[tuple[float, float]]) -> Hull:
    """Return the upper hull of (watts, speed), from the least watts to the most, without falling stretches."""
    hull: list[tuple[float, float]] = []
    best: dict[float, float] = {}
    for watts, speed in points:
        best[watts] = max(speed, best.get(watts, speed))
    for point in sorted(best.items()):
        while len(hull) >= 2 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], point) + 1e-15:
            hull.pop()
        if not hull or point[1] > hull[-1][1]:
            hull.append(point)
    return tuple(hull)


def plan_shed(classes: Sequence[ShedClass], target_w: float) -> ShedPlan:
    """Return the shares with the least weighted loss whose total is at most the target, where that can be met."""
    hulls, pieces = _prepare(tuple(classes))
    total_w = sum(item.count * hull[-1][0] for item, hull in zip(classes, hulls, strict=True))
    given_w = [0.0] * len(classes)
    price = 0.0
    for piece in pieces:
        need_w = total_w - target_w
        if need_w <= TINY_W:
            break
        taken_w = min(need_w, piece.watts)
        given_w[piece.job] += taken_w
        total_w -= taken_w
        price = piece.price
    shares = tuple(_share(item, hull, given) for item, hull, given in zip(classes, hulls, given_w, strict=True))
    return ShedPlan(shares, total_w, total_w <= target_w + TINY_W, price)


def least_power_w(classes: Sequence[ShedClass]) -> float:
    """Return what is drawn when every job stands at its floor: the least that may be offered to the grid."""
    return sum(item.count * _power_at(concave_hull(_with_pause(item)), item.floor) for item in classes)


def speed_at(item: ShedClass, gpu_w: float) -> float:
    """Return the speed of a job at watts of a GPU, on its hull."""
    return _speed_at(concave_hull(_with_pause(item)), gpu_w)


@lru_cache(maxsize=64)
def _prepare(classes: tuple[ShedClass, ...]) -> tuple[tuple[Hull, ...], tuple[_Piece, ...]]:
    """Return the hulls, and all pieces in the order in which they are given up."""
    hulls = tuple(concave_hull(_with_pause(item)) for item in classes)
    pieces = [piece for job, item in enumerate(classes) for piece in _pieces(job, item, hulls[job])]
    return hulls, tuple(sorted(pieces, key=_order))


def _order(piece: _Piece) -> tuple[int, int, float, int]:
    """Free watts go by price alone; floors are broken from the lowest tier up."""
    return piece.stage, -piece.tier if piece.stage else 0, piece.price, piece.job


def _with_pause(item: ShedClass) -> list[tuple[float, float]]:
    points = list(item.points)
    if item.pause_w is not None and item.pause_w < min(watts for watts, _ in points):
        points.append((item.pause_w, 0.0))
    return points


def _pieces(job: int, item: ShedClass, hull: Hull) -> list[_Piece]:
    """Cut each stretch of a hull where its speed falls below what is kept and below the floor."""
    floor_w = _power_at(hull, item.floor)
    keep_w = max(floor_w, _power_at(hull, item.floor if item.keep is None else item.keep))
    bands = ((0, keep_w, float("inf")), (1, floor_w, keep_w), (2, 0.0, floor_w))
    pieces = []
    for low, high in pairwise(hull):
        price = item.weight * _slope(low, high) / item.count
        for stage, least_w, most_w in bands:
            watts = min(high[0], most_w) - max(low[0], least_w)
            if watts > 0.0:
                pieces.append(_Piece(job, price, watts * item.count, stage, item.tier))
    return pieces


def _share(item: ShedClass, hull: Hull, given_w: float) -> ShedShare:
    gpu_w = hull[-1][0] - given_w / item.count
    speed = _speed_at(hull, gpu_w)
    return ShedShare(item.name, gpu_w, speed, is_below_floor=speed < item.floor - 1e-9)


def _slope(low: tuple[float, float], high: tuple[float, float]) -> float:
    return (high[1] - low[1]) / (high[0] - low[0])


def _power_at(hull: Hull, speed: float) -> float:
    if speed <= hull[0][1]:
        return hull[0][0]
    for low, high in pairwise(hull):
        if speed <= high[1]:
            return low[0] + (speed - low[1]) / _slope(low, high)
    return hull[-1][0]


def _speed_at(hull: Hull, gpu_w: float) -> float:
    if gpu_w <= hull[0][0]:
        return hull[0][1]
    for low, high in pairwise(hull):
        if gpu_w <= high[0]:
            return low[1] + _slope(low, high) * (gpu_w - low[0])
    return hull[-1][1]
