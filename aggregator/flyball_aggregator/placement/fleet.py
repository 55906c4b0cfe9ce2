"""The fleet as a struct of arrays: what each host has left, and the claims that took the rest."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flyball_aggregator.placement.errors import FleetError

Ints = NDArray[np.int64]
WHOLE = 1000  # milli of one whole GPU


@dataclass(frozen=True, slots=True)
class HostShape:
    """What a host brings: name, CPU in thousandths of a core, memory in MiB, GPUs and their model.

    domains holds one name per topology level, the narrowest first; numa_of the NUMA zone of each GPU (None: unknown).
    """

    name: str
    cpu_milli: int
    memory_mib: int
    gpus: int
    model: str
    gpu_memory_mib: int = 0
    domains: tuple[str, ...] = ()
    numa_of: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What one member of a job takes on one host: these GPUs, each by so many milli and MiB."""

    host: int
    gpus: tuple[int, ...]
    gpu_milli: int
    cpu_milli: int = 0
    memory_mib: int = 0
    gpu_memory_mib: int = 0

    @property
    def total_milli(self) -> int:
        """GPU milli of the claim."""
        return len(self.gpus) * self.gpu_milli


@dataclass(slots=True)
class Fleet:
    """Columns over hosts; every change goes through `take` and `give`, which refuse what is not there.

    gpu_left and gpu_memory_left are (hosts, width); GPUs beyond a host's count have none left.
    """

    names: tuple[str, ...]
    models: tuple[str, ...]
    model: NDArray[np.int32]
    gpu_count: NDArray[np.int32]
    cpu_total: Ints
    cpu_left: Ints
    memory_left: Ints
    memory_total: Ints
    gpu_left: Ints
    gpu_total: Ints
    gpu_memory_left: Ints
    gpu_memory_total: Ints
    domains: NDArray[np.int32]
    domain_names: tuple[tuple[str, ...], ...]
    numa: NDArray[np.int8]
    ready: NDArray[np.uint8]
    blocked_by: dict[int, str] = field(default_factory=dict)
    index: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, hosts: Sequence[HostShape]) -> "Fleet":
        """Return an empty fleet of these hosts, in this order; the order breaks ties.

        Raises:
            FleetError: two hosts share a name.
        """
        names = tuple(host.name for host in hosts)
        index = {name: number for number, name in enumerate(names)}
        if len(index) != len(names):
            raise FleetError("host names repeat: expected each host once")
        models = tuple(sorted({host.model for host in hosts}))
        width = max((host.gpus for host in hosts), default=1) or 1
        gpus = np.zeros((len(hosts), width), np.int64)
        memory = np.zeros((len(hosts), width), np.int64)
        numa = np.full((len(hosts), width), -1, np.int8)
        for number, host in enumerate(hosts):
            gpus[number, : host.gpus] = WHOLE
            memory[number, : host.gpus] = host.gpu_memory_mib
            numa[number, : host.gpus] = host.numa_of if host.numa_of is not None else -1
        cpu = np.array([host.cpu_milli for host in hosts], np.int64)
        ram = np.array([host.memory_mib for host in hosts], np.int64)
        domains, domain_names = _number_domains(hosts)
        return cls(
            names=names,
            models=models,
            model=np.array([models.index(host.model) for host in hosts], np.int32),
            gpu_count=np.array([host.gpus for host in hosts], np.int32),
            cpu_total=cpu,
            cpu_left=cpu.copy(),
            memory_left=ram.copy(),
            memory_total=ram,
            gpu_left=gpus.copy(),
            gpu_total=gpus,
            gpu_memory_left=memory.copy(),
            gpu_memory_total=memory,
            domains=domains,
            domain_names=domain_names,
            numa=numa,
            ready=np.ones(len(hosts), np.uint8),
            index=index,
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def capacity_milli(self) -> int:
        """GPU milli of all hosts."""
        return int(self.gpu_total.sum())

    def block(self, host: int, reason: str) -> None:
        """Take a host out of placement; claims on it stay."""
        self.ready[host] = 0
        self.blocked_by[host] = reason

    def unblock(self, host: int) -> None:
        """Offer a host again."""
        self.ready[host] = 1
        self.blocked_by.pop(host, None)

    def has(self, claim: Claim) -> bool:
        """Return True where the claim could be taken now."""
        host = claim.host
        left, memory = self.gpu_left[host].tolist(), self.gpu_memory_left[host].tolist()
        return bool(
            all(left[gpu] >= claim.gpu_milli and memory[gpu] >= claim.gpu_memory_mib for gpu in claim.gpus)
            and self.cpu_left[host] >= claim.cpu_milli
            and self.memory_left[host] >= claim.memory_mib
        )

    def take(self, claim: Claim) -> None:
        """Take the claim off the columns.

        Raises:
            FleetError: the host has less than the claim asks; nothing was taken.
        """
        self._check(claim)
        self._add(claim, -1)

    def give(self, claim: Claim) -> None:
        """Give the claim back.

        Raises:
            FleetError: the host would have more than it owns; nothing was given.
        """
        host, gpus = claim.host, list(claim.gpus)
        left, total = self.gpu_left[host].tolist(), self.gpu_total[host].tolist()
        over = any(left[gpu] + claim.gpu_milli > total[gpu] for gpu in gpus)
        over = over or self.cpu_left[host] + claim.cpu_milli > self.cpu_total[host]
        if over or self.memory_left[host] + claim.memory_mib > self.memory_total[host]:
            raise FleetError(f"host {self.names[host]}: a claim was given back that was not taken")
        self._add(claim, 1)

    def _check(self, claim: Claim) -> None:
        host, gpus = claim.host, list(claim.gpus)
        if len(set(gpus)) != len(gpus) or (gpus and max(gpus) >= self.gpu_count[host]):
            raise FleetError(f"host {self.names[host]}: GPUs {gpus}, expected distinct ones below its count")
        if not self.has(claim):
            ask = f"{claim.gpu_milli} milli of GPUs {gpus}, {claim.cpu_milli} CPU milli, {claim.memory_mib} MiB"
            raise FleetError(f"host {self.names[host]} has less left than {ask}")

    def _add(self, claim: Claim, sign: int) -> None:
        host, gpus = claim.host, claim.gpus
        left, memory = self.gpu_left[host], self.gpu_memory_left[host]
        if gpus and gpus[-1] - gpus[0] + 1 == len(gpus):  # neighbours: one operation for all
            left[gpus[0] : gpus[-1] + 1] += sign * claim.gpu_milli
            memory[gpus[0] : gpus[-1] + 1] += sign * claim.gpu_memory_mib
        else:
            for gpu in gpus:
                left[gpu] += sign * claim.gpu_milli
                memory[gpu] += sign * claim.gpu_memory_mib
        self.cpu_left[host] += sign * claim.cpu_milli
        self.memory_left[host] += sign * claim.memory_mib


def _number_domains(hosts: Sequence[HostShape]) -> tuple[NDArray[np.int32], tuple[tuple[str, ...], ...]]:
    """Return (levels, hosts) domain numbers, -1 where a host names none, and the names per level."""
    levels = max((len(host.domains) for host in hosts), default=0)
    numbers = np.full((levels, len(hosts)), -1, np.int32)
    names: list[tuple[str, ...]] = []
    for level in range(levels):
        known: dict[str, int] = {}
        for number, host in enumerate(hosts):
            if level < len(host.domains) and host.domains[level]:
                numbers[level, number] = known.setdefault(host.domains[level], len(known))
        names.append(tuple(known))
    return numbers, tuple(names)
