"""What each kernel message means and asks for: versioned tables with source and date, and a site's overlay on them."""

import csv
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import date
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from flyball_agent.kernel_nvlink import NvlinkRule, NvlinkRules, read_nvlink_rule
from flyball_wire.config import read_toml
from flyball_wire.errors import ConfigError

Code = TypeVar("Code", int, str)
CLASSES = ("info", "warn", "fatal")
POLICY_KEYS = ("class", "action", "scope", "group")


@dataclass(frozen=True, slots=True)
class Policy:
    """What one code means to us.

    Args:
        severity: info, warn or fatal (`class` in tables and output).
        action: What to do, several joined by '+'.
        scope: Whom it concerns: app, gpu, gpu/link, gpu+node, node, fabric, domain, nic, storage.
        group: Root-cause group; facts of one group on one device join one incident.
        meaning: In words, for people.
    """

    severity: str
    action: str
    scope: str
    group: str
    meaning: str = ""


UNKNOWN_XID = Policy("warn", "triage", "gpu", "unknown", "newer than the catalogue")
UNKNOWN_SXID = Policy("warn", "triage", "fabric", "fabric", "not in the catalogue")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All tables of one version, overlay included."""

    version: int
    dated: date
    newest_xid: int
    sources: tuple[str, ...]
    xids: Mapping[int, Policy]
    sxids: Mapping[int, Policy]
    events: Mapping[str, Policy]
    nvlink: NvlinkRules
    nvlink_rules: tuple[NvlinkRule, ...]
    overlay: str | None = None  # path of the site's overlay

    def xid(self, number: int) -> Policy:
        """Return the policy of an XID; an unknown one is triaged, never isolated on."""
        return self.xids.get(number, UNKNOWN_XID)


@lru_cache(maxsize=1)
def load_catalogue() -> Catalogue:
    """Return the catalogue that ships with this version."""
    return read_catalogue(files("flyball_agent") / "catalogue_tables")


def read_catalogue(folder: Traversable) -> Catalogue:
    """Return the catalogue of a folder with catalogue.toml, xid.tsv, sxid.tsv, event.tsv and nvlink5.tsv.

    Raises:
        ConfigError: a file is missing or a table lacks a column.
    """
    try:
        return _read_tables(folder)
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"catalogue {folder}: {error!r}, expected the five tables of a catalogue") from None


def _read_tables(folder: Traversable) -> Catalogue:
    head = tomllib.loads((folder / "catalogue.toml").read_text(encoding="utf-8"))
    rules = tuple(read_nvlink_rule(row) for row in _rows(folder / "nvlink5.tsv"))
    return Catalogue(
        version=head["version"],
        dated=head["date"],
        newest_xid=head["newest_xid"],
        sources=tuple(head["sources"]),
        xids={int(row["xid"]): _policy(row) for row in _rows(folder / "xid.tsv")},
        sxids={
            int(row["sxid"]): _policy(row | {"scope": "fabric", "group": "fabric"})
            for row in _rows(folder / "sxid.tsv")
        },
        events={row["event"]: _policy(row) for row in _rows(folder / "event.tsv")},
        nvlink=NvlinkRules(rules),
        nvlink_rules=rules,
    )


def load_with_overlay(path: Path) -> Catalogue:
    """Return the shipped catalogue with a site's TOML overlay on it.

    The overlay has tables `[xid.N]`, `[sxid.N]` and `[event.NAME]` with any of class, action, scope, group.

    Raises:
        ConfigError: unreadable, or a table, key or value that the catalogue does not have; the message names it.
    """
    shipped, plain = load_catalogue(), read_toml(path)
    for kind, tables in plain.items():
        if kind not in {"xid", "sxid", "event"}:
            raise ConfigError(f"{path}: unknown table {kind!r}, expected xid, sxid or event")
        if not isinstance(tables, dict):
            raise ConfigError(f"{path}: {kind}: expected a table for each code, such as [{kind}.13]")
    return replace(
        shipped,
        xids=_overlaid(shipped.xids, plain.get("xid", {}), path, "xid"),
        sxids=_overlaid(shipped.sxids, plain.get("sxid", {}), path, "sxid"),
        events=_overlaid(shipped.events, plain.get("event", {}), path, "event"),
        overlay=str(path),
    )


def diff_catalogues(old: Catalogue, new: Catalogue) -> Iterator[str]:
    """Yield one line per policy that differs, such as `xid 13: action restart_app -> none`."""
    for kind, left, right in (
        ("xid", old.xids, new.xids),
        ("sxid", old.sxids, new.sxids),
        ("event", old.events, new.events),
    ):
        before, after = dict(left.items()), dict(right.items())
        for code in sorted({*before, *after}, key=lambda code: (isinstance(code, str), code)):
            yield from _diff_policy(f"{kind} {code}", before.get(code), after.get(code))


def _diff_policy(name: str, old: Policy | None, new: Policy | None) -> Iterator[str]:
    if old is None or new is None:
        yield f"{name}: {'removed' if new is None else 'added'}"
        return
    for field in fields(Policy):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before != after:
            label = "class" if field.name == "severity" else field.name
            yield f"{name}: {label} {before} -> {after}"


def _overlaid(shipped: Mapping[Code, Policy], tables: Mapping[str, Any], path: Path, kind: str) -> dict[Code, Policy]:
    result = dict(shipped)
    for name, table in tables.items():
        code = _code(name, kind, path)
        base = result.get(code, UNKNOWN_SXID if kind == "sxid" else UNKNOWN_XID)
        result[code] = _overlay_policy(base, table, f"{path}: {kind}.{name}")
    return result


def _code(name: str, kind: str, path: Path) -> Any:
    if kind == "event":
        if name not in load_catalogue().events:
            raise ConfigError(f"{path}: event.{name}: unknown event, expected one of the catalogue's")
        return name
    if not name.isdecimal():
        raise ConfigError(f"{path}: {kind}.{name}: expected a number")
    return int(name)


def _overlay_policy(base: Policy, table: object, where: str) -> Policy:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: expected a table with any of {', '.join(POLICY_KEYS)}")
    for key, value in table.items():
        if key not in POLICY_KEYS or not isinstance(value, str):
            raise ConfigError(f"{where}.{key}: expected text under one of {', '.join(POLICY_KEYS)}")
    severity = table.get("class", base.severity)
    if severity not in CLASSES:
        raise ConfigError(f"{where}.class: {severity!r}, expected one of {', '.join(CLASSES)}")
    return replace(
        base,
        severity=severity,
        action=table.get("action", base.action),
        scope=table.get("scope", base.scope),
        group=table.get("group", base.group),
    )


def _policy(row: Mapping[str, str]) -> Policy:
    return Policy(row["class"], row["action"], row["scope"], row["group"], row["meaning"])


def _rows(table: Traversable) -> Iterator[dict[str, str]]:
    """Yield the rows of a table; its first line, after '#', names the columns."""
    text = table.read_text(encoding="utf-8").lstrip("#")
    yield from csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
