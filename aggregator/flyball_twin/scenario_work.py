"""The work of a scenario as demand per GPU: replicas with queues, training in step, greedy and idle hosts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flyball_twin.load_shape import every_second, noisy, read_trace, sample_trace
from flyball_twin.plant import Boards, Demand
from flyball_twin.power_curves import Floats
from flyball_twin.scenario import WorkPart
from flyball_twin.serving import PREFILL_SHARE_MAX, QUEUE_MAX_S, LogHistogram
from flyball_twin.serving_plants import H100, TOKEN_MIXES

COMMUNICATION_SHARE = 0.15  # of a training step (assumption inside 10-20 %)
COMMUNICATION_RATIO = 0.6  # of peak power meanwhile (assumption inside 45-75 %)
REPLICA_GPUS = 4
FULL_RATE = 4.3  # requests/s of chat tokens that keep a four-GPU H100 replica busy at its highest sensible load


@dataclass(slots=True)
class _Training:
    gpus: NDArray[np.int64]
    phase_s: Floats  # (gpus,) where in its step each GPU's job is
    period_s: Floats
    checkpoint_at_s: Floats  # (gpus,)
    part: WorkPart

    def fill(self, second: int, demand: Demand) -> None:
        """Set the share of communication and of checkpoints in this second."""
        part = self.part
        elapsed = self._communicating(second + 1.0) - self._communicating(float(second))
        demand.decode[self.gpus] = elapsed
        demand.compute[self.gpus] = 1.0 - elapsed
        if part.checkpoint_every_s > 0.0:
            is_saving = (second + self.checkpoint_at_s) % part.checkpoint_every_s < part.checkpoint_s
            demand.compute[self.gpus[is_saving]] = 0.0
            demand.decode[self.gpus[is_saving]] = 0.0

    def _communicating(self, at_s: float) -> Floats:
        """Return the seconds of communication until a time: the last part of every step."""
        whole, rest = np.divmod(at_s + self.phase_s, self.period_s)
        length = COMMUNICATION_SHARE * self.period_s
        return np.asarray(whole * length + np.maximum(0.0, rest - (self.period_s - length)))


class _Serving:
    """Replicas of four GPUs: prefill first, decode in the rest; queues wait for a slowed GPU."""

    def __init__(self, gpus: NDArray[np.int64], rate: Floats, seed: int) -> None:
        self.gpus, self.rate = gpus, rate
        replicas = max(1, len(gpus) // REPLICA_GPUS)
        self.replica_of = np.minimum(np.arange(len(gpus)) // REPLICA_GPUS, replicas - 1)
        self.starts = np.searchsorted(self.replica_of, np.arange(replicas))
        self.random = np.random.default_rng(seed)
        self.queue_tokens, self.in_flight = np.zeros(replicas), np.zeros(replicas)
        self.share = np.zeros(replicas)
        self.speed = np.ones(replicas)
        self.first_s, self.whole_s = LogHistogram(), LogHistogram()
        self.requests = 0.0

    def fill(self, second: int, demand: Demand, boards: Boards) -> None:
        """Let requests arrive and set the shares of the phases."""
        mix, tokens_per_s = TOKEN_MIXES["chat"], H100.prefill_tokens_per_s * self.speed
        wait_s = self.queue_tokens / tokens_per_s
        weight = np.exp(-(wait_s - wait_s.min()) / 0.3)
        mean = self.rate[second % len(self.rate)] * len(weight)
        arrivals = self.random.multinomial(self.random.poisson(mean), weight / weight.sum()).astype(np.float64)
        self.queue_tokens = np.minimum(
            self.queue_tokens + arrivals * mix.prompt_tokens, QUEUE_MAX_S * H100.prefill_tokens_per_s
        )
        room = np.maximum(0.0, H100.batch_max - self.in_flight) * mix.prompt_tokens
        self.share = np.minimum(np.minimum(self.queue_tokens, room) / tokens_per_s, PREFILL_SHARE_MAX)
        busy = np.where(self.in_flight > 0.3, 1.0 - self.share, 0.0)
        ratio = np.interp(self.in_flight, H100.batch, H100.batch_w) / H100.board_w
        demand.compute[self.gpus] = self.share[self.replica_of]
        demand.decode[self.gpus] = busy[self.replica_of]
        demand.decode_w[self.gpus] = ratio[self.replica_of] * boards.peak_w[self.gpus]
        self.arrivals = arrivals

    def serve(self, compute_speed: Floats, decode_speed: Floats) -> None:
        """Take off what was done; a replica is as fast as its slowest GPU."""
        mix = TOKEN_MIXES["chat"]
        self.speed = np.maximum(np.minimum.reduceat(compute_speed[self.gpus], self.starts), 0.02)
        decode = np.maximum(np.minimum.reduceat(decode_speed[self.gpus], self.starts), 0.02)
        done = np.minimum(self.share * H100.prefill_tokens_per_s * self.speed, self.queue_tokens)
        self.queue_tokens -= done
        between_s = np.interp(self.in_flight, H100.batch, H100.batch_ms) / 1e3 / decode
        tokens = self.in_flight * (1.0 - self.share) / between_s
        finished = np.minimum(tokens / mix.generated_tokens, self.in_flight)
        self.in_flight = np.maximum(0.0, self.in_flight + done / mix.prompt_tokens - finished)
        rate = H100.prefill_tokens_per_s * self.speed
        first = self.queue_tokens / (rate * PREFILL_SHARE_MAX) + mix.prompt_tokens / rate
        self.first_s.add(first, self.arrivals)
        self.whole_s.add(first + mix.generated_tokens * between_s / np.maximum(1.0 - self.share, 0.2), self.arrivals)
        self.requests += float(finished.sum())


class ScenarioWork:
    """All parts laid over the fleet; hosts after the last part are idle."""

    def __init__(self, boards: Boards, parts: Sequence[WorkPart], folder: Path, seconds: int, seed: int) -> None:
        """Spread the parts."""
        self._boards = boards
        count = len(boards.peak_w)
        self._demand = Demand(
            np.zeros(count), np.zeros(count), boards.peak_w, COMMUNICATION_RATIO * boards.peak_w, np.zeros(count, bool)
        )
        self._training: list[_Training] = []
        self.serving: list[_Serving] = []
        first = 0
        random = np.random.default_rng(seed)
        edges = np.append(boards.host_starts, count)
        for number, part in enumerate(parts):
            gpus = np.arange(edges[first], edges[first + part.hosts])
            self._add(part, gpus, first, folder, seconds, random, seed + 17 * number)
            first += part.hosts

    def _add(  # noqa: PLR0917
        self,
        part: WorkPart,
        gpus: NDArray[np.int64],
        first: int,
        folder: Path,
        seconds: int,
        random: np.random.Generator,
        seed: int,
    ) -> None:
        self._demand.is_resident[gpus] = part.kind != "idle"
        if part.kind == "greedy":
            self._demand.compute[gpus] = part.load
        elif part.kind == "training":
            job = (self._boards.host_of[gpus] - first) // part.job_hosts
            jobs = int(job.max()) + 1
            period = part.step_s * random.uniform(0.9, 1.1, jobs)
            self._training.append(
                _Training(
                    gpus,
                    (random.random(jobs) * period)[job],
                    period[job],
                    (random.random(jobs) * max(part.checkpoint_every_s, 1.0))[job],
                    part,
                )
            )
        elif part.kind == "serving":
            self.serving.append(_Serving(gpus, _rate(part, folder, seconds, seed), seed))

    def demand(self, second: int) -> Demand:
        """Return what each GPU is asked for in this second; the same object each time."""
        for job in self._training:
            job.fill(second, self._demand)
        for part in self.serving:
            part.fill(second, self._demand, self._boards)
        return self._demand

    def serve(self, compute_speed: Floats, decode_speed: Floats) -> None:
        """Hear how fast it was done, (gpus,)."""
        for part in self.serving:
            part.serve(compute_speed, decode_speed)


def _rate(part: WorkPart, folder: Path, seconds: int, seed: int) -> Floats:
    """Return requests/s of a replica at each second: the trace's shape from its busiest stretch, around the load."""
    trace = sample_trace() if part.trace is None else read_trace(folder / part.trace)
    rate = every_second(trace)
    if len(rate) < seconds:
        rate = np.resize(rate, seconds)
    sums = np.cumsum(np.concatenate(([0.0], rate)))
    start = int(np.argmax(sums[seconds:] - sums[:-seconds])) if len(rate) > seconds else 0
    shape = rate[start : start + seconds]
    return noisy(shape / shape.mean(), seed) * part.load * FULL_RATE
