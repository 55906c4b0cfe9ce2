"""Errors shared by every program, split by what happens next.

    FlyballError
    ├── ConfigError    bad configuration: the program ends with exit code 78 and systemd does not restart it
    ├── WireError      bad message: dropped and counted, nothing changes
    │   └── SignatureError  not signed by a trusted key: dropped, counted and alarmed
    └── BrokerError    the broker is away or refuses: back off and try again

Device errors live beside the device code, in flyball_fast.errors. Anything else is a bug and crashes.
"""

EXIT_CONFIG = 78  # sysexits.h EX_CONFIG; RestartPreventExitStatus in the units


class FlyballError(Exception):
    """Base of all errors that flyball raises on purpose."""


class ConfigError(FlyballError):
    """A configuration key is unknown, of the wrong type or impossible; the message names the key's path."""


class WireError(FlyballError):
    """A message is malformed, oversized, of another version or out of bounds."""


class SignatureError(WireError):
    """A signed message does not verify under any trusted key."""


class BrokerError(FlyballError):
    """The broker is unreachable, refused us or granted less than was asked."""
