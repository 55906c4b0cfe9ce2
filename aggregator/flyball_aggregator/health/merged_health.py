"""Merge what several sources say about one host: the worst fresh word counts, an override holds until it expires."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

ORDER: Final = ("unknown", "healthy", "suspect", "degraded", "quarantined", "failed")


@dataclass(frozen=True, slots=True)
class Word:
    """What one source says; `lasts_s` is how long that is worth anything."""

    source: str
    state: str
    at_s: float
    lasts_s: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Override:
    """An operator's word over all sources, until it expires; there is none without an end."""

    state: str
    by: str
    why: str
    expires_s: float


def merge_health(words: Iterable[Word], override: Override | None, now_s: float) -> tuple[str, str]:
    """Return (state, why) of a host; only old words, or none, are unknown."""
    if override is not None and now_s < override.expires_s:
        return override.state, f"override by {override.by}: {override.why}"
    fresh = [word for word in words if 0 <= now_s - word.at_s <= word.lasts_s and word.state in ORDER]
    if not fresh:
        return "unknown", "no source spoke lately"
    worst = max(fresh, key=lambda word: (ORDER.index(word.state), word.at_s))
    return worst.state, f"{worst.source}: {worst.why or worst.state}"
