"""History and the journal of decisions: a Store Protocol, and SQLite (WAL) behind it.

Calls block for a disk write: the loop makes them in a thread. Retention is bounded by age; the lease ledger is not here
(power/ledger_store.py), since it must never wait for history.
"""

import json
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

import sqlite_utils

from flyball_aggregator.config import StoreConfig

SCHEMA_VERSION: Final = 1
HOUR_S: Final = 3600.0
Documents = Mapping[tuple[str, str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class PowerRecord:
    """One second of the site, wall watts; None is unknown."""

    time_s: float
    limit_w: float
    draw_w: float | None
    committed_w: float
    unmanaged_w: float
    hosts_online: int


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One decision that sent something: its input, hash, code and outcome, enough to make it again."""

    time_s: float
    epoch: int
    code_version: str
    rule: str
    input_hash: str
    input: bytes
    orders: str  # JSON: host -> watts
    certificate_failures: int


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something that happened on a host or in the loop."""

    time_s: float
    host: str
    name: str
    severity: str
    gpu: int | None
    fields: str  # JSON object


class Store(Protocol):
    """Where history goes."""

    def add_power(self, records: Sequence[PowerRecord]) -> None:
        """Append seconds."""
        ...

    def add_decision(self, record: DecisionRecord) -> None:
        """Append one decision."""
        ...

    def add_events(self, records: Sequence[EventRecord]) -> None:
        """Append events."""
        ...

    def power_since(self, time_s: float, limit: int) -> list[dict[str, Any]]:
        """Return the newest seconds since a time, oldest first."""
        ...

    def decisions_before(self, time_s: float, limit: int) -> list[dict[str, Any]]:
        """Return decisions before a time, newest first, without their input."""
        ...

    def decision(self, decision_id: int) -> dict[str, Any] | None:
        """Return one decision with its input."""
        ...

    def events_before(self, time_s: float, limit: int, host: str | None) -> list[dict[str, Any]]:
        """Return events before a time, newest first."""
        ...

    def put_documents(self, documents: Documents, time_s: float) -> None:
        """Keep values by (kind, key), each over its former self."""
        ...

    def documents(self) -> Documents:
        """Return all kept values, oldest first."""
        ...

    def prune(self, now_s: float) -> None:
        """Drop what is older than its retention."""
        ...


class SqliteStore:
    """A Store in one SQLite file.

    Args:
        path: The file; made when it is not there.
        config: Retention.
    """

    def __init__(self, path: Path, config: StoreConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
        self._database = sqlite_utils.Database(self._connection)
        self._database.enable_wal()
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._make_tables()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def add_power(self, records: Sequence[PowerRecord]) -> None:
        """Append seconds."""
        self._insert("power", records)

    def add_decision(self, record: DecisionRecord) -> None:
        """Append one decision."""
        self._insert("decisions", [record])

    def add_events(self, records: Sequence[EventRecord]) -> None:
        """Append events."""
        self._insert("events", records)

    def power_since(self, time_s: float, limit: int) -> list[dict[str, Any]]:
        """Return the newest seconds since a time, oldest first."""
        rows = self._query("SELECT * FROM power WHERE time_s >= ? ORDER BY time_s DESC LIMIT ?", (time_s, limit))
        return rows[::-1]

    def decisions_before(self, time_s: float, limit: int) -> list[dict[str, Any]]:
        """Return decisions before a time, newest first, without their input."""
        wanted = "id, time_s, epoch, code_version, rule, input_hash, orders, certificate_failures"
        query = f"SELECT {wanted} FROM decisions WHERE time_s < ? ORDER BY time_s DESC LIMIT ?"  # noqa: S608
        return self._query(query, (time_s, limit))

    def decision(self, decision_id: int) -> dict[str, Any] | None:
        """Return one decision with its input."""
        rows = self._query("SELECT * FROM decisions WHERE id = ?", (decision_id,))
        return rows[0] if rows else None

    def events_before(self, time_s: float, limit: int, host: str | None) -> list[dict[str, Any]]:
        """Return events before a time, newest first."""
        query = "SELECT * FROM events WHERE time_s < ? AND (? IS NULL OR host = ?) ORDER BY time_s DESC LIMIT ?"
        rows = self._query(query, (time_s, host, host, limit))
        return [{**row, "fields": json.loads(row["fields"])} for row in rows]

    def put_documents(self, documents: Documents, time_s: float) -> None:
        """Keep values by (kind, key), each over its former self."""
        rows = [(kind, key, time_s, json.dumps(plain)) for (kind, key), plain in documents.items()]
        with self._lock, self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)", rows)

    def documents(self) -> Documents:
        """Return all kept values, oldest first."""
        rows = self._query("SELECT kind, key, body FROM documents ORDER BY time_s", ())
        return {(row["kind"], row["key"]): json.loads(row["body"]) for row in rows}

    def prune(self, now_s: float) -> None:
        """Drop what is older than its retention."""
        history_s = now_s - self._config.history_hours * HOUR_S
        decisions_s = now_s - self._config.decisions_hours * HOUR_S
        with self._lock, self._connection:
            self._connection.execute("DELETE FROM power WHERE time_s < ?", (history_s,))
            self._connection.execute("DELETE FROM events WHERE time_s < ?", (decisions_s,))
            self._connection.execute("DELETE FROM decisions WHERE time_s < ?", (decisions_s,))
            old = "DELETE FROM documents WHERE kind = 'incident' AND time_s < ?"
            self._connection.execute(old, (decisions_s,))

    def _make_tables(self) -> None:
        with self._lock, self._connection:
            power = {"time_s": float, "limit_w": float, "draw_w": float, "committed_w": float}
            self._table("power", {**power, "unmanaged_w": float, "hosts_online": int}, None)
            decision = {"id": int, "time_s": float, "epoch": int, "code_version": str, "rule": str}
            outcome = {"input_hash": str, "input": bytes, "orders": str, "certificate_failures": int}
            self._table("decisions", {**decision, **outcome}, "id")
            event = {"id": int, "time_s": float, "host": str, "name": str, "severity": str}
            self._table("events", {**event, "gpu": int, "fields": str}, "id")
            documents = "(kind TEXT, key TEXT, time_s REAL, body TEXT, PRIMARY KEY (kind, key))"
            self._connection.execute(f"CREATE TABLE IF NOT EXISTS documents {documents}")

    def _table(self, name: str, columns: dict[str, type], key: str | None) -> None:
        table = cast("Any", self._database[name])
        table.create(columns, pk=key, if_not_exists=True)
        table.create_index(["time_s"], if_not_exists=True)

    def _insert(self, table: str, records: Sequence[PowerRecord | DecisionRecord | EventRecord]) -> None:
        if not records:
            return
        with self._lock, self._connection:
            cast("Any", self._database[table]).insert_all(asdict(record) for record in records)

    def _query(self, query: str, values: tuple[object, ...]) -> list[dict[str, Any]]:
        with self._lock:
            cursor = self._connection.execute(query, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
