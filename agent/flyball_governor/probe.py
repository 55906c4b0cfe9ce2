"""Find out how often each field of each GPU really changes and what a read costs: `flyball-governor probe`.

Runs in its own process, beside a governor or without one: here a driver call that hangs holds up nobody else.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from flyball_fast.nvml import Nvml
from flyball_fast.nvml_records import FAST_FIELDS, RARE_FIELDS, SECOND_FIELDS, FieldReading
from flyball_governor.config import SamplingConfig

POLL_HZ: Final = 200.0  # twice the finest refresh of any field known (10 ms, V100)
PROBE_S: Final = 2.0
READS_PER_CHANGE: Final = 2.0  # sampling twice per refresh sees every value
SECOND_HZ: Final = 1.0
RARE_HZ: Final = 0.1


@dataclass(slots=True)
class FieldProbe:
    """What reads of one field of one GPU have shown so far."""

    name: str
    number: int
    most_hz: float
    code: int | None = None
    latencies_us: list[int] = field(default_factory=list)
    changes_s: list[float] = field(default_factory=list)
    _last: int | None = None

    def take(self, now_s: float, reading: FieldReading) -> None:
        """Take in one read."""
        self.code = reading.code
        if reading.value is None:
            return
        self.latencies_us.append(reading.latency_us)
        if self._last is not None and reading.value != self._last:
            self.changes_s.append(now_s)
        self._last = reading.value

    @property
    def refresh_s(self) -> float | None:
        """Median time between changes; None when fewer than three were seen, as for a counter that stands still."""
        if len(self.changes_s) < 3:
            return None
        return median(after - before for before, after in zip(self.changes_s, self.changes_s[1:], strict=False))

    @property
    def latency_us(self) -> float | None:
        """Median of what the driver says a read took."""
        return float(median(self.latencies_us)) if self.latencies_us else None

    def rate_hz(self, lock_budget_ratio: float) -> float | None:
        """Return the rate worth sampling at: asked for, twice the refresh at most, and inside the lock budget."""
        if not self.latencies_us:
            return None
        rates = [self.most_hz]
        if self.refresh_s:
            rates.append(READS_PER_CHANGE / self.refresh_s)
        if self.latency_us:
            rates.append(lock_budget_ratio * 1e6 / self.latency_us)
        return min(rates)


def probe_fields(
    nvml: Nvml,
    gpu: int,
    sampling: SamplingConfig,
    *,
    seconds: float = PROBE_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[FieldProbe]:
    """Read the fast fields of one GPU over and over, the slow ones once; return what was seen of each."""
    fast = [FieldProbe(name, number, sampling.rate_hz) for name, number in FAST_FIELDS.items()]
    slow = [FieldProbe(name, number, SECOND_HZ) for name, number in SECOND_FIELDS.items()]
    slow += [FieldProbe(name, number, RARE_HZ) for name, number in RARE_FIELDS.items()]
    _read(nvml, gpu, slow, clock())
    end_s = clock() + seconds
    while clock() < end_s:
        _read(nvml, gpu, fast, clock())
        sleep(1.0 / POLL_HZ)
    return fast + slow


def _read(nvml: Nvml, gpu: int, probes: list[FieldProbe], now_s: float) -> None:
    readings = nvml.read_fields(gpu, [probe.number for probe in probes])
    for probe, reading in zip(probes, readings, strict=True):
        probe.take(now_s, reading)


def probe_record(probes: Iterable[FieldProbe], lock_budget_ratio: float) -> list[dict[str, object]]:
    """Return one plain record per field, None for what is unknown."""
    return [
        {
            "field": probe.name,
            "number": probe.number,
            "is_supported": bool(probe.latencies_us),
            "code": probe.code,
            "refresh_s": probe.refresh_s,
            "latency_us": probe.latency_us,
            "rate_hz": probe.rate_hz(lock_budget_ratio),
        }
        for probe in probes
    ]


def probe_all(library: str | None, sampling: SamplingConfig) -> dict[str, Any]:
    """Return the record of every GPU of this host, with driver and library versions.

    Raises:
        DeviceError: no library, no driver, or a GPU that does not answer.
    """
    nvml = Nvml(library)
    nvml.open()
    try:
        gpus = []
        for gpu in range(nvml.gpu_count):
            known = nvml.describe(gpu)
            fields = probe_record(probe_fields(nvml, gpu, sampling), sampling.lock_budget_ratio)
            gpus.append({"gpu": gpu, "uuid": known.uuid, "name": known.name, "fields": fields})
        return {"driver": nvml.driver_version(), "nvml": nvml.library_version(), "gpus": gpus}
    finally:
        nvml.close()


def probe_lines(record: dict[str, Any]) -> Iterator[str]:
    """Yield the record as a table for people; "-" is unknown."""
    yield f"driver {record['driver'] or '-'}, NVML {record['nvml'] or '-'}"
    for gpu in record["gpus"]:
        yield f"gpu {gpu['gpu']} {gpu['name']} {gpu['uuid']}"
        for row in gpu["fields"]:
            if not row["is_supported"]:
                yield f"  {row['field']:24} not supported (code {row['code']})"
                continue
            cells = (
                ("refresh", row["refresh_s"], "s"),
                ("read", row["latency_us"], "us"),
                ("rate", row["rate_hz"], "Hz"),
            )
            shown = (f"{name} {'-' if value is None else format(value, '.3g')} {unit}" for name, value, unit in cells)
            yield f"  {row['field']:24} " + "  ".join(shown)
