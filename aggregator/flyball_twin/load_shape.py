"""Request rates over time from a trace: a rate series or a list of requests, its busiest hour, and the noise on it."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flyball_twin.power_curves import Floats
from flyball_twin.sample_load import SAMPLE_RATES_PER_MIN, SAMPLE_STEP_S
from flyball_twin.workloads import TraceError, read_requests

HOUR_S = 3600
DAY_S = 86_400
NOISES = ((60.0, 0.04), (8.0, 0.05))  # correlation time (s) and sigma of the load's noise (assumption)


@dataclass(frozen=True, slots=True)
class LoadTrace:
    """Rates at times (n,), rising seconds and requests per second; mean tokens where the trace has them."""

    name: str
    at_s: Floats
    rate: Floats
    prompt_tokens: float | None = None
    generated_tokens: float | None = None

    @property
    def step_s(self) -> float:
        """Return the usual distance of two rates."""
        return float(np.median(np.diff(self.at_s)))


def sample_trace() -> LoadTrace:
    """Return the shipped weekday (Azure 2024, conversation)."""
    rates = np.array(SAMPLE_RATES_PER_MIN) / 60.0
    return LoadTrace("weekday of Azure 2024 (sample)", np.arange(len(rates), dtype=np.float64) * SAMPLE_STEP_S, rates)


def read_trace(path: Path) -> LoadTrace:
    """Read a request list (TIMESTAMP or t_s, ContextTokens, GeneratedTokens) or a rate series (t_s, requests a minute).

    Raises:
        TraceError: naming file, line and what was expected.
    """
    try:
        with path.open(newline="") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if row]
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise TraceError(f"{path}: line 1: expected text of comma-separated columns") from None
    body = [(number, row) for number, row in lines if not row[0].startswith("#")]
    if not body:
        raise TraceError(f"{path}: line 1: expected a header and at least two rows")
    if len(body[0][1]) == 3 and body[0][1][1] == "ContextTokens":
        return _from_requests(path)
    return _from_rates(path, body)


def _from_requests(path: Path) -> LoadTrace:
    requests = read_requests(path)
    seconds = int(requests.at_s[-1]) + 1
    if seconds < 120:
        raise TraceError(f"{path}: spans {seconds} s, expected at least 120 s of requests")
    counts = np.bincount(requests.at_s.astype(np.int64), minlength=seconds).astype(np.float64)
    width = min(60, seconds)  # a list of a few requests a second says little about shorter times
    smooth = np.convolve(np.pad(counts, width // 2, mode="edge"), np.ones(width) / width, "valid")[:seconds]
    return LoadTrace(
        path.name,
        np.arange(seconds, dtype=np.float64),
        smooth,
        float(requests.context_tokens.mean()),
        float(requests.generated_tokens.mean()),
    )


def _from_rates(path: Path, body: list[tuple[int, list[str]]]) -> LoadTrace:
    line, header = body[0]
    if header[0].strip() != "t_s" or len(header) < 2:
        raise TraceError(f"{path}: line {line}: expected the columns t_s, req_per_min..., got {','.join(header)!r}")
    per_s = 1.0 if "per_s" in header[1] else 1.0 / 60.0
    table = np.array([_parse_rate(path, number, row) for number, row in body[1:]])
    if len(table) < 2:
        raise TraceError(f"{path}: line {line + 1}: expected at least two rows")
    falls = np.diff(table[:, 0]) <= 0.0
    if falls.any():
        number = body[int(np.argmax(falls)) + 2][0]
        raise TraceError(f"{path}: line {number}: is not later than the line before; expected times that rise")
    return LoadTrace(path.name, table[:, 0], table[:, 1] * per_s)


def _parse_rate(path: Path, number: int, row: list[str]) -> tuple[float, float]:
    try:
        at_s, rate = float(row[0]), float(row[1])
    except (ValueError, IndexError):
        raise TraceError(f"{path}: line {number}: expected a time and a rate, got {','.join(row)!r}") from None
    if not np.isfinite([at_s, rate]).all() or rate < 0.0:
        raise TraceError(
            f"{path}: line {number}: expected a finite time and a rate of at least 0, got {','.join(row)!r}"
        )
    return at_s, rate


def busiest_hour(trace: LoadTrace, seconds: int, warm_s: int) -> Floats:
    """Return the rate each second, mean 1 over the busiest stretch, with `warm_s` seconds of lead-in before it.

    Args:
        trace: May start at any time; where it is shorter, its ends are held.
        seconds: Length of the busiest stretch (an hour in the published figures).
        warm_s: Seconds to fill the queues, not measured.
    """
    rate = every_second(trace)
    if len(rate) < seconds:
        rate = np.pad(rate, (0, seconds - len(rate)), mode="edge")
    sums = np.cumsum(np.concatenate(([0.0], rate)))
    start = int(np.argmax(sums[seconds:] - sums[:-seconds]))
    padded = np.pad(rate, (warm_s, 0), mode="edge")
    part = padded[start : start + warm_s + seconds]
    mean = part[warm_s:].mean()
    if mean <= 0.0:
        raise TraceError(f"{trace.name}: its busiest hour has no requests")
    return np.asarray(part / mean)


def every_second(trace: LoadTrace) -> Floats:
    """Return the rate at every second from first to last, steps of a coarse series smoothed over two of them."""
    times = np.arange(trace.at_s[0], trace.at_s[-1])
    rate = np.interp(times, trace.at_s, trace.rate)
    width = min(2 * int(trace.step_s) + 1, len(rate))
    if width < 5:
        return np.asarray(rate)
    width -= 1 - width % 2
    return np.asarray(np.convolve(np.pad(rate, width // 2, mode="edge"), np.ones(width) / width, "valid"))


def noisy(shape: Floats, seed: int) -> Floats:
    """Return a shape with slow and fast noise on it, never below a twentieth."""
    random = np.random.default_rng(seed)
    total = np.ones(len(shape))
    for correlation_s, sigma in NOISES:
        total += _autoregressive(random, len(shape), correlation_s, sigma)
    return np.maximum(0.05, shape * total)


def _autoregressive(random: np.random.Generator, count: int, correlation_s: float, sigma: float) -> Floats:
    keep = float(np.exp(-1.0 / correlation_s))
    pushes = (random.standard_normal(count) * sigma * np.sqrt(1.0 - keep * keep)).tolist()
    value = float(random.standard_normal()) * sigma
    values = []
    for push in pushes:
        value = keep * value + push
        values.append(value)
    return np.array(values)
