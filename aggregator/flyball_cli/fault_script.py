"""Scripted faults of `flyball up`: `--event 20:kill:aggregator --event 40:start:aggregator`."""

import math
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from flyball_wire.errors import ConfigError

Action = Literal["kill", "stop", "cont", "start"]
ACTIONS: Final[tuple[str, ...]] = get_args(Action)
TARGETS: Final = ("aggregator", "agent", "governor", "broker")
FORM: Final = "SECONDS:ACTION:TARGET, such as 20:kill:aggregator or 12.5:stop:agent/host-2"


@dataclass(frozen=True, slots=True, order=True)
class FaultEvent:
    """At `at_s` seconds after the load was released, do `action` to `target` (a program, or program/host)."""

    at_s: float
    action: Action
    target: str


def parse_event(text: str) -> FaultEvent:
    """Return the event that a flag names.

    Raises:
        ConfigError: naming the part that is wrong.
    """
    parts = text.split(":")
    if len(parts) != 3:
        raise ConfigError(f"--event {text!r}: expected {FORM}")
    at_s = _seconds(text, parts[0])
    if parts[1] not in ACTIONS:
        raise ConfigError(f"--event {text!r}: action {parts[1]!r}, expected one of {', '.join(ACTIONS)}")
    program, _, host = parts[2].partition("/")
    if program not in TARGETS or (host and program not in {"agent", "governor"}):
        raise ConfigError(f"--event {text!r}: target {parts[2]!r}, expected one of {', '.join(TARGETS)}, or agent/HOST")
    return FaultEvent(at_s, cast("Action", parts[1]), parts[2])


def is_held_down(event: FaultEvent, script: tuple[FaultEvent, ...]) -> bool:
    """Whether a killed target stays down: only when the script starts it again later, else it restarts as usual."""
    return event.action == "kill" and any(
        later.action == "start" and later.at_s >= event.at_s and later.target == event.target for later in script
    )


def _seconds(text: str, part: str) -> float:
    try:
        seconds = float(part)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise ConfigError(f"--event {text!r}: {part!r}, expected seconds, 0 or more")
    return seconds
