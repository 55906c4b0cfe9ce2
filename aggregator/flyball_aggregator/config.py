"""What flyball-aggregator is told: broker, places, keys and timing; the site itself is in SITE.toml."""

from dataclasses import dataclass
from typing import Annotated

from flyball_aggregator.exchange.exchange_config import ExchangeConfig
from flyball_wire import mqtt
from flyball_wire.codec import Range

Port = Annotated[int, Range(0, 65_535)]
Seconds = Annotated[float, Range(0.05, 3600.0)]


@dataclass(frozen=True, slots=True)
class BrokerConfig(mqtt.BrokerConfig):
    """The broker, as the aggregator sees it; it comes back sooner than a host does."""

    client_id: str = "flyball-aggregator"
    reconnect_min_s: mqtt.Seconds = 0.2
    reconnect_max_s: mqtt.Seconds = 5.0


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """The HTTP API and the page; port 0 takes a free one and logs it."""

    host: str = "127.0.0.1"
    port: Port = 8480
    token_file: str | None = None  # who may write; unset: nobody
    allowed_hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")  # names it may be asked under


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """History and journal of decisions; bounded by rows, oldest first."""

    history_hours: Annotated[float, Range(0.1, 87_600.0)] = 24.0
    decisions_hours: Annotated[float, Range(0.1, 87_600.0)] = 24.0 * 14


@dataclass(frozen=True, slots=True)
class AggregatorConfig:
    """Everything of aggregator.toml."""

    site_file: str = "/etc/flyball/site.toml"
    state_dir: str = "/var/lib/flyball"
    lease_key_file: str = "/var/lib/flyball/keys/lease-1.key"
    lease_key_id: str = "lease-1"
    period_s: Seconds = 1.0
    broker: BrokerConfig = BrokerConfig()
    api: ApiConfig = ApiConfig()
    store: StoreConfig = StoreConfig()
    exchange: ExchangeConfig = ExchangeConfig()
