"""Borrow a governor's sample ring over its socket, read-only: for benchmarks and for looking."""

import os
import socket
from pathlib import Path
from typing import Final

from flyball_fast.ring import Ring
from flyball_wire.codec import decode, encode
from flyball_wire.errors import WireError
from flyball_wire.local_socket import HelloReply, Request, frame, frame_length

TIMEOUT_S: Final = 10.0


def borrow_ring(governor_socket: Path) -> Ring:
    """Return the ring that this governor's sampler fills; the caller closes it.

    Raises:
        WireError: the governor has no ring now.
        OSError: nobody answers.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(governor_socket))
        connection.sendall(frame(encode(Request(1, "hello"))))
        received, descriptors, _, _ = socket.recv_fds(connection, 4, 2)
        received += _read(connection, 4 - len(received))
        hello = decode(HelloReply, _read(connection, frame_length(received)))
    ring = descriptors.pop(0) if hello.has_ring and descriptors else None
    for descriptor in descriptors:
        os.close(descriptor)
    if ring is None:
        raise WireError(f"{governor_socket}: the governor has no sample ring")
    return Ring.attach(ring)


def _read(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        chunk = connection.recv(size - len(received))
        if not chunk:
            raise ConnectionResetError("closed by the governor")
        received += chunk
    return received
