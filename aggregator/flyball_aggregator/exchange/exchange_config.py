"""What the DSX Exchange side is told: who we are there, whom we believe, and which broker; off unless switched on."""

from dataclasses import dataclass
from typing import Annotated, Literal

from flyball_wire import mqtt
from flyball_wire.codec import Length, Range

Identifier = Annotated[str, Length(64, least=1)]
Seconds = Annotated[float, Range(0.05, 86_400.0)]


@dataclass(frozen=True, slots=True)
class ExchangeBrokerConfig(mqtt.BrokerConfig):
    """The exchange's broker; with `token_url` the password is an OAuth2 access token, fetched anew at each connect."""

    client_id: str = "flyball-exchange"
    username: str | None = None  # with a token: `oauthtoken`, unless set
    token_url: str | None = None
    token_client_id: str = ""
    token_secret_file: str | None = None
    token_scope: str = "mqtt"  # noqa: S105 - the exchange's name of the scope


@dataclass(frozen=True, slots=True)
class ExchangeConfig:
    """DSX Flex agent, BMS integration and host states.

    Attributes:
        role: Segment of the agent's topics; `poweragent` for peers of before DSX Flex.
        keys_file: JWK set of those whose targets are believed; each key has a member `source`.
        takes_plain: For a bench without keys: unsigned targets are taken.
        restart_ramp_watts_per_second: How fast a feed's limit rises once a target ends; unset: at once.
        integration: Our identifier on the BMS bus.
        publishes_host_states: Ours on NICO/v1/machine; otherwise those of another manager are heard.
        brakes_on_frequency: A frequency point of the BMS below its threshold cuts all feeds.
        broker: Unset: the aggregator's own.
    """

    is_on: bool = False
    agent_id: Identifier = "flyball"
    role: Literal["dsx-flex-agent", "poweragent"] = "dsx-flex-agent"
    keys_file: str | None = None
    signing_key_file: str | None = None
    signing_key_id: Identifier = "flyball-1"
    takes_plain: bool = False
    event_window_s: Seconds = 300.0
    status_period_s: Seconds = 15.0
    restart_ramp_watts_per_second: Annotated[float, Range(1e-3, 1e10)] | None = None
    enforces_hints: bool = False  # act as infra agent on breach alerts
    integration: Identifier = "FLYBALL"
    host_states_period_s: Seconds = 60.0
    publishes_host_states: bool = False
    brakes_on_frequency: bool = False
    nominal_hertz: Annotated[float, Range(45.0, 65.0)] = 50.0
    broker: ExchangeBrokerConfig | None = None
