"""Prometheus text exposition: metric families as values, and how they read on the page."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Labels = Mapping[str, str]


@dataclass(slots=True)
class Family:
    """One metric with its samples; a sample whose value is unknown is left out."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    samples: list[tuple[Labels, float]] = field(default_factory=list)

    def add(self, value: float | bool | None, labels: Labels | None = None) -> "Family":  # noqa: FBT001 - a sample
        """Add one sample unless it is unknown."""
        if value is not None and math.isfinite(value):
            self.samples.append((labels or {}, float(value)))
        return self


def exposition_text(families: Iterable[Family]) -> str:
    """Return the text of every family that has a sample."""
    lines: list[str] = []
    texts: dict[int, tuple[Labels, str]] = {}  # by identity: many families share a GPU's labels; kept, so ids stay
    for family in families:
        if family.samples:
            lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
            for labels, value in family.samples:
                if id(labels) not in texts:
                    texts[id(labels)] = labels, _labels_text(labels)
                lines.append(f"{family.name}{texts[id(labels)][1]} {_number(value)}")
    return "\n".join(lines) + "\n"


def _labels_text(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
