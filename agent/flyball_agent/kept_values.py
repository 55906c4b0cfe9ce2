"""Small values kept over a restart, one JSON file each: a missing or broken file is told and counts as nothing."""

import json
import logging
from pathlib import Path
from typing import Any

from flyball_agent.isolation import write_whole

_log = logging.getLogger(__name__)


class KeptValue:
    """One value in a file; written only when it changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: Any = None

    def load(self) -> Any:
        """Return the plain value, None where there is none."""
        try:
            self._last = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.error("%s: %s; counts as empty", self._path, error)
            return None
        return self._last

    def save(self, plain: Any) -> None:
        """Keep a value; what the disk refuses is logged, and tried again with the next one."""
        if plain == self._last:
            return
        try:
            write_whole(self._path, json.dumps(plain).encode())
        except OSError as error:
            _log.error("%s: %s; not kept", self._path, error)
            return
        self._last = json.loads(json.dumps(plain))
