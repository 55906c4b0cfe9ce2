"""The durable side of the ledger: SQLite in WAL mode with synchronous=FULL, plain transactions, and a witness file.

One `commit` per tick, before anything is sent. A leader whose epoch is no longer the newest cannot commit. Calls may
come from any thread, one at a time. The witness best lies on another file system than the store.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgpack

from flyball_aggregator.power.ledger import LedgerState, restore
from flyball_aggregator.power.ledger_events import (
    EpochStarted,
    LedgerEffect,
    LedgerSettings,
    LogGrant,
    LogHost,
    LogMembers,
)
from flyball_aggregator.power.ledger_host import HostLedger, with_grant
from flyball_aggregator.power.ledger_witness import Witness, read_witness, write_witness
from flyball_wire.codec import from_plain, to_plain
from flyball_wire.lease import Fence

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS epochs (epoch INTEGER PRIMARY KEY, last_seq INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS hosts (
    host TEXT PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, record BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS members (
    host TEXT NOT NULL, row TEXT NOT NULL, ppm INTEGER NOT NULL, PRIMARY KEY (host, row)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS grants (
    host TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    incarnation TEXT NOT NULL, milliwatts INTEGER, kind TEXT NOT NULL, PRIMARY KEY (host, epoch, seq)
) WITHOUT ROWID;
"""


class LedgerStoreError(Exception):
    """The store could not do what was asked; nothing was written unless a subclass says otherwise."""


class DeposedError(LedgerStoreError):
    """A later epoch is in the store: step down."""


class CommitInDoubtError(LedgerStoreError):
    """It is unknown whether the transaction is durable: step down and begin again from the store."""


class StoreFullError(LedgerStoreError):
    """Nothing was written for want of room: raises must stop, lowers may go on."""


@dataclass(frozen=True, slots=True)
class StoredLedger:
    """What a start finds: the new epoch (already durable), earlier ones, hosts, and whether the witness disagrees."""

    epoch: int
    epochs: Mapping[int, int]
    hosts: tuple[HostLedger, ...]
    members: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    is_restored: bool


Log = LogGrant | LogHost | LogMembers


