"""Recordings as the BMS contract ships one: CSV of offset, topic and payload, with `{{timestamp_ms}}`."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from flyball_wire.errors import WireError

_OFFSET: Final = re.compile(r"(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)(ms|s|µs|us))?")
_SECONDS: Final = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6}


def read_recording(path: Path) -> Iterator[tuple[float, str, str]]:
    """Yield (offset in seconds, topic, payload template) of each row.

    Raises:
        WireError: a row has no offset, topic and payload. OSError: as of the file.
    """
    with path.open(encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines), start=2):
            try:
                yield parse_offset(row["offset"]), row["topic"], row["payload"]
            except (KeyError, TypeError, ValueError) as error:
                raise WireError(f"{path} line {number}: {error}; expected offset, topic and payload") from None


def parse_offset(text: str) -> float:
    """Return the seconds of an offset such as `3.4731ms`, `1.9s` or `1m17.2s`.

    Raises:
        ValueError: it is none.
    """
    found = _OFFSET.fullmatch(text)
    if found is None or not text:
        raise ValueError(f"offset {text!r}")
    minutes, value, unit = found.groups()
    return 60.0 * float(minutes or 0) + (float(value) * _SECONDS[unit] if value else 0.0)
