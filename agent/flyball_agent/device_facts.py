"""Facts from what a device says about itself: its recovery action, its return codes, its counters and its absence.

Pure: samples in, facts out; the counters of the sample before and the debounced gauges are kept per entity. A value
that is `None` was not read, and says nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from flyball_agent.facts import NODE, Entity, Fact, Level
from flyball_agent.gauges import RULES, Gauge, GaugeRule
from flyball_agent.health_inputs import Progress

# NVML return codes that are faults (nvml.h, nvmlReturn_t): code -> (what, level, action, is it hard).
RETURN_CODES: Final[Mapping[int, tuple[str, Level, str, bool]]] = {
    8: ("insufficient_power", Level.SUSPECT, "support", False),
    14: ("corrupted_inforom", Level.SUSPECT, "support", False),
    15: ("lost", Level.QUARANTINED, "reboot_node", True),
    16: ("reset_required", Level.QUARANTINED, "reset_gpu", True),
}
# NVML field 230: recovery action -> (level, action).
RECOVERY: Final[Mapping[int, tuple[Level, str]]] = {
    0: (Level.NOTE, "none"),
    1: (Level.QUARANTINED, "reset_gpu"),
    2: (Level.QUARANTINED, "reboot_node"),
    3: (Level.SUSPECT, "drain_p2p"),
    4: (Level.QUARANTINED, "drain_and_reset"),
    5: (Level.SUSPECT, "recover_imex"),
}
THERMAL_REASONS: Final = 0x40  # hardware thermal slowdown (nvmlClocksEventReasons)
POWER_BRAKE_REASONS: Final = 0x80
SLOW_S: Final = 5.0  # no answer of the sampler: suspect
HUNG_S: Final = 15.0  # ... hung
# Replays per minute that count, by PCIe generation and for 16 lanes (DCGM's limits, scaled by lanes).
_REPLAYS_PER_LANE: Final = {1: 0.15, 2: 0.3, 3: 0.48, 4: 0.96, 5: 1.92, 6: 3.84}


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """One look at one GPU; None is unknown. Counters count since driver load."""

    at_s: float
    return_code: int | None = None
    recovery: int | None = None
    clock_reasons: int | None = None
    thermal_margin_celsius: float | None = None
    uncorrected_errors: int | None = None
    corrected_errors: int | None = None
    is_remap_pending: bool | None = None
    is_remap_failed: bool | None = None
    pcie_replays: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    pcie_generation: int | None = None
    utilisation_ratio: float | None = None
    nvlink_crc_errors: int | None = None
    nvlinks_up: int | None = None
    is_fabric_ready: bool | None = None
    speed_to_peers_ratio: float | None = None  # own step rate / median of the job's GPUs at equal cap


@dataclass(slots=True)
class DeviceFacts:
    """Turns the samples of a host into facts."""

    boot_id: str
    gpu_count: int | None = None  # last good inventory, persisted by the caller
    nvlinks: dict[Entity, int] = field(default_factory=dict)  # best count seen at each GPU
    _before: dict[Entity, DeviceSample] = field(default_factory=dict)
    _gauges: dict[tuple[Entity, str], Gauge] = field(default_factory=dict)
    _observed: set[Entity] = field(default_factory=set)
    _is_hung: str = ""

    def of_sample(self, entity: Entity, sample: DeviceSample) -> Iterator[Fact | Progress]:
        """Yield the facts of one GPU's sample, and once that it was seen whole."""
        before = self._before.get(entity)
        self._before[entity] = sample
        yield from self._of_driver(entity, sample)
        yield from self._of_memory(entity, sample, before)
        yield from self._of_gauges(entity, sample, before)
        is_whole = sample.recovery is not None and sample.clock_reasons is not None
        if is_whole and entity not in self._observed:
            self._observed.add(entity)
            yield Progress(sample.at_s, entity, "observed")

    def of_count(self, count: int | None, at_s: float) -> Iterator[Fact]:
        """Yield the facts of the number of GPUs that the driver shows."""
        if count is None:
            return
        if self.gpu_count is None or count > self.gpu_count:
            self.gpu_count = count
        yield from self.poll(NODE, "absence.gpu", float(count < self.gpu_count), at_s, f"{count} of {self.gpu_count}")

    def of_silence(self, silent_s: float, at_s: float) -> Iterator[Fact]:
        """Yield the facts of how long the sampler has not answered: slow, then hung, then over."""
        state = "driver.hung" if silent_s >= HUNG_S else "driver.slow" if silent_s >= SLOW_S else ""
        if state == self._is_hung:
            return
        ended, self._is_hung = self._is_hung, state
        text = f"no answer for {silent_s:.0f} s"
        if state:
            level, action = (Level.QUARANTINED, "reboot_node") if state == "driver.hung" else (Level.SUSPECT, "none")
            yield Fact(at_s, self.boot_id, "sampler", NODE, state, level, action, "hang", evidence=text)
        elif ended:
            for code in ("driver.slow", "driver.hung"):
                yield Fact(at_s, self.boot_id, "sampler", NODE, code, Level.NOTE, group="hang", is_over=True)

    def _of_driver(self, entity: Entity, sample: DeviceSample) -> Iterator[Fact]:
        fault = RETURN_CODES.get(sample.return_code or 0)
        if fault is not None:
            code, level, action, is_hard = fault
            yield self._fact(entity, sample.at_s, code, (level, action, "bus"), is_hard=is_hard)
        if sample.recovery is not None:
            level, action = RECOVERY.get(sample.recovery, (Level.SUSPECT, "triage"))
            is_hard = level >= Level.QUARANTINED
            told = self._fact(entity, sample.at_s, "recovery", (level, action, "driver"), is_hard=is_hard)
            yield replace(told, recovery=sample.recovery, is_over=sample.recovery == 0)

    def _of_memory(self, entity: Entity, sample: DeviceSample, before: DeviceSample | None) -> Iterator[Fact]:
        new = _delta(sample.uncorrected_errors, before.uncorrected_errors if before else None)
        if new:
            suspect = (Level.SUSPECT, "triage", "memory")
            yield self._fact(entity, sample.at_s, "ecc.uncorrected", suspect, f"{new} new")
        if sample.is_remap_failed:
            failed = (Level.QUARANTINED, "support", "memory")
            yield self._fact(entity, sample.at_s, "remap_failed", failed, is_hard=True)
        elif sample.is_remap_pending:
            yield self._fact(entity, sample.at_s, "remap_pending", (Level.DEGRADED, "reset_gpu_when_idle", "memory"))

    def _of_gauges(self, entity: Entity, sample: DeviceSample, before: DeviceSample | None) -> Iterator[Fact]:
        for code, value in self._values(entity, sample, before):
            yield from self.poll(entity, code, value, sample.at_s, f"{code} = {value}")

    def _values(
        self, entity: Entity, sample: DeviceSample, before: DeviceSample | None
    ) -> Iterator[tuple[str, float | None]]:
        reasons, margin, ready = sample.clock_reasons, sample.thermal_margin_celsius, sample.is_fabric_ready
        for name, mask in (("thermal", THERMAL_REASONS), ("power_brake", POWER_BRAKE_REASONS)):
            value = None if reasons is None else float(bool(reasons & mask))
            yield f"gauge.{name}_suspect", value
            yield f"gauge.{name}", value
        yield "gauge.no_thermal_margin", None if margin is None else float(margin <= 0)
        yield "gauge.pcie_narrow", _is_narrow(sample)
        yield "gauge.pcie_replays", _replays(sample, before)
        yield (
            "gauge.nvlink_crc",
            _rate(sample.nvlink_crc_errors, before.nvlink_crc_errors if before else None, sample, before),
        )
        per_s = _rate(sample.corrected_errors, before.corrected_errors if before else None, sample, before)
        yield "gauge.ecc_corrected", None if per_s is None else per_s * 3600.0
        yield "absence.nvlink", self._missing_links(entity, sample.nvlinks_up)
        yield "absence.fabric", None if ready is None else float(not ready)
        slow = sample.speed_to_peers_ratio
        yield "gauge.slower_than_peers", None if slow is None else float(slow < 0.9)

    def _missing_links(self, entity: Entity, up: int | None) -> float | None:
        """Compare with the best count of this very GPU, not with a table of models."""
        if up is None:
            return None
        self.nvlinks[entity] = max(up, self.nvlinks.get(entity, 0))
        return float(up < self.nvlinks[entity])

    def poll(self, entity: Entity, code: str, value: float | None, at_s: float, evidence: str) -> Iterator[Fact]:
        """Take one poll of a gauge or absence by its code (gauges.RULES); yield a fact when that changes anything."""
        rule: GaugeRule = RULES[code]
        gauge = self._gauges.setdefault((entity, code), Gauge(rule))
        changed = gauge.poll(value)
        if changed is None:
            return
        level = Level.DEGRADED if rule.is_degrading else Level.SUSPECT
        yield Fact(
            at_s,
            self.boot_id,
            "sampler",
            entity,
            code,
            level if changed else Level.NOTE,
            rule.action,
            rule.group,
            is_over=not changed,
            evidence=evidence,
        )

    def _fact(
        self,
        entity: Entity,
        at_s: float,
        code: str,
        policy: tuple[Level, str, str],
        evidence: str = "",
        *,
        is_hard: bool = False,
    ) -> Fact:
        level, action, group = policy
        return Fact(at_s, self.boot_id, "nvml", entity, code, level, action, group, is_hard=is_hard, evidence=evidence)


