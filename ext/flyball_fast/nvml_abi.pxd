# NVML's ABI as far as it is used here: struct layouts and signatures after the public nvml.h.
from libc.stdint cimport int64_t, uint32_t, uint64_t

ctypedef int nvmlReturn_t
ctypedef void *nvmlDevice_t
ctypedef void *nvmlEventSet_t

cdef union nvmlValue_t:
    double dVal
    unsigned int uiVal
    unsigned long ulVal
    unsigned long long ullVal
    long long sllVal
    int siVal
    unsigned short usVal

cdef struct nvmlFieldValue_t:
    uint32_t fieldId
    uint32_t scopeId
    int64_t timestamp
    int64_t latencyUsec
    int valueType
    nvmlReturn_t nvmlReturn
    nvmlValue_t value

cdef struct nvmlPciInfo_t:
    char busIdLegacy[16]
    unsigned int domain
    unsigned int bus
    unsigned int device
    unsigned int pciDeviceId
    unsigned int pciSubSystemId
    char busId[32]

cdef struct nvmlUtilization_t:
    unsigned int gpu
    unsigned int memory

cdef struct nvmlMemory_t:
    unsigned long long total
    unsigned long long free
    unsigned long long used

cdef struct nvmlEventData_t:
    nvmlDevice_t device
    unsigned long long eventType
    unsigned long long eventData
    unsigned int gpuInstanceId
    unsigned int computeInstanceId

ctypedef nvmlReturn_t (*no_argument_f)() noexcept nogil
ctypedef nvmlReturn_t (*with_flags_f)(unsigned int) noexcept nogil
ctypedef nvmlReturn_t (*text_f)(char *, unsigned int) noexcept nogil
ctypedef nvmlReturn_t (*count_f)(unsigned int *) noexcept nogil
ctypedef nvmlReturn_t (*handle_f)(unsigned int, nvmlDevice_t *) noexcept nogil
ctypedef nvmlReturn_t (*device_text_f)(nvmlDevice_t, char *, unsigned int) noexcept nogil
ctypedef nvmlReturn_t (*pci_f)(nvmlDevice_t, nvmlPciInfo_t *) noexcept nogil
ctypedef nvmlReturn_t (*fields_f)(nvmlDevice_t, int, nvmlFieldValue_t *) noexcept nogil
ctypedef nvmlReturn_t (*uint_f)(nvmlDevice_t, unsigned int *) noexcept nogil
ctypedef nvmlReturn_t (*ulonglong_f)(nvmlDevice_t, unsigned long long *) noexcept nogil
ctypedef nvmlReturn_t (*utilization_f)(nvmlDevice_t, nvmlUtilization_t *) noexcept nogil
ctypedef nvmlReturn_t (*by_kind_f)(nvmlDevice_t, int, unsigned int *) noexcept nogil
ctypedef nvmlReturn_t (*memory_f)(nvmlDevice_t, nvmlMemory_t *) noexcept nogil
ctypedef nvmlReturn_t (*two_uints_f)(nvmlDevice_t, unsigned int *, unsigned int *) noexcept nogil
ctypedef nvmlReturn_t (*set_uint_f)(nvmlDevice_t, unsigned int) noexcept nogil
ctypedef nvmlReturn_t (*set_two_uints_f)(nvmlDevice_t, unsigned int, unsigned int) noexcept nogil
ctypedef nvmlReturn_t (*device_f)(nvmlDevice_t) noexcept nogil
ctypedef nvmlReturn_t (*event_set_create_f)(nvmlEventSet_t *) noexcept nogil
ctypedef nvmlReturn_t (*register_events_f)(nvmlDevice_t, unsigned long long, nvmlEventSet_t) noexcept nogil
ctypedef nvmlReturn_t (*event_set_wait_f)(nvmlEventSet_t, nvmlEventData_t *, unsigned int) noexcept nogil
ctypedef nvmlReturn_t (*event_set_free_f)(nvmlEventSet_t) noexcept nogil

# Each pointer is NULL where the library lacks the symbol.
cdef struct Api:
    with_flags_f init_with_flags
    no_argument_f init
    no_argument_f shutdown
    text_f driver_version
    text_f nvml_version
    count_f count
    handle_f handle
    device_text_f name
    device_text_f uuid
    pci_f pci
    fields_f fields
    uint_f power_usage
    ulonglong_f energy
    utilization_f utilization
    by_kind_f clock
    by_kind_f max_clock
    by_kind_f temperature
    ulonglong_f event_reasons
    memory_f memory
    two_uints_f limit_constraints
    uint_f default_limit
    uint_f limit
    uint_f enforced_limit
    uint_f persistence
    set_uint_f set_limit
    set_two_uints_f set_locked_clocks
    device_f reset_locked_clocks
    ulonglong_f supported_events
    register_events_f register_events
    event_set_create_f event_set_create
    event_set_wait_f event_set_wait
    event_set_free_f event_set_free


cdef inline bint field_value(const nvmlFieldValue_t *read, uint64_t *out) noexcept nogil:
    """Take a field's value as an unsigned word; false when it is unknown, negative or of a type we do not know."""
    cdef long long signed_value = 0
    if read.nvmlReturn != 0:
        return False
    if read.valueType == 0:
        if not 0 <= read.value.dVal < 1.8e19:
            return False
        out[0] = <uint64_t>(read.value.dVal + 0.5)
    elif read.valueType == 1:
        out[0] = read.value.uiVal
    elif read.valueType == 2:
        out[0] = read.value.ulVal
    elif read.valueType == 3:
        out[0] = read.value.ullVal
    elif read.valueType == 4 or read.valueType == 5:
        signed_value = read.value.sllVal if read.valueType == 4 else read.value.siVal
        if signed_value < 0:
            return False
        out[0] = <uint64_t>signed_value
    elif read.valueType == 6:
        out[0] = read.value.usVal
    else:
        return False
    return True
