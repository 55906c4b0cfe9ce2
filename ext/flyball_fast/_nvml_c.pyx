# cython: boundscheck=False, wraparound=False
"""NVML bound by dlopen and dlsym: every symbol may be absent, and every call runs without the GIL."""

from libc.stdint cimport uint64_t
from libc.string cimport memset
from posix.dlfcn cimport RTLD_LOCAL, RTLD_NOW, dlclose, dlerror, dlopen, dlsym

from .nvml_abi cimport (
    Api,
    by_kind_f,
    device_text_f,
    field_value,
    nvmlDevice_t,
    nvmlEventData_t,
    nvmlEventSet_t,
    nvmlFieldValue_t,
    nvmlMemory_t,
    nvmlPciInfo_t,
    nvmlUtilization_t,
    pci_f,
    text_f,
    two_uints_f,
    uint_f,
)

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

cdef enum:
    MAX_FIELDS = 32
    TEXT_BYTES = 96
    ERROR_TIMEOUT = 10


cdef class Nvml:
    """One NVML library; `open` before anything else. Every method raises `DeviceError` naming call and GPU."""

    def __cinit__(self, path=None):
        memset(&self.api, 0, sizeof(Api))
        self.library = NULL
        self.event_set = NULL
        self.count = 0
        self.attached = False
        self.path = library_path(path)
        self.symbols = {}

    def __dealloc__(self):
        if self.library is not NULL and not self.attached:
            dlclose(self.library)

    @property
    def gpu_count(self):
        """GPUs found by `open`, lost ones included."""
        return self.count

    def open(self):
        """Load the library, attach to the driver and take a handle of each GPU; harmless when open."""
        cdef int code
        if self.attached:
            return
        self._load()
        with nogil:
            code = self.api.init_with_flags(0) if self.api.init_with_flags is not NULL else self.api.init()
        _check(code, f"nvmlInit of {self.path}")
        self.attached = True
        self._take_handles()

    def close(self):
        """Detach from the driver: it closes its descriptors. Harmless when not open."""
        self.close_events()
        if self.attached:
            self.attached = False
            self.count = 0
            with nogil:
                self.api.shutdown()

    def _load(self):
        if self.library is NULL:
            self.library = dlopen(self.path.encode(), RTLD_NOW | RTLD_LOCAL)
        if self.library is NULL:
            reason = dlerror()
            raise LibraryNotFound(not_found_message(self.path, (<bytes>reason).decode(errors="replace")), 12)
        _bind(&self.api, self.library, self.symbols)
        missing = [name for name in NEEDED if not self.symbols[name]]
        if missing:
            raise LibraryNotFound(f"{self.path} is no NVML library: it lacks {', '.join(missing)}", 13)

    def _take_handles(self):
        cdef unsigned int count = 0
        cdef unsigned int gpu
        cdef int code
        with nogil:
            code = self.api.count(&count)
        _check(code, "nvmlDeviceGetCount")
        self.count = min(count, <unsigned int>MAX_GPUS)
        for gpu in range(<unsigned int>self.count):
            with nogil:
                self.handle_codes[gpu] = self.api.handle(gpu, &self.handles[gpu])

    cdef nvmlDevice_t handle(self, int gpu, str what) except NULL:
        if not 0 <= gpu < self.count:
            raise IndexError(f"gpu {gpu}: {what}: expected 0..{self.count - 1}")
        _check(self.handle_codes[gpu], f"gpu {gpu}: {what}")
        return self.handles[gpu]

    def driver_version(self):
        """Return the driver's version; None when it does not tell."""
        return _text(self.api.driver_version)

    def library_version(self):
        """Return the NVML library's version; None when it does not tell."""
        return _text(self.api.nvml_version)

    def describe(self, int gpu):
        """Return the GPU's names and bounds."""
        cdef nvmlDevice_t device = self.handle(gpu, "describe")
        low, high = _constraints(self.api.limit_constraints, device)
        persistence = _read_uint(self.api.persistence, device)
        return Description(
            uuid=_device_text(self.api.uuid, device) or f"unknown-{gpu}",
            name=_device_text(self.api.name, device) or "unknown",
            pci=_pci(self.api.pci, device) or "unknown",
            min_limit_mw=low,
            max_limit_mw=high,
            default_limit_mw=_read_uint(self.api.default_limit, device),
            max_sm_clock_mhz=_read_kind(self.api.max_clock, device, SM_CLOCK),
            persistence=None if persistence is None else bool(persistence),
        )

    def read_fields(self, int gpu, fields):
        """Read these fields in one call; each reading says for itself whether it is known."""
        cdef nvmlFieldValue_t values[MAX_FIELDS]
        cdef nvmlDevice_t device = self.handle(gpu, "nvmlDeviceGetFieldValues")
        cdef int count = len(fields)
        cdef int code
        if not 0 < count <= MAX_FIELDS:
            raise ValueError(f"{count} fields, expected 1..{MAX_FIELDS}")
        _need(self.api.fields is not NULL, f"gpu {gpu}: nvmlDeviceGetFieldValues")
        memset(values, 0, sizeof(values))
        for index in range(count):
            values[index].fieldId = fields[index]
        with nogil:
            code = self.api.fields(device, count, values)
        _check(code, f"gpu {gpu}: nvmlDeviceGetFieldValues")
        return [_reading(&values[index]) for index in range(count)]

    def clock_mhz(self, int gpu, int kind):
        """Return a clock, MHz; None when the driver does not tell."""
        return _read_kind(self.api.clock, self.handle(gpu, "nvmlDeviceGetClockInfo"), kind)

    def temperature_c(self, int gpu):
        """Return the GPU's temperature, degrees Celsius; None when the driver does not tell."""
        return _read_kind(self.api.temperature, self.handle(gpu, "nvmlDeviceGetTemperature"), 0)

    def utilization_percent(self, int gpu):
        """Return the share of time in which any kernel ran; None when the driver does not tell."""
        cdef nvmlDevice_t device = self.handle(gpu, "nvmlDeviceGetUtilizationRates")
        cdef nvmlUtilization_t rates
        cdef int code = 13
        if self.api.utilization is not NULL:
            with nogil:
                code = self.api.utilization(device, &rates)
        return rates.gpu if code == 0 else None

    def event_reasons(self, int gpu):
        """Return the bitmask of what holds the clocks down now; None when the driver does not tell."""
        cdef nvmlDevice_t device = self.handle(gpu, "nvmlDeviceGetCurrentClocksEventReasons")
        cdef unsigned long long reasons = 0
        cdef int code = 13
        if self.api.event_reasons is not NULL:
            with nogil:
                code = self.api.event_reasons(device, &reasons)
        return reasons if code == 0 else None

    def memory_bytes(self, int gpu):
        """Return (used, total) of the GPU's memory; None when the driver does not tell."""
        cdef nvmlDevice_t device = self.handle(gpu, "nvmlDeviceGetMemoryInfo")
        cdef nvmlMemory_t memory
        cdef int code = 13
        if self.api.memory is not NULL:
            with nogil:
                code = self.api.memory(device, &memory)
        return (memory.used, memory.total) if code == 0 else None

    def power_usage_mw(self, int gpu):
        """Return nvmlDeviceGetPowerUsage, mW; None when the driver does not tell."""
        return _read_uint(self.api.power_usage, self.handle(gpu, "nvmlDeviceGetPowerUsage"))

    def energy_mj(self, int gpu):
        """Return the energy since driver load, mJ; None when the driver does not tell."""
        cdef nvmlDevice_t device = self.handle(gpu, "nvmlDeviceGetTotalEnergyConsumption")
        cdef unsigned long long energy = 0
        cdef int code = 13
        if self.api.energy is not NULL:
            with nogil:
                code = self.api.energy(device, &energy)
        return energy if code == 0 else None

    def enforced_limit_mw(self, int gpu):
        """Return nvmlDeviceGetEnforcedPowerLimit, mW; None when the driver does not tell."""
        return _read_uint(self.api.enforced_limit, self.handle(gpu, "nvmlDeviceGetEnforcedPowerLimit"))

    def requested_limit_mw(self, int gpu):
        """Return nvmlDeviceGetPowerManagementLimit, mW; None when the driver does not tell."""
        return _read_uint(self.api.limit, self.handle(gpu, "nvmlDeviceGetPowerManagementLimit"))

    def set_limit_mw(self, int gpu, unsigned int limit_mw):
        """Set the power limit."""
        what = f"gpu {gpu}: nvmlDeviceSetPowerManagementLimit({limit_mw} mW)"
        cdef nvmlDevice_t device = self.handle(gpu, what)
        cdef int code
        _need(self.api.set_limit is not NULL, what)
        with nogil:
            code = self.api.set_limit(device, limit_mw)
        _check(code, what)

    def set_locked_clocks_mhz(self, int gpu, unsigned int low, unsigned int high):
        """Hold the core clock between these."""
        what = f"gpu {gpu}: nvmlDeviceSetGpuLockedClocks({low}..{high} MHz)"
        cdef nvmlDevice_t device = self.handle(gpu, what)
        cdef int code
        _need(self.api.set_locked_clocks is not NULL, what)
        with nogil:
            code = self.api.set_locked_clocks(device, low, high)
        _check(code, what)

    def reset_locked_clocks(self, int gpu):
        """Let the core clock go again."""
        what = f"gpu {gpu}: nvmlDeviceResetGpuLockedClocks"
        cdef nvmlDevice_t device = self.handle(gpu, what)
        cdef int code
        _need(self.api.reset_locked_clocks is not NULL, what)
        with nogil:
            code = self.api.reset_locked_clocks(device)
        _check(code, what)

    def open_events(self, gpus):
        """Ask for the events of these GPUs; return the types each one delivers. Those without any are left out."""
        cdef nvmlEventSet_t made = NULL
        cdef int code
        _need(self.api.event_set_create is not NULL and self.api.event_set_wait is not NULL, "nvmlEventSetCreate")
        with nogil:
            code = self.api.event_set_create(&made)
        _check(code, "nvmlEventSetCreate")
        self.event_set = made
        wanted = {gpu: self._register(gpu) for gpu in gpus}
        return {gpu: types for gpu, types in wanted.items() if types}

    cdef object _register(self, int gpu):
        cdef unsigned long long types = 0
        cdef unsigned long long asked = 0
        cdef nvmlDevice_t device
        cdef int code = 13
        for bit in EVENT_TYPES:
            asked |= bit
        if self.api.supported_events is NULL or self.api.register_events is NULL or self.handle_codes[gpu] != 0:
            return 0
        device = self.handle(gpu, "nvmlDeviceRegisterEvents")
        with nogil:
            code = self.api.supported_events(device, &types)
            if code == 0 and types & asked:
                code = self.api.register_events(device, types & asked, self.event_set)
        return types & asked if code == 0 else 0

    def wait_event(self, unsigned int timeout_ms):
        """Return the next event, or None after the time; other threads run meanwhile."""
        cdef nvmlEventData_t data
        cdef nvmlEventSet_t events = self.event_set
        cdef int code
        if events is NULL:
            raise NotSupported("nvmlEventSetWait: no event set is open")
        with nogil:
            code = self.api.event_set_wait(events, &data, timeout_ms)
        if code == ERROR_TIMEOUT:
            return None
        _check(code, "nvmlEventSetWait")
        for gpu in range(self.count):
            if self.handles[gpu] == data.device:
                return NvmlEvent(gpu, data.eventType, data.eventData)
        return NvmlEvent(-1, data.eventType, data.eventData)

    def close_events(self):
        """Give the event set back; no thread may be waiting in it."""
        cdef nvmlEventSet_t events = self.event_set
        self.event_set = NULL
        if events is not NULL and self.api.event_set_free is not NULL:
            with nogil:
                self.api.event_set_free(events)


