"""Splits kernel log records, compiled where the extension is built."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING or os.environ.get("FLYBALL_PURE_PYTHON"):
    from flyball_fast._scan_py import scan_record
else:
    try:
        from flyball_fast._scan_c import scan_record
    except ImportError:
        from flyball_fast._scan_py import scan_record

__all__ = ["scan_record"]
