# cython: boundscheck=False, wraparound=False
"""Split kernel log records: the compiled twin of `_scan_py`."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.string cimport memchr


cdef extern from "string.h" nogil:
    void *memmem(const void *haystack, size_t haystack_bytes, const void *needle, size_t needle_bytes)

cdef enum:
    DIGITS = 19  # a longer number does not fit 64 bits


cdef const char *number(const char *at, const char *end, int64_t *value) noexcept nogil:
    """Read digits up to a comma into `value`; return the place after the comma, NULL when they are not there."""
    cdef const char *start = at
    cdef unsigned long long found = 0
    while at < end and 48 <= at[0] <= 57 and at - start < DIGITS:
        found = found * 10 + <unsigned long long>(at[0] - 48)
        at += 1
    if at == start or at >= end or at[0] != 44 or found > 9223372036854775807ULL:
        return NULL
    value[0] = <int64_t>found
    return at + 1


def scan_record(bytes raw not None, tuple words not None):
    """Split one record of /dev/kmsg; see the twin for arguments and result."""
    cdef const char *at = PyBytes_AS_STRING(raw)
    cdef const char *end = at + PyBytes_GET_SIZE(raw)
    cdef const char *semicolon = <const char *>memchr(at, 59, end - at)
    cdef const char *stop
    cdef int64_t[3] numbers
    cdef char flag
    cdef int part
    cdef bint is_interesting = False
    cdef bytes word
    if semicolon == NULL:
        return None
    for part in range(3):
        at = number(at, semicolon, &numbers[part])
        if at == NULL:
            return None
    if at == semicolon or at[0] == 44:
        return None
    flag = at[0]
    at = semicolon + 1
    stop = <const char *>memchr(at, 10, end - at)
    if stop == NULL:
        stop = end
    for word in words:
        if memmem(at, stop - at, PyBytes_AS_STRING(word), PyBytes_GET_SIZE(word)) != NULL:
            is_interesting = True
            break
    message = PyBytes_FromStringAndSize(at, stop - at)
    return numbers[0], numbers[1], numbers[2], <unsigned char>flag, message, is_interesting
