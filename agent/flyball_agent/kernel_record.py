"""One record of /dev/kmsg: its header, its message, and the escapes that the kernel puts into it.

Format (Documentation/ABI/testing/dev-kmsg): `priority,sequence,time in µs,flags[,more];message`, then lines that begin
with a space and hold `KEY=value` pairs of the device. Bytes that are not printable ASCII stand as backslash, x and
two digits.
"""

import re
from dataclasses import dataclass

from flyball_agent.kernel_prefix import KERNEL_FACILITY

_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")
_TEXT_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")


class RecordError(ValueError):
    """A record has no kernel record header; it is counted and skipped."""


@dataclass(frozen=True, slots=True)
class KernelRecord:
    """One record.

    Args:
        level: 0 (emergency) to 7 (debug).
        facility: 0 when the kernel wrote it; user space gets another number whatever it asks for.
        sequence: Number in the ring, rising by one with each record of this boot.
        at_s: Time since boot, seconds.
        is_continued: A fragment that more text followed (flag 'c') or that continues one (flag '+').
        message: The message, still escaped, without dictionary lines.
    """

    level: int
    facility: int
    sequence: int
    at_s: float
    is_continued: bool
    message: bytes

    @property
    def is_kernel(self) -> bool:
        """Tell whether the kernel itself wrote this."""
        return self.facility == KERNEL_FACILITY

    def text(self) -> str:
        """Return the message as text, escapes undone; broken UTF-8 is replaced."""
        return unescape_message(self.message)


def parse_record(raw: bytes) -> KernelRecord:
    """Return one record as read from /dev/kmsg.

    Raises:
        RecordError: no header.
    """
    header, mark, message = raw.partition(b";")
    parts = header.split(b",", 4)
    if not mark or len(parts) < 4 or not (parts[0].isdigit() and parts[1].isdigit() and parts[2].isdigit()):
        raise RecordError(f"record {raw[:40]!r}: expected `priority,sequence,time,flags;message`")
    priority = int(parts[0])
    end = message.find(b"\n")
    return KernelRecord(
        level=priority & 7,
        facility=priority >> 3,
        sequence=int(parts[1]),
        at_s=int(parts[2]) / 1e6,
        is_continued=parts[3] in (b"c", b"+"),
        message=message if end < 0 else message[:end],
    )


def unescape_message(message: bytes) -> str:
    """Return a record's message with its byte escapes undone."""
    if b"\\x" in message:
        message = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), message)
    return message.decode("utf-8", "replace")


def unescape_record(line: str) -> str:
    """Return a line of text with a record's escapes undone, where it is a raw record; other lines as they are."""
    if "\\x" not in line or not line[:1].isdigit():
        return line
    raw = _TEXT_ESCAPE.sub(lambda found: chr(int(found[1], 16)), line)
    return raw.encode("latin-1", "replace").decode("utf-8", "replace") if raw.isascii() is False else raw
