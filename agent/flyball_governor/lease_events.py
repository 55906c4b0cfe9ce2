"""What a lease keeper is told (events), what it asks for (effects), and its settings and disk record."""

from dataclasses import dataclass
from typing import Final

from flyball_governor.bound import DeviceFacts
from flyball_wire.lease import Fence, HostMode, Lease, Report


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
