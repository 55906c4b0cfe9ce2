"""Read the kernel log from the systemd journal, where /dev/kmsg cannot be had: entries of `journalctl -k -o json`.

The journal itself notes who wrote an entry; only the transport `kernel` with facility 0 is believed.
"""

import json
from collections.abc import Iterator

from flyball_agent.kernel_messages import KernelMessage, MessageClassifier

ENTRY_BYTES = 65_536


def journal_command(after_cursor: str | None) -> list[str]:
    """Return the command that follows this boot's kernel messages, from a cursor on where one is known."""
    where = ["--after-cursor", after_cursor] if after_cursor else ["--lines=all"]
    return ["journalctl", "--dmesg", "--boot", "--output=json", "--follow", "--no-pager", *where]


class JournalLog:
    """Turns journal entries into messages and remembers the cursor."""

    def __init__(self, classifier: MessageClassifier, cursor: str | None = None) -> None:
        self.cursor = cursor
        self.malformed = 0
        self.foreign = 0
        self._classifier = classifier

    def take_entry(self, line: bytes) -> Iterator[KernelMessage]:
        """Yield what one line of the command's output says."""
        entry = _parse(line)
        message = _message(entry.get("MESSAGE")) if entry is not None else None
        if entry is None or message is None:
            self.malformed += 1
            return
        cursor = entry.get("__CURSOR")
        self.cursor = cursor if isinstance(cursor, str) else self.cursor
        facility = _number(entry.get("SYSLOG_FACILITY"), 0)
        if entry.get("_TRANSPORT") != "kernel" or (facility != 0 and not self._classifier.allow_injected):
            self.foreign += 1
            return
        at_s = _number(entry.get("_SOURCE_MONOTONIC_TIMESTAMP", entry.get("__MONOTONIC_TIMESTAMP")), 0) / 1e6
        told = self._classifier.classify(message, facility, at_s, 0)
        if told is not None:
            yield told


def _parse(line: bytes) -> dict[str, object] | None:
    try:
        entry = json.loads(line) if len(line) <= ENTRY_BYTES else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _message(value: object) -> bytes | None:
    """Return a message that the journal gives as text, or as numbers where it is no UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    try:
        return bytes(value) if isinstance(value, list) else None
    except (TypeError, ValueError):
        return None


def _number(value: object, default: int) -> int:
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else default