cdef int _check(int code, str what) except -1:
    if code != 0:
        raise nvml_error(code, what)
    return 0


cdef int _need(bint is_there, str what) except -1:
    if not is_there:
        raise NotSupported(f"{what}: this NVML library lacks it", 13)
    return 0


cdef object _reading(const nvmlFieldValue_t *read):
    cdef uint64_t value = 0
    known = field_value(read, &value)
    return FieldReading(read.fieldId, read.nvmlReturn, value if known else None, read.latencyUsec, read.timestamp)


cdef object _text(text_f call):
    cdef char text[TEXT_BYTES]
    cdef int code = 13
    if call is not NULL:
        with nogil:
            code = call(text, TEXT_BYTES)
    return (<bytes>text).decode("utf-8", "replace") if code == 0 else None


cdef object _device_text(device_text_f call, nvmlDevice_t device):
    cdef char text[TEXT_BYTES]
    cdef int code = 13
    if call is not NULL:
        with nogil:
            code = call(device, text, TEXT_BYTES)
    return (<bytes>text).decode("utf-8", "replace") if code == 0 else None


cdef object _read_uint(uint_f call, nvmlDevice_t device):
    cdef unsigned int value = 0
    cdef int code = 13
    if call is not NULL:
        with nogil:
            code = call(device, &value)
    return value if code == 0 else None


