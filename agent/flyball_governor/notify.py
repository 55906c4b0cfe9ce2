"""Tell systemd how the governor fares: sd_notify(3) over the datagram socket that NOTIFY_SOCKET names."""

import os
import socket
from collections.abc import Mapping


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send a state such as "READY=1"; say whether anybody was there to hear it."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            return False
    return True


def watchdog_period_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return how often to feed the watchdog, half of what systemd asks; None where it asks nothing of this process."""
    micros = environment.get("WATCHDOG_USEC", "")
    if not micros.isdigit() or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(micros) / 2e6
