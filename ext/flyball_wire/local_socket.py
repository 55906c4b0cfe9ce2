"""The governor's unix socket: frames of 4 bytes length and msgpack, and the closed set of requests and replies.

The agent asks, the governor answers each request with the same `request_id`, in order; events come unasked with
`request_id` 0. Descriptors (ring, kernel log) travel beside the hello reply as SCM_RIGHTS.
"""

import struct
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal, get_args

from flyball_wire.codec import Length, decode_any
from flyball_wire.errors import WireError
from flyball_wire.lease import Count, HostId, HostMode, Incarnation
from flyball_wire.messages import MAX_GPUS, GpuInventory, ShortText

MAX_FRAME_BYTES: Final = 65_536
ORDER_EVENT: Final = "order"  # a DeviceEvent that carries an order of the fleet to the agent, its signature checked
HEALTH_ACTS: Final = ("permit", "mode", "window", "resume", "hold", "unhold", "isolate", "clear")
_LENGTH = struct.Struct(">I")

Action = Literal["hello", "lease", "report", "status", "quiesce", "resume", "gate", "lower", "command"]


@dataclass(frozen=True, slots=True)
class Request:
    """One question or offer of a local client; `body` is a signed envelope for lease and command."""

    KIND: ClassVar[str] = "request"
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = MAX_FRAME_BYTES

    request_id: Count
    action: Action
    body: Annotated[bytes, Length(16_384)] = b""
    limit_milliwatts: Count | None = None  # for lower: bring the host's bound to this or less


@dataclass(frozen=True, slots=True)
class HelloReply:
    """Who the governor is; the ring and, where readable, the kernel log descriptor come with it, in that order."""

    KIND: ClassVar[str] = "hello"
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = MAX_FRAME_BYTES

    request_id: Count
    host: HostId
    incarnation: Incarnation
    boot_id: Annotated[str, Length(64)]
    key_id: Annotated[str, Length(64)]
    public_key: Annotated[bytes, Length(32, least=32)]
    is_simulated: bool
    gpus: Annotated[tuple[GpuInventory, ...], Length(MAX_GPUS)]
    has_ring: bool
    has_kernel_log: bool


@dataclass(frozen=True, slots=True)
class ReportReply:
    """The signed report envelope, to be relayed as it is; for lease, report, lower and command."""

    KIND: ClassVar[str] = "report_reply"
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = MAX_FRAME_BYTES

    request_id: Count
    envelope: Annotated[bytes, Length(16_384)]


@dataclass(frozen=True, slots=True)
class StatusReply:
    """What a person or an exporter wants to know of the governor."""

    KIND: ClassVar[str] = "status"
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = MAX_FRAME_BYTES

    request_id: Count
    mode: HostMode
    is_gated: bool
    is_quiesced: bool
    phase: ShortText  # "no_lease", "leased", "holding", "ramping", "safe", "local_limit"
    lease_milliwatts: Count | None
    lease_remaining_ms: Count | None
    bound_milliwatts: Count
    caps_milliwatts: Annotated[tuple[Count | None, ...], Length(MAX_GPUS)]
    health: Annotated[tuple[ShortText, ...], Length(MAX_GPUS)]
    samples_total: Count
    missed_ticks_total: Count
    rate_hz: float
    notes: Annotated[tuple[Annotated[str, Length(512)], ...], Length(32)]


@dataclass(frozen=True, slots=True)
class GateReply:
    """Whether new work may start, and why not; for gate, quiesce and resume."""

    KIND: ClassVar[str] = "gate"
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = MAX_FRAME_BYTES

    request_id: Count
    is_open: bool
    reason: Annotated[str, Length(512)]


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """Unasked: something the device side noticed (XID, stalled, foreign cap, excursion)."""

    KIND: ClassVar[str] = "device_event"
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = MAX_FRAME_BYTES

    request_id: Count
    occurred_at_s: float
    name: ShortText
    severity: Annotated[str, Length(16)]
    gpu: Count | None
    fields: Annotated[tuple[tuple[ShortText, Annotated[str, Length(1024)]], ...], Length(32)]


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """The request was refused; nothing changed."""

    KIND: ClassVar[str] = "error"
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = MAX_FRAME_BYTES

    request_id: Count
    error: Annotated[str, Length(1024)]


Reply = HelloReply | ReportReply | StatusReply | GateReply | DeviceEvent | ErrorReply
_REPLIES: Final = {kind.KIND: kind for kind in get_args(Reply)}


def decode_reply(payload: bytes) -> Reply:
    """Return whichever reply or event a frame of the governor holds.

    Raises:
        WireError: malformed, or none of the replies.
    """
    reply: Reply = decode_any("reply", _REPLIES, payload, MAX_FRAME_BYTES)
    return reply


def frame(payload: bytes) -> bytes:
    """Return a payload with its length before it.

    Raises:
        WireError: larger than a frame may be.
    """
    if len(payload) > MAX_FRAME_BYTES:
        raise WireError(f"frame of {len(payload)} bytes, expected at most {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(payload)) + payload


def frame_length(header: bytes) -> int:
    """Return the payload length that a 4-byte header announces.

    Raises:
        WireError: not 4 bytes, zero, or larger than a frame may be.
    """
    if len(header) != _LENGTH.size:
        raise WireError(f"frame header of {len(header)} bytes, expected {_LENGTH.size}")
    (length,) = _LENGTH.unpack(header)
    if not 0 < length <= MAX_FRAME_BYTES:
        raise WireError(f"frame of {length} bytes, expected 1 to {MAX_FRAME_BYTES}")
    return int(length)