def _delta(now: int | None, before: int | None) -> int | None:
    """Return how much a counter rose; None where either is unknown, its whole value where it began anew."""
    if now is None or before is None:
        return None
    return now - before if now >= before else now


def _rate(now: int | None, last: int | None, sample: DeviceSample, before: DeviceSample | None) -> float | None:
    rise = _delta(now, last)
    if rise is None or before is None or sample.at_s <= before.at_s:
        return None
    return rise / (sample.at_s - before.at_s)


def _replays(sample: DeviceSample, before: DeviceSample | None) -> float | None:
    """Return replays over the limit of this link: 1 is at the limit."""
    per_s = _rate(sample.pcie_replays, before.pcie_replays if before else None, sample, before)
    if per_s is None or not sample.pcie_generation or not sample.pcie_width:
        return None
    limit = sample.pcie_width * _REPLAYS_PER_LANE.get(sample.pcie_generation, 3.84)
    return per_s * 60.0 / limit


def _is_narrow(sample: DeviceSample) -> float | None:
    """Tell whether a busy link is narrower than it could be; an idle link may rest."""
    if sample.pcie_width is None or sample.pcie_width_max is None or sample.utilisation_ratio is None:
        return None
    return float(sample.pcie_width < sample.pcie_width_max and sample.utilisation_ratio > 0.1)
