"""How much power each GPU wants: its recent peak, or the most it can have while its cap holds it back.

Demand rises at once and falls slowly, so that the swings of training (0.2 to 3 Hz) move no caps; the fast figure, of
the last tenths of a second, is for when another GPU goes short. Pure: samples and times come in as arguments.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from flyball_governor.split import Want, split

FAST_S: Final = 0.2  # two refreshes of the instant power field (100 ms on A100 and H100)
SLOW_S: Final = 5.0  # one period of the slowest training swing (0.2 Hz)
BITING_RATIO: Final = 0.05  # share of the time throttled by the power cap from which a GPU counts as held back
NEAR_CAP_RATIO: Final = 0.97  # without throttle counters: power this close to the cap counts as held back


@dataclass(frozen=True, slots=True)
class Sample:
    """One GPU since the last look; None is unknown.

    Attributes:
        peak_milliwatts: Largest instant power of the new rows.
        throttled_ratio: Share of the time in which the power cap was biting, 0..1.
    """

    peak_milliwatts: int | None = None
    throttled_ratio: float | None = None


@dataclass(slots=True)
class Highest:
    """The highest value of the last `span_s` seconds; each look costs the same, however long the span."""

    span_s: float
    _falling: deque[tuple[float, int]] = field(default_factory=deque)  # later ones are lower

    def add(self, now_s: float, value: int) -> None:
        """Take in a value."""
        while self._falling and self._falling[-1][1] <= value:
            self._falling.pop()
        self._falling.append((now_s, value))

    def at(self, now_s: float) -> int | None:
        """Return the highest; None when there was none in the span."""
        while self._falling and self._falling[0][0] < now_s - self.span_s:
            self._falling.popleft()
        return self._falling[0][1] if self._falling else None


@dataclass(slots=True)
class DemandMeter:
    """Demand of one GPU over the last seconds, in milliwatts; what is not known yet is None."""

    headroom_ratio: float
    maximum_milliwatts: int
    is_held_back: bool = False
    slow: int | None = None
    fast: int | None = None
    fast_peak: int | None = None  # largest power of the last tenths of a second
    _slow: Highest = field(default_factory=lambda: Highest(SLOW_S))
    _fast: Highest = field(default_factory=lambda: Highest(FAST_S))
    _peak: Highest = field(default_factory=lambda: Highest(FAST_S))

    def observe(self, now_s: float, sample: Sample, cap_milliwatts: int | None) -> None:
        """Take in what was sampled since the last call; without a power reading nothing is learnt."""
        self.is_held_back = _is_held_back(sample, cap_milliwatts)
        if sample.peak_milliwatts is not None:
            wanted = self.maximum_milliwatts
            if not self.is_held_back:
                wanted = min(int(sample.peak_milliwatts * (1 + self.headroom_ratio)), self.maximum_milliwatts)
            self._slow.add(now_s, wanted)
            self._fast.add(now_s, wanted)
            self._peak.add(now_s, sample.peak_milliwatts)
        self.slow, self.fast, self.fast_peak = self._slow.at(now_s), self._fast.at(now_s), self._peak.at(now_s)


def _is_held_back(sample: Sample, cap_milliwatts: int | None) -> bool:
    if sample.peak_milliwatts is None:
        return False
    if sample.throttled_ratio is not None:
        return sample.throttled_ratio >= BITING_RATIO
    if cap_milliwatts is None:
        return False
    return sample.peak_milliwatts >= NEAR_CAP_RATIO * cap_milliwatts


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU's own limits, in milliwatts."""

    minimum_milliwatts: int
    maximum_milliwatts: int


def target_caps(
    budget_milliwatts: int, devices: tuple[Device, ...], meters: tuple[DemandMeter, ...], *, by_demand: bool = True
) -> tuple[int, ...]:
    """Return each GPU's cap in milliwatts: by slow demand, and by fast demand where that leaves a GPU held back."""
    if not by_demand:
        return split(budget_milliwatts, _wants(devices, [None] * len(devices)))
    caps = split(budget_milliwatts, _wants(devices, [meter.slow for meter in meters]))
    is_short = any(
        meter.is_held_back and cap < device.maximum_milliwatts
        for meter, cap, device in zip(meters, caps, devices, strict=True)
    )
    if not is_short:
        return caps
    return split(budget_milliwatts, _wants(devices, [meter.fast for meter in meters]))


def keep_steady(
    caps: tuple[int | None, ...], targets: tuple[int, ...], budget_milliwatts: int, dead_bands: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the caps in force instead of targets that would raise none by its dead-band or more.

    Only raises are ever suppressed: above the budget, or with a cap unknown, the targets stand.
    """
    known = tuple(cap for cap in caps if cap is not None)
    if len(known) < len(caps) or sum(known) > budget_milliwatts:
        return targets
    if any(target - cap >= band for cap, target, band in zip(known, targets, dead_bands, strict=True)):
        return targets
    return known


def _wants(devices: tuple[Device, ...], demands: list[int | None]) -> list[Want]:
    return [
        Want(device.minimum_milliwatts, device.maximum_milliwatts, demand)
        for device, demand in zip(devices, demands, strict=True)
    ]
