"""What was seen before, on disk: SHA-256 of signed data, so that a replay is known after a restart as well.

A JWS covers neither the envelope's id nor its time, so the signed data itself is what must not come twice.
"""

import hashlib
import sqlite3
from collections import OrderedDict
from pathlib import Path
from typing import Final, Protocol

KEPT: Final = 200_000  # digests; at one set a second more than two days, far beyond any start within 5 minutes


class SeenDigests(Protocol):
    """Remembers digests."""

    def add(self, data: str) -> bool:
        """Remember signed data, durably; False when it was seen before."""
        ...


class SeenInMemory:
    """For tests and for sites without a disk: a restart forgets."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def add(self, data: str) -> bool:
        """Remember signed data; False when it was seen before."""
        digest = _digest(data)
        is_new = digest not in self._seen
        self._seen[digest] = None
        if len(self._seen) > KEPT:
            self._seen.popitem(last=False)
        return is_new


class SeenOnDisk:
    """In one SQLite file."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("CREATE TABLE IF NOT EXISTS seen (n INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE)")

    def add(self, data: str) -> bool:
        """Remember signed data, durably; False when it was seen before.

        Raises:
            sqlite3.Error: it cannot be remembered.
        """
        done = self._db.execute("INSERT OR IGNORE INTO seen (digest) VALUES (?)", (_digest(data),))
        if done.rowcount == 1 and done.lastrowid is not None and done.lastrowid % 1000 == 0:
            self._db.execute("DELETE FROM seen WHERE n <= ?", (done.lastrowid - KEPT,))
        return done.rowcount == 1

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _digest(data: str) -> bytes:
    return hashlib.sha256(data.encode(errors="replace")).digest()
