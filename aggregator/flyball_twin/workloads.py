"""What the boards are asked to do: the greedy load, and a request trace replayed on replicas, as demand per GPU."""

import csv
import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flyball_twin.plant import HOST_OWN_W_PER_GPU, HOST_OWN_W_PER_GPU_W, Boards, Demand
from flyball_twin.power_curves import Floats

GPUS_PER_REPLICA = 4  # a 70B model on 4 H100 (tensor parallel), as in the measured tables
PREFILL_TOKENS_PER_S = 10_000.0  # H100 70B TP4: 4,096 tokens in 466 ms, 2,048 in 201 ms (Splitwise)
DECODE_STEP_S = 0.0254  # time between tokens of one sequence at 96 sequences, H100 70B TP4 (ML.ENERGY)
DECODE_BATCH = 96
DECODE_RATIO = 0.75  # decode at that batch: 525 of 700 W (ML.ENERGY)
PREFILL_SHARE_MAX = 0.8  # a replica keeps a fifth of its time for decoding (prototype)
DRAIN_S = 1.0  # waiting work is asked for at the rate that would clear it in this time


class TraceError(ValueError):
    """A trace cannot be read; the message names file, line and what was expected."""


class Workload(Protocol):
    """Says what each GPU is asked for, and hears how fast it was done."""

    def demand(self, elapsed_s: float, is_running: NDArray[np.bool_]) -> Demand:
        """Return the demand at `elapsed_s` after the load's start; GPUs that are not running are idle."""

    def serve(self, elapsed_s: float, step_s: float, compute_speed: Floats, decode_speed: Floats) -> None:
        """Take off what was done in a step: relative speeds, (gpus,)."""


class Greedy:
    """Every GPU wants its peak power, always."""

    def __init__(self, boards: Boards) -> None:
        """Build for a fleet."""
        self._boards = boards

    def demand(self, elapsed_s: float, is_running: NDArray[np.bool_]) -> Demand:
        """Return full compute on the running GPUs."""
        del elapsed_s
        peak = self._boards.peak_w
        return Demand(is_running.astype(np.float64), np.zeros(len(peak)), peak, peak, is_running)

    def serve(self, elapsed_s: float, step_s: float, compute_speed: Floats, decode_speed: Floats) -> None:
        """Do nothing: there is always more."""


@dataclass(frozen=True, slots=True)
class Requests:
    """A request list: arrival (s from the first row), prompt and generated tokens; arrays (requests,)."""

    at_s: Floats
    context_tokens: Floats
    generated_tokens: Floats


def read_requests(path: str | Path) -> Requests:
    """Read a request list: columns TIMESTAMP (or t_s), ContextTokens, GeneratedTokens; times must not fall.

    Raises:
        TraceError: no such file, other columns, a value that is not a number or time, no rows.
    """
    try:
        with Path(path).open(newline="") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from error
    if not rows or len(rows[0]) != 3 or rows[0][0] not in {"TIMESTAMP", "t_s"}:
        raise TraceError(f"{path}: line 1: expected the columns TIMESTAMP (or t_s), ContextTokens, GeneratedTokens")
    if len(rows) < 2:
        raise TraceError(f"{path}: line 2: expected at least one request")
    table = np.array([_parse_request(path, line, row) for line, row in enumerate(rows[1:], start=2)])
    table[:, 0] -= table[0, 0]
    if (np.diff(table[:, 0]) < 0.0).any():
        line = int(np.argmax(np.diff(table[:, 0]) < 0.0)) + 3
        raise TraceError(f"{path}: line {line}: is earlier than the line before; expected times that do not fall")
    return Requests(table[:, 0], table[:, 1], table[:, 2])


def _parse_request(path: str | Path, line: int, row: list[str]) -> tuple[float, float, float]:
    try:
        stamp, context, generated = row
        at_s = float(stamp) if _is_number(stamp) else datetime.datetime.fromisoformat(stamp[:26]).timestamp()
        values = (at_s, float(context), float(generated))
    except ValueError:
        raise TraceError(f"{path}: line {line}: expected a time and two token counts, got {','.join(row)!r}") from None
    if not np.isfinite(values).all() or values[1] < 0.0 or values[2] < 0.0:
        raise TraceError(f"{path}: line {line}: expected finite counts of at least 0, got {','.join(row)!r}")
    return values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class TraceReplay:
    """A request trace on replicas of four GPUs: fluid queues of prefill and decode work, scaled by one factor.

    Work that a capped GPU could not do waits and is asked for later. The trace starts again after its last row.

    Attributes:
        factor: Multiplies the trace's work. prefill_s, decode_s: (replicas,) waiting work in full-speed seconds.
    """

    def __init__(self, boards: Boards, requests: Requests, *, seed: int, factor: float) -> None:
        """Spread the requests over the replicas; use `scale_trace` to find the factor."""
        self._boards = boards
        self.replica_of = _replicas(boards)
        self.count = int(self.replica_of[-1]) + 1
        self.factor = factor
        prefill, decode = work_by_second(requests)
        shares = _shares(prefill + decode, self.count, seed)
        self._prefill, self._decode = prefill[:, None] * shares, decode[:, None] * shares
        self._replica_sizes = np.bincount(self.replica_of)
        self.reset()

    def reset(self) -> None:
        """Forget waiting work."""
        self.prefill_s, self.decode_s = np.zeros(self.count), np.zeros(self.count)
        self._asked = (np.zeros(self.count), np.zeros(self.count))

    def asked(self, elapsed_s: float) -> tuple[Floats, Floats]:
        """Return the shares of time each replica wants for prefill and decode now: (replicas,), together at most 1."""
        second = int(elapsed_s) % len(self._prefill)
        prefill = np.minimum(self.factor * self._prefill[second] + self.prefill_s / DRAIN_S, PREFILL_SHARE_MAX)
        decode = np.minimum(self.factor * self._decode[second] + self.decode_s / DRAIN_S, 1.0 - prefill)
        return prefill, decode

    def demand(self, elapsed_s: float, is_running: NDArray[np.bool_]) -> Demand:
        """Return the demand of each GPU; a replica's GPUs work in step."""
        self._asked = self.asked(elapsed_s)
        prefill, decode = (share[self.replica_of] * is_running for share in self._asked)
        peak = self._boards.peak_w
        return Demand(prefill, decode, peak, DECODE_RATIO * peak, is_running)

    def serve(self, elapsed_s: float, step_s: float, compute_speed: Floats, decode_speed: Floats) -> None:
        """Take off what was done; a replica is as fast as its slowest GPU."""
        starts = np.concatenate(([0], np.cumsum(self._replica_sizes)[:-1]))
        compute = np.minimum.reduceat(compute_speed, starts)
        decode = np.minimum.reduceat(decode_speed, starts)
        second = int(elapsed_s) % len(self._prefill)
        arrived = (self.factor * self._prefill[second], self.factor * self._decode[second])
        asked = self._asked
        self.prefill_s = np.maximum(0.0, self.prefill_s + (arrived[0] - asked[0] * compute) * step_s)
        self.decode_s = np.maximum(0.0, self.decode_s + (arrived[1] - asked[1] * decode) * step_s)


