"""The input of a decision as bytes that bring it back exactly, and its hash: what replay and audit stand on."""

import hashlib
import zlib
from dataclasses import fields
from typing import Any, Final

import msgpack
import numpy as np

from flyball_aggregator.power.decide import Decision, HostColumns, RowColumns, decide
from flyball_aggregator.power.rows import RowMatrix
from flyball_wire.errors import WireError

VERSION: Final = 1
MAX_BYTES: Final = 256 << 20


def pack_input(matrix: RowMatrix, rows: RowColumns, hosts: HostColumns, *, gives_spare: bool) -> bytes:
    """Return everything that `decide` was given, compressed."""
    plain = {
        "v": VERSION,
        "gives_spare": gives_spare,
        "matrix": _plain_columns(matrix),
        "rows": _plain_columns(rows),
        "hosts": _plain_columns(hosts),
    }
    return zlib.compress(msgpack.packb(plain), 1)


def hash_input(packed: bytes) -> str:
    """Return the SHA-256 of a packed input, hex."""
    return hashlib.sha256(packed).hexdigest()


def replay(packed: bytes) -> Decision:
    """Make the decision of a packed input again.

    Raises:
        WireError: not a packed input of this version.
    """
    try:
        engine = zlib.decompressobj()
        plain: Any = msgpack.unpackb(engine.decompress(packed, MAX_BYTES))
        if plain["v"] != VERSION:
            raise WireError(f"journalled input: version {plain['v']}, expected {VERSION}")
        matrix = RowMatrix(**_columns(plain["matrix"]))
        rows = RowColumns(**_columns(plain["rows"]))
        hosts = HostColumns(**_columns(plain["hosts"]))
    except (zlib.error, ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
        raise WireError(f"journalled input: {str(error)[:120]}") from None
    return decide(matrix, rows, hosts, gives_spare=bool(plain["gives_spare"]))


def _plain_columns(columns: RowMatrix | RowColumns | HostColumns) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for item in fields(columns):
        value = getattr(columns, item.name)
        plain[item.name] = [value.dtype.str, value.tobytes()] if isinstance(value, np.ndarray) else value
    return plain


def _columns(plain: dict[str, Any]) -> dict[str, Any]:
    return {
        name: np.frombuffer(value[1], dtype=np.dtype(value[0])) if isinstance(value, list) else value
        for name, value in plain.items()
    }
