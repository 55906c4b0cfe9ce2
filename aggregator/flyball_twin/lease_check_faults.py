"""The faults of the random fleet check: rates a second, and the network that loses, delays and doubles."""

import heapq
import random
from dataclasses import dataclass, field
from typing import Final, Literal

from flyball_wire.lease import Lease, Report

DELAYS_S: Final = (0, 0, 1, 1, 2, 5, 12)  # one is drawn for each message
DOUBLE_DELAYS_S: Final = (1, 8, 20)
To = Literal["host", "clone", "ledger"]


@dataclass(frozen=True, slots=True)
class FaultRates:
    """Chances per message, per host and second, or per fleet and second; lengths in seconds.

    Loss to crash, reboot and failover are those of the prototype this check took over; the rest come on top.
    """

    lost: float = 0.10
    doubled: float = 0.05
    held_back: float = 0.002  # by a broker, for 60 s: longer than any lease lives
    lost_in_partition: float = 0.999
    partition: float = 0.003
    partition_s: tuple[int, int] = (5, 80)
    crash: float = 0.002
    restart: float = 0.02
    reboot: float = 0.0008
    boot_s: tuple[int, int] = (10, 40)
    rollback: float = 0.3  # of reboots
    reset: float = 0.0004
    hang: float = 0.002  # of cap writes
    hang_s: tuple[int, int] = (5, 60)
    outlet: float = 0.0004
    off_s: tuple[int, int] = (30, 200)
    forged: float = 0.001
    stolen_key: float = 0.0005
    failover: float = 0.002
    max_failovers: int = 3
    zombie_s: tuple[int, int] = (0, 60)
    disk_full: float = 0.0005
    disk_full_s: tuple[int, int] = (10, 60)
    restore: float = 0.0008  # once a run
    clone: float = 0.0005  # once a run
    limit_drop: float = 0.001
    dropped_to: float = 0.7
    low_s: tuple[int, int] = (100, 300)
    move: float = 0.0007  # once a run: the site file takes a host out of a row that still feeds it
    clock_drift: float = 0.02


@dataclass(slots=True)
class Counts:
    """How often each fault struck."""

    lost: int = 0
    duplicated: int = 0
    held_back: int = 0
    partitions: int = 0
    crashes: int = 0
    reboots: int = 0
    rollbacks: int = 0
    resets: int = 0
    hung_writes: int = 0
    outlets: int = 0
    forged: int = 0
    stolen_keys: int = 0
    failovers: int = 0
    disk_full: int = 0
    restores: int = 0
    clones: int = 0
    limit_drops: int = 0
    moves: int = 0


Message = tuple[To, int, Lease | Report]


@dataclass(slots=True)
class Network:
    """Messages on their way, by the second in which they arrive."""

    chance: random.Random
    rates: FaultRates
    counts: Counts
    cut_until_s: list[int]  # by host
    _queue: list[tuple[int, int, Message]] = field(default_factory=list)
    _sent: int = 0

    def send(self, now_s: int, to: To, host: int, what: Lease | Report) -> None:
        """Put a message on its way to or from a host, or lose it."""
        rates, draw = self.rates, self.chance.random
        is_cut = self.cut_until_s[host] > now_s and draw() < rates.lost_in_partition
        if is_cut or draw() < rates.lost:
            self.counts.lost += 1
            return
        message = (to, host, what)
        delay_s = DELAYS_S[int(draw() * len(DELAYS_S))]
        if draw() < rates.held_back:
            self.counts.held_back += 1
            delay_s = 60
        self._push(now_s + delay_s, message)
        if draw() < rates.doubled:
            self.counts.duplicated += 1
            self._push(now_s + DOUBLE_DELAYS_S[int(draw() * len(DOUBLE_DELAYS_S))], message)

    def arrived(self, now_s: int) -> Message | None:
        """Return the next message that is due, None when there is no more in this second."""
        if not self._queue or self._queue[0][0] > now_s:
            return None
        return heapq.heappop(self._queue)[2]

    def _push(self, at_s: int, message: Message) -> None:
        self._sent += 1
        order = int(self.chance.random() * (1 << 30))  # those of one second arrive in any order
        heapq.heappush(self._queue, (at_s, (order << 32) | self._sent, message))
