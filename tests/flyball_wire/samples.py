"""One of each message, with every kind of value in it."""

from flyball_wire.codec import Message
from flyball_wire.lease import Fence, Lease, Report
from flyball_wire.local_socket import (
    DeviceEvent,
    ErrorReply,
    GateReply,
    HelloReply,
    ReportReply,
    Request,
    StatusReply,
)
from flyball_wire.messages import Birth, Command, Event, GpuColumns, GpuInventory, State, Telemetry

INCARNATION = "0123456789abcdef" * 2
SESSION = "f" * 32
GPU = GpuInventory(0, "GPU-1", "H100", "0000:1b:00.0", "nvidia", 200_000, 700_000, 700_000)
LEASE = Lease("host-a", INCARNATION, Fence(3, 7), 2_000_000, 1_600_000, 5000, 10_000, 30_000, 100_000)
REPORT = Report(
    "host-a",
    INCARNATION,
    "boot",
    ("GPU-1",),
    Fence(3, 7),
    700_000,
    200_000,
    700_000,
    5000,
    "enforce",
    is_gated=False,
    has_foreign_cap=False,
    can_write=True,
    lease_watts_milliwatts=None,
)
COLUMNS = GpuColumns((431.5,), (700.0,), (None,), (1e9,), (0.5,), (1.0,), (61.0,), (1.5e9,), ("ok",))
REPLIES: tuple[Message, ...] = (
    HelloReply(1, "host-a", INCARNATION, "boot", "gov-host-a", bytes(32), True, (GPU,), True, False),
    ReportReply(2, b"envelope"),
    StatusReply(3, "observe", False, False, "leased", None, 9000, 700_000, (None,), ("ok",), 10, 0, 20.0, ("note",)),
    GateReply(4, False, "no lease yet"),
    DeviceEvent(0, 1.5, "xid", "critical", 0, (("xid", "79"),)),
    ErrorReply(5, "refused"),
)
MESSAGES: tuple[Message, ...] = (
    Birth("host-a", SESSION, "boot", None, None, bytes(32), "0.1.0", True, (GPU,), "vm", 2, 1 << 34, None, 1.7e9),
    State("host-a", SESSION, 9, True, 1.7e9, "observe", True, True, 100, 1, 20.0, None, 1 << 30, 0, COLUMNS),
    Telemetry("host-a", SESSION, 1, "steady", b"\x00\xff"),
    Event("host-a", SESSION, 2, 1.7e9, "xid", "critical", None, "c-1", (("xid", "79"),)),
    Command("host-a", INCARNATION, "c-1", 1, 2, 3, 1000, "reset", (("gpu", "0"),)),
    LEASE,
    REPORT,
    Request(1, "lower", b"", 500_000),
    *REPLIES,
)
