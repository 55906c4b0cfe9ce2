"""Share one GPU between fractions: compute and memory by request, bursts into what the others leave unused."""

from collections.abc import Sequence
from dataclasses import dataclass

from flyball_aggregator.placement.fleet import WHOLE
from flyball_aggregator.placement.shares import Claimant, divide


@dataclass(frozen=True, slots=True)
class Tenant:
    """One fraction on a GPU: what it asked, how far it may burst, and whether it wants more than asked now."""

    name: str
    milli: int
    memory_mib: int
    milli_limit: int
    memory_limit_mib: int
    priority: int = 50
    wants_burst: bool = True


@dataclass(frozen=True, slots=True)
class Slice:
    """What one fraction gets now: whole milli of compute, MiB, and its part of the GPU's cap."""

    name: str
    milli: int
    memory_mib: int
    cap_w: float

    def environment(self) -> dict[str, str]:
        """Return the limits as MPS reads them; memory is a limit of the driver, not isolation.

        Source: CUDA MPS documentation, active thread percentage and pinned device memory limit.
        """
        return {
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": f"{self.milli / 10:g}",
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={self.memory_mib}M",
        }


def share_gpu(tenants: Sequence[Tenant], memory_mib: int, cap_w: float) -> list[Slice]:
    """Return each fraction's slice: requests first, then spare compute and memory by priority up to the limits.

    A request is honoured the moment its owner wants it: bursts only ever come out of what is not requested.
    """
    compute = _pour(WHOLE, [(part, part.milli, part.milli_limit) for part in tenants])
    memory = _pour(memory_mib, [(part, part.memory_mib, part.memory_limit_mib) for part in tenants])
    used = sum(compute.values()) or 1
    return [
        Slice(part.name, compute[part.name], memory[part.name], cap_w * compute[part.name] / used) for part in tenants
    ]


def _pour(total: int, asks: Sequence[tuple[Tenant, int, int]]) -> dict[str, int]:
    claimants = [
        Claimant(
            part.name,
            quota=asked,
            wanted=limit if part.wants_burst else asked,
            limit=limit,
            weight=max(asked, 1),
            priority=part.priority,
        )
        for part, asked, limit in asks
    ]
    return {name: int(value + 1e-6) for name, value in divide(float(total), claimants).items()}
