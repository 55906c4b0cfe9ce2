"""NVML through nvidia-ml-py (ctypes): the readable twin, and what serves where nothing could be compiled."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pynvml

from flyball_fast.errors import LibraryNotFound, NotSupported, nvml_error
from flyball_fast.nvml_records import (
    EVENT_TYPES,
    NEEDED,
    SM_CLOCK,
    SYMBOLS,
    Description,
    FieldReading,
    NvmlEvent,
    library_path,
    not_found_message,
)

MAX_GPUS = 64
MAX_FIELDS = 32
_TIMEOUT = 10
# valueType of a field reading -> member of its union (nvml.h, nvmlValueType_t).
_MEMBERS = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}


class Nvml:
    """One NVML library; `open` before anything else. Every method raises `DeviceError` naming call and GPU."""

    def __init__(self, path: str | None = None) -> None:
        self.path = library_path(path)
        self.symbols: dict[str, bool] = {}
        self._library: Any = None  # ctypes.CDLL; its functions have no static types
        self._handles: list[Any] = []  # a handle, or the code of why there is none
        self._event_set: Any = None
        self._is_attached = False

    @property
    def gpu_count(self) -> int:
        """GPUs found by `open`, lost ones included."""
        return len(self._handles)

    def open(self) -> None:
        """Load the library, attach to the driver and take a handle of each GPU; harmless when open."""
        if self._is_attached:
            return
        self._load()
        init = "nvmlInitWithFlags" if hasattr(self._library, "nvmlInitWithFlags") else "nvmlInit_v2"
        arguments = (0,) if init == "nvmlInitWithFlags" else ()
        code = getattr(self._library, init)(*arguments)
        if code:
            raise nvml_error(code, f"nvmlInit of {self.path}")
        self._is_attached = True
        count = min(_call("nvmlDeviceGetCount", pynvml.nvmlDeviceGetCount), MAX_GPUS)
        self._handles = [_handle_or_code(gpu) for gpu in range(count)]

    def close(self) -> None:
        """Detach from the driver: it closes its descriptors. Harmless when not open."""
        self.close_events()
        if self._is_attached:
            self._is_attached = False
            self._handles = []
            self._library.nvmlShutdown()

    def _load(self) -> None:
        if self._library is None:
            try:
                self._library = ctypes.CDLL(self.path)
            except OSError as error:
                raise LibraryNotFound(not_found_message(self.path, str(error)), 12) from error
        self.symbols.update({name: self._has(name) for name in SYMBOLS})
        missing = [name for name in NEEDED if not self.symbols[name]]
        if missing:
            raise LibraryNotFound(f"{self.path} is no NVML library: it lacks {', '.join(missing)}", 13)
        pynvml.nvmlLib = self._library
        pynvml._nvmlGetFunctionPointer_cache.clear()  # noqa: SLF001 - it holds another library's functions

    def _has(self, name: str) -> bool:
        return hasattr(self._library, name) or bool(SYMBOLS[name] and hasattr(self._library, SYMBOLS[name]))

    def _handle(self, gpu: int, what: str) -> Any:
        if not 0 <= gpu < len(self._handles):
            raise IndexError(f"gpu {gpu}: {what}: expected 0..{len(self._handles) - 1}")
        if isinstance(self._handles[gpu], int):
            raise nvml_error(self._handles[gpu], f"gpu {gpu}: {what}")
        return self._handles[gpu]

    def driver_version(self) -> str | None:
        """Return the driver's version; None when it does not tell."""
        return _known(pynvml.nvmlSystemGetDriverVersion)  # type: ignore[no-any-return]  # nvidia-ml-py is untyped

    def library_version(self) -> str | None:
        """Return the NVML library's version; None when it does not tell."""
        return _known(pynvml.nvmlSystemGetNVMLVersion)  # type: ignore[no-any-return]  # nvidia-ml-py is untyped

    def describe(self, gpu: int) -> Description:
        """Return the GPU's names and bounds."""
        device = self._handle(gpu, "describe")
        low, high = _known(pynvml.nvmlDeviceGetPowerManagementLimitConstraints, device) or (None, None)
        pci = _known(pynvml.nvmlDeviceGetPciInfo_v3, device)
        persistence = _known(pynvml.nvmlDeviceGetPersistenceMode, device)
        return Description(
            uuid=_known(pynvml.nvmlDeviceGetUUID, device) or f"unknown-{gpu}",
            name=_known(pynvml.nvmlDeviceGetName, device) or "unknown",
            pci=_text(pci.busId).lower() if pci else "unknown",
            min_limit_mw=low,
            max_limit_mw=high,
            default_limit_mw=_known(pynvml.nvmlDeviceGetPowerManagementDefaultLimit, device),
            max_sm_clock_mhz=_known(pynvml.nvmlDeviceGetMaxClockInfo, device, SM_CLOCK),
            persistence=None if persistence is None else bool(persistence),
        )

    def read_fields(self, gpu: int, fields: Sequence[int]) -> list[FieldReading]:
        """Read these fields in one call; each reading says for itself whether it is known."""
        what = f"gpu {gpu}: nvmlDeviceGetFieldValues"
        device = self._handle(gpu, "nvmlDeviceGetFieldValues")
        if not 0 < len(fields) <= MAX_FIELDS:
            raise ValueError(f"{len(fields)} fields, expected 1..{MAX_FIELDS}")
        values = _call(what, pynvml.nvmlDeviceGetFieldValues, device, list(fields))
        return [_reading(value) for value in values]

    def clock_mhz(self, gpu: int, kind: int) -> int | None:
        """Return a clock, MHz; None when the driver does not tell."""
        return _known(pynvml.nvmlDeviceGetClockInfo, self._handle(gpu, "nvmlDeviceGetClockInfo"), kind)  # type: ignore[no-any-return]  # nvidia-ml-py is untyped

    def temperature_c(self, gpu: int) -> int | None:
        """Return the GPU's temperature, degrees Celsius; None when the driver does not tell."""
        return _known(pynvml.nvmlDeviceGetTemperature, self._handle(gpu, "nvmlDeviceGetTemperature"), 0)  # type: ignore[no-any-return]  # nvidia-ml-py is untyped

    def utilization_percent(self, gpu: int) -> int | None:
        """Return the share of time in which any kernel ran; None when the driver does not tell."""
        device = self._handle(gpu, "nvmlDeviceGetUtilizationRates")
        rates = _known(pynvml.nvmlDeviceGetUtilizationRates, device)
        return None if rates is None else int(rates.gpu)

    def event_reasons(self, gpu: int) -> int | None:
        """Return the bitmask of what holds the clocks down now; None when the driver does not tell."""
        device = self._handle(gpu, "nvmlDeviceGetCurrentClocksEventReasons")
        return _known(pynvml.nvmlDeviceGetCurrentClocksEventReasons, device)  # type: ignore[no-any-return]  # nvidia-ml-py is untyped

    def memory_bytes(self, gpu: int) -> tuple[int, int] | None:
        """Return (used, total) of the GPU's memory; None when the driver does not tell."""
        memory = _known(pynvml.nvmlDeviceGetMemoryInfo, self._handle(gpu, "nvmlDeviceGetMemoryInfo"))
        return None if memory is None else (memory.used, memory.total)

    def power_usage_mw(self, gpu: int) -> int | None:
        """Return nvmlDeviceGetPowerUsage, mW; None when the driver does not tell."""
        return _known(pynvml.nvmlDeviceGetPowerUsage, self._handle(gpu, "nvmlDeviceGetPowerUsage"))  # type: ignore[no-any-return]  # nvidia-ml-py is untyped

    def energy_mj(self, gpu: int) -> int | None:
        """Return the energy since driver load, mJ; None when the driver does not tell."""
        device = self._handle(gpu, "nvmlDeviceGetTotalEnergyConsumption")
        return _known(pynvml.nvmlDeviceGetTotalEnergyConsumption, device)  # type: ignore[no-any-return]  # nvidia-ml-py is untyped

    def enforced_limit_mw(self, gpu: int) -> int | None:
        """Return nvmlDeviceGetEnforcedPowerLimit, mW; None when the driver does not tell."""
        return _known(pynvml.nvmlDeviceGetEnforcedPowerLimit, self._handle(gpu, "nvmlDeviceGetEnforcedPowerLimit"))  # type: ignore[no-any-return]  # nvidia-ml-py is untyped

    def requested_limit_mw(self, gpu: int) -> int | None:
        """Return nvmlDeviceGetPowerManagementLimit, mW; None when the driver does not tell."""
        return _known(pynvml.nvmlDeviceGetPowerManagementLimit, self._handle(gpu, "nvmlDeviceGetPowerManagementLimit"))  # type: ignore[no-any-return]  # nvidia-ml-py is untyped

    def set_limit_mw(self, gpu: int, limit_mw: int) -> None:
        """Set the power limit."""
        what = f"gpu {gpu}: nvmlDeviceSetPowerManagementLimit({limit_mw} mW)"
        _call(what, pynvml.nvmlDeviceSetPowerManagementLimit, self._handle(gpu, what), _unsigned(limit_mw))

    def set_locked_clocks_mhz(self, gpu: int, low: int, high: int) -> None:
        """Hold the core clock between these."""
        what = f"gpu {gpu}: nvmlDeviceSetGpuLockedClocks({low}..{high} MHz)"
        device = self._handle(gpu, what)
        _call(what, pynvml.nvmlDeviceSetGpuLockedClocks, device, _unsigned(low), _unsigned(high))

    def reset_locked_clocks(self, gpu: int) -> None:
        """Let the core clock go again."""
        what = f"gpu {gpu}: nvmlDeviceResetGpuLockedClocks"
        _call(what, pynvml.nvmlDeviceResetGpuLockedClocks, self._handle(gpu, what))

    def open_events(self, gpus: Iterable[int]) -> dict[int, int]:
        """Ask for the events of these GPUs; return the types each one delivers. Those without any are left out."""
        if not (self.symbols["nvmlEventSetCreate"] and self.symbols["nvmlEventSetWait_v2"]):
            raise NotSupported("nvmlEventSetCreate: this NVML library lacks it", 13)
        self._event_set = _call("nvmlEventSetCreate", pynvml.nvmlEventSetCreate)
        wanted = {gpu: self._register(gpu) for gpu in gpus}
        return {gpu: types for gpu, types in wanted.items() if types}

    def _register(self, gpu: int) -> int:
        device = self._handles[gpu]
        if isinstance(device, int):
            return 0
        types = (_known(pynvml.nvmlDeviceGetSupportedEventTypes, device) or 0) & sum(EVENT_TYPES)
        with contextlib.suppress(pynvml.NVMLError):
            if types:
                pynvml.nvmlDeviceRegisterEvents(device, types, self._event_set)
                return int(types)
        return 0

    def wait_event(self, timeout_ms: int) -> NvmlEvent | None:
        """Return the next event, or None after the time; other threads run meanwhile."""
        if self._event_set is None:
            raise NotSupported("nvmlEventSetWait: no event set is open")
        try:
            data = pynvml.nvmlEventSetWait_v2(self._event_set, timeout_ms)
        except pynvml.NVMLError as error:
            if error.value == _TIMEOUT:
                return None
            raise nvml_error(error.value, "nvmlEventSetWait") from error
        for gpu, device in enumerate(self._handles):
            if not isinstance(device, int) and _address(device) == _address(data.device):
                return NvmlEvent(gpu, data.eventType, data.eventData)
        return NvmlEvent(-1, data.eventType, data.eventData)

    def close_events(self) -> None:
        """Give the event set back; no thread may be waiting in it."""
        events, self._event_set = self._event_set, None
        if events is not None:
            _known(pynvml.nvmlEventSetFree, events)


def _call(what: str, call: Callable[..., Any], *arguments: object) -> Any:
    try:
        return call(*arguments)
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
            raise NotSupported(f"{what}: this NVML library lacks it", 13) from error
        raise nvml_error(error.value, what) from error


def _known(call: Callable[..., Any], *arguments: object) -> Any:
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None


def _handle_or_code(gpu: int) -> Any:
    try:
        return pynvml.nvmlDeviceGetHandleByIndex(gpu)
    except pynvml.NVMLError as error:
        return int(error.value)


def _address(device: Any) -> int | None:
    return ctypes.cast(device, ctypes.c_void_p).value


def _text(value: str | bytes) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value


def _unsigned(value: int) -> int:
    if not 0 <= value < 2**32:
        raise OverflowError(f"{value} does not fit an unsigned int")
    return value


def _reading(read: Any) -> FieldReading:
    member = _MEMBERS.get(read.valueType)
    raw = getattr(read.value, member) if member and read.nvmlReturn == 0 else -1
    value = int(raw + 0.5) if isinstance(raw, float) and 0 <= raw < 1.8e19 else raw
    known = isinstance(value, int) and value >= 0
    return FieldReading(read.fieldId, read.nvmlReturn, value if known else None, read.latencyUsec, read.timestamp)
