"""Undo the escapes in a record's text: bytes that are not printable stand as backslash, x and two digits."""

import re

_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")


def unescape_message(message: bytes) -> str:
    """Return a record's message with its byte escapes undone; broken UTF-8 is replaced."""
    if b"\\x" in message:
        message = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), message)
    return message.decode("utf-8", "replace")


def unescape_record(line: str) -> str:
    """Return a line of text with a record's escapes undone."""
    if "\\x" not in line:
        return line
    return unescape_message(line.encode("utf-8", "surrogatepass"))
