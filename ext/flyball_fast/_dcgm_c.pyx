"""libdcgm bound by dlopen: a host engine that already runs is asked over its socket, fields go by number.

Struct layouts and version words after the public dcgm_structs.h (Apache-2.0); `SIZES` is what tests hold them to.
"""

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.dlfcn cimport RTLD_LOCAL, RTLD_NOW, dlclose, dlerror, dlopen, dlsym

from flyball_fast.dcgm import DEFAULT_ADDRESS, DcgmReading, dcgm_error, dcgm_path
from flyball_fast.errors import LibraryNotFound

cdef enum:
    MAX_DEVICES = 32
    MAX_FIELDS = 128
    ALL_GPUS = 0x7fffffff
    ENTITY_GPU = 1
    CONNECT_MS = 2000

cdef struct ConnectParams:
    uint32_t version
    uint32_t persist
    uint32_t timeout_ms
    uint32_t is_unix_socket

cdef struct Entity:
    int32_t group
    uint32_t id

cdef union Value:
    int64_t i64
    double dbl
    char text[4096]

cdef struct FieldValue:
    uint32_t version
    uint32_t group
    uint32_t entity
    uint16_t field
    uint16_t type
    int32_t status
    uint32_t unused
    int64_t at_us
    Value value

ctypedef int (*plain_f)() noexcept nogil
ctypedef int (*connect_f)(const char *, ConnectParams *, uintptr_t *) noexcept nogil
ctypedef int (*disconnect_f)(uintptr_t) noexcept nogil
ctypedef int (*devices_f)(uintptr_t, uint32_t *, int *) noexcept nogil
ctypedef int (*group_f)(uintptr_t, int, const uint16_t *, const char *, uintptr_t *) noexcept nogil
ctypedef int (*watch_f)(uintptr_t, uintptr_t, uintptr_t, long long, double, int) noexcept nogil
ctypedef int (*latest_f)(uintptr_t, Entity *, unsigned int, uint16_t *, unsigned int, unsigned int,
                         FieldValue *) noexcept nogil

SIZES = {"dcgmConnectV2Params": sizeof(ConnectParams), "dcgmFieldValue_v2": sizeof(FieldValue)}


