"""Replicas that serve language-model requests under power caps and locked clocks: fluid queues, one second a step.

Each replica prefills first and decodes in the time that is left. Requests go to the replicas with the shortest wait.
Left out: the length of single requests (all have the mean), batching delays, the network, anything below one second.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flyball_twin.power_curves import Floats
from flyball_twin.serving_plants import ServingPlant, TokenMix

PREFILL_SHARE_MAX = 0.80  # of a second; the engine keeps the rest for decoding
ROUTING_S = 0.3  # how sharply the router prefers the shortest wait (assumption)
QUEUE_MAX_S = 60.0  # of prefill work; beyond, requests are refused
SEED_OF_ARRIVALS = 1000


@dataclass(slots=True)
class Served:
    """One second of all replicas, each (replicas,)."""

    board_w: Floats  # mean watts of each of its boards
    tokens: Floats
    arrivals: Floats
    first_token_s: Floats
    between_tokens_s: Floats
    prefill_share: Floats


@dataclass(slots=True)
class Setting:
    """What the replicas' boards are held to: caps and the switching power left at locked clocks, each (replicas,)."""

    cap_w: Floats
    dynamic_ratio: Floats  # 1 = clocks not locked

    @classmethod
    def uniform(cls, replicas: int, cap_w: float, dynamic_ratio: float = 1.0) -> "Setting":
        """Return the same for all."""
        return cls(np.full(replicas, cap_w), np.full(replicas, dynamic_ratio))


class ServingFleet:
    """Queues and power of all replicas.

    Attributes:
        queue_tokens: (replicas,) prompt tokens waiting. in_flight: (replicas,) sequences being decoded.
        device_ratio: (replicas,) each replica's power against the mean.
    """

    def __init__(
        self, plant: ServingPlant, mix: TokenMix, replicas: int, seed: int, spread_ratio: float = 0.025
    ) -> None:
        """Start empty. `spread_ratio`: sigma of device power (1.1 % within a host, 2.5 % across a fleet)."""
        self.plant, self.mix, self.replicas = plant, mix, replicas
        self.random = np.random.default_rng(seed)
        self.queue_tokens, self.in_flight = np.zeros(replicas), np.zeros(replicas)
        self.device_ratio = 1.0 + spread_ratio * self.random.standard_normal(replicas)

    def prefill_power_w(self, setting: Setting) -> Floats:
        """Return the watts of a board in prefill."""
        plant = self.plant
        return np.minimum(plant.idle_w + (plant.prefill_w - plant.idle_w) * setting.dynamic_ratio, setting.cap_w)

    def full_decode_w(self) -> Floats:
        """Return the watts of a board in decode without caps and locks."""
        return np.asarray(np.interp(self.in_flight, self.plant.batch, self.plant.batch_w))

    def decode_power_w(self, setting: Setting, full_w: Floats) -> Floats:
        """Return the watts of a board in decode."""
        idle_w = self.plant.idle_w
        return np.minimum(idle_w + (full_w - idle_w) * setting.dynamic_ratio, setting.cap_w)

    def step(self, requests_per_s: float, setting: Setting) -> Served:
        """Serve one second."""
        plant, mix = self.plant, self.mix
        prefill_w = self.prefill_power_w(setting)
        rate = plant.prefill_tokens_per_s * plant.curves.compute_speed(prefill_w / plant.prefill_w)
        arrivals = self._arrive(requests_per_s, rate)
        self.queue_tokens = np.minimum(
            self.queue_tokens + arrivals * mix.prompt_tokens, QUEUE_MAX_S * plant.prefill_tokens_per_s
        )
        room = np.maximum(0.0, plant.batch_max - self.in_flight) * mix.prompt_tokens
        share = np.minimum(np.minimum(self.queue_tokens, room) / rate, PREFILL_SHARE_MAX)
        done = share * rate
        self.queue_tokens -= done
        full_w = self.full_decode_w()
        decode_w = self.decode_power_w(setting, full_w)
        between_s = self._between_tokens_s(decode_w, full_w)
        decoding = np.where(self.in_flight > 0.3, 1.0 - share, 0.0)
        tokens = self.in_flight * decoding / between_s
        finished = np.minimum(tokens / mix.generated_tokens, self.in_flight)
        self.in_flight = np.maximum(0.0, self.in_flight + done / mix.prompt_tokens - finished)
        board_w = (
            share * prefill_w + decoding * decode_w + (1.0 - share - decoding) * plant.idle_w
        ) * self.device_ratio
        first_s = self.queue_tokens / (rate * PREFILL_SHARE_MAX) + mix.prompt_tokens / rate
        return Served(board_w, tokens, arrivals, first_s, between_s / np.maximum(1.0 - share, 0.2), share)

    def expected_w(self, requests_per_s: float) -> Callable[[float], float]:
        """Return the watts of all boards in a second with the expected arrivals (what an oracle knows), by one cap."""
        plant = self.plant
        waiting = self.queue_tokens + requests_per_s / self.replicas * self.mix.prompt_tokens
        is_decoding, full_w = self.in_flight > 0.3, self.full_decode_w()

        def at_cap(cap_w: float) -> float:
            prefill_w = min(plant.prefill_w, cap_w)
            speed = np.interp(prefill_w / plant.prefill_w, plant.curves.power_ratio, plant.curves.compute)
            share = np.minimum(waiting / (plant.prefill_tokens_per_s * speed), PREFILL_SHARE_MAX)
            rest_w = np.where(is_decoding, np.minimum(full_w, cap_w), plant.idle_w)
            board_w = rest_w + share * (prefill_w - rest_w)
            return float(np.dot(board_w, self.device_ratio)) * plant.boards_per_replica

        return at_cap

    def _arrive(self, requests_per_s: float, rate: Floats) -> Floats:
        wait_s = self.queue_tokens / rate
        weight = np.exp(-(wait_s - wait_s.min()) / ROUTING_S)
        weight /= weight.sum()
        return self.random.multinomial(self.random.poisson(requests_per_s), weight).astype(np.float64)

    def _between_tokens_s(self, decode_w: Floats, full_w: Floats) -> Floats:
        speed = self.plant.curves.decode_speed(decode_w / full_w)
        return np.asarray(np.interp(self.in_flight, self.plant.batch, self.plant.batch_ms) / 1e3 / speed)


