"""The ledger: what every host may draw at most, and the one place that grants watts.

Pure: `step(state, event)` gives the next state and the effects to carry out, in their order; everything up to the last
`Log...` effect of a batch must be durable before the first `Send...` goes out. The invariant: a grant that raises a
host's commitment is made only if every row it is in keeps sum of a x commitment + constant within its limit.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

from flyball_aggregator.power.frozen_table import FrozenTable
from flyball_wire.lease import NO_FENCE, Fence, Lease, Report


@dataclass(frozen=True, slots=True)
class LedgerRules:
    """Switches for the checkers only: what each leaves out is shown to break the protocol."""

    logs_before_send: bool = True  # rule 1
    highest_fence_counts: bool = True  # rule 2
    needs_signature: bool = True  # rule 4
    probes_incarnations: bool = True  # rule 5
    silent_keeps_watts: bool = True  # rule 7
    keeps_minimum: bool = True  # rule 11
    conflict_counts_maximum: bool = True  # rule 12
    removal_needs_proof: bool = True  # rule 13
    restore_counts_maximum: bool = True  # rule 14


ALL_LEDGER_RULES: Final = LedgerRules()

RefusalReason = Literal[
    "no_epoch", "cannot_log", "unknown_host", "revoked", "conflict", "not_heard", "row_full", "below_minimum",
    "above_maximum", "locked_off", "dead_band", "not_released",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """Lease life, milliseconds and milliwatts; the dead-band suppresses raises only."""

    ttl_ms: int = 10_000
    hold_ms: int = 30_000
    ramp_milliwatts_per_s: int = 280_000
    renew_ms: int = 3_000
    dead_band_milliwatts: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One linear limit: sum over hosts of coefficient x commitment + constant <= limit.

    `coefficients_ppm` is a(host) in parts per million, rounded up (1_270_000 is 1.27); `constant_milliwatts` is
    unmanaged load + reserve.
    """

    name: str
    limit_milliwatts: int
    constant_milliwatts: int
    coefficients_ppm: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """A logged lease that no report has fenced yet."""

    fence: Fence
    milliwatts: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """An incarnation that was heard but is not current; it becomes so by acking a probe that names it."""

    incarnation: str
    boot_id: str
    stamp_ms: int
    bound_milliwatts: int
    first_probe: Fence | None = None
    last_probe: Fence | None = None
    heard_after: Fence = NO_FENCE


@dataclass(frozen=True, slots=True)
class HostLedger:
    """What is known of one host; `commitment_milliwatts` follows from the rest and is kept for speed.

    `outstanding` is a staircase: rising fences, falling watts; a grant that a later and larger one covers is left out.
    """

    host: str
    maximum_milliwatts: int
    minimum_milliwatts: int = 0
    boot_share_milliwatts: int = 0
    gpu_uuids: tuple[str, ...] | None = None
    incarnation: str | None = None
    boot_id: str = ""
    fence: Fence = NO_FENCE
    stamp_ms: int = 0
    bound_milliwatts: int | None = None  # None is unknown: counts at maximum
    counts_maximum: bool = False  # observe, foreign cap, or cannot write
    outstanding: tuple[Grant, ...] = ()
    candidate: Candidate | None = None
    past: tuple[str, ...] = ()
    conflict: str | None = None
    other_maximum_milliwatts: int = 0  # of the second governor in a conflict
    is_unfenced: bool = False  # after a restore, until a fence of this epoch is acked
    out_of_band_milliwatts: int | None = None
    is_locked_off: bool = False
    is_revoked: bool = False
    released_at: Fence | None = None
    sent_milliwatts: int | None = None
    sent_ms: int = 0
    sent_stamp_ms: int = -1
    commitment_milliwatts: int = 0


@dataclass(frozen=True, slots=True)
class RowState:
    """A row with its running sum of coefficient x commitment, in milliwatts x ppm."""

    name: str
    limit_milliwatts: int
    constant_milliwatts: int
    committed_ppm: int


@dataclass(frozen=True, slots=True)
class LedgerState:
    """All that the ledger knows. Each step shares all it does not change with the state before it."""

    settings: LedgerSettings = LedgerSettings()
    epoch: int = 0  # 0: no epoch yet, nothing may be granted
    seq: int = 0
    epochs: tuple[tuple[int, int], ...] = ()  # earlier epochs and their last logged seq
    forgiven_below_epoch: int = 0
    can_log: bool = True
    hosts: FrozenTable[HostLedger] = field(default_factory=FrozenTable)
    rows: FrozenTable[RowState] = field(default_factory=FrozenTable)
    coefficients: FrozenTable[tuple[tuple[str, int], ...]] = field(default_factory=FrozenTable)  # host -> (row, ppm)
    carried: tuple[tuple[str, str], ...] = ()  # (row, host) that the site file no longer has but nothing released


