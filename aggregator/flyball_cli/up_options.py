"""What `flyball up` was asked for, checked before anything starts."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from flyball_cli.fault_script import FaultEvent
from flyball_wire.errors import ConfigError
from flyball_wire.messages import MAX_GPUS

DEFAULT_API_PORT: Final = 8480
DEFAULT_BROKER_PORT: Final = 1883
DEFAULT_LIMIT_W_PER_GPU: Final = 625.0  # of 1,069 W that a saturated H100 and its share of the host draw at the wall
OWN_POWER_W_PER_GPU: Final = 180.0  # host at idle; H100 node, workload-power measurements
WALL_WATTS_PER_GPU_WATT: Final = 1.27  # fans and supplies: 0.27 W a GPU watt
MAX_HOSTS: Final = 64  # processes of one machine; larger sites are the twin's


@dataclass(frozen=True, slots=True)
class UpOptions:
    """Flags of `flyball up`."""

    hosts: int = 4
    gpus: int = 8
    model: str = "h100"
    limit_w: float | None = None
    is_enforcing_local: bool = False
    is_simulated_only: bool = False
    trace: Path | None = None
    demand_ratio: float = 1.2
    seed: int = 1
    for_s: float | None = None
    events: tuple[FaultEvent, ...] = ()
    is_json: bool = False
    state: Path | None = None
    broker: Literal["auto", "mosquitto", "nats"] = "auto"
    api_port: int = DEFAULT_API_PORT
    broker_port: int = DEFAULT_BROKER_PORT

    @property
    def site_limit_w(self) -> float:
        """The wall limit, by default in proportion to the GPUs."""
        return self.limit_w if self.limit_w is not None else self.hosts * self.gpus * DEFAULT_LIMIT_W_PER_GPU


def check_options(options: UpOptions) -> UpOptions:
    """Return the options when they make sense together.

    Raises:
        ConfigError: naming the flag and what was expected.
    """
    _within("--hosts", options.hosts, 1, MAX_HOSTS)
    _within("--gpus", options.gpus, 1, MAX_GPUS)
    _within("--limit-w", options.site_limit_w, 1.0, 1e9)
    _within("--demand", options.demand_ratio, 0.01, 100.0)
    _within("--port", options.api_port, 0, 65_535)
    _within("--broker-port", options.broker_port, 0, 65_535)
    if options.for_s is not None:
        _within("--for", options.for_s, 1.0, 1e9)
    if options.is_json and options.for_s is None:
        raise ConfigError("--json: expected --for SECONDS beside it")
    if options.trace is not None and not options.trace.is_file():
        raise ConfigError(f"--trace {options.trace}: no such file")
    last = max((event.at_s for event in options.events), default=0.0)
    if options.for_s is not None and last > options.for_s:
        raise ConfigError(f"--event at {last:g} s: expected within --for {options.for_s:g}")
    return options


def _within(flag: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"{flag} {value:g}: expected {low:g} to {high:g}")
