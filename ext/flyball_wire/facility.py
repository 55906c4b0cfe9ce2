"""JSON summaries for people and facility systems on flyball/v1/{site}/fleet/...: plain names, units spelled whole."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

from flyball_wire.codec import from_plain, to_plain
from flyball_wire.errors import WireError

F = TypeVar("F")
MAX_JSON_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FleetPower:
    """The whole site once a second, on fleet/power: what it draws, may draw and has left."""

    TOPIC: ClassVar[str] = "power"

    site: str
    time: str  # RFC 3339, UTC
    limit_watts: float
    draw_watts: float | None  # metered where there is a meter, else modelled; None when too little is known
    draw_source: str  # "meter" or "model"
    headroom_watts: float | None  # limit less draw
    committed_watts: float  # what all hosts together may draw, plus unmanaged and reserve
    unmanaged_watts: float
    reserve_watts: float
    hosts: int
    hosts_online: int
    hosts_enforcing: int
    gpus: int
    limiting_row: str | None
    is_simulated: bool


@dataclass(frozen=True, slots=True)
class RowPower:
    """One limit of the power network, on fleet/rows/{row}."""

    row: str
    limit_watts: float
    committed_watts: float
    slack_watts: float
    draw_watts: float | None
    is_binding: bool


def to_json(summary: object) -> bytes:
    """Return a summary as compact JSON bytes; unknown is null, never NaN."""
    return json.dumps(to_plain(summary), separators=(",", ":"), allow_nan=False).encode()


def from_json(kind: type[F], payload: bytes) -> F:
    """Return a summary from JSON under the checks of the codec.

    Raises:
        WireError: oversized, not JSON, or a field is missing or wrong.
    """
    if len(payload) > MAX_JSON_BYTES:
        raise WireError(f"{kind.__name__}: {len(payload)} bytes, expected at most {MAX_JSON_BYTES}")
    try:
        plain: Any = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise WireError(f"{kind.__name__}: not JSON: {str(error)[:120]}") from None
    return cast("F", from_plain(kind, plain, kind.__name__))
