"""Errors of the compiled paths, split by what the caller does next.

FlyballFastError
├── RingError           the memory is no ring of ours, or of another version: do not read it
├── ColumnsError        (also ValueError) a batch is damaged or hostile: drop it and count it
└── DeviceError         a driver refused: that GPU's value is None
    ├── LibraryNotFound   no driver library at all: run without devices, say what was tried
    ├── DriverNotLoaded   library without driver: the same, and try again later
    ├── DeviceLost        the GPU fell off or wants a reset: count it at its maximum
    ├── NotSupported      this GPU or driver cannot: never ask again
    └── NoPermission      we may not: observe only
"""

from __future__ import annotations

# NVML's return codes by name (nvml.h, nvmlReturn_t).
NVML_NAMES = {
    0: "SUCCESS",
    1: "UNINITIALIZED",
    2: "INVALID_ARGUMENT",
    3: "NOT_SUPPORTED",
    4: "NO_PERMISSION",
    6: "NOT_FOUND",
    7: "INSUFFICIENT_SIZE",
    8: "INSUFFICIENT_POWER",
    9: "DRIVER_NOT_LOADED",
    10: "TIMEOUT",
    11: "IRQ_ISSUE",
    12: "LIBRARY_NOT_FOUND",
    13: "FUNCTION_NOT_FOUND",
    14: "CORRUPTED_INFOROM",
    15: "GPU_IS_LOST",
    16: "RESET_REQUIRED",
    17: "OPERATING_SYSTEM",
    18: "LIB_RM_VERSION_MISMATCH",
    19: "IN_USE",
    20: "MEMORY",
    21: "NO_DATA",
    23: "INSUFFICIENT_RESOURCES",
    25: "ARGUMENT_VERSION_MISMATCH",
    26: "DEPRECATED",
    27: "NOT_READY",
    28: "GPU_NOT_FOUND",
    29: "INVALID_STATE",
    999: "UNKNOWN",
}


class FlyballFastError(Exception):
    """Base of every error raised here."""


class RingError(FlyballFastError):
    """The memory does not hold a ring that this version can read."""


class ColumnsError(FlyballFastError, ValueError):
    """A telemetry batch cannot be decoded, or values do not fit one."""


class DeviceError(FlyballFastError):
    """A driver call failed.

    Attributes:
        code: The driver's own return code; None when it was never reached.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class LibraryNotFound(DeviceError):  # noqa: N818 - reads as what happened
    """No driver library could be loaded."""


class DriverNotLoaded(DeviceError):  # noqa: N818
    """The library is there, the kernel driver is not."""


class DeviceLost(DeviceError):  # noqa: N818
    """The GPU fell off the bus or wants a reset before it answers again."""


class NotSupported(DeviceError):  # noqa: N818
    """This GPU, driver or library version cannot do it."""


class NoPermission(DeviceError):  # noqa: N818
    """This process may not do it."""


_BY_CODE: dict[int, type[DeviceError]] = {
    3: NotSupported,
    4: NoPermission,
    9: DriverNotLoaded,
    12: LibraryNotFound,
    13: NotSupported,
    15: DeviceLost,
    16: DeviceLost,
    25: NotSupported,
    26: NotSupported,
    28: DeviceLost,
}
_HINTS = {
    4: "root or CAP_SYS_ADMIN is needed",
    9: "the library is installed, the kernel driver is not loaded",
    15: "the GPU has fallen off the bus",
    16: "the GPU wants a reset",
    18: "library and kernel driver are of different versions: a restart of the host mends it",
}


def nvml_error(code: int, what: str) -> DeviceError:
    """Return the exception for an NVML return code; `what` names the call and the GPU."""
    name = NVML_NAMES.get(code, "?")
    hint = f" ({_HINTS[code]})" if code in _HINTS else ""
    return _BY_CODE.get(code, DeviceError)(f"{what}: NVML error {code} {name}{hint}", code)
