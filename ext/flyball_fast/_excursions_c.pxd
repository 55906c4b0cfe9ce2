from libc.stdint cimport int64_t, uint8_t

cdef int judge_rows(uint8_t *base, int gpus, int64_t capacity, int64_t now_ns) noexcept nogil
