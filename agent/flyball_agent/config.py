"""The agent's configuration, as agent.toml holds it; every key has its unit in its name."""

import re
import socket
from dataclasses import dataclass, field
from typing import Annotated

from flyball_wire.codec import Range
from flyball_wire.errors import WireError
from flyball_wire.topics import check_name

Port = Annotated[int, Range(0, 65_535)]
Seconds = Annotated[float, Range(0.01, 86_400.0)]


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """The MQTT broker and how this host proves itself to it; with `ca_file` set the session is TLS."""

    is_enabled: bool = True
    address: str = "127.0.0.1"
    port: Port = 1883
    username: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    topic_prefix: str = ""  # put before every topic, for brokers that bridge many sites: "dc1/power"
    keepalive_s: Annotated[int, Range(2, 600)] = 15
    timeout_s: Seconds = 5.0
    reconnect_min_s: Seconds = 0.5
    reconnect_max_s: Seconds = 10.0
    birth_every_s: Seconds = 10.0  # a new aggregator learns inventories without retained messages

    def __post_init__(self) -> None:
        """Refuse half of a certificate, a password without a name, and an inverted back-off."""
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("broker.certificate_file and broker.key_file: expected both or neither")
        if self.certificate_file is not None and self.ca_file is None:
            raise ValueError("broker.ca_file: expected with broker.certificate_file")
        if self.password_file is not None and self.username is None:
            raise ValueError("broker.username: expected with broker.password_file")
        if self.reconnect_max_s < self.reconnect_min_s:
            raise ValueError("broker.reconnect_max_s: expected at least broker.reconnect_min_s")
        _check_prefix(self.topic_prefix)


@dataclass(frozen=True, slots=True)
class SpoolConfig:
    """Where messages wait on disk while the broker is away; oldest telemetry gives way, never an event."""

    is_enabled: bool = True
    max_bytes: Annotated[int, Range(65_536, 1 << 40)] = 64 << 20
    drain_per_s: Annotated[float, Range(1.0, 100_000.0)] = 200.0


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """The columnar batches; State summaries go on when they are off."""

    is_enabled: bool = True
    period_s: Annotated[float, Range(0.1, 60.0)] = 1.0


@dataclass(frozen=True, slots=True)
class ExporterConfig:
    """Prometheus text at http://address:port/metrics."""

    is_enabled: bool = True
    address: str = "127.0.0.1"
    port: Port = 9481


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """All of agent.toml."""

    site: str = "site"
    host: str = field(default_factory=lambda: default_host())
    governor_socket: str = "/run/flyball/governor.sock"
    state_dir: str = "/var/lib/flyball/agent"
    broker: BrokerConfig = BrokerConfig()
    spool: SpoolConfig = SpoolConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    exporter: ExporterConfig = ExporterConfig()

    def __post_init__(self) -> None:
        """Refuse names that topics cannot carry."""
        try:
            check_name("site", self.site)
            check_name("host", self.host)
        except WireError as error:
            raise ValueError(str(error)) from None


def default_host() -> str:
    """Return this machine's short name with what topics cannot carry replaced by '-'."""
    name = socket.gethostname().split(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[:64] or "host"


def _check_prefix(prefix: str) -> None:
    if prefix and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64}){0,7}", prefix):
        raise ValueError(f"broker.topic_prefix {prefix[:80]!r}: expected names of letters, digits, '_' or '-' between '/'")
