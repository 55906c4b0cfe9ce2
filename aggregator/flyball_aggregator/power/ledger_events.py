"""What the ledger is told (events), what it asks for (effects), and its settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from flyball_aggregator.power.ledger_host import HostLedger
from flyball_aggregator.power.ledger_rows import Row
from flyball_wire.lease import Fence, Lease, Report

RefusalReason = Literal[
    "no_epoch", "cannot_log", "unknown_host", "revoked", "conflict", "not_heard", "row_full", "below_minimum",
    "above_maximum", "locked_off", "dead_band", "not_released",
]  # fmt: skip
GrantKind = Literal["lease", "lower", "probe", "release"]


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """Lease life, milliseconds and milliwatts; the dead-band suppresses raises only."""

    ttl_ms: int = 10_000
    hold_ms: int = 30_000
    ramp_milliwatts_per_s: int = 280_000
    renew_ms: int = 3_000
    dead_band_milliwatts: int = 0


@dataclass(frozen=True, slots=True)
class EpochStarted:
    """A durable new epoch; `epochs` are earlier ones with their last logged seq.

    `is_restored` when the store and its witness disagree: every host then counts at its maximum until it is fenced.
    """

    epoch: int
    epochs: Mapping[int, int] = field(default_factory=dict)
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
    kind: GrantKind  # "lower" while the store takes no writes: it is in the witness only


@dataclass(frozen=True, slots=True)
class LogHost:
    """Make what is known of a host durable, in the same transaction as the grants after it."""

    host: HostLedger


@dataclass(frozen=True, slots=True)
class LogMembers:
    """Make durable which host counts in which row and with what coefficient, those that left without proof included."""

    members: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]  # host -> (row, ppm)


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


LedgerEffect = LogGrant | LogHost | LogMembers | SendLease | SendRelease | UnlockOutlet | TakeEpoch | Refused | Alarm
