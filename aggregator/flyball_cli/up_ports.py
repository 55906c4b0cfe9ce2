"""Ports of `flyball up`: the usual ones where they are free, else any."""

import socket
from dataclasses import dataclass
from typing import Final

from flyball_cli.up_options import UpOptions

ADDRESS: Final = "127.0.0.1"
EXPORTER_PORT: Final = 9481


@dataclass(frozen=True, slots=True)
class UpPorts:
    """Where everything listens, on loopback."""

    api: int
    broker: int
    exporters: tuple[int, ...]


def choose_ports(options: UpOptions, hosts: int) -> UpPorts:
    """Return free ports; a wanted one that is taken gives way to any free one, except the API's, which is asked for."""
    exporters = tuple(take_port(EXPORTER_PORT + index if options.api_port else 0) for index in range(hosts))
    return UpPorts(take_port(options.api_port), take_port(options.broker_port), exporters)


def take_port(wanted: int) -> int:
    """Return the wanted port when it is free, else any free one."""
    if wanted and is_free(wanted):
        return wanted
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Say whether nobody listens on a port of the loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
    return True
