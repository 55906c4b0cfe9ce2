"""A private MQTT broker for `flyball up` and for tests: mosquitto where it is installed, else NATS with MQTT.

Nothing is started here: `prepare_broker` writes the configuration and says what to run, `wait_ready` when it answers.
Either listens on 127.0.0.1 alone, plain or TLS with client certificates.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from flyball_wire.errors import BrokerError, ConfigError

BrokerKind = Literal["mosquitto", "nats"]
ADDRESS: Final = "127.0.0.1"
POLL_S: Final = 0.02
NATS_ACK_PENDING: Final = 4096  # per QoS 1 subscription; a session's subscriptions share 65535, so 15 of them
MAX_PACKET_BYTES: Final = 1 << 20
_SYSTEM_PATHS: Final = "/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin"  # Debian puts mosquitto in sbin
# CONNECT of MQTT 3.1.1, clean session, keep-alive 5 s, client id "probe"; section 3.1 of the standard.
_CONNECT: Final = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x05\x00\x05probe"
_CONNACK_ACCEPTED: Final = b"\x20\x02\x00\x00"


@dataclass(frozen=True, slots=True)
class BrokerTls:
    """Files of a listener that asks every client for a certificate of the authority."""

    ca_file: Path
    certificate_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class BrokerPlan:
    """What to run, and where it will answer."""

    kind: BrokerKind
    version: str
    argv: tuple[str, ...]
    port: int
    is_tls: bool

    @property
    def description(self) -> str:
        """Which broker this is, for people: "mosquitto 2.0.11"."""
        return f"{self.kind} {self.version}"


def prepare_broker(
    kind: BrokerKind | Literal["auto"],
    directory: Path,
    port: int,
    *,
    tls: BrokerTls | None = None,
    acl_file: Path | None = None,
) -> BrokerPlan:
    """Write a broker's configuration and return what to run.

    Args:
        kind: "auto" takes mosquitto where it is installed, else NATS.
        directory: Private to this broker; made when missing, reused after a restart.
        port: Where it listens on 127.0.0.1.
        tls: Makes the listener TLS; every client then needs a certificate.
        acl_file: Access rules as mosquitto reads them; NATS takes none.

    Raises:
        ConfigError: the program is not installed; it says how to install it.
    """
    chosen = find_kind() if kind == "auto" else kind
    program = find_program(chosen)
    if program is None:
        raise ConfigError(f"broker: {_MISSING[chosen]}")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = directory / f"{chosen}.conf"
    text = (
        _mosquitto_text(directory, port, tls, acl_file) if chosen == "mosquitto" else _nats_text(directory, port, tls)
    )
    config.write_text(text, encoding="utf-8")
    return BrokerPlan(chosen, _version(chosen, program), (program, "-c", str(config)), port, tls is not None)


def find_kind() -> BrokerKind:
    """Return mosquitto where it is installed, else nats."""
    return "mosquitto" if find_program("mosquitto") is not None else "nats"


def find_program(kind: BrokerKind) -> str | None:
    """Return where the broker's program is; None when it is not installed."""
    paths = [os.environ.get("PATH", ""), _SYSTEM_PATHS]
    if kind == "nats":
        paths.insert(0, str(Path(sys.executable).parent))  # the wheel puts it beside the interpreter
    return shutil.which("mosquitto" if kind == "mosquitto" else "nats-server", path=":".join(paths))


async def wait_ready(plan: BrokerPlan, timeout_s: float, is_alive: Callable[[], bool] = lambda: True) -> None:
    """Wait until the broker takes sessions.

    Raises:
        BrokerError: it ended, or does not answer in time.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not await asyncio.to_thread(is_ready, plan):
        if not is_alive():
            raise BrokerError(f"{plan.description}: ended at its start; see its log")
        if asyncio.get_running_loop().time() >= deadline:
            raise BrokerError(f"{plan.description}: no answer on port {plan.port} after {timeout_s} s")
        await asyncio.sleep(POLL_S)


def is_ready(plan: BrokerPlan) -> bool:
    """Say whether the broker answers: a session on a plain listener, a connection on a TLS one."""
    try:
        with socket.create_connection((ADDRESS, plan.port), timeout=2.0) as connection:
            if plan.is_tls:
                return True
            connection.sendall(_CONNECT)
            return connection.recv(4) == _CONNACK_ACCEPTED
    except OSError:
        return False


_MISSING: Final[dict[BrokerKind, str]] = {
    "mosquitto": "mosquitto is not installed; as root: apt-get install -y --no-install-recommends mosquitto",
    "nats": "nats-server is not installed; install flyball with its extra: pip install 'flyball[up]'",
}


def _mosquitto_text(directory: Path, port: int, tls: BrokerTls | None, acl_file: Path | None) -> str:
    lines = [
        f"listener {port} {ADDRESS}",
        f"allow_anonymous {'false' if tls else 'true'}",
        "set_tcp_nodelay true",  # without it pipelined QoS 1 waits 40 ms for delayed acknowledgements
        "persistence true",
        f"persistence_location {directory}/",
        "autosave_interval 5",
        "max_queued_messages 100000",
        "max_inflight_messages 1000",  # by default 20, which would hold a whole fleet's telemetry back
        f"max_packet_size {MAX_PACKET_BYTES}",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "connection_messages false",
    ]
    if os.geteuid() == 0:
        lines.append("user root")  # else it drops to a user that cannot read a private directory
    if acl_file is not None:
        lines.append(f"acl_file {acl_file}")
    if tls is not None:
        lines += [f"cafile {tls.ca_file}", f"certfile {tls.certificate_file}", f"keyfile {tls.key_file}"]
        lines += ["require_certificate true", "use_identity_as_username true", "tls_version tlsv1.2"]
    return "\n".join(lines) + "\n"


def _nats_text(directory: Path, port: int, tls: BrokerTls | None) -> str:
    secured = ""
    if tls is not None:
        files = f'cert_file: "{tls.certificate_file}", key_file: "{tls.key_file}", ca_file: "{tls.ca_file}"'
        secured = f"  tls {{ {files}, verify: true }}\n"
    return (
        f'server_name: flyball\nhost: "{ADDRESS}"\nport: -1\n'  # NATS' own protocol: any free port, unused
        f'jetstream {{ store_dir: "{directory}/jetstream" }}\n'
        f'mqtt {{\n  host: "{ADDRESS}"\n  port: {port}\n  max_ack_pending: {NATS_ACK_PENDING}\n{secured}}}\n'
    )


def _version(kind: BrokerKind, program: str) -> str:
    """Return the version that the program prints; "of unknown version" when it prints none."""
    argument = "-h" if kind == "mosquitto" else "--version"
    try:
        done = subprocess.run([program, argument], capture_output=True, text=True, timeout=5.0, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "of unknown version"
    words = (done.stdout or done.stderr).split()
    found = [word.lstrip("v") for word in words[:6] if word.lstrip("v")[:1].isdigit()]
    return found[0] if found else "of unknown version"
