"""Who this governor is: host, boot, incarnation, report key, and the lock that keeps a second one away."""

import fcntl
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flyball_governor.errors import AlreadyRunning
from flyball_governor.journal import sync_folder
from flyball_wire.errors import ConfigError
from flyball_wire.signing import SigningKey, create_key_file, load_key_file

BOOT_ID_FILE: Final = Path("/proc/sys/kernel/random/boot_id")
KEY_NAME: Final = "report.key"
LOCK_NAME: Final = "lock"


@dataclass(frozen=True, slots=True)
class Identity:
    """One start of one governor. The incarnation is drawn anew at each start and is never on disk."""

    host: str
    boot_id: str
    incarnation: str
    key: SigningKey


def boot_clock_ms() -> int:
    """Return milliseconds since boot, suspended time included: the clock on which leases live."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def prepare_state_folder(folder: Path) -> None:
    """Make the state folder where it is missing.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"state_dir {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"state_dir {folder}: not writable by uid {os.geteuid()}")


def lock_state_folder(folder: Path) -> int:
    """Take the exclusive lock and return its descriptor; children inherit it, so that a hung one holds it too.

    Raises:
        AlreadyRunning: another governor, or a child it left behind, has it.
    """
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise AlreadyRunning(f"{folder / LOCK_NAME}: held by another governor (pid {holder or 'unknown'})") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def load_identity(host: str, folder: Path) -> Identity:
    """Return who we are, with a key made at the first start and a fresh incarnation.

    Raises:
        ConfigError: the key file is there but unusable.
    """
    path, key_id = folder / KEY_NAME, f"gov-{host}"[:64]
    if path.exists():
        key = load_key_file(path, key_id)
    else:
        key = create_key_file(path, key_id)
        sync_folder(folder)
    boot_id = BOOT_ID_FILE.read_text(encoding="ascii").strip()
    return Identity(host, boot_id, secrets.token_hex(16), key)
