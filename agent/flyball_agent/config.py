"""The agent's configuration, as agent.toml holds it; every key has its unit in its name."""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from flyball_agent.health_config import HealthConfig, IsolationConfig
from flyball_wire import mqtt
from flyball_wire.codec import Range
from flyball_wire.config import load_config
from flyball_wire.errors import WireError
from flyball_wire.topics import check_name

DEFAULT_PATH: Final = Path("/etc/flyball/agent.toml")

Port = Annotated[int, Range(0, 65_535)]
Seconds = Annotated[float, Range(0.01, 86_400.0)]


@dataclass(frozen=True, slots=True)
class BrokerConfig(mqtt.BrokerConfig):
    """The broker, as the agent sees it."""

    enabled: bool = True
    birth_every_s: Seconds = 10.0  # a new aggregator learns inventories without retained messages


@dataclass(frozen=True, slots=True)
class SpoolConfig:
    """Where messages wait on disk while the broker is away; oldest telemetry gives way, never an event."""

    enabled: bool = True
    max_bytes: Annotated[int, Range(65_536, 1 << 40)] = 64 << 20
    drain_per_s: Annotated[float, Range(1.0, 100_000.0)] = 200.0


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """The columnar batches; State summaries go on when they are off."""

    enabled: bool = True
    period_s: Annotated[float, Range(0.1, 60.0)] = 1.0


@dataclass(frozen=True, slots=True)
class ExporterConfig:
    """Prometheus text at http://address:port/metrics."""

    enabled: bool = True
    address: str = "127.0.0.1"
    port: Port = 9481


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """All of agent.toml."""

    site: str = "site"
    host: str = ""  # empty: the machine's host name
    governor_socket: str = "/run/flyball/governor.sock"
    state_dir: str = "/var/lib/flyball/agent"
    state_period_s: Annotated[float, Range(0.05, 60.0)] = 1.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    broker: BrokerConfig = BrokerConfig()
    spool: SpoolConfig = SpoolConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    exporter: ExporterConfig = ExporterConfig()
    health: HealthConfig = HealthConfig()
    isolation: IsolationConfig = IsolationConfig()

    def __post_init__(self) -> None:
        """Refuse names that topics cannot carry."""
        try:
            check_name("site", self.site)
            check_name("host", self.host_id)
        except WireError as error:
            raise ValueError(str(error)) from None

    @property
    def host_id(self) -> str:
        """The configured host id, else one made of the machine's name."""
        return self.host or re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:64] or "host"


def load_agent_config(path: Path | None, environment: Mapping[str, str]) -> AgentConfig:
    """Return the configuration; without a path the default file, where there is one.

    Raises:
        ConfigError: naming the file or variable, the key's path and what was expected.
    """
    if path is None and DEFAULT_PATH.exists():
        path = DEFAULT_PATH
    return load_config(AgentConfig, "agent", path, environment)
