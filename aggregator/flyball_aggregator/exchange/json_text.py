"""JSON as the exchange reads it: NaN, infinities, doubled keys and endless nesting are refused with a reason."""

import json
import math
from typing import Any, Final, NoReturn

from flyball_wire.errors import WireError

MAX_BYTES: Final = 4 << 20  # the DSX broker's max_payload


def read_json(payload: bytes | str, max_bytes: int = MAX_BYTES) -> Any:
    """Return the value.

    Raises:
        WireError: oversized, not UTF-8, not JSON.
    """
    if len(payload) > max_bytes:
        raise WireError(f"{len(payload)} bytes, expected at most {max_bytes}")
    try:
        return json.loads(payload, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {str(error)[:120]}") from None


def write_json(value: object) -> bytes:
    """Return compact JSON.

    Raises:
        ValueError: NaN or an infinity in it.
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond any number here")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found