@dataclass(frozen=True, slots=True)
class EpochStarted:
    """A durable new epoch; `epochs` are earlier ones with their last logged seq.

    `is_restored` when the store and its witness disagree: every host then counts at its maximum until it is fenced.
    """

    epoch: int
    epochs: tuple[tuple[int, int], ...] = ()
    is_restored: bool = False


@dataclass(frozen=True, slots=True)
class Deposed:
    """Another leader took a later epoch, or a commit stayed in doubt: nothing more is granted."""


@dataclass(frozen=True, slots=True)
class LogAbility:
    """Whether the store takes writes; while it does not there are no raises, lowers go on."""

    can_log: bool


@dataclass(frozen=True, slots=True)
class HostEnrolled:
    """A host of the site file; counts at its maximum until its governor acks a probe."""

    host: str
    maximum_milliwatts: int
    boot_share_milliwatts: int = 0
    gpu_uuids: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ReportReceived:
    """A report; `is_authenticated` after its signature verified under the host's enrolled key."""

    report: Report
    is_authenticated: bool


@dataclass(frozen=True, slots=True)
class GrantWanted:
    """The allocator wants a host at these watts; `now_ms` is the aggregator's own monotonic clock."""

    host: str
    milliwatts: int
    safe_milliwatts: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class ReleaseWanted:
    """An operator wants a host's devices handed back: it is committed at its maximum first."""

    host: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class RowsChanged:
    """The site's rows as declared now; a host that left a row still counts there until it is removed with proof."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class RowLimitChanged:
    """A row's limit or constant moved; may put the row in descent."""

    row: str
    limit_milliwatts: int
    constant_milliwatts: int


@dataclass(frozen=True, slots=True)
class HostRemoved:
    """A named operator takes a host out: of one row it left, after its signed release; or of all, by write-off."""

    host: str
    row: str | None
    proof: Literal["signed_release", "write_off"]
    operator: str


@dataclass(frozen=True, slots=True)
class ConflictCleared:
    """A named operator says which governor is right: the host must ack a new fence before it counts less."""

    host: str
    operator: str
    gpu_uuids: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class OutOfBandCap:
    """The management controller enforces a cap on the host's GPUs (read back there), or None when it is lifted."""

    host: str
    milliwatts: int | None


@dataclass(frozen=True, slots=True)
class OutletLocked:
    """The outlet is switched off and locked: the governor incarnation is dead and nothing is drawn."""

    host: str


@dataclass(frozen=True, slots=True)
class OutletUnlockWanted:
    """Someone wants the outlet on again; answered by `UnlockOutlet` only if the host fits at its minimum."""

    host: str


@dataclass(frozen=True, slots=True)
class HostSilent:
    """A host was not heard for a while; `reading_milliwatts` is what some meter says. An alarm, never watts."""

    host: str
    reading_milliwatts: int | None


LedgerEvent = (
    EpochStarted | Deposed | LogAbility | HostEnrolled | ReportReceived | GrantWanted | ReleaseWanted | RowsChanged
    | RowLimitChanged | HostRemoved | ConflictCleared | OutOfBandCap | OutletLocked | OutletUnlockWanted | HostSilent
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LogGrant:
    """Make a grant (or probe, milliwatts None) durable before anything is sent."""

    host: str
    incarnation: str
    fence: Fence
    milliwatts: int | None
    kind: Literal["lease", "probe", "release"]


@dataclass(frozen=True, slots=True)
class LogHost:
    """Make what is known of a host durable, in the same transaction as the grants after it."""

    host: HostLedger


@dataclass(frozen=True, slots=True)
class SendLease:
    """Sign and send, after all logs before it are durable."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class SendRelease:
    """Sign and send a release command, after all logs before it are durable."""

    host: str
    incarnation: str
    fence: Fence
    stamp_ms: int
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class UnlockOutlet:
    """The outlet may be switched on again."""

    host: str


@dataclass(frozen=True, slots=True)
class TakeEpoch:
    """Make an epoch above this durable, then send `EpochStarted(is_restored=True)`; nothing is granted until then."""

    above: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A want was not granted; `row` is the one that is full."""

    host: str
    reason: RefusalReason
    detail: str
    row: str | None = None


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something an operator must see."""

    host: str
    name: str
    detail: str


LedgerEffect = LogGrant | LogHost | SendLease | SendRelease | UnlockOutlet | TakeEpoch | Refused | Alarm
Outcome = tuple[LedgerState, tuple[LedgerEffect, ...]]


def step(state: LedgerState, event: LedgerEvent, rules: LedgerRules = ALL_LEDGER_RULES) -> Outcome:
    """Return the next state and what to do about an event, in order."""
    raise NotImplementedError


def commitment_milliwatts(state: LedgerState, host: str) -> int:
    """Return the most a host may draw by what the ledger knows, milliwatts of GPU caps."""
    return state.hosts[host].commitment_milliwatts


def headroom_milliwatts(state: LedgerState, row: str) -> int:
    """Return what is left of a row, at the row; negative while it is in descent."""
    at = state.rows[row]
    return at.limit_milliwatts - at.constant_milliwatts + -at.committed_ppm // 1_000_000
