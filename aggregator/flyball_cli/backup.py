"""`flyball backup`: ledger, authority, keys and configuration in one 0600 file, taken while the site runs.

The ledger is copied by SQLite's own backup, so that it is whole. Its witness is left out: it
speaks of this store alone.
"""

import argparse
import io
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from flyball_aggregator.config import AggregatorConfig
from flyball_wire.config import load_config
from flyball_wire.errors import ConfigError

DEFAULT_CONFIG: Final = Path("/etc/flyball/aggregator.toml")
DEFAULT_AUTHORITY: Final = Path("/var/lib/flyball-ca")
LEDGER: Final = "ledger.db"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `backup`."""
    parser = subparsers.add_parser("backup", help="copy ledger, authority, keys and configuration into one file")
    parser.add_argument("file", type=Path, help="the new file; it holds private keys")
    add_places(parser)
    parser.set_defaults(run=run)


def add_places(parser: argparse.ArgumentParser) -> None:
    """Declare where everything lies."""
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=f"(default {DEFAULT_CONFIG})")
    parser.add_argument("--authority", type=Path, default=DEFAULT_AUTHORITY, help=f"(default {DEFAULT_AUTHORITY})")


def run(options: argparse.Namespace) -> int:
    """Write the file; it is never overwritten."""
    config = load_config(AggregatorConfig, "aggregator", options.config, os.environ)
    try:
        descriptor = os.open(options.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"{options.file}: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, content in members(config, options.config, options.authority):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o600
                archive.addfile(entry, io.BytesIO(content))
        file.flush()
        os.fsync(file.fileno())
    return 0


def places(config: AggregatorConfig, config_file: Path) -> dict[str, Path]:
    """Return where each single file of a backup belongs, by its name in the archive."""
    return {
        "config/aggregator.toml": config_file,
        "config/site.toml": Path(config.site_file),
        "keys/lease.key": Path(config.lease_key_file),
        f"ledger/{LEDGER}": Path(config.state_dir) / LEDGER,
    }


def members(config: AggregatorConfig, config_file: Path, authority: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of everything that is there."""
    for name, path in places(config, config_file).items():
        if path.exists():
            yield name, copy_ledger(path) if path.name == LEDGER else path.read_bytes()
    if authority.exists():
        for path in sorted(authority.rglob("*")):
            if path.is_file():
                yield f"authority/{path.relative_to(authority)}", path.read_bytes()


def copy_ledger(path: Path) -> bytes:
    """Return a whole copy of a ledger that may be in use.

    Raises:
        ConfigError: it is no SQLite database.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, LEDGER)
        try:
            source, copy = sqlite3.connect(f"file:{path}?mode=ro", uri=True), sqlite3.connect(target)
            try:
                source.backup(copy)
            finally:
                source.close()
                copy.close()
        except sqlite3.Error as error:
            raise ConfigError(f"{path}: {error}") from None
        return target.read_bytes()
