"""One host of the random fleet check: the real keeper over one simulated device, with a disk, a clock and a gate."""

from dataclasses import replace
from typing import Final

from flyball_governor.bound import (
    GpuCap,
    device_facts,
    needs_write,
    with_power,
    with_read_back,
    with_write_returned,
    with_write_started,
)
from flyball_governor.lease_keeper import (
    BoundChanged,
    KeeperEvent,
    KeeperRecord,
    KeeperSettings,
    KeeperState,
    LeaseReceived,
    Outcome,
    Persist,
    QuiesceEnded,
    QuiesceStarted,
    RestorePriors,
    SendReport,
    SetBudget,
    Started,
    Stopping,
    Tick,
    start,
    step,
)
from flyball_twin.lease_check_rules import Rules
from flyball_wire.lease import Lease, Report

SETTLE_MS: Final = 900  # within the second that follows a lowering
DEAD_BAND_MILLIWATTS: Final = 20_000


class HostSim:
    """A host that runs work greedily: it draws what its cap allows whenever its gate let work start."""

    def __init__(self, name: str, uuid: str, limits: tuple[int, int], rules: Rules, drift: float) -> None:
        self.name = name
        minimum, maximum = limits
        self.minimum, self.maximum = minimum, maximum
        self.rules = rules
        self.drift = drift
        self.settings = KeeperSettings(
            name, (uuid,), mode="enforce", report_ms=5_000, hold_ms=30_000, ramp_milliwatts_per_s=maximum // 20
        )
        self.keeper: KeeperState | None = None
        self.gpu = GpuCap(uuid, minimum, maximum, maximum, maximum)
        self.cap = maximum  # in hardware
        self.peak = maximum  # the most it may have drawn in this second
        self.budget = maximum  # the sum of caps the keeper asked for last
        self.runs = False
        self.is_off = False
        self.disk: KeeperRecord | None = None
        self.old_disk: KeeperRecord | None = None
        self.hung: tuple[int, int] | None = None  # (cap, second in which it completes)
        self.hangs_next_s = 0  # a write in this call hangs until then, 0: none
        self.boots = 0
        self.incarnations = 0
        self.booted_s = 0
        self.back_at_s: int | None = None  # booting or off until then
        self.outbox: list[Report] = []
        self.lowerings_unwritten = 0
        self.lives_broken = 0
        self.governed_since_s = 0

    @property
    def draw(self) -> int:
        """What the device may have drawn at most in this second, milliwatts."""
        return self.peak if self.runs and not self.is_off else 0

    def begin_second(self, now_s: int) -> None:
        """Let power settle to the cap and a hung write come back."""
        self.peak = self.cap
        if self.hung is not None and now_s >= self.hung[1]:
            cap, self.hung = self.hung[0], None
            self._set_cap(cap)
            if self.keeper is not None:
                self._know(with_write_returned(self.gpu, cap, cap, self.now_ms(now_s), SETTLE_MS), now_s)
        if self.keeper is None or self.is_off:
            return
        if self.gpu.settling_milliwatts is not None:
            self._know(with_power(self.gpu, self.now_ms(now_s), None), now_s)
        self._tell(Tick(self.now_ms(now_s)), now_s)
        self._write(self.budget, now_s)

    def now_ms(self, now_s: int) -> int:
        """Return the host's boot clock, which drifts."""
        return int((now_s - self.booted_s) * 1000 * self.drift)

    def govern(self, now_s: int) -> None:
        """Start a governor, once the write lock is free."""
        if self.hung is not None and self.rules.bound.counts_pending:
            return
        self.incarnations += 1
        self.governed_since_s = now_s
        self.gpu = GpuCap(self.gpu.uuid, self.minimum, self.maximum, self.maximum, self.cap)
        facts = device_facts((self.gpu,), 0, rules=self.rules.bound)
        incarnation = f"{self.gpu.uuid}-{self.incarnations}"
        event = Started(self.settings, incarnation, str(self.boots), self.now_ms(now_s), self.disk, facts)
        self._absorb(start(event, self.rules.keeper), now_s)

    def receive(self, lease: Lease, now_s: int, key_generation: int = 1) -> None:
        """Hand the governor a lease."""
        before = self.keeper
        if before is None or self.is_off:
            return
        self._tell(LeaseReceived(lease, self.now_ms(now_s), key_generation), now_s)
        is_dead = self.now_ms(now_s) > lease.stamp_ms + lease.ttl_ms
        self.lives_broken += is_dead and self.keeper is not None and self.keeper.fence != before.fence

    def crash(self) -> None:
        """Kill the governor; its caps and its work stay."""
        self.keeper = None

    def stop(self, now_s: int) -> None:
        """End the governor in order."""
        self._tell(Stopping(self.now_ms(now_s)), now_s)
        self.keeper = None

    def lose_power(self, back_at_s: int, *, is_off: bool) -> None:
        """Reboot, or be switched off: work and caps are gone."""
        self.keeper, self.runs, self.hung, self.is_off = None, False, None, is_off
        self.cap = self.peak = self.maximum
        self.back_at_s = back_at_s

    def come_back(self, now_s: int, *, rolls_back: bool) -> None:
        """Be up again after a boot, perhaps with an older disk."""
        if rolls_back:
            self.disk = self.old_disk
        self.back_at_s, self.is_off, self.booted_s = None, False, now_s - 1
        self.boots += 1
        self.govern(now_s)

    def reset(self, now_s: int) -> None:
        """Reset the device as the governor does it."""
        self._tell(QuiesceStarted("reset", is_idle=True, now_ms=self.now_ms(now_s)), now_s)
        self.runs, self.hung = False, None
        self.cap = self.peak = self.maximum
        fresh = replace(self.gpu, pending_milliwatts=(), settling_milliwatts=None)
        self.gpu = with_read_back(fresh, self.maximum, self.now_ms(now_s), 0)
        facts = device_facts((self.gpu,), 0, rules=self.rules.bound)
        self._tell(QuiesceEnded(facts, self.now_ms(now_s)), now_s)

    def _tell(self, event: KeeperEvent, now_s: int) -> None:
        if self.keeper is not None and not self.is_off:
            self._absorb(step(self.keeper, event, self.rules.keeper), now_s)

    def _absorb(self, outcome: Outcome, now_s: int) -> None:
        self.keeper, effects = outcome
        if self.keeper.is_gate_open and not self.runs:
            self.runs = True
        budget: int | None = None
        for effect in effects:
            if isinstance(effect, SendReport):
                self.outbox.append(effect.report)
            elif isinstance(effect, SetBudget):
                budget = effect.milliwatts
            elif isinstance(effect, Persist):
                self.old_disk, self.disk = self.disk, effect.record
            elif isinstance(effect, RestorePriors):
                self._set_cap(self.maximum)
        if budget is not None:
            self.budget = min(max(budget, self.minimum), self.maximum)
            self._write(self.budget, now_s)

    def _write(self, cap: int, now_s: int) -> None:
        limit = self.gpu.limit_milliwatts
        if cap == limit or self.keeper is None:
            return
        if not needs_write(limit, cap, DEAD_BAND_MILLIWATTS, self.rules.bound):
            self.lowerings_unwritten += limit is not None and cap < limit
            return
        gpu = with_write_started(self.gpu, cap)
        if self.hangs_next_s and self.hung is None:
            self.hung, self.hangs_next_s = (cap, self.hangs_next_s), 0
            self._know(gpu, now_s)
            return
        self._set_cap(cap)
        self._know(with_write_returned(gpu, cap, cap, self.now_ms(now_s), SETTLE_MS), now_s)

    def _set_cap(self, cap: int) -> None:
        self.cap = cap
        self.peak = max(self.peak, cap)

    def _know(self, gpu: GpuCap, now_s: int) -> None:
        self.gpu = gpu
        facts = device_facts((gpu,), 0, rules=self.rules.bound)
        self._tell(BoundChanged(facts, self.now_ms(now_s)), now_s)
