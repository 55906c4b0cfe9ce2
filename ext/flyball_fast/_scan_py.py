"""Split kernel log records: the readable twin that says what `_scan_c` computes."""

_LARGEST = 2**63 - 1


def scan_record(raw: bytes, words: tuple[bytes, ...]) -> tuple[int, int, int, int, bytes, bool] | None:
    """Split one record of /dev/kmsg.

    Args:
        raw: `priority,sequence,time in µs,flag[,more];message`, then lines of a dictionary.
        words: A message is of interest when it holds one of these.

    Returns:
        (priority, sequence, time in µs, flag byte, message without dictionary, is of interest), or None without header.
    """
    header, mark, message = raw.partition(b";")
    parts = header.split(b",", 4)
    if not mark or len(parts) < 4 or not parts[3]:
        return None
    if not all(part.isdigit() and len(part) < 20 and int(part) <= _LARGEST for part in parts[:3]):
        return None
    message = message.partition(b"\n")[0]
    is_interesting = any(word in message for word in words)
    return int(parts[0]), int(parts[1]), int(parts[2]), parts[3][0], message, is_interesting
