"""The lease keeper: decides from leases, time and read-back what a host's caps may sum to.

Pure: `step(state, event)` gives the next state and the effects to carry out, in their order. The invariant: what a
report says is never below what the host may draw until the next report, and nothing here raises that without a lease.
"""

from dataclasses import dataclass
from typing import Final, Literal

from flyball_governor.bound import DeviceFacts
from flyball_wire.lease import NO_FENCE, Fence, HostMode, Lease, Report

Phase = Literal["no_lease", "local", "leased", "holding", "ramping", "safe", "released"]


@dataclass(frozen=True, slots=True)
class KeeperRules:
    """Switches for the checkers only: what each leaves out is shown to break the protocol."""

    strictly_greater: bool = True  # rule 3
    own_incarnation: bool = True  # rule 5
    gates_after_boot: bool = True  # rule 6
    only_lowers: bool = True  # rule 8
    gates_before_reset: bool = True  # rule 9
    acks_read_back: bool = True  # rule 11
    dead_on_arrival: bool = True  # rule 15
    generations_rise: bool = True  # rule 16


ALL_KEEPER_RULES: Final = KeeperRules()


@dataclass(frozen=True, slots=True)
class KeeperSettings:
    """What the governor's configuration says about the lease; milliwatts and milliseconds.

    `boot_share_milliwatts` opens the gate after boot without a lease; the site must count it for ever. `is_standalone`
    means no aggregator: `host_limit_milliwatts` is then the host's own lease; else it only lowers.
    """

    host: str
    gpu_uuids: tuple[str, ...]
    mode: HostMode = "observe"
    error_ppm: int = 0
    boot_share_milliwatts: int | None = None
    host_limit_milliwatts: int | None = None
    is_standalone: bool = False
    report_ms: int = 1_000
    hold_ms: int = 30_000
    ramp_milliwatts_per_s: int = 280_000
    first_report_ms: int = 5_000  # longest wait after start for caps to come down before the bound is reported as it is


@dataclass(frozen=True, slots=True)
class KeeperRecord:
    """What is on the host's disk: a hint that may only lower, never an authority."""

    boot_id: str
    fence: Fence
    allowed_milliwatts: int
    safe_milliwatts: int
    expires_ms: int
    key_generation: int = 0


@dataclass(frozen=True, slots=True)
class KeeperState:
    """All that a lease keeper knows.

    `allowed_milliwatts` is what the split may bring the bound to; it only falls until a lease raises it.
    """

    settings: KeeperSettings
    incarnation: str
    boot_id: str
    phase: Phase
    facts: DeviceFacts
    allowed_milliwatts: int
    safe_milliwatts: int
    fence: Fence = NO_FENCE
    lease_milliwatts: int | None = None
    expires_ms: int = 0
    hold_ms: int = 0
    ramp_milliwatts_per_s: int = 1
    ramp_from_milliwatts: int = 0
    key_generation: int = 0
    is_gate_open: bool = False
    may_open: bool = False
    quiesce: str | None = None
    is_quiesce_idle: bool = False
    is_released: bool = False
    host_limit_milliwatts: int | None = None
    is_reporting: bool = False
    started_ms: int = 0
    next_report_ms: int = 0
    report_stamp_ms: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """A governor begins: a fresh random incarnation, what is on disk (or None), what the devices show."""

    settings: KeeperSettings
    incarnation: str
    boot_id: str
    now_ms: int
    record: KeeperRecord | None
    facts: DeviceFacts


@dataclass(frozen=True, slots=True)
class LeaseReceived:
    """A lease whose signature verified under a known key of this generation."""

    lease: Lease
    now_ms: int
    key_generation: int = 0
    is_key_expired: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; call at 1 Hz or faster."""

    now_ms: int


@dataclass(frozen=True, slots=True)
class BoundChanged:
    """Caps were read back, settled, or are being written: what the devices allow now."""

    facts: DeviceFacts
    now_ms: int


@dataclass(frozen=True, slots=True)
class QuiesceStarted:
    """A GPU reset, driver reload or loss of persistence is about to come; `is_idle` when no work holds the devices."""

    reason: str
    is_idle: bool
    now_ms: int


@dataclass(frozen=True, slots=True)
class QuiesceEnded:
    """The reset is over and caps were read back; `facts` are fresh."""

    facts: DeviceFacts
    now_ms: int


@dataclass(frozen=True, slots=True)
class ReleaseReceived:
    """A signed release verified: the ledger has committed the host at its maximum; prior values may return."""

    incarnation: str
    fence: Fence
    stamp_ms: int
    ttl_ms: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class HostLimitChanged:
    """The limit in the host's own file changed; None takes it away."""

    milliwatts: int | None
    now_ms: int


@dataclass(frozen=True, slots=True)
class Stopping:
    """The governor exits, for whatever reason: nothing is put back."""

    now_ms: int


KeeperEvent = (
    LeaseReceived | Tick | BoundChanged | QuiesceStarted | QuiesceEnded | ReleaseReceived | HostLimitChanged | Stopping
)


@dataclass(frozen=True, slots=True)
class SetBudget:
    """The sum of caps that the split may use from now on; lower first, raise after read-back and settling."""

    milliwatts: int


@dataclass(frozen=True, slots=True)
class OpenGate:
    """New work may start."""


@dataclass(frozen=True, slots=True)
class ShutGate:
    """New work must not start; running work goes on."""

    reason: str


@dataclass(frozen=True, slots=True)
class Persist:
    """Write and fsync this before any effect after it."""

    record: KeeperRecord


@dataclass(frozen=True, slots=True)
class SendReport:
    """Sign and send; `cause` is for the journal."""

    report: Report
    cause: str


@dataclass(frozen=True, slots=True)
class RestorePriors:
    """Put the journalled prior caps back; only ever under a release."""


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence for the journal."""

    text: str


KeeperEffect = SetBudget | OpenGate | ShutGate | Persist | SendReport | RestorePriors | Note
Outcome = tuple[KeeperState, tuple[KeeperEffect, ...]]


def start(event: Started, rules: KeeperRules = ALL_KEEPER_RULES) -> Outcome:
    """Return the first state of a governor incarnation: gate shut, nothing raised."""
    raise NotImplementedError


def step(state: KeeperState, event: KeeperEvent, rules: KeeperRules = ALL_KEEPER_RULES) -> Outcome:
    """Return the next state and what to do about an event, in order."""
    raise NotImplementedError


def reported_bound_milliwatts(state: KeeperState, rules: KeeperRules = ALL_KEEPER_RULES) -> int:
    """Return what a report must say: the read-back bound, and never less than the split may raise it to."""
    raise NotImplementedError
