from .nvml_abi cimport Api, nvmlDevice_t, nvmlEventSet_t

cdef enum:
    MAX_GPUS = 64


cdef class Nvml:
    cdef Api api
    cdef void *library
    cdef nvmlDevice_t handles[MAX_GPUS]
    cdef int handle_codes[MAX_GPUS]
    cdef int count
    cdef bint attached
    cdef nvmlEventSet_t event_set
    cdef readonly str path
    cdef readonly dict symbols
    cdef nvmlDevice_t handle(self, int gpu, str what) except NULL
    cdef object _register(self, int gpu)
