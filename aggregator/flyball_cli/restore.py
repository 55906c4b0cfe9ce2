"""`flyball restore`: put a backup back, so that the next leader knows that it began from an older ledger.

The witness is set above every epoch that this store or the machine's own witness knew. The leader then finds them in
disagreement, takes a new epoch, and counts every host at its maximum until it is fenced: no raise before.
"""

import argparse
import os
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path, PurePosixPath

from flyball_aggregator.config import AggregatorConfig
from flyball_aggregator.power.ledger_witness import Witness, read_witness, write_witness
from flyball_cli.backup import LEDGER, add_places, places
from flyball_cli.ca_store import write_private
from flyball_wire.config import load_config
from flyball_wire.errors import ConfigError

WITNESS = "ledger.witness"
MAX_MEMBER_BYTES = 1 << 30


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `restore`."""
    parser = subparsers.add_parser("restore", help="put a backup back; stop the aggregator first")
    parser.add_argument("file", type=Path)
    add_places(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Put everything back, configuration first: it says where the rest belongs."""
    contents = read_backup(options.file)
    _put(options.config, contents.get("config/aggregator.toml"))
    config = load_config(AggregatorConfig, "aggregator", options.config, os.environ)
    for name, path in places(config, options.config).items():
        if path.name != LEDGER:
            _put(path, contents.get(name))
    for name, content in contents.items():
        if name.startswith("authority/"):
            _put(options.authority / name.removeprefix("authority/"), content)
    ledger = contents.get(f"ledger/{LEDGER}")
    if ledger is not None:
        restore_ledger(Path(config.state_dir), ledger)
    return 0


def read_backup(path: Path) -> dict[str, bytes]:
    """Return a backup's files by name.

    Raises:
        ConfigError: it is no backup, or a name in it would leave the folders it belongs to.
    """
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for entry in archive:
                parts = PurePosixPath(entry.name).parts
                if not entry.isfile() or ".." in parts or entry.name.startswith("/") or entry.size > MAX_MEMBER_BYTES:
                    raise ConfigError(f"{path}: entry {entry.name[:80]!r} does not belong in a backup")
                file = archive.extractfile(entry)
                contents[entry.name] = file.read() if file is not None else b""
    except (OSError, tarfile.TarError, EOFError) as error:
        raise ConfigError(f"{path}: not a backup: {error}") from None
    return contents


def restore_ledger(folder: Path, content: bytes) -> None:
    """Put a ledger in place, with a witness that outranks it."""
    path, witness_path = folder / LEDGER, folder / WITNESS
    present = read_witness(witness_path) or Witness(0, 0, 0)
    newest = max(present.epoch, _newest_epoch(path))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    _put(path, content)
    epoch = max(newest, _newest_epoch(path)) + 1
    write_witness(witness_path, Witness(present.counter + 1, epoch, 0))


def _newest_epoch(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(path)) as db:
            return int(db.execute("SELECT max(epoch) FROM epochs").fetchone()[0] or 0)
    except sqlite3.Error:
        return 0  # what cannot be read says nothing; the witness may


def _put(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_private(path, content)
