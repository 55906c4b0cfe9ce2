"""Reach NVIDIA GPUs through NVML: picks the compiled binding, or nvidia-ml-py where it is not built.

Make an `Nvml`, `open` it, ask, `close` it. `sweep.run` samples with it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING or os.environ.get("FLYBALL_PURE_PYTHON"):
    from flyball_fast._nvml_py import Nvml
else:
    try:
        from flyball_fast._nvml_c import Nvml
    except ImportError:
        from flyball_fast._nvml_py import Nvml

__all__ = ["Nvml"]
