"""How often each field of each GPU really changes and what reading it costs; from that, the rate worth reading it at.

A sensor that refreshes ten times a second tells nothing more when it is asked a hundred times. Reading runs in the
calling process, so this is for a one-shot command, never for the governor's parent.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from flyball_fast.errors import DeviceError
from flyball_fast.nvml_records import FAST_FIELDS, POWER_AVERAGE, RARE_FIELDS, SECOND_FIELDS, FieldReading, SweepPlan

READ_EVERY_S = (
    0.002  # half of the quickest refresh known (10 ms on GH200 [rec]) is 5 ms; finer costs more than it tells
)
READS_PER_REFRESH = 2.0  # a change is seen at most half a refresh late
ENOUGH_CHANGES = 3
FIELDS = {**FAST_FIELDS, "power_average_mw": POWER_AVERAGE, **SECOND_FIELDS, **RARE_FIELDS}


class FieldReader(Protocol):
    """What is asked for fields; `flyball_fast.nvml.Nvml` is one."""

    @property
    def gpu_count(self) -> int:
        """GPUs found."""
        ...

    def read_fields(self, gpu: int, fields: Sequence[int]) -> list[FieldReading]:
        """Read these fields in one call."""
        ...


@dataclass(frozen=True, slots=True)
class FieldProbe:
    """What was found of one field of one GPU.

    Attributes:
        refresh_s: Median time between changes; None when it changed too seldom to tell.
        latency_us: Mean cost of a read by the driver's own account; by the clock, where it tells none.
        rate_hz: Worth reading at, within the budget; None where it is not supported.
    """

    gpu: int
    name: str
    field: int
    is_supported: bool
    code: int
    refresh_s: float | None = None
    latency_us: float | None = None
    rate_hz: float | None = None


def choose_rate_hz(requested_hz: float, refresh_s: float | None, latency_us: float, lock_ratio: float) -> float:
    """Return the rate to read at: no more than asked, than twice the refresh, and than the budget pays.

    Args:
        requested_hz: The plan's rate of the field's tier.
        refresh_s: Between two changes; None when unknown, then it limits nothing.
        latency_us: Of one read on all GPUs together.
        lock_ratio: Share of time that may be spent in the driver.
    """
    bounds = [requested_hz]
    if refresh_s:
        bounds.append(READS_PER_REFRESH / refresh_s)
    if latency_us > 0:
        bounds.append(lock_ratio / (latency_us / 1e6))
    return min(bounds)


def probe(
    reader: FieldReader,
    *,
    seconds: float,
    plan: SweepPlan,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> list[FieldProbe]:
    """Read every field of every GPU for a while, each as fast as is useful, and judge what came.

    Raises:
        ValueError: seconds not above 0.
    """
    if not seconds > 0:
        raise ValueError(f"probe of {seconds} s, expected above 0")
    return [
        _probe_field(reader, (gpu, name), seconds / len(FIELDS), plan, clock, sleep)
        for gpu in range(reader.gpu_count)
        for name in FIELDS
    ]


def as_records(found: Sequence[FieldProbe]) -> list[dict[str, object]]:
    """Return the findings as plain maps, for JSON."""
    return [asdict(one) for one in found]


def _probe_field(  # noqa: PLR0917 - the caller's keywords
    reader: FieldReader,
    which: tuple[int, str],
    seconds: float,
    plan: SweepPlan,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> FieldProbe:
    gpu, name = which
    began = clock()
    changes: list[float] = []
    costs: list[float] = []
    last: int | None = None
    while clock() - began < seconds:
        before = clock()
        try:
            reading = reader.read_fields(gpu, [FIELDS[name]])[0]
        except DeviceError as error:
            return FieldProbe(gpu, name, FIELDS[name], is_supported=False, code=error.code or -1)
        if reading.code or reading.value is None:
            return FieldProbe(gpu, name, FIELDS[name], is_supported=False, code=reading.code)
        after = clock()
        costs.append(float(reading.latency_us) if reading.latency_us > 0 else (after - before) * 1e6)
        if last is not None and reading.value != last:
            changes.append(after)
        last = reading.value
        sleep(READ_EVERY_S)
    return _judged((gpu, name), _refresh(changes), statistics.fmean(costs), plan, reader.gpu_count)


def _refresh(changes: Sequence[float]) -> float | None:
    if len(changes) < ENOUGH_CHANGES:
        return None
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(changes))


def _judged(
    which: tuple[int, str], refresh_s: float | None, latency_us: float, plan: SweepPlan, gpus: int
) -> FieldProbe:
    gpu, name = which
    tier = 0 if name in FAST_FIELDS else 1 if name == "power_average_mw" else 2 if name in SECOND_FIELDS else 3
    rate = choose_rate_hz(plan.rates_hz[tier], refresh_s, latency_us * gpus, plan.lock_budget_ratio)
    return FieldProbe(
        gpu,
        name,
        FIELDS[name],
        is_supported=True,
        code=0,
        refresh_s=refresh_s,
        latency_us=latency_us,
        rate_hz=rate,
    )
