"""One host of the exhaustive check: a governor's keeper, its disk, and one GPU whose hardware may lag or hang.

Pure: each act takes a `Machine` and gives the next one with the reports it sent. Time stands still; what takes time
(expiry, settling, a hung write) is an act of its own, made by shifting the keeper's clock fields.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from flyball_governor.bound import (
    DeviceFacts,
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
    KeeperEffect,
    KeeperEvent,
    KeeperRecord,
    KeeperSettings,
    KeeperState,
    LeaseReceived,
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
from flyball_wire.changed import changed
from flyball_wire.lease import Lease, Report

MAXIMUM: Final = 3
LONG_MS: Final = 1 << 40
HOST: Final = "host"


class Machine(NamedTuple):
    """A host: what its governor knows, and what its hardware does (milliwatts)."""

    keeper: KeeperState | None  # None: no governor alive
    gpu: GpuCap  # as the governor knows it
    cap: int
    power: int  # drawn if work runs; above the cap while it settles
    runs: bool
    budget: int
    disk: KeeperRecord | None
    old_disk: KeeperRecord | None
    said: Report | None  # the last report of this incarnation
    boot: int = 0
    hung: int = 0  # a cap write stuck in the driver, 0: none
    is_off: bool = False
    broken: str | None = None  # a property other than the bound that no longer holds

    @property
    def draw(self) -> int:
        """What the host draws now, everybody greedy."""
        return self.power if self.runs and not self.is_off else 0


class MachineKind(NamedTuple):
    """What does not change about a host in one search."""

    rules: Rules
    uuid: str = "gpu"
    minimum: int = 1
    dead_band: int = 0
    settles: bool = False


Step = tuple[Machine, tuple[Report, ...]]


def booted(kind: MachineKind) -> Machine:
    """Return a host just switched on: caps at their default, no work, no governor yet."""
    return Machine(None, _gpu(kind, MAXIMUM), MAXIMUM, MAXIMUM, False, 0, None, None, None)


def govern(at: Machine, kind: MachineKind, incarnation: str) -> Step | None:
    """Start a governor; it waits for the host's one write lock, which a hung writer still holds."""
    if at.keeper is not None or at.is_off or (at.hung and kind.rules.bound.counts_pending):
        return None
    gpu = _gpu(kind, at.cap)
    settings = KeeperSettings(HOST, (kind.uuid,), mode="enforce", report_ms=0, hold_ms=0, ramp_milliwatts_per_s=1)
    event = Started(settings, incarnation, str(at.boot), 0, at.disk, _facts(gpu, kind))
    at = at._replace(gpu=gpu, power=at.cap, budget=at.cap, said=None)
    return _absorb(at, start(event, kind.rules.keeper))


def deliver(at: Machine, kind: MachineKind, lease: Lease, key_generation: int = 1) -> Step | None:
    """Hand the governor a lease, in time."""
    return _tell(at, kind, LeaseReceived(lease, 0, key_generation))


def deliver_late(at: Machine, kind: MachineKind, lease: Lease) -> Step | None:
    """Hand the governor a lease that a broker kept until its life was over."""
    old = changed(lease, stamp_ms=-lease.ttl_ms - 1)
    done = deliver(at, kind, old)
    if done is None or at.keeper is None or done[0].keeper is None or done[0].keeper.fence == at.keeper.fence:
        return None
    return done[0]._replace(broken="a lease past its life is in force"), done[1]


def report_again(at: Machine, kind: MachineKind) -> Step | None:
    """Let the governor send its periodic report."""
    return _tell(at, kind, Tick(0))


def fresh_report(at: Machine, kind: MachineKind) -> tuple[Machine, Report | None]:
    """Let the governor send a report with a new stamp, whatever it says."""
    if at.keeper is None or not at.keeper.is_reporting:
        return at, None
    keeper, effects = step(at.keeper, Tick(0), kind.rules.keeper)
    reports = [effect.report for effect in effects if isinstance(effect, SendReport)]
    keeper = changed(keeper, expires_ms=0, next_report_ms=0)
    return at._replace(keeper=keeper, said=reports[-1]), reports[-1]


def run_out(at: Machine, kind: MachineKind, seconds: int) -> Step | None:
    """Let the lease run out, hold, and ramp for some seconds; nothing is reported yet."""
    keeper = at.keeper
    if keeper is None or keeper.phase not in ("leased", "holding", "ramping"):
        return None
    keeper = changed(keeper, expires_ms=-keeper.hold_ms - 1000 * seconds, next_report_ms=1)
    return _absorb(at, step(keeper, Tick(0), kind.rules.keeper))


def write(at: Machine, kind: MachineKind) -> Step | None:
    """Write the budget to the device and read it back."""
    wanted = _wanted(at, kind)
    if wanted is None:
        return None
    limit = at.gpu.limit_milliwatts
    if not needs_write(limit, wanted, kind.dead_band, kind.rules.bound):
        is_lowering = limit is not None and wanted < limit
        return (at._replace(broken="a lowering was not written"), ()) if is_lowering else None
    gpu = with_write_started(at.gpu, wanted)
    gpu = with_write_returned(gpu, wanted, wanted, 0, LONG_MS if kind.settles else 0)
    power = max(at.power, wanted) if kind.settles else wanted
    return _know(at._replace(cap=wanted, power=power), kind, gpu)


