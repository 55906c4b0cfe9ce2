"""Hear that the driver is about to be unbound, through NVML's system events: two cheap questions a second, in ctypes.

Source: nvml.h, nvmlSystemEventSetCreate, nvmlSystemRegisterEvents and nvmlSystemEventSetWait; absent before about 570.
"""

from __future__ import annotations

import ctypes

UNBIND = 1  # nvmlSystemEventTypeGpuDriverUnbind
_SUCCESS = 0
_MOST = 8


class _SetRequest(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint), ("set", ctypes.c_void_p))


class _RegisterRequest(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint), ("event_types", ctypes.c_ulonglong), ("set", ctypes.c_void_p))


class _EventData(ctypes.Structure):
    _fields_ = (("event_type", ctypes.c_ulonglong), ("gpu_id", ctypes.c_uint))


class _WaitRequest(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint),
        ("timeout_ms", ctypes.c_uint),
        ("set", ctypes.c_void_p),
        ("data", ctypes.POINTER(_EventData)),
        ("data_size", ctypes.c_uint),
        ("count", ctypes.c_uint),
    )


class SystemEvents:
    """An event set for unbinds; made after the library is attached, asked by one thread.

    Args:
        path: The NVML library that is attached already; a second load of it is the same session.
    """

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._set: int | None = None

    def open(self) -> bool:
        """Register for unbinds; False where the driver has no such events."""
        try:
            request = _SetRequest(_version(_SetRequest), None)
            if self._library.nvmlSystemEventSetCreate(ctypes.byref(request)) != _SUCCESS:
                return False
            wanted = _RegisterRequest(_version(_RegisterRequest), UNBIND, request.set)
            is_open = self._library.nvmlSystemRegisterEvents(ctypes.byref(wanted)) == _SUCCESS
        except AttributeError:  # a library without them
            return False
        self._set = request.set if is_open else None
        return is_open

    def is_unbinding(self) -> bool:
        """Say whether an unbind was announced since the last question; never waits."""
        if self._set is None:
            return False
        data = (_EventData * _MOST)()
        request = _WaitRequest(_version(_WaitRequest), 0, self._set, data, _MOST, 0)
        if self._library.nvmlSystemEventSetWait(ctypes.byref(request)) != _SUCCESS:
            return False
        return any(data[index].event_type == UNBIND for index in range(min(request.count, _MOST)))

    def close(self) -> None:
        """Give the event set back; harmless when not open."""
        if self._set is not None:
            request = _SetRequest(_version(_SetRequest), self._set)
            self._library.nvmlSystemEventSetFree(ctypes.byref(request))
            self._set = None


def _version(kind: type[ctypes.Structure]) -> int:
    """Return NVML's version word of the first version of a structure."""
    return ctypes.sizeof(kind) | 1 << 24
