"""What the DCGM binding (`_dcgm_c`) hands out: readings, errors by name, and where the library is looked for.

DCGM is optional beside NVML: a host engine that already runs is joined, none is started, since two on one host may
deadlock the driver.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from flyball_fast.errors import DeviceError, DeviceLost, NoPermission, NotSupported

LIBRARY_VARIABLE = "FLYBALL_DCGM_LIBRARY"
DEFAULT_LIBRARY = "libdcgm.so.4"
DEFAULT_ADDRESS = "unix:/tmp/nv-hostengine"  # nv-hostengine -d without a path; else 127.0.0.1:5555
# Field numbers, which stay when names change (4.6 renamed them all).
POWER_AVERAGE_W, POWER_INSTANT_W, ENERGY_MJ = 155, 157, 156
SM_CLOCK_MHZ, TEMPERATURE_C, MEMORY_TEMPERATURE_C, UTILIZATION_PERCENT = 100, 150, 140, 203
ECC_CORRECTED, ECC_UNCORRECTED = 310, 311
# dcgm_structs.h, dcgmReturn_t.
NAMES = {
    -1: "BADPARAM",
    -3: "GENERIC_ERROR",
    -6: "NOT_SUPPORTED",
    -7: "INIT_ERROR",
    -10: "UNINITIALIZED",
    -11: "TIMEOUT",
    -12: "VER_MISMATCH",
    -14: "NO_DATA",
    -16: "NOT_WATCHED",
    -17: "NO_PERMISSION",
    -18: "GPU_IS_LOST",
    -19: "RESET_REQUIRED",
    -21: "CONNECTION_NOT_VALID",
}
_BY_CODE: dict[int, type[DeviceError]] = {-6: NotSupported, -17: NoPermission, -18: DeviceLost, -19: DeviceLost}
_HINTS = {
    -12: "library and host engine are of different versions",
    -21: "no host engine answers, or it was lost",
}


class DcgmReading(NamedTuple):
    """One field of one GPU: `value` is None when it is BLANK, not watched or of no number; `at_us` is Unix time."""

    gpu: int
    field: int
    value: float | int | None
    status: int
    at_us: int


def dcgm_path(path: str | None = None) -> str:
    """Return which library to load: the argument, else the environment's, else the loader's default."""
    return path or os.environ.get(LIBRARY_VARIABLE) or DEFAULT_LIBRARY


def dcgm_error(code: int, what: str) -> DeviceError:
    """Return the exception for a DCGM return code; `what` names the call."""
    hint = f" ({_HINTS[code]})" if code in _HINTS else ""
    return _BY_CODE.get(code, DeviceError)(f"{what}: DCGM error {code} {NAMES.get(code, '?')}{hint}", code)
