"""One fleet with its scorer: asks for the best host of a request, takes and gives claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyball_aggregator.placement.fleet import Claim, Fleet
from flyball_aggregator.placement.trace import ExpectedKind
from flyball_fast.placement import Scorer

Floats = NDArray[np.float64]
UNKNOWN_WATTS = (60.0, 700.0)  # a board of an unknown model counts as the hungriest one sold (H100 SXM: 700 W)


@dataclass(frozen=True, slots=True)
class RowView:
    """Power rows over hosts, for the scan: rows and share are (hosts, columns), room_w (rows,), need_w (models,)."""

    rows: NDArray[np.int32]
    share: Floats
    room_w: Floats
    need_w: Floats


class Board:
    """The fleet, the scores of its hosts and the requests known so far.

    Args:
        fleet: Changed only through `take` and `give` of this board.
        kinds: Jobs the fleet should stay able to take.
        watts: Idle and busy watts of a GPU by model name.
        seed: Of the random policy.
    """

    def __init__(
        self,
        fleet: Fleet,
        kinds: Sequence[ExpectedKind],
        watts: Mapping[str, tuple[float, float]],
        *,
        seed: int = 0,
        quantum: float = 0.04,
    ) -> None:
        self.fleet = fleet
        self.idle_w = np.array([watts.get(model, UNKNOWN_WATTS)[0] for model in fleet.models])
        self.busy_w = np.array([watts.get(model, UNKNOWN_WATTS)[1] for model in fleet.models])
        self.everywhere = np.ones(len(fleet), np.uint8)
        self.no_penalty = np.zeros(len(fleet))
        self.no_rows = RowView(
            np.zeros((len(fleet), 0), np.int32), np.zeros((len(fleet), 0)), np.zeros(0), np.zeros(len(fleet.models))
        )
        self._requests: dict[tuple[object, ...], int] = {}
        self._shapes: list[tuple[int, int, int, int, int]] = []
        self.scorer = _scorer(fleet, kinds, self.idle_w, self.busy_w, seed=seed, quantum=quantum)

    def request(
        self,
        cpu_milli: int,
        memory_mib: int,
        gpus: int,
        gpu_milli: int,
        *,
        gpu_memory_mib: int = 0,
        models: Sequence[str] = (),
    ) -> int:
        """Return the number of this request; equal requests share one, and with it their scores."""
        key = (cpu_milli, memory_mib, gpus, gpu_milli, gpu_memory_mib, tuple(models))
        known = self._requests.get(key)
        if known is None:
            flags = model_flags(self.fleet, models)
            known = self.scorer.add_request(cpu_milli, memory_mib, gpus, gpu_milli, gpu_memory_mib, flags)
            self._requests[key] = known
            self._shapes.append((cpu_milli, memory_mib, gpus, gpu_milli, gpu_memory_mib))
        return known

    def pick(
        self,
        policy: int,
        request: int,
        *,
        allowed: NDArray[np.uint8] | None = None,
        penalty: Floats | None = None,
        view: RowView | None = None,
        alpha: float = 0.0,
        span: tuple[int, int] = (0, -1),
    ) -> Claim | None:
        """Return the claim on the best host of the span, None where none fits; nothing is taken."""
        rows = self.no_rows if view is None else view
        host, gpu = self.scorer.pick(
            policy,
            request,
            self.fleet.ready if allowed is None else allowed,
            self.no_penalty if penalty is None else penalty,
            rows.rows,
            rows.share,
            rows.room_w,
            rows.need_w,
            alpha,
            *span,
        )
        return None if host < 0 else self._claim(request, host, gpu)

    def take(self, claim: Claim) -> None:
        """Take the claim and note that its host changed."""
        self.fleet.take(claim)
        self.scorer.refresh(claim.host)

    def give(self, claim: Claim) -> None:
        """Give the claim back and note that its host changed."""
        self.fleet.give(claim)
        self.scorer.refresh(claim.host)

    def power_w(self) -> float:
        """Return the predicted draw of all hosts, watts."""
        return self.scorer.power_w()

    def _claim(self, request: int, host: int, gpu: int) -> Claim:
        cpu, memory, gpus, milli, gpu_memory = self._shapes[request]
        chosen = (gpu,) if gpu >= 0 else choose_gpus(self.fleet, host, gpus, milli, gpu_memory)
        return Claim(host, chosen, milli, cpu, memory, gpu_memory)


def choose_gpus(fleet: Fleet, host: int, gpus: int, milli: int, gpu_memory_mib: int) -> tuple[int, ...]:
    """Return GPUs of a host that have this much left: of the fullest NUMA zone that holds them all, else the lowest."""
    left, memory = fleet.gpu_left[host].tolist(), fleet.gpu_memory_left[host].tolist()
    count = int(fleet.gpu_count[host])
    fit = [gpu for gpu in range(count) if left[gpu] >= milli and memory[gpu] >= gpu_memory_mib]
    zones: dict[int, list[int]] = {}
    for gpu, zone in zip(range(count), fleet.numa[host].tolist(), strict=False):
        if gpu in fit and zone >= 0:
            zones.setdefault(zone, []).append(gpu)
    whole = [part for part in zones.values() if len(part) >= gpus]
    return tuple(min(whole, key=len)[:gpus] if whole else fit[:gpus])


def model_flags(fleet: Fleet, models: Sequence[str]) -> list[int]:
    """Return 1 for each model of the fleet that is allowed; an empty choice allows all."""
    return [1 if not models or model in models else 0 for model in fleet.models]


def _scorer(
    fleet: Fleet, kinds: Sequence[ExpectedKind], idle_w: Floats, busy_w: Floats, *, seed: int, quantum: float
) -> Scorer:
    flags = [model_flags(fleet, kind.models) for kind in kinds]
    return Scorer(
        cpu_left=fleet.cpu_left,
        cpu_total=fleet.cpu_total,
        memory_left=fleet.memory_left,
        gpu_left=fleet.gpu_left,
        gpu_memory_left=fleet.gpu_memory_left,
        gpu_count=fleet.gpu_count,
        model=fleet.model,
        kind_cpu=np.array([kind.cpu_milli for kind in kinds], np.int64),
        kind_gpus=np.array([kind.gpus for kind in kinds], np.int32),
        kind_milli=np.array([kind.gpu_milli for kind in kinds], np.int64),
        kind_share=np.array([kind.share for kind in kinds], np.float64),
        kind_models=np.array(flags, np.uint8).reshape(len(kinds), len(fleet.models)),
        idle_w=idle_w,
        busy_w=busy_w,
        cpu_scale=float(max(fleet.cpu_total.max(initial=1), 1)),
        gpu_scale=float(max(fleet.gpu_count.max(initial=1), 1)) * 1000.0,
        quantum=quantum,
        seed=seed,
    )
