"""Errors of the governor, split by what happens next.

FlyballError
├── ConfigError      (flyball_wire) exit 78, not restarted
├── JournalError     (journal) nothing that needs it on disk happens; the governor goes on
├── AlreadyRunning   exit 75: another governor holds the lock; systemd may try again
└── Unavailable      exit 69: no driver library, no driver or no GPU; systemd may try again
"""

from typing import Final

from flyball_wire.errors import FlyballError

EXIT_UNAVAILABLE: Final = 69  # sysexits.h EX_UNAVAILABLE
EXIT_LOCKED: Final = 75  # sysexits.h EX_TEMPFAIL


class AlreadyRunning(FlyballError):  # noqa: N818 - reads as what happened
    """Another governor holds this host's lock."""


class Unavailable(FlyballError):  # noqa: N818
    """There is no device to govern; the message names what was tried."""
