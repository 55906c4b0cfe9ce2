"""Rows of a ring as few bytes: picks the compiled codec, or its twin where it is not built.

`_columns_py` states the format. Nothing but `ColumnsError` comes out of `decode`, whatever bytes go in. Decoded values
are 64-bit numbers in place (`Block.column`), so that numpy can take them without copying; `UNKNOWN` marks None.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from flyball_fast._columns_py import MAX_ROWS, MAX_VALUES, QUANTA, UNKNOWN, VERSION, Block
from flyball_fast.ring import Ring, Span

if TYPE_CHECKING or os.environ.get("FLYBALL_PURE_PYTHON"):
    from flyball_fast._columns_py import decode, encode, gather
else:
    try:
        from flyball_fast._columns_c import decode, encode, gather
    except ImportError:
        from flyball_fast._columns_py import decode, encode, gather

__all__ = [
    "MAX_ROWS",
    "MAX_VALUES",
    "QUANTA",
    "UNKNOWN",
    "VERSION",
    "Block",
    "decode",
    "encode",
    "encode_spans",
    "known",
]


def encode_spans(ring: Ring, spans: Mapping[int, Span]) -> bytes:
    """Pack these rows of each GPU into one batch, with the wall time of now behind their monotonic one.

    Rows that were overwritten while they were copied are left out, all of that GPU: the caller's cursor counts them on
    its next turn.

    Raises:
        ColumnsError: more rows than one batch takes (`MAX_ROWS` of a GPU, `MAX_VALUES` in all).
    """
    now_ns = time.time_ns()
    shift = now_ns - time.monotonic_ns()
    blocks = []
    for gpu, span in spans.items():
        block = gather(ring.memory, gpu, ring.capacity, span.first, span.stop, shift)
        if ring.is_intact(gpu, span.first):
            blocks.append(block)
    return encode(now_ns // 1000, blocks)


def known(block: Block, column: int) -> list[int | None]:
    """Return one column as plain numbers, None for each that is unknown; for the few who need no speed."""
    return [None if value == UNKNOWN else value for value in block.column(column).tolist()]
