"""The lease and the report that answers it: what the ledger and a governor say to each other.

A lease is watts for the sum of one host's GPU caps, never wall watts, in integer milliwatts. Its life runs on the
host's boot clock from the governor's own stamp, which the lease echoes; order is (epoch, seq) alone. Both messages
travel only inside a `Signed` envelope (flyball_wire.signing). The rules are those of docs/lease-protocol.md.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

from flyball_wire.codec import Length, Range

HostId = Annotated[str, Length(64, least=1)]
Incarnation = Annotated[str, Length(32, least=32)]  # 128 random bits as hex, drawn at each governor start
Count = Annotated[int, Range(0, 2**63 - 1)]
HostMilliwatts = Annotated[int, Range(0, 1_000_000_000)]  # 1 MW: far above any one host
Milliseconds = Annotated[int, Range(0, 2**63 - 1)]


@dataclass(frozen=True, slots=True, order=True)
class Fence:
    """Position in the order of all leases of a host: (epoch, seq), strictly rising. (0, 0) is before every lease."""

    epoch: Count
    seq: Count


NO_FENCE: Final = Fence(0, 0)


@dataclass(frozen=True, slots=True)
class Lease:
    """What one governor incarnation may let its GPU caps sum to, until it expires.

    `watts_milliwatts` None makes it a fence probe: it is acknowledged and fences older leases but changes no cap.
    Alive until `stamp_ms + ttl_ms` on the host's boot clock; then the governor holds for `hold_ms` and ramps down at
    `ramp_milliwatts_per_s` to `safe_milliwatts` (or the sum of its device minima, whichever is larger).
    """

    KIND: ClassVar[str] = "lease"
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = 1024

    host: HostId
    incarnation: Incarnation
    fence: Fence
    watts_milliwatts: HostMilliwatts | None
    safe_milliwatts: HostMilliwatts
    stamp_ms: Milliseconds
    ttl_ms: Annotated[int, Range(100, 3_600_000)]
    hold_ms: Annotated[int, Range(0, 86_400_000)]
    ramp_milliwatts_per_s: Annotated[int, Range(1, 1_000_000_000)]


HostMode = Literal["observe", "enforce"]


@dataclass(frozen=True, slots=True)
class Report:
    """What a governor's host may draw, by caps read back: the only proof that lowers a commitment.

    `bound_milliwatts` is the sum over GPUs of max(read-back limit, device minimum, any write not yet returned or
    settled; device maximum where a limit cannot be read) times (1 + cap error), and never less than what the lease
    still lets the split raise it to, so that it only falls until a greater fence is applied. `minimum_milliwatts` is
    the least it can be brought to, `maximum_milliwatts` the sum of device maxima, with the same error.
    `has_foreign_cap` and `can_write` say whether someone else writes caps and whether our writes take effect: either
    way the host counts at its maximum.
    """

    KIND: ClassVar[str] = "report"
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = 8192

    host: HostId
    incarnation: Incarnation
    boot_id: Annotated[str, Length(64)]
    gpu_uuids: Annotated[tuple[Annotated[str, Length(96)], ...], Length(64)]
    fence: Fence
    bound_milliwatts: HostMilliwatts
    minimum_milliwatts: HostMilliwatts
    maximum_milliwatts: HostMilliwatts
    stamp_ms: Milliseconds
    mode: HostMode
    is_gated: bool
    has_foreign_cap: bool
    can_write: bool
    lease_watts_milliwatts: HostMilliwatts | None  # the lease in force, for people; decides nothing
