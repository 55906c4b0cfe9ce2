"""Messages of a host on MQTT: who it is, how it is, what it measured, what happened to it.

Per-GPU values are columns: tuples as long as the host has GPUs, in inventory order; None is unknown, never zero.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from flyball_wire.codec import Length, Range
from flyball_wire.lease import Count, HostId, HostMode, Incarnation

MAX_GPUS = 64
Ratio = Annotated[float, Range(0.0, 1.0)]
PowerWatts = Annotated[float, Range(0.0, 1e7)]
UnixSeconds = Annotated[float, Range(0.0, 1e11)]
ShortText = Annotated[str, Length(128)]


@dataclass(frozen=True, slots=True)
class GpuInventory:
    """One GPU as found at governor start; limits are the device's own, in milliwatts."""

    index: Annotated[int, Range(0, MAX_GPUS - 1)]
    uuid: Annotated[str, Length(96)]
    model: ShortText
    pci_address: ShortText
    vendor: ShortText
    minimum_milliwatts: Count
    maximum_milliwatts: Count
    default_milliwatts: Count


@dataclass(frozen=True, slots=True)
class Birth:
    """Sent once per MQTT session: who this host is and what it holds."""

    KIND: ClassVar[str] = "birth"
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = 32_768

    host: HostId
    session: Incarnation  # drawn by the agent at each connect; state and events of that session carry it
    boot_id: Annotated[str, Length(64)]
    incarnation: Incarnation | None  # the governor's; None while no governor answers
    report_key_id: Annotated[str, Length(64)] | None
    report_public_key: Annotated[bytes, Length(32, least=32)] | None  # a hint for enrolment, never trusted as such
    agent_version: ShortText
    is_simulated: bool
    gpus: Annotated[tuple[GpuInventory, ...], Length(MAX_GPUS)]
    hostname: ShortText
    cpu_count: Annotated[int, Range(0, 65536)]
    memory_bytes: Count
    exporter: ShortText | None  # address of /metrics, for people
    born_at_s: UnixSeconds


@dataclass(frozen=True, slots=True)
class GpuColumns:
    """One second of every GPU of a host, in inventory order."""

    power_watts: tuple[PowerWatts | None, ...]  # mean over the second
    power_peak_watts: tuple[PowerWatts | None, ...]  # largest instant reading in the second
    cap_watts: tuple[PowerWatts | None, ...]  # enforced limit as read back
    energy_joules: tuple[Annotated[float, Range(0.0, 1e15)] | None, ...]
    throttled_ratio: tuple[Ratio | None, ...]  # share of the second in which the power cap was biting
    utilisation_ratio: tuple[Ratio | None, ...]
    temperature_celsius: tuple[Annotated[float, Range(-60.0, 200.0)] | None, ...]
    sm_clock_hz: tuple[Annotated[float, Range(0.0, 1e11)] | None, ...]
    health: tuple[ShortText, ...]  # "ok", "stalled", "lost", "unknown" or a state of the health machine


@dataclass(frozen=True, slots=True)
class State:
    """One second of a host; `is_online` False is its last will, with empty columns."""

    KIND: ClassVar[str] = "state"
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = 32_768

    host: HostId
    session: Incarnation
    seq: Count
    is_online: bool
    sampled_at_s: UnixSeconds
    mode: HostMode
    is_gated: bool
    governor_alive: bool
    samples_total: Count  # rows of one GPU at one tick since the governor started
    missed_ticks_total: Count
    rate_hz: Annotated[float, Range(0.0, 10_000.0)]
    cpu_ratio: Ratio | None
    memory_used_bytes: Count | None
    spooled: Count  # messages waiting on disk
    gpus: GpuColumns


@dataclass(frozen=True, slots=True)
class Telemetry:
    """A columnar batch of samples (flyball_fast.columns) of one host."""

    KIND: ClassVar[str] = "telemetry"
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = 131_072

    host: HostId
    session: Incarnation
    seq: Count
    window: ShortText  # "steady", or the trigger of a pre/post-trigger window
    columns: Annotated[bytes, Length(130_000)]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened on a host; `fields` are short facts, bounded, never secrets."""

    KIND: ClassVar[str] = "event"
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = 16_384

    host: HostId
    session: Incarnation
    seq: Count
    occurred_at_s: UnixSeconds
    name: ShortText
    severity: Annotated[str, Length(16)]  # info, warning, critical
    gpu: Annotated[int, Range(0, MAX_GPUS - 1)] | None
    correlation_id: ShortText | None
    fields: Annotated[tuple[tuple[ShortText, Annotated[str, Length(1024)]], ...], Length(32)]


@dataclass(frozen=True, slots=True)
class Command:
    """A signed order of the aggregator to one governor incarnation; order and life as for a lease."""

    KIND: ClassVar[str] = "command"
    VERSION: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = 8192

    host: HostId
    incarnation: Incarnation
    correlation_id: ShortText
    epoch: Count
    seq: Count
    stamp_ms: Count
    ttl_ms: Annotated[int, Range(100, 3_600_000)]
    action: ShortText  # closed set, checked by the governor
    arguments: Annotated[tuple[tuple[ShortText, Annotated[str, Length(1024)]], ...], Length(32)]
