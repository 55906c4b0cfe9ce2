"""Separate a kernel message from whatever a log put in front of it: record header, level, time, host and tag."""

import re
from dataclasses import dataclass

KERNEL_FACILITY = 0  # user space cannot write it: the kernel forces another one (printk.c, devkmsg_write)

_RECORD = re.compile(r"(\d{1,6}),(\d{1,20}),(\d{1,20}),([^;\n]{0,200});")
_LEVEL = re.compile(r"<(\d{1,4})>(?:1 (?=\d{4}-))?")
_DECODED = re.compile(r"([a-z]+\d?) *:([a-z]+) *: +")
_ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[0-9.,]*(?:Z|[+-]\d\d:?\d\d)?\s+")
_BRACKET = re.compile(
    r"\[ *(?:[+]?\d+[.,]\d+|[TC]\d+|[^\W\d_]\S{1,8} +[^\]\n]{0,40}\d\d:\d\d[^\]\n]{0,20}"
    r"|\d{4}-\d\d-\d\d[T ][^\]\n]{5,40})\] *"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MANAGER = re.compile(r"\[(?:ERROR|WARNING|INFO|CRITICAL|FATAL)\] *(?:\[tid \d+\] *)?")
_DATE = re.compile(r"(?:[^\W\d_]{3,4}\.? +)?[^\W\d_]{3,4}\.? +\d{1,2} \d\d:\d\d:\d\d(?:\.\d+)?(?: \d{4})? +")
_HOST_TAG = re.compile(r"[\w.:-]{1,255} ([\w./@-]{1,64})(?:\[\d+\])?: *")
_RFC5424_TAG = re.compile(r"[\w.:-]{1,255} ([\w./@-]{1,64}) (?:-|\d+) \S+ (?:-|\[[^\]\n]*\]) +")
_BARE_KERNEL = re.compile(r"(?:[\w.:-]{1,255} )?kernel: +|(?:[\w.:-]{1,255} )?kernel: *(?=\[)")
_DEPTH = 8  # prefixes in one line at most; real ones stack up to four


@dataclass(frozen=True, slots=True)
class PrefixedText:
    """A message without its prefix.

    Args:
        body: The message; continuation lines follow after newlines.
        facility: Syslog facility the line states, `None` where it states none.
        tag: Program that wrote the line, `kernel` for the kernel, `None` where the line names none.
    """

    body: str
    facility: int | None = None
    tag: str | None = None

    @property
    def is_kernel(self) -> bool:
        """Tell whether nothing says that another program than the kernel wrote this."""
        return self.facility in (None, KERNEL_FACILITY) and self.tag in (None, "kernel")


def split_prefix(line: str) -> PrefixedText:
    """Return the message of one line of a kernel ring record, `dmesg` output (any time format) or syslog file."""
    if "\x1b" in line:
        line = _COLOUR.sub("", line)
    record = _RECORD.match(line)
    if record:
        return PrefixedText(line[record.end() :].lstrip(), int(record[1]) >> 3, None)
    facility: int | None = None
    tag: str | None = None
    position = _skip_blank(line, 0)
    for _ in range(_DEPTH):
        step = _step(line, position)
        if step is None:
            break
        position, found_facility, found_tag = step
        facility = found_facility if facility is None else facility
        tag = tag if found_tag is None else found_tag
        if tag not in (None, "kernel"):
            break
    return PrefixedText(line[position:].lstrip(), facility, tag)


def _skip_blank(line: str, position: int) -> int:
    while position < len(line) and line[position] in " \t\r\n":
        position += 1
    return position


def _step(line: str, position: int) -> tuple[int, int | None, str | None] | None:
    """Return (end, facility, tag) of the one prefix that stands at `position`, or None."""
    if level := _LEVEL.match(line, position):
        return level.end(), int(level[1]) >> 3, None
    if decoded := _DECODED.match(line, position):
        return _decoded(decoded)
    if bracket := _BRACKET.match(line, position) or _MANAGER.match(line, position):
        return bracket.end(), None, None
    if date := _ISO.match(line, position) or _DATE.match(line, position):
        return _dated(line, date)
    if bare := _BARE_KERNEL.match(line, position):
        return bare.end(), None, "kernel"
    return None


def _dated(line: str, date: re.Match[str]) -> tuple[int, int | None, str | None]:
    """Return the step of a time; syslog names host and program after it, `dmesg` (a comma in its time) does not."""
    tag = None
    if "," not in date[0]:
        tag = _RFC5424_TAG.match(line, date.end()) or _HOST_TAG.match(line, date.end())
    return (tag.end(), None, tag[1]) if tag else (date.end(), None, None)


def _decoded(found: re.Match[str]) -> tuple[int, int | None, str | None] | None:
    """Return the step of `facility:level:`, as `dmesg --decode` prints it, for the names it really prints."""
    if found[2] not in _LEVEL_NAMES or found[1] not in _FACILITY_NAMES:
        return None
    return found.end(), _FACILITY_NAMES.index(found[1]), None


_LEVEL_NAMES = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
_FACILITY_NAMES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("res0", "res1", "res2", "res3", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
)
