"""Hosts that an operator holds still: frozen (their lease stays as it is) or released (devices handed back).

An order stands until it is taken back, over restarts of this program: it is on disk before it is in force.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from flyball_aggregator.site import Site
from flyball_wire.errors import ConfigError

Hold = Literal["frozen", "released"]
REASONS: Final[dict[Hold, str]] = {"frozen": "frozen by an operator", "released": "released by an operator"}
MAX_BYTES: Final = 16 << 20


class HoldBook:
    """The holds of all hosts.

    Args:
        path: Where they are kept; None keeps them in memory alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._holds: dict[str, Hold] = {}

    def load(self) -> None:
        """Read what stood when this program last ran.

        Raises:
            ConfigError: the file is there and cannot be read: to lead hosts that an operator holds would be worse.
        """
        if self._path is None or not self._path.exists():
            return
        try:
            plain = json.loads(self._path.read_bytes()[:MAX_BYTES])
            self._holds = {str(host): _checked(hold) for host, hold in plain["holds"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{self._path}: {error}; expected the holds that this program wrote") from None

    def put(self, hosts: Iterable[str], hold: Hold) -> None:
        """Hold hosts still.

        Raises:
            ConfigError: it cannot be kept on disk; nothing changed.
        """
        self._keep({**self._holds, **dict.fromkeys(hosts, hold)})

    def take_away(self, hosts: Iterable[str]) -> None:
        """Lead hosts again.

        Raises:
            ConfigError: as `put`.
        """
        gone = set(hosts)
        self._keep({host: hold for host, hold in self._holds.items() if host not in gone})

    def of(self, host: str) -> Hold | None:
        """Return how a host is held; None for one that is led as usual."""
        return self._holds.get(host)

    def all(self, hold: Hold) -> list[str]:
        """Return the hosts held in this way."""
        return sorted(host for host, held in self._holds.items() if held == hold)

    def _keep(self, holds: dict[str, Hold]) -> None:
        if self._path is not None:
            fresh = self._path.with_suffix(".fresh")
            try:
                with fresh.open("w", encoding="utf-8") as file:
                    json.dump({"holds": holds}, file)
                    file.flush()
                    os.fsync(file.fileno())
                fresh.replace(self._path)
            except OSError as error:
                raise ConfigError(f"{self._path}: {error.strerror}; the holds stay as they were") from None
        self._holds = holds


def hosts_under(site: Site, name: str) -> list[str]:
    """Return the hosts that a name stands for: the site's, those below an element, those of a group, or one host.

    Raises:
        ValueError: nothing has this name.
    """
    if name == site.name:
        return [host.name for host in site.hosts]
    if any(host.name == name for host in site.hosts):
        return [name]
    for group in site.groups:
        if group.name == name:
            return list(group.hosts)
    parents = {element.name: [parent.name for parent in element.parents] for element in site.elements}
    if name not in parents:
        raise ValueError(f"{name!r}: neither the site {site.name!r} nor one of its elements, groups or hosts")
    return [host.name for host in site.hosts if _is_below([parent.name for parent in host.supplies], name, parents)]


def _is_below(level: list[str], name: str, parents: dict[str, list[str]]) -> bool:
    while level:
        if name in level:
            return True
        level = [above for item in level for above in parents[item]]
    return False


def _checked(hold: object) -> Hold:
    if hold == "frozen" or hold == "released":  # noqa: PLR1714 - so that the type is seen
        return hold
    raise ValueError(f"hold {hold!r}: neither frozen nor released")
