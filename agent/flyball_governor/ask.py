"""Ask a running governor over its socket: what the subcommands gate, status, quiesce and resume do. Blocking."""

import socket
from pathlib import Path
from typing import Final

from flyball_wire.codec import M, decode, encode
from flyball_wire.errors import FlyballError, WireError
from flyball_wire.local_socket import Action, ErrorReply, Request, frame, frame_length

TIMEOUT_S: Final = 10.0  # quiesce waits for children to let go of the driver


class NoAnswer(FlyballError):  # noqa: N818 - reads as what happened
    """No governor answers on the socket."""


class Refused(FlyballError):  # noqa: N818
    """The governor refused."""


def ask(path: Path, action: Action, kind: type[M], *, body: bytes = b"", timeout_s: float = TIMEOUT_S) -> M:
    """Return the governor's reply to one request.

    Raises:
        NoAnswer: nobody listens, or not in time.
        Refused: with the governor's reason.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            connection.sendall(frame(encode(Request(1, action, body))))
            payload = _read_exactly(connection, frame_length(_read_exactly(connection, 4)))
    except (OSError, EOFError) as error:
        raise NoAnswer(f"{path}: no governor answers: {error}") from None
    try:
        return decode(kind, payload)
    except WireError:
        raise Refused(decode(ErrorReply, payload).error) from None


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        chunk = connection.recv(size - len(received))
        if not chunk:
            raise EOFError("closed by the governor")
        received += chunk
    return received