cdef object _read_kind(by_kind_f call, nvmlDevice_t device, int kind):
    cdef unsigned int value = 0
    cdef int code = 13
    if call is not NULL:
        with nogil:
            code = call(device, kind, &value)
    return value if code == 0 else None


cdef tuple _constraints(two_uints_f call, nvmlDevice_t device):
    cdef unsigned int low = 0
    cdef unsigned int high = 0
    cdef int code = 13
    if call is not NULL:
        with nogil:
            code = call(device, &low, &high)
    return (low, high) if code == 0 else (None, None)


cdef object _pci(pci_f call, nvmlDevice_t device):
    cdef nvmlPciInfo_t info
    cdef int code = 13
    if call is not NULL:
        with nogil:
            code = call(device, &info)
    return (<bytes>info.busId).decode("ascii", "replace").lower() if code == 0 else None


cdef void *_find(void *library, dict found, str name) except? NULL:
    cdef void *address = dlsym(library, name.encode())
    if address is NULL and SYMBOLS[name]:
        address = dlsym(library, SYMBOLS[name].encode())
    found[name] = address is not NULL
    return address


cdef int _bind(Api *api, void *library, dict found) except -1:
    cdef void *init = dlsym(library, b"nvmlInitWithFlags")
    (<void **>&api.init_with_flags)[0] = init
    (<void **>&api.init)[0] = _find(library, found, "nvmlInitWithFlags")
    (<void **>&api.shutdown)[0] = _find(library, found, "nvmlShutdown")
    (<void **>&api.driver_version)[0] = _find(library, found, "nvmlSystemGetDriverVersion")
    (<void **>&api.nvml_version)[0] = _find(library, found, "nvmlSystemGetNVMLVersion")
    (<void **>&api.count)[0] = _find(library, found, "nvmlDeviceGetCount_v2")
    (<void **>&api.handle)[0] = _find(library, found, "nvmlDeviceGetHandleByIndex_v2")
    (<void **>&api.name)[0] = _find(library, found, "nvmlDeviceGetName")
    (<void **>&api.uuid)[0] = _find(library, found, "nvmlDeviceGetUUID")
    (<void **>&api.pci)[0] = _find(library, found, "nvmlDeviceGetPciInfo_v3")
    (<void **>&api.fields)[0] = _find(library, found, "nvmlDeviceGetFieldValues")
    (<void **>&api.power_usage)[0] = _find(library, found, "nvmlDeviceGetPowerUsage")
    (<void **>&api.energy)[0] = _find(library, found, "nvmlDeviceGetTotalEnergyConsumption")
    (<void **>&api.utilization)[0] = _find(library, found, "nvmlDeviceGetUtilizationRates")
    (<void **>&api.clock)[0] = _find(library, found, "nvmlDeviceGetClockInfo")
    (<void **>&api.max_clock)[0] = _find(library, found, "nvmlDeviceGetMaxClockInfo")
    (<void **>&api.temperature)[0] = _find(library, found, "nvmlDeviceGetTemperature")
    (<void **>&api.event_reasons)[0] = _find(library, found, "nvmlDeviceGetCurrentClocksEventReasons")
    (<void **>&api.memory)[0] = _find(library, found, "nvmlDeviceGetMemoryInfo")
    (<void **>&api.limit_constraints)[0] = _find(library, found, "nvmlDeviceGetPowerManagementLimitConstraints")
    (<void **>&api.default_limit)[0] = _find(library, found, "nvmlDeviceGetPowerManagementDefaultLimit")
    (<void **>&api.limit)[0] = _find(library, found, "nvmlDeviceGetPowerManagementLimit")
    (<void **>&api.enforced_limit)[0] = _find(library, found, "nvmlDeviceGetEnforcedPowerLimit")
    (<void **>&api.persistence)[0] = _find(library, found, "nvmlDeviceGetPersistenceMode")
    (<void **>&api.set_limit)[0] = _find(library, found, "nvmlDeviceSetPowerManagementLimit")
    (<void **>&api.set_locked_clocks)[0] = _find(library, found, "nvmlDeviceSetGpuLockedClocks")
    (<void **>&api.reset_locked_clocks)[0] = _find(library, found, "nvmlDeviceResetGpuLockedClocks")
    (<void **>&api.supported_events)[0] = _find(library, found, "nvmlDeviceGetSupportedEventTypes")
    (<void **>&api.register_events)[0] = _find(library, found, "nvmlDeviceRegisterEvents")
    (<void **>&api.event_set_create)[0] = _find(library, found, "nvmlEventSetCreate")
    (<void **>&api.event_set_wait)[0] = _find(library, found, "nvmlEventSetWait_v2")
    (<void **>&api.event_set_free)[0] = _find(library, found, "nvmlEventSetFree")
    return 0