def settle(at: Machine, kind: MachineKind) -> Step | None:
    """Let power come down to the cap."""
    if at.power == at.cap:
        return None
    return _know(at._replace(power=at.cap), kind, with_power(at.gpu, 0, at.cap))


def hang(at: Machine, kind: MachineKind) -> Step | None:
    """Let the write of the budget hang in the driver; the writer is replaced, the write is not gone."""
    wanted = _wanted(at, kind)
    if wanted is None or at.hung:
        return None
    return _know(at._replace(hung=wanted), kind, with_write_started(at.gpu, wanted))


def complete(at: Machine, kind: MachineKind) -> Step | None:
    """Let the hung write take effect after all."""
    if not at.hung:
        return None
    cap = at.hung
    at = at._replace(hung=0, cap=cap, power=max(at.power, cap) if kind.settles else cap)
    return _know(at, kind, with_write_returned(at.gpu, cap, cap, 0, LONG_MS if kind.settles else 0))


def crash(at: Machine) -> Step | None:
    """Kill the governor: caps stay in hardware, work goes on, the gate shuts to new work."""
    return None if at.keeper is None else (at._replace(keeper=None), ())


def stop(at: Machine, kind: MachineKind) -> Step | None:
    """End the governor in order, as an upgrade or purge does."""
    done = _tell(at, kind, Stopping(0))
    return None if done is None else (done[0]._replace(keeper=None), done[1])


def reboot(at: Machine, *, disk: KeeperRecord | None) -> Step | None:
    """Boot the host with what its disk then holds: caps at their default, no work."""
    if at.is_off:
        return None
    return at._replace(
        keeper=None, cap=MAXIMUM, power=MAXIMUM, runs=False, boot=at.boot + 1, hung=0, disk=disk, old_disk=disk
    ), ()


def switch_off(at: Machine) -> Step | None:
    """Cut the power."""
    return at._replace(keeper=None, runs=False, hung=0, is_off=True), ()


def switch_on(at: Machine) -> Step | None:
    """Give power back."""
    return reboot(at._replace(is_off=False), disk=at.disk)


def reset(at: Machine, kind: MachineKind) -> Step | None:
    """Reset the GPU as the governor does it: quiesce, reset (work on it ends, the cap is gone), read back."""
    quiesced = _tell(at, kind, QuiesceStarted("reset", True, 0))
    if quiesced is None:
        return None
    at, first = quiesced
    at = at._replace(cap=MAXIMUM, power=MAXIMUM, runs=False, hung=0)
    gpu = with_read_back(changed(at.gpu, pending_milliwatts=(), settling_milliwatts=None), MAXIMUM, 0, 0)
    done = _tell(at._replace(gpu=gpu), kind, QuiesceEnded(_facts(gpu, kind), 0))
    return None if done is None else (done[0], first + done[1])


def _gpu(kind: MachineKind, limit: int) -> GpuCap:
    return GpuCap(kind.uuid, kind.minimum, MAXIMUM, MAXIMUM, limit)


def _facts(gpu: GpuCap, kind: MachineKind) -> DeviceFacts:
    return device_facts((gpu,), 0, rules=kind.rules.bound)


def _wanted(at: Machine, kind: MachineKind) -> int | None:
    """Return the cap to write, or None if nothing is to be written."""
    wanted = min(max(at.budget, kind.minimum), MAXIMUM)
    return None if at.keeper is None or at.is_off or wanted == at.gpu.limit_milliwatts else wanted


def _know(at: Machine, kind: MachineKind, gpu: GpuCap) -> Step:
    """Take in what the devices show now."""
    if not kind.settles:
        gpu = with_power(gpu, 0, None)
    at = at._replace(gpu=gpu)
    return _tell(at, kind, BoundChanged(_facts(gpu, kind), 0)) or (at, ())


def _tell(at: Machine, kind: MachineKind, event: KeeperEvent) -> Step | None:
    if at.keeper is None or at.is_off:
        return None
    return _absorb(at, step(at.keeper, event, kind.rules.keeper))


def _absorb(at: Machine, outcome: tuple[KeeperState, Iterable[KeeperEffect]]) -> Step:
    """Carry out the effects; a report that says nothing new is the one sent before."""
    keeper, effects = outcome
    said = at.said
    reports: tuple[Report, ...] = ()
    for effect in effects:
        if isinstance(effect, SetBudget):
            at = at._replace(budget=effect.milliwatts)
        elif isinstance(effect, Persist):
            at = at._replace(disk=effect.record, old_disk=at.disk)
        elif isinstance(effect, RestorePriors):
            at = at._replace(cap=MAXIMUM, power=MAXIMUM)
        elif isinstance(effect, SendReport):
            report = effect.report
            if said is not None and report == changed(said, stamp_ms=report.stamp_ms):
                keeper = changed(keeper, report_stamp_ms=said.stamp_ms)
            else:
                said, reports = report, (*reports, report)
    keeper = changed(keeper, expires_ms=0, next_report_ms=0, started_ms=0)
    return at._replace(keeper=keeper, said=said, runs=at.runs or keeper.is_gate_open), reports
