"""The governor's configuration: frozen dataclasses with their defaults, checked when they are made."""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from flyball_fast.nvml_records import SweepPlan
from flyball_wire.codec import Length, Range
from flyball_wire.config import load_config
from flyball_wire.errors import ConfigError, WireError
from flyball_wire.lease import HostMode
from flyball_wire.signing import KEY_BYTES
from flyball_wire.topics import check_name

DEFAULT_PATH: Final = Path("/etc/flyball/governor.toml")
PROBE_S: Final = 1.0  # ten refreshes of a 100 ms sensor (A100, H100)
Uid = Annotated[int, Range(0, 2**32 - 2)]


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key that may sign leases and commands."""

    key_id: str
    public_key: str  # 64 hex digits
    generation: Annotated[int, Range(0, 1_000_000)] = 0  # only rises: a lease under one ends trust in lower ones

    def __post_init__(self) -> None:
        """Refuse what is no Ed25519 public key."""
        if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * KEY_BYTES}}}", self.public_key):
            raise ValueError(f"public_key of {self.key_id!r}: expected {2 * KEY_BYTES} hex digits")


@dataclass(frozen=True, slots=True)
class SocketConfig:
    """The unix socket that the agent and `flyball-governor gate|status|quiesce|resume` ask on."""

    path: str = "/run/flyball/governor.sock"
    allowed_uids: Annotated[tuple[Uid, ...], Length(64)] = ()  # besides root and the governor's own; they never quiesce
    allowed_users: Annotated[tuple[str, ...], Length(64)] = ()  # the same by name; names this host lacks are left out


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """High-rate samples in the ring; off, demand is unknown and every GPU gets the same."""

    enabled: bool = True
    rate_hz: Annotated[float, Range(1.0, 1000.0)] = 20.0  # power, energy and throttle counters; the rest is slower
    probe: bool = True  # watch for a second first, and sample no faster than twice the sensor's refresh
    cpu_budget_ratio: Annotated[float, Range(0.0001, 1.0)] = 0.01  # of one core, before the rate gives way
    lock_budget_ratio: Annotated[float, Range(0.0001, 1.0)] = 0.005  # of the time, inside driver calls


@dataclass(frozen=True, slots=True)
class CapsConfig:
    """Writing power limits; off, the host is in observe whatever `mode` says."""

    enabled: bool = True
    read_back_s: Annotated[float, Range(0.1, 2.0)] = 1.0  # foreign caps and drift are seen within twice this
    dead_band_ratio: Annotated[float, Range(0.0, 0.2)] = 0.01  # of device maximum; smaller raises are not written
    error_ratio: Annotated[float, Range(0.0, 0.2)] = 0.0  # how far a device's mean power may exceed its cap
    excursion_s: Annotated[float, Range(0.0, 60.0)] = (
        1.5  # power above caps or budget for longer is told; caps are 1 s means
    )
    settle_s: Annotated[float, Range(0.05, 10.0)] = 1.0  # until measured: from a lowered cap to power under it


@dataclass(frozen=True, slots=True)
class SplitConfig:
    """Sharing the host's budget over its GPUs; off, every GPU gets the same."""

    enabled: bool = True
    rate_hz: Annotated[float, Range(0.1, 10.0)] = 10.0  # 0.5 is the most where a GPU tells only a 1 s mean
    headroom_ratio: Annotated[float, Range(0.0, 1.0)] = 0.1  # cap above the peak power of a GPU that is not held back


@dataclass(frozen=True, slots=True)
class LeaseConfig:
    """Leases from an aggregator; with no trusted key or off, `host_limit_w` alone governs."""

    enabled: bool = True
    trusted: Annotated[tuple[TrustedKey, ...], Length(16)] = ()


@dataclass(frozen=True, slots=True)
class EventsConfig:
    """Device events (faults that the driver pushes), and the kernel log's descriptor for the agent."""

    enabled: bool = True
    kernel_log: bool = True
    kernel_log_path: str = "/dev/kmsg"  # or a SOCK_SEQPACKET socket that stands in for it


@dataclass(frozen=True, slots=True)
class DriverConfig:
    """The vendor library and what to do when there is none."""

    library: str = ""  # empty: FLYBALL_NVML_LIBRARY, else libnvidia-ml.so.1 through the loader
    wait_for_driver: bool = False  # try again instead of ending with exit code 69
    retry_s: Annotated[float, Range(0.1, 3600.0)] = 5.0


@dataclass(frozen=True, slots=True)
class GovernorConfig:
    """All of the governor's configuration."""

    host: str = ""  # empty: the machine's host name
    mode: HostMode = "observe"
    host_limit_w: Annotated[float, Range(1.0, 1_000_000.0)] | None = None  # sum of GPU caps, holds with no network
    state_dir: str = "/var/lib/flyball/governor"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    socket: SocketConfig = SocketConfig()
    driver: DriverConfig = DriverConfig()
    sampling: SamplingConfig = SamplingConfig()
    caps: CapsConfig = CapsConfig()
    split: SplitConfig = SplitConfig()
    lease: LeaseConfig = LeaseConfig()
    events: EventsConfig = EventsConfig()

    def __post_init__(self) -> None:
        """Refuse a host id that topics cannot carry and key ids that are there twice."""
        if self.host:
            try:
                check_name("host", self.host)
            except WireError as error:
                raise ValueError(str(error)) from None
        key_ids = [key.key_id for key in self.lease.trusted]
        if len(set(key_ids)) != len(key_ids):
            raise ValueError(f"lease.trusted: key ids {key_ids}, expected each once")

    @property
    def host_id(self) -> str:
        """The configured host id, else one made of the machine's name."""
        return self.host or re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:64] or "host"

    @property
    def effective_mode(self) -> HostMode:
        """Enforce only where caps may be written at all."""
        return self.mode if self.caps.enabled else "observe"

    @property
    def sweep_plan(self) -> SweepPlan:
        """How often the sampler reads what; switched off, next to never."""
        sampling = self.sampling
        rates = (sampling.rate_hz, min(10.0, sampling.rate_hz), 1.0, 0.1) if sampling.enabled else (0.001,) * 4
        return SweepPlan(
            rates,
            cpu_budget_ratio=sampling.cpu_budget_ratio,
            lock_budget_ratio=sampling.lock_budget_ratio,
            probe_s=PROBE_S if sampling.probe and sampling.enabled else 0.0,
        )

    @property
    def is_lease_needed(self) -> bool:
        """Whether a lease, not the file's limit alone, decides what this host may draw."""
        return self.lease.enabled and bool(self.lease.trusted)

    @property
    def trusted_keys(self) -> dict[str, bytes]:
        """Raw public key by key id."""
        return {key.key_id: bytes.fromhex(key.public_key) for key in self.lease.trusted}


def load_governor_config(path: Path | None, environment: Mapping[str, str] = os.environ) -> GovernorConfig:
    """Return the configuration; without a path the default file, where there is one.

    Raises:
        ConfigError: naming the file or variable, the key's path and what was expected.
    """
    if path is None and DEFAULT_PATH.exists():
        path = DEFAULT_PATH
    config = load_config(GovernorConfig, "governor", path, environment)
    check_usable(config)
    return config


def check_usable(config: GovernorConfig) -> None:
    """Refuse a configuration that enforces with nothing to enforce.

    Raises:
        ConfigError: saying which keys would make it whole.
    """
    if config.effective_mode == "enforce" and not config.is_lease_needed and config.host_limit_w is None:
        raise ConfigError("mode: enforce, expected host_limit_w or a key in lease.trusted to enforce by")
