"""Pure twin of the compiled scorer: states, host by host, what one placement decision computes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, exp, floor
from typing import Any, TypeAlias

WIDTH = 16  # GPUs of one host at most
FGD, QFGD, QFGD_POWER, BEST_FIT, PACKING, SPREAD, DOT_PRODUCT, RANDOM = range(8)
WHOLE = 1000  # milli of one whole GPU

# Columns are numpy arrays in production; the twin needs indexing only, so it imports no numpy.
Column: TypeAlias = Any


@dataclass(slots=True)
class _Request:
    cpu: int
    memory: int
    gpus: int
    milli: int
    gpu_memory: int
    models: list[bool]
    scores: dict[int, tuple[int, float, float, int, int, int]] = field(default_factory=dict)

    @property
    def is_fraction(self) -> bool:
        return self.gpus == 1 and self.milli < WHOLE


class Scorer:
    """Scores of every host for every known request, kept until the host changes.

    Args:
        cpu_left, cpu_total, memory_left: (hosts,), int64; thousandths of a core, MiB. Shared: the owner changes them
            and calls `refresh`.
        gpu_left, gpu_memory_left: (hosts, width), int64; thousandths of a GPU, MiB.
        gpu_count, model: (hosts,), int32; model indexes idle_w and busy_w.
        kind_cpu, kind_gpus, kind_milli, kind_share: (kinds,), the expected jobs; shares sum to 1.
        kind_models: (kinds, models), uint8, 1 where the kind may run on the model.
        idle_w, busy_w: (models,), watts of one GPU without and with an allocation.
        socket: watts of an idle and a busy CPU socket, cores of a socket.
        cpu_scale, gpu_scale: largest host, thousandths of a core and of a GPU: the units of best fit.
        quantum: step of the fragmentation gradient, in GPUs.
        seed: of the random policy.

    Source: fragmentation gradient of USENIX ATC'23 "Beware of Fragmentation", power delta of CCGrid 2025 PWR.
    """

    def __init__(
        self,
        *,
        cpu_left: Column,
        cpu_total: Column,
        memory_left: Column,
        gpu_left: Column,
        gpu_memory_left: Column,
        gpu_count: Column,
        model: Column,
        kind_cpu: Column,
        kind_gpus: Column,
        kind_milli: Column,
        kind_share: Column,
        kind_models: Column,
        idle_w: Column,
        busy_w: Column,
        socket: tuple[float, float, float] = (15.0, 120.0, 16.0),
        cpu_scale: float,
        gpu_scale: float,
        quantum: float = 0.04,
        seed: int = 0,
    ) -> None:
        self.hosts, self.width = gpu_left.shape
        if self.width > WIDTH:
            raise ValueError(f"hosts have {self.width} GPUs: expected at most {WIDTH}")
        self._cpu_left, self._cpu_total, self._memory_left = cpu_left, cpu_total, memory_left
        self._gpu_left, self._gpu_memory_left = gpu_left, gpu_memory_left
        self._gpu_count, self._model = gpu_count, model
        self._kinds = [
            (int(cpu), int(gpus), int(milli), float(share), [bool(flag) for flag in models])
            for cpu, gpus, milli, share, models in zip(
                kind_cpu, kind_gpus, kind_milli, kind_share, kind_models, strict=True
            )
        ]
        self._idle_w, self._busy_w, self._socket = idle_w, busy_w, socket
        self._cpu_scale, self._gpu_scale, self._quantum = cpu_scale, gpu_scale, quantum
        self._requests: list[_Request] = []
        self._fragment, self._draw = [0.0] * self.hosts, [0.0] * self.hosts
        self._version = [0] * self.hosts
        self._state = ((seed & 0xFFFFFFFF) * 2654435761 + 88172645463325252) % 2**64
        self.refresh_all()

    def add_request(  # noqa: PLR0917  positional as in the compiled twin
        self, cpu_milli: int, memory_mib: int, gpus: int, gpu_milli: int, gpu_memory_mib: int, models: Sequence[int]
    ) -> int:
        """Return the number by which `pick` knows this request; models is a sequence of 0/1, one per model."""
        if len(models) != len(self._idle_w):
            raise ValueError(f"request allows {len(models)} models: expected one flag for each of {len(self._idle_w)}")
        flags = [bool(flag) for flag in models]
        self._requests.append(_Request(cpu_milli, memory_mib, gpus, gpu_milli, gpu_memory_mib, flags))
        return len(self._requests) - 1

    def refresh(self, host: int) -> None:
        """Take note that the arrays of this host changed."""
        if not 0 <= host < self.hosts:
            raise IndexError(f"host {host}: expected 0..{self.hosts - 1}")
        left = self._left(host)
        self._fragment[host] = self._fragment_of(host, int(self._cpu_left[host]), left)
        self._draw[host] = self._draw_of(host, int(self._cpu_left[host]), left)
        self._version[host] += 1

    def refresh_all(self) -> None:
        """Take note that any host may have changed."""
        for host in range(self.hosts):
            self.refresh(host)

    def fragmentation_milli(self) -> float:
        """Return the sum over hosts of idle GPU milli that the expected jobs cannot use."""
        return sum(self._fragment)

    def power_w(self) -> float:
        """Return the predicted draw of all hosts."""
        return sum(self._draw)

    def warm(self, request: int) -> None:
        """Score the request on every host now, so that its first decision costs no more than the next."""
        wanted = self._request(request)
        for host in range(self.hosts):
            if self._fits(wanted, host):
                self._score(wanted, host)

    def pick(  # noqa: PLR0917  positional: the hot call
        self,
        policy: int,
        request: int,
        allowed: Column,
        penalty: Column,
        rows: Column,
        share: Column,
        room_w: Column,
        need_w: Column,
        alpha: float = 0.0,
        first: int = 0,
        last: int = -1,
    ) -> tuple[int, int]:
        """Return (host, gpu) of the best host, (-1, -1) where none fits; gpu is -1 unless a fraction is asked.

        Args:
            policy: One of the constants of this module.
            request: From `add_request`.
            allowed: (hosts,), uint8; 0 excludes the host.
            penalty: (hosts,), float64; taken off after the score is rounded, so it only orders near-equals.
            rows: (hosts, columns), int32; power rows over each host, -1 for none.
            share: Same shape; watts of the row for one watt of the host.
            room_w: (rows,), watts each row still has.
            need_w: (models,), watts the request adds on a host of that model.
            alpha: Weight of the power term, per 100 W.
            first: First host looked at.
            last: Host after the last one looked at; below 0 for all.
        """
        wanted = self._request(request)
        best, best_rank, seen = -1, (0.0, 0.0), 0
        for host in range(max(first, 0), self.hosts if last < 0 else min(last, self.hosts)):
            if not allowed[host] or not self._fits(wanted, host):
                continue
            if not self._has_room(host, rows[host], share[host], room_w, need_w):
                continue
            if policy == RANDOM:
                seen += 1
                best = host if self._draw_below(seen) == 0 else best
                continue
            level, tie = self._rate(policy, wanted, host, alpha)
            if best < 0 or (level, tie - float(penalty[host])) > best_rank:
                best, best_rank = host, (level, tie - float(penalty[host]))
        return (-1, -1) if best < 0 else (best, self._gpu_of(policy, wanted, best))

    def terms(self, policy: int, request: int, host: int, alpha: float = 0.0) -> tuple[float, float, float, float]:
        """Return (level, tie, fragmentation gradient in milli, watts delta) of a host that fits."""
        wanted = self._request(request)
        level, tie = (0.0, 0.0) if policy == RANDOM else self._rate(policy, wanted, host, alpha)
        score = self._score(wanted, host)
        return level, tie, score[1] * 1000.0, score[2]

    def feasible(self, request: int, host: int) -> bool:
        """Return True where CPU, memory, model and GPUs of this host suffice."""
        return self._fits(self._request(request), host)

    def _request(self, request: int) -> _Request:
        if not 0 <= request < len(self._requests):
            raise IndexError(f"request {request}: expected 0..{len(self._requests) - 1}")
        return self._requests[request]

    def _draw_below(self, bound: int) -> int:
        self._state ^= (self._state << 13) % 2**64
        self._state ^= self._state >> 7
        self._state ^= (self._state << 17) % 2**64
        return (self._state >> 11) % bound

    def _left(self, host: int) -> list[int]:
        return [int(self._gpu_left[host, gpu]) for gpu in range(self._gpu_count[host])]

    def _fragment_of(self, host: int, cpu: int, left: list[int]) -> float:
        """Return idle milli that the expected jobs cannot use, weighted by how often each comes."""
        total, result = sum(left), 0.0
        for kind_cpu, gpus, milli, share, models in self._kinds if total else ():
            if milli == 0 or cpu < kind_cpu or not models[self._model[host]]:
                result += share * total
                continue
            wide = sum(1 for part in left if part >= milli)
            result += share * (sum(part for part in left if part < milli) if wide >= gpus else total)
        return result

    def _draw_of(self, host: int, cpu: int, left: list[int]) -> float:
        """Return watts of a host: GPUs are idle or busy, CPU sockets are opened one after the other."""
        model, idle = self._model[host], sum(1 for part in left if part == WHOLE)
        socket_idle_w, socket_busy_w, socket_cores = self._socket
        cores = ceil(self._cpu_total[host] / 2000.0)  # two threads a core
        sockets = ceil(cores / socket_cores)
        active = ceil((cores - floor(cpu / 2000.0)) / socket_cores)
        gpus_w = float(idle * self._idle_w[model] + (len(left) - idle) * self._busy_w[model])
        return float(gpus_w + socket_idle_w * (sockets - active) + socket_busy_w * active)

    def _takers(self, wanted: _Request, host: int) -> list[int]:
        return [
            gpu
            for gpu in range(self._gpu_count[host])
            if self._gpu_left[host, gpu] >= wanted.milli and self._gpu_memory_left[host, gpu] >= wanted.gpu_memory
        ]

    def _fits(self, wanted: _Request, host: int) -> bool:
        if self._cpu_left[host] < wanted.cpu or self._memory_left[host] < wanted.memory:
            return False
        if wanted.gpus == 0:
            return True
        return wanted.models[self._model[host]] and len(self._takers(wanted, host)) >= wanted.gpus

    def _has_room(self, host: int, rows: Column, share: Column, room_w: Column, need_w: Column) -> bool:
        need = need_w[self._model[host]]
        return all(row < 0 or part * need <= room_w[row] for row, part in zip(rows, share, strict=True))

    def _score(self, wanted: _Request, host: int) -> tuple[int, float, float, int, int, int]:
        """Return (version, gradient in GPUs, watts saved, rounded gradient, exact GPU, rounded GPU)."""
        known = wanted.scores.get(host)
        if known is not None and known[0] == self._version[host]:
            return known
        plans = self._plans(wanted, host)
        cpu = int(self._cpu_left[host]) - wanted.cpu
        gradients = [(self._fragment[host] - self._fragment_of(host, cpu, left)) / 1000.0 for _, left in plans]
        exact = max(range(len(plans)), key=lambda index: (gradients[index], -index))
        rounded = max(range(len(plans)), key=lambda index: (_sigmoid(gradients[index]), -index))
        watts = self._draw[host] - self._draw_of(host, cpu, plans[exact][1])
        score = (
            self._version[host],
            gradients[exact],
            watts,
            _sigmoid(gradients[exact]),
            plans[exact][0],
            plans[rounded][0],
        )
        wanted.scores[host] = score
        return score

    def _plans(self, wanted: _Request, host: int) -> list[tuple[int, list[int]]]:
        """Return each way to give the GPUs: (GPU of a fraction or -1, milli left afterwards)."""
        takers, left = self._takers(wanted, host), self._left(host)
        chosen = [[gpu] for gpu in takers] if wanted.is_fraction else [takers[: wanted.gpus]]
        return [
            (
                gpus[0] if wanted.is_fraction else -1,
                [part - wanted.milli if gpu in gpus else part for gpu, part in enumerate(left)],
            )
            for gpus in chosen
        ]

    def _rate(self, policy: int, wanted: _Request, host: int, alpha: float) -> tuple[float, float]:
        """Return (level, tie): the higher level wins, then the higher tie, then the lower host number."""
        cpu, milli, asked = int(self._cpu_left[host]), sum(self._left(host)), wanted.milli * wanted.gpus
        snug = 0.5 * (milli - asked) / self._gpu_scale + 0.5 * (cpu - wanted.cpu) / self._cpu_scale
        if policy in {FGD, QFGD, QFGD_POWER}:
            _, gradient, watts, rounded, _, _ = self._score(wanted, host)
            if policy == FGD:
                return rounded, 0.0
            weight = alpha if policy == QFGD_POWER else 0.0
            return floor((gradient + weight * watts / 100.0) / self._quantum + 1e-6), -snug
        if policy == BEST_FIT:
            return int((1.0 - snug) * 100), 0.0
        if policy == SPREAD:
            return milli - asked, cpu
        if policy == DOT_PRODUCT:
            match = cpu / self._cpu_scale * (wanted.cpu / self._cpu_scale)
            match += milli / self._gpu_scale * (asked / self._gpu_scale)
            return int(100 * (1 - match / 2)), 0.0
        return self._packed(wanted, host), 0.0

    def _packed(self, wanted: _Request, host: int) -> float:
        """Return the packing score: opened GPUs first, then opened hosts, then fresh small hosts."""
        left, opened = self._left(host), wanted.gpus
        if wanted.gpus == 0:
            return 0
        whole = sum(1 for part in left if part == WHOLE)
        if whole == len(left):
            return max(33 - whole, whole)
        if wanted.is_fraction:
            least = min(left[gpu] for gpu in self._takers(wanted, host))
            if least < WHOLE:
                return max(100 - least // 100, 50)
            opened = 1
        return max(50 - opened, 33)

    def _gpu_of(self, policy: int, wanted: _Request, host: int) -> int:
        """Return the GPU that takes a fraction, -1 where whole GPUs or none are asked."""
        if not wanted.is_fraction:
            return -1
        if policy in {FGD, QFGD, QFGD_POWER}:
            score = self._score(wanted, host)
            return score[5] if policy == FGD else score[4]
        takers = self._takers(wanted, host)
        if policy == RANDOM:
            found = -1
            for seen, gpu in enumerate(takers, 1):
                found = gpu if self._draw_below(seen) == 0 else found
            return found
        sign = -1 if policy == SPREAD else 1
        return min(takers, key=lambda gpu: (sign * int(self._gpu_left[host, gpu]), gpu))


def _sigmoid(gradient: float) -> int:
    return int(100.0 / (1.0 + exp(-gradient)))
