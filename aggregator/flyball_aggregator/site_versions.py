"""Versions of the site file: each applied site is kept with who applied it and what changed, then becomes the file.

The site file stays the one declared state; a restart reads it and nothing else.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from flyball_aggregator.site import Site, load_site
from flyball_aggregator.site_changes import Change
from flyball_wire.config import print_config
from flyball_wire.errors import ConfigError

MAX_TOML_CHARACTERS: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Version:
    """One applied site."""

    number: int
    applied_at_s: float  # Unix
    operator: str
    changes: tuple[str, ...]


class SiteVersions:
    """The site file and the folder of its versions; construction starts nothing.

    Args:
        site_file: What a restart reads.
        folder: Where versions are kept; made with the first.
    """

    def __init__(self, site_file: Path, folder: Path) -> None:
        self.site_file = site_file
        self._folder = folder

    def read(self, toml: str) -> Site:
        """Return the checked site of a text.

        Raises:
            ConfigError: naming what is wrong in it, or that the state folder cannot be written.
        """
        draft = self._folder / "draft.toml"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            draft.write_text(toml, encoding="utf-8")
            return load_site(draft)
        except OSError as error:
            raise ConfigError(f"{self._folder}: {error.strerror}") from None
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(draft), "the site")) from None
        finally:
            draft.unlink(missing_ok=True)

    def keep(self, site: Site, changes: Sequence[Change], operator: str, unix_s: float) -> Version:
        """Make a site the declared one, durably, and keep it as a version.

        Raises:
            ConfigError: the site file or the folder cannot be written; the declared site is the former one.
        """
        version = Version(self.newest() + 1, unix_s, operator, tuple(str(change) for change in changes))
        text = print_config(site)
        stem = self._folder / f"{version.number:06d}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            stem.with_suffix(".json").write_text(json.dumps(asdict(version)), encoding="utf-8")
            stem.with_suffix(".toml").write_text(text, encoding="utf-8")
            fresh = self.site_file.with_name(f".{self.site_file.name}.fresh")
            with fresh.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.site_file)
        except OSError as error:
            raise ConfigError(
                f"{error.filename or self.site_file}: {error.strerror}; the site stays as it was"
            ) from None
        return version

    def newest(self) -> int:
        """Return the number of the newest version; 0 before the first."""
        numbers = [int(path.stem) for path in self._folder.glob("[0-9]*.json") if path.stem.isdigit()]
        return max(numbers, default=0)

    def listed(self) -> list[dict[str, object]]:
        """Return all versions, newest first."""
        paths = sorted(self._folder.glob("[0-9]*.json"), reverse=True)
        return [dict(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
