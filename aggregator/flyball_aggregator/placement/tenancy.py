"""Which tenants sit on which hosts, so that a host kept for one tenant takes no other."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flyball_aggregator.placement.jobs import Job
from flyball_aggregator.placement.topology import Mask

FREE, MIXED = -1, -2


@dataclass(slots=True)
class Tenancy:
    """(hosts,) numbers of the one tenant on each host, FREE or MIXED, and how many exclusive jobs hold it."""

    tenant: NDArray[np.int32]
    exclusive: NDArray[np.int32]
    numbers: dict[str, int] = field(default_factory=dict)
    seats: dict[int, Counter[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, hosts: int) -> "Tenancy":
        """Return hosts without tenants."""
        return cls(np.full(hosts, FREE, np.int32), np.zeros(hosts, np.int32))

    def allowed(self, job: Job) -> Mask:
        """Return the hosts a job may share: free ones and its own tenant's, and unless it is exclusive, open ones."""
        mine = self.numbers.setdefault(job.tenant, len(self.numbers))
        own = (self.tenant == mine) | (self.tenant == FREE)
        return np.asarray(own if job.is_exclusive else own | (self.exclusive == 0), np.uint8)

    def enter(self, job: Job, host: int) -> None:
        """Note one more seat of a job on a host."""
        self._change(job, host, 1)

    def leave(self, job: Job, host: int) -> None:
        """Note one seat fewer."""
        self._change(job, host, -1)

    def _change(self, job: Job, host: int, sign: int) -> None:
        count = self.seats.setdefault(host, Counter())
        count[self.numbers.setdefault(job.tenant, len(self.numbers))] += sign
        present = [number for number, seats in count.items() if seats > 0]
        self.tenant[host] = FREE if not present else present[0] if len(present) == 1 else MIXED
        self.exclusive[host] += sign if job.is_exclusive else 0
