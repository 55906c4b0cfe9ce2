"""The workload gate: whether new work may start on this host, as a file and as an answer.

The file holds one word and is what simple readers look at; `flyball-governor gate` asks the living governor, because a
host without one takes no new work, whatever the file says.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flyball_governor.journal import write_atomically

OPEN: Final = "open"
SHUT: Final = "shut"


@dataclass(slots=True)
class Gate:
    """The gate of one host; it begins shut."""

    path: Path
    is_open: bool = False
    reason: str = "the governor has just started"
    _written: str | None = None

    def set(self, *, is_open: bool, reason: str) -> bool:
        """Open or shut the gate and write the file when its word changes; say whether it changed.

        Raises:
            JournalError: the file cannot be written; the gate then counts as shut.
        """
        self.reason = reason
        word = OPEN if is_open else SHUT
        if word == self._written:
            return False
        self.is_open = False
        write_atomically(self.path, word.encode() + b"\n", is_durable=False)
        self._written = word
        self.is_open = is_open
        return True


def read_gate_file(path: Path) -> bool | None:
    """Return whether the file says open; None when there is no such file or it says neither word."""
    try:
        word = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return {OPEN: True, SHUT: False}.get(word)
