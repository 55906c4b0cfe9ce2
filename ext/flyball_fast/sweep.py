"""Sample GPUs into a ring: picks the compiled loop, or its twin where it is not built.

`run(nvml, ring, plan, stop)` keeps the calling thread until `stop[0]` is set. The compiled loop runs without the GIL.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING or os.environ.get("FLYBALL_PURE_PYTHON"):
    from flyball_fast._sweep_py import run
else:
    try:
        from flyball_fast._sweep_c import run
    except ImportError:
        from flyball_fast._sweep_py import run

__all__ = ["run"]