class LogHistogram:
    """Counts of positive values in bins of 0.3 %, for quantiles over millions of values in little memory."""

    LOW, RATIO, BINS = 1e-3, 1.003, 6000

    def __init__(self) -> None:
        """Start empty."""
        self.counts = np.zeros(self.BINS)
        self._waiting: list[tuple[Floats, Floats]] = []

    def add(self, values: Floats, weights: Floats) -> None:
        """Count values (n,) with weights (n,); both are kept until counted."""
        self._waiting.append((values, weights))
        if len(self._waiting) >= 100:
            self._count()

    def _count(self) -> None:
        if not self._waiting:
            return
        values = np.concatenate([item[0] for item in self._waiting])
        weights = np.concatenate([item[1] for item in self._waiting])
        self._waiting = []
        at = np.log(np.maximum(values, self.LOW) / self.LOW) / math.log(self.RATIO)
        self.counts += np.bincount(np.minimum(at.astype(np.int64), self.BINS - 1), weights, self.BINS)

    def quantile(self, share: float) -> float:
        """Return the value below which this share lies, interpolated inside its bin; 0 when empty."""
        self._count()
        total = self.counts.cumsum()
        if total[-1] == 0.0:
            return 0.0
        wanted = share * total[-1]
        at = int(np.searchsorted(total, wanted))
        before = total[at - 1] if at else 0.0
        inside = (wanted - before) / max(self.counts[at], 1e-12)
        return float(self.LOW * self.RATIO ** (at + inside))