class LedgerStore:
    """One leader's handle on the store; `open_epoch` takes leadership."""

    def __init__(self, path: Path, witness: Path) -> None:
        self._path = path
        self._witness_path = witness
        self._db: sqlite3.Connection | None = None
        self._epoch = 0
        self._seq = 0
        self._witness = Witness(0, 0, 0)
        self._unlogged: dict[object, Log] = {}  # what a full disk kept out of the store; written when there is room

    def open_epoch(self, above: int = 0) -> StoredLedger:
        """Take a new epoch above every one in store, witness and `above`, durably, and read everything back.

        Raises:
            LedgerStoreError: the store cannot be opened or written; there is no leadership then.
        """
        self.close()
        try:
            self._db = _open(self._path)
            stored = self._take_epoch(self._db, above)
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise LedgerStoreError(f"ledger store {self._path}: {error}") from error
        return stored

    def commit(self, effects: Iterable[LedgerEffect]) -> None:
        """Make the Log effects of a tick durable as one transaction; send only after this returns.

        Raises:
            DeposedError: another leader has taken a later epoch.
            StoreFullError: nothing was written; a batch of lowers alone does not raise it.
            CommitInDoubtError: step down.
        """
        logs = [effect for effect in effects if isinstance(effect, Log)]
        if not logs:
            return
        db = self._db
        if db is None:
            raise LedgerStoreError("the ledger store is not open")
        try:
            self._write(db, logs)
        except StoreFullError:
            self._unlogged.update((_key(log), log) for log in logs if not isinstance(log, LogGrant))
            self._witness_lowers(logs)
        else:
            self._unlogged.clear()
            self._write_witness(unlogged_from=0)

    def close(self) -> None:
        """Close the database; leadership ends with the next epoch, not here."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _take_epoch(self, db: sqlite3.Connection, above: int) -> StoredLedger:
        witness = read_witness(self._witness_path)
        db.execute("BEGIN IMMEDIATE")
        epochs: dict[int, int] = dict(db.execute("SELECT epoch, last_seq FROM epochs").fetchall())
        is_restored = above > 0 or _disagrees(epochs, witness)
        if witness is not None and witness.epoch in epochs:
            epochs[witness.epoch] = max(epochs[witness.epoch], witness.seq)
        self._epoch = max(max(epochs, default=0), above, witness.epoch if witness is not None else 0) + 1
        self._seq = 0
        db.execute("INSERT INTO epochs VALUES (?, 0)", (self._epoch,))
        db.execute("COMMIT")
        self._witness = witness if witness is not None else self._witness
        self._write_witness(unlogged_from=0)
        return StoredLedger(self._epoch, epochs, _read_hosts(db), _read_members(db), is_restored)

    def _write(self, db: sqlite3.Connection, logs: list[Log]) -> None:
        seq = self._seq
        try:
            db.execute("BEGIN IMMEDIATE")
            newest = db.execute("SELECT max(epoch) FROM epochs").fetchone()[0]
            if newest != self._epoch:
                raise DeposedError(f"epoch {newest} is in the store, this leader's is {self._epoch}")
            for log in (*self._unlogged.values(), *logs):
                seq = max(seq, self._insert(db, log, seq))
            db.execute("UPDATE epochs SET last_seq = ? WHERE epoch = ?", (seq, self._epoch))
        except sqlite3.Error as error:
            _roll_back(db)
            kind = StoreFullError if error.sqlite_errorcode == sqlite3.SQLITE_FULL else LedgerStoreError
            raise kind(f"ledger store {self._path}: {error}") from error
        except LedgerStoreError:
            _roll_back(db)
            raise
        self._commit(db)
        self._seq = seq

    def _commit(self, db: sqlite3.Connection) -> None:
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            is_full = error.sqlite_errorcode == sqlite3.SQLITE_FULL and db.in_transaction
            _roll_back(db)
            if is_full:
                raise StoreFullError(f"ledger store {self._path}: {error}") from error
            raise CommitInDoubtError(f"ledger store {self._path}: {error}") from error

    def _insert(self, db: sqlite3.Connection, log: Log, seq: int) -> int:
        """Write one log entry; return the newest sequence number with it."""
        if isinstance(log, LogHost):
            host = log.host
            record = msgpack.packb(to_plain(host))
            db.execute("INSERT OR REPLACE INTO hosts VALUES (?, ?, ?, ?)", (host.host, self._epoch, seq, record))
            fence = host.fence
            db.execute("DELETE FROM grants WHERE host = ? AND (epoch, seq) <= (?, ?)",
                       (host.host, fence.epoch, fence.seq))  # fmt: skip
            return seq
        if isinstance(log, LogMembers):
            db.execute("DELETE FROM members")
            members = [(host, row, ppm) for host, shares in log.members for row, ppm in shares]
            db.executemany("INSERT INTO members VALUES (?, ?, ?)", members)
            return seq
        if log.fence.epoch != self._epoch or (log.fence.seq <= self._seq and log.fence not in self._unlogged):
            raise LedgerStoreError(f"grant {log.fence.epoch}.{log.fence.seq}: expected above {self._epoch}.{self._seq}")
        row = (log.host, log.fence.epoch, log.fence.seq, log.incarnation, log.milliwatts, log.kind)
        db.execute("INSERT INTO grants VALUES (?, ?, ?, ?, ?, ?)", row)
        return log.fence.seq

    def _witness_lowers(self, logs: list[Log]) -> None:
        """Note lowers in the witness alone; anything else waits for room.

        Raises:
            StoreFullError: there is more than lowers among them.
        """
        grants = [log for log in logs if isinstance(log, LogGrant)]
        if not grants or any(log.kind != "lower" for log in grants):
            raise StoreFullError(f"ledger store {self._path}: no room, nothing was written")
        first = self._witness.unlogged_from or self._seq + 1
        self._seq = max(self._seq, *(log.fence.seq for log in grants))
        self._unlogged.update((_key(log), log) for log in grants)
        self._write_witness(unlogged_from=first)

    def _write_witness(self, *, unlogged_from: int) -> None:
        """Bring the witness up; a leader that cannot is in doubt about its own log."""
        self._witness = Witness(self._witness.counter + 1, self._epoch, self._seq, unlogged_from)
        try:
            write_witness(self._witness_path, self._witness)
        except OSError as error:
            raise CommitInDoubtError(f"witness {self._witness_path}: {error.strerror}") from error


def start_ledger(settings: LedgerSettings, stored: StoredLedger) -> LedgerState:
    """Return the state of a leader that begins from what its store held."""
    event = EpochStarted(stored.epoch, stored.epochs, is_restored=stored.is_restored)
    return restore(settings, event, stored.hosts, stored.members)


def _key(log: Log) -> object:
    """Return what a log entry replaces while it waits for room."""
    if isinstance(log, LogGrant):
        return log.fence
    return log.host.host if isinstance(log, LogHost) else LogMembers


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.executescript(_SCHEMA)
    return db


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.execute("ROLLBACK")


def _disagrees(epochs: Mapping[int, int], witness: Witness | None) -> bool:
    """Return whether the store is older than its witness, or one of the two is missing."""
    if witness is None or not epochs:
        return bool(epochs) or witness is not None
    newest = max(epochs)
    if witness.epoch != newest:
        return witness.epoch > newest
    logged_to = witness.unlogged_from - 1 if witness.unlogged_from else witness.seq
    return epochs[newest] < logged_to


def _read_hosts(db: sqlite3.Connection) -> tuple[HostLedger, ...]:
    """Return each host as last logged, with the grants logged after it."""
    hosts: dict[str, tuple[Fence, HostLedger]] = {}
    for name, epoch, seq, record in db.execute("SELECT host, epoch, seq, record FROM hosts"):
        hosts[name] = Fence(epoch, seq), from_plain(HostLedger, msgpack.unpackb(record))
    grants = "SELECT host, epoch, seq, milliwatts FROM grants WHERE milliwatts IS NOT NULL ORDER BY epoch, seq"
    for name, epoch, seq, milliwatts in db.execute(grants):
        logged_at, host = hosts[name]
        fence = Fence(epoch, seq)
        if fence > logged_at:
            hosts[name] = fence, with_grant(host, fence, milliwatts)
    return tuple(host for _, host in hosts.values())


def _read_members(db: sqlite3.Connection) -> tuple[tuple[str, tuple[tuple[str, int], ...]], ...]:
    members: dict[str, list[tuple[str, int]]] = {}
    for host, row, ppm in db.execute("SELECT host, row, ppm FROM members ORDER BY host, row"):
        members.setdefault(host, []).append((row, ppm))
    return tuple((host, tuple(shares)) for host, shares in members.items())
