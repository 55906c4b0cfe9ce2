"""Work that serving and training engines count, read from their Prometheus pages or a plain counter file.

Only counters that can be named are read; what an engine does not count is unknown, never zero.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

WorkKind = Literal["generated_tokens", "prompt_tokens", "steps"]
MAX_PAGE_BYTES: Final = 4 << 20
# What each counter counts. vLLM, SGLang, TensorRT-LLM (trtllm-serve), NVIDIA Dynamo, TGI, and a plain training counter.
COUNTERS: Final[Mapping[str, WorkKind]] = {
    "vllm:generation_tokens_total": "generated_tokens",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "sglang:generation_tokens_total": "generated_tokens",
    "sglang:prompt_tokens_total": "prompt_tokens",
    "trtllm_generation_tokens_total": "generated_tokens",
    "trtllm_prompt_tokens_total": "prompt_tokens",
    "dynamo_frontend_output_sequence_tokens_sum": "generated_tokens",
    "dynamo_frontend_input_sequence_tokens_sum": "prompt_tokens",
    "tgi_request_generated_tokens_sum": "generated_tokens",
    "tgi_request_input_length_sum": "prompt_tokens",
    "training_steps_total": "steps",
    "training_tokens_total": "generated_tokens",
}
_SAMPLE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{[^}]*\})?\s+([0-9.eE+-]+)(?:\s+-?[0-9]+)?\s*")


@dataclass(frozen=True, slots=True)
class WorkDone:
    """Work and the energy of the GPUs that did it, between two readings.

    Attributes:
        amounts: Units done, by kind; a kind that nobody counts is not there.
        energy_j: Joules of those GPUs; None when any of them is unknown.
        seconds: Between the readings.
    """

    amounts: Mapping[WorkKind, float]
    energy_j: float | None
    seconds: float

    def per_joule(self, kind: WorkKind) -> float | None:
        """Return units of work per joule; None when work or energy is unknown, or there was no energy."""
        amount = self.amounts.get(kind)
        return None if amount is None or not self.energy_j else amount / self.energy_j

    def per_second_and_megawatt(self, kind: WorkKind) -> float | None:
        """Return units a second for each megawatt: what a site's limit turns into."""
        per_joule = self.per_joule(kind)
        return None if per_joule is None else per_joule * 1e6

    def cost_per_million(
        self, kind: WorkKind, price_per_kwh: float, price_per_gpu_hour: float, gpus: int
    ) -> float | None:
        """Return the cost of a million units in the prices' currency; None where work or energy is unknown."""
        amount = self.amounts.get(kind)
        if not amount or self.energy_j is None:
            return None
        cost = self.energy_j / 3.6e6 * price_per_kwh + gpus * self.seconds / 3600.0 * price_per_gpu_hour
        return cost / amount * 1e6


def parse_counters(page: str) -> dict[WorkKind, float]:
    """Return the sums of the counters that are known, over all their labels; other lines are passed over."""
    found: dict[WorkKind, float] = {}
    for line in page[:MAX_PAGE_BYTES].splitlines():
        sample = _SAMPLE.fullmatch(line)
        kind = COUNTERS.get(sample[1]) if sample else None
        if sample is None or kind is None:
            continue
        try:
            value = float(sample[2])
        except ValueError:
            continue
        found[kind] = found.get(kind, 0.0) + value
    return found


def work_between(
    before: Mapping[WorkKind, float], after: Mapping[WorkKind, float], energy_j: float | None, seconds: float
) -> WorkDone:
    """Return what was done between two pages; a counter that began anew (a restart) counts from zero."""
    amounts: dict[WorkKind, float] = {}
    for kind, value in after.items():
        earlier = before.get(kind)
        if earlier is not None:
            amounts[kind] = value - earlier if value >= earlier else value
    return WorkDone(amounts, energy_j, seconds)
