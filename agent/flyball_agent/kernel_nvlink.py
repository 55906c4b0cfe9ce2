"""Decode NVLink5 messages (XID 144 to 150): which unit of the link failed and what NVIDIA's public rules ask for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

FIRST_XID: Final = 144
LAST_XID: Final = 150
# Link-down reasons that point to cartridge, cable or connector rather than to the GPU.
LINK_INSPECTION_SUBCODES: Final = frozenset({4, 10})

_FORM = re.compile(
    r"(?:^|[\s,])([A-Za-z][\w/]*)\s+(Fatal|Non-?fatal)\s+XC\d+\s+i\d+\s+Link\s+(-?\d+)\s*"
    r"\(\s*(?:(0x[0-9a-f]{1,8})(?=[\s)])\s*(?:(0x[0-9a-f]{1,8})(?=[\s)]))?)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class NvlinkRule:
    """One public decode rule.

    Args:
        unit: Unit and sub-unit as the driver prints them.
        masks: (mask, value) of the first status word, 32 bits, for drivers before R575 and from R575 on.
        error_status: Second status word, which must be equal.
        action: IGNORE, RESET_GPU or XID_154_EVAL.
    """

    xid: int
    unit: str
    masks: tuple[tuple[int, int], ...]
    error_status: int
    action: str


@dataclass(frozen=True, slots=True)
class NvlinkError:
    """A message of the NVLink5 form; words are `None` where the line was cut before they ended."""

    unit: str
    is_fatal: bool
    link: int | None  # None: not of one link (printed as -1)
    information: int | None
    error_status: int | None

    @property
    def subcode(self) -> int | None:
        """Reason within the unit: bits 20 to 25 of the first word."""
        return None if self.information is None else self.information >> 20 & 0x3F


def parse_nvlink_error(text: str) -> NvlinkError | None:
    """Return the last NVLink5 form of a message: a process name before it can then not stand in for it."""
    found = None
    for found in _FORM.finditer(text):  # noqa: B007 - the last one counts
        pass
    if found is None:
        return None
    link = int(found[3])
    return NvlinkError(
        unit=found[1].upper(),
        is_fatal=found[2].lower() == "fatal",
        link=None if link < 0 else link,
        information=_word(found[4]),
        error_status=_word(found[5]),
    )


def parse_bit_pattern(pattern: str) -> tuple[int, int]:
    """Return (mask, value) of a 32-character pattern of 0, 1 and '-' (any), most significant bit first."""
    mask = int("".join("0" if bit == "-" else "1" for bit in pattern), 2)
    return mask, int(pattern.replace("-", "0"), 2)


class NvlinkRules:
    """The decode rules, found by XID, unit and status word."""

    def __init__(self, rules: Sequence[NvlinkRule]) -> None:
        """Index the rules; a unit is found by its whole name and by each of its parts."""
        self._found: dict[tuple[int, str, int], list[NvlinkRule]] = {}
        for rule in rules:
            for name in _unit_names(rule.unit):
                self._found.setdefault((rule.xid, name, rule.error_status), []).append(rule)

    def find(self, xid: int, error: NvlinkError) -> NvlinkRule | None:
        """Return the rule that fits, whatever the driver's word layout, or None."""
        if error.information is None or error.error_status is None:
            return None
        for name in _unit_names(error.unit):
            for rule in self._found.get((xid, name, error.error_status), ()):
                if any(error.information & mask == value for mask, value in rule.masks):
                    return rule
        return None


def read_nvlink_rule(row: Mapping[str, str]) -> NvlinkRule:
    """Return the rule of one row of nvlink5.tsv."""
    patterns = (row["intrinfo_before_r575"], row["intrinfo_from_r575"])
    return NvlinkRule(
        xid=int(row["xid"]),
        unit=row["unit"],
        masks=tuple(parse_bit_pattern(pattern) for pattern in patterns),
        error_status=int(row["error_status"], 16),
        action=row["action"],
    )


def _unit_names(unit: str) -> tuple[str, ...]:
    """Return the whole name first, then its parts: drivers print `NETIR`, `NETIR_INT` or `NETIR/NETIR_INT`."""
    return tuple(dict.fromkeys((unit, *unit.split("/"))))


def _word(text: str | None) -> int | None:
    return None if text is None else int(text, 16)