def scale_trace(boards: Boards, requests: Requests, *, seed: int, mean_site_w: float, window_s: int) -> TraceReplay:
    """Return a replay scaled by one factor so that the uncapped fleet draws `mean_site_w` on average over the window.

    Args:
        boards: The fleet.
        requests: The trace.
        seed: Of the spread over replicas.
        mean_site_w: Wall watts of the whole site.
        window_s: Seconds from the first row over which the mean is taken.

    Raises:
        TraceError: the fleet idles above that mean, or cannot draw it even when every replica is busy.
    """
    replay = TraceReplay(boards, requests, seed=seed, factor=1.0)
    low, high = 0.0, 1.0
    idle_w = _mean_site_w(replay, boards, 0.0, 1)
    if mean_site_w < idle_w:
        raise TraceError(f"demand of {mean_site_w:.0f} W: below the {idle_w:.0f} W that the idle fleet draws")
    while (most_w := _mean_site_w(replay, boards, high, window_s)) < mean_site_w:
        low, high = high, high * 2.0
        if high > 1e6:
            raise TraceError(f"demand of {mean_site_w:.0f} W: this trace brings the fleet to {most_w:.0f} W at most")
    for _ in range(20):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _mean_site_w(replay, boards, middle, window_s) < mean_site_w else (low, middle)
    replay.factor = (low + high) / 2.0
    replay.reset()
    return replay


def _mean_site_w(replay: TraceReplay, boards: Boards, factor: float, window_s: int) -> float:
    """Return the mean wall power of the site without caps, stepping the queues second by second."""
    replay.factor = factor
    replay.reset()
    full = np.ones(len(boards.peak_w))
    running = np.ones(len(boards.peak_w), bool)
    total_w = 0.0
    for second in range(window_s):
        demand = replay.demand(float(second), running)
        replay.serve(float(second), 1.0, full, full)
        rest = 1.0 - demand.compute - demand.decode
        total_w += float(
            (demand.compute * boards.peak_w + demand.decode * demand.decode_w + rest * boards.context_idle_w).sum()
        )
    return (1.0 + HOST_OWN_W_PER_GPU_W) * total_w / window_s + HOST_OWN_W_PER_GPU * len(boards.peak_w)


def work_by_second(requests: Requests) -> tuple[Floats, Floats]:
    """Return the prefill and decode work arriving in each second, (seconds,), in full-speed replica seconds.

    Decode work arrives spread over the time a sequence takes to be generated.
    """
    seconds = int(requests.at_s[-1]) + 1
    arrival = requests.at_s.astype(np.int64)
    prefill = np.bincount(arrival, requests.context_tokens / PREFILL_TOKENS_PER_S, seconds)
    length = np.maximum(1, np.ceil(requests.generated_tokens * DECODE_STEP_S)).astype(np.int64)
    rate = requests.generated_tokens * DECODE_STEP_S / DECODE_BATCH / length
    change = np.bincount(arrival, rate, seconds + 1)[: seconds + 1]
    change -= np.bincount(np.minimum(arrival + length, seconds), rate, seconds + 1)[: seconds + 1]
    return np.asarray(prefill, np.float64), np.maximum(0.0, np.cumsum(change)[:seconds], dtype=np.float64)


def _replicas(boards: Boards) -> NDArray[np.int64]:
    """Return the replica of each GPU: groups of four inside a host, the last one smaller where it does not divide."""
    numbers, next_number = [], 0
    for count in boards.gpus_per_host.tolist():
        numbers.append(next_number + np.arange(count) // GPUS_PER_REPLICA)
        next_number = int(numbers[-1][-1]) + 1
    return np.concatenate(numbers)


def _shares(work: Floats, replicas: int, seed: int) -> Floats:
    """Return each replica's share of each second's work, (seconds, replicas): random, steadier where more arrives."""
    random = np.random.Generator(np.random.PCG64(seed))
    # A busy replica serves a few requests a second: the spread of a Poisson count of about ten over the mean second.
    per_replica = 10.0 * work / max(float(work.mean()), 1e-9)
    draws = random.gamma(np.maximum(per_replica, 1.0)[:, None], size=(len(work), replicas))
    return np.asarray(draws / draws.sum(axis=1, keepdims=True))