cdef class Dcgm:
    """One connection to a host engine. Every method raises `DeviceError` naming the call."""

    cdef void *library
    cdef uintptr_t handle
    cdef bint attached
    cdef FieldValue *values
    cdef Py_ssize_t room
    cdef readonly str path

    def __cinit__(self, path=None):
        self.path = dcgm_path(path)

    def __dealloc__(self):
        free(self.values)
        if self.library is not NULL and not self.attached:
            dlclose(self.library)

    def open(self, str address=DEFAULT_ADDRESS):
        """Connect to the engine at `unix:PATH` or `HOST[:PORT]`; harmless when connected."""
        cdef ConnectParams params
        cdef bytes place = address.removeprefix("unix:").encode()
        cdef const char *where = place
        cdef connect_f connect
        cdef int code
        if self.attached:
            return
        if self.library is NULL:
            self.library = dlopen(self.path.encode(), RTLD_NOW | RTLD_LOCAL)
        if self.library is NULL:
            raise LibraryNotFound(f"no DCGM library: tried {self.path} ({(<bytes>dlerror()).decode(errors='replace')})")
        _check((<plain_f>self._find("dcgmInit"))(), "dcgmInit")
        memset(&params, 0, sizeof(params))
        params.version = sizeof(params) | 2 << 24
        params.timeout_ms = CONNECT_MS
        params.is_unix_socket = address.startswith("unix:")
        connect = <connect_f>self._find("dcgmConnect_v2")
        with nogil:
            code = connect(where, &params, &self.handle)
        _check(code, f"dcgmConnect {address}")
        self.attached = True

    def close(self):
        """Leave the engine; what it watches for others goes on. Harmless when not connected."""
        if self.attached:
            self.attached = False
            (<disconnect_f>self._find("dcgmDisconnect"))(self.handle)
            (<plain_f>self._find("dcgmShutdown"))()

    def gpus(self):
        """Return the engine's numbers of the GPUs it supports."""
        cdef uint32_t ids[MAX_DEVICES]
        cdef int count = 0
        self._need()
        _check((<devices_f>self._find("dcgmGetAllSupportedDevices"))(self.handle, ids, &count), "dcgmGetAllDevices")
        return [ids[index] for index in range(min(count, <int>MAX_DEVICES))]

    def watch(self, fields, double period_s):
        """Have the engine keep these fields of every GPU fresh."""
        cdef uint16_t numbers[MAX_FIELDS]
        cdef uintptr_t group = 0
        self._need()
        _take_fields(fields, numbers)
        if not period_s > 0:
            raise ValueError(f"period {period_s} s, expected above 0")
        _check(
            (<group_f>self._find("dcgmFieldGroupCreate"))(self.handle, len(fields), numbers, b"flyball", &group),
            "dcgmFieldGroupCreate",
        )
        _check(
            (<watch_f>self._find("dcgmWatchFields"))(
                self.handle, ALL_GPUS, group, <long long>(period_s * 1e6), 4 * period_s, 4
            ),
            "dcgmWatchFields",
        )

    def latest(self, gpus, fields):
        """Return the newest value of these fields of these GPUs in one call; a BLANK or a bad status is None."""
        cdef Entity entities[MAX_DEVICES]
        cdef uint16_t numbers[MAX_FIELDS]
        cdef unsigned int gpu_count = len(gpus)
        cdef unsigned int field_count = len(fields)
        cdef latest_f read
        cdef int code
        self._need()
        _take_fields(fields, numbers)
        if not 0 < gpu_count <= MAX_DEVICES:
            raise ValueError(f"{gpu_count} GPUs, expected 1..{MAX_DEVICES}")
        for index, gpu in enumerate(gpus):
            entities[index].group = ENTITY_GPU
            entities[index].id = gpu
        self._make_room(gpu_count * field_count)
        read = <latest_f>self._find("dcgmEntitiesGetLatestValues")
        with nogil:
            code = read(self.handle, entities, gpu_count, numbers, field_count, 0, self.values)
        _check(code, "dcgmEntitiesGetLatestValues")
        return [_reading(&self.values[index]) for index in range(gpu_count * field_count)]

    cdef int _make_room(self, Py_ssize_t count) except -1:
        if count > self.room:
            free(self.values)
            self.room = 0
            self.values = <FieldValue *>calloc(count, sizeof(FieldValue))
            if self.values is NULL:
                raise MemoryError(f"{count} field values")
            self.room = count
        return 0

    cdef int _need(self) except -1:
        if not self.attached:
            raise dcgm_error(-10, "dcgm: not connected")
        return 0

    cdef void *_find(self, str name) except NULL:
        cdef void *address = dlsym(self.library, name.encode())
        if address is NULL:
            raise LibraryNotFound(f"{self.path} lacks {name}")
        return address


cdef int _take_fields(fields, uint16_t *numbers) except -1:
    if not 0 < len(fields) <= MAX_FIELDS:
        raise ValueError(f"{len(fields)} fields, expected 1..{MAX_FIELDS}")
    for index, field in enumerate(fields):
        numbers[index] = field
    return 0


cdef int _check(int code, str what) except -1:
    if code != 0:
        raise dcgm_error(code, what)
    return 0


cdef object _reading(const FieldValue *read):
    value = None
    if read.status == 0 and read.type == c'd' and read.value.dbl < 140737488355328.0:
        value = read.value.dbl
    elif read.status == 0 and read.type == c'i' and read.value.i64 < 0x7ffffffffffffff0:
        value = read.value.i64
    return DcgmReading(read.entity, read.field, value, read.status, read.at_us)
