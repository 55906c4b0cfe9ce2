# cython: boundscheck=False, wraparound=False, cdivision=True
"""Say whether the newest rows begin an excursion: the compiled twin of `_excursions_py`."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from .layout cimport (
    G_ACTIVE,
    G_BRAKE_SEEN,
    G_CAP,
    G_END,
    G_EXCURSION_KINDS,
    G_EXCURSIONS,
    G_OVER_SINCE,
    G_THERMAL_SEEN,
    W_ACTIVE,
    W_EXCURSIONS,
    W_HOLD,
    W_LEASE,
    W_OVER_SINCE,
    Row,
    fb_store,
    gpu_words,
    load_row,
)

cdef enum:
    OVER_CAP = 1
    BRAKE = 2
    THERMAL = 4


def judge(ring, int64_t now_ns):
    """Judge the newest row of each GPU; see the twin."""
    cdef uint8_t[::1] memory = ring.memory
    return judge_rows(&memory[0], ring.gpu_count, ring.capacity, now_ns)


cdef int judge_rows(uint8_t *base, int gpus, int64_t capacity, int64_t now_ns) noexcept nogil:
    cdef uint64_t *header = <uint64_t *>base
    cdef uint64_t *words
    cdef uint64_t total = 0
    cdef Row row
    cdef int began = 0
    cdef int gpu
    for gpu in range(gpus):
        words = gpu_words(base, gpu, capacity)
        if words[G_END]:
            load_row(base, gpu, capacity, words[G_END] - 1, &row)
            began += _judge_gpu(words, &row, now_ns, header[W_HOLD])
            total += words[G_CAP] if row.power_instant_mw == 0xFFFFFFFFU else row.power_instant_mw
    return began + _judge_host(header, total, now_ns)


cdef bint _moved(uint64_t *seen, uint64_t counter) noexcept nogil:
    cdef uint64_t before = seen[0]
    if counter == <uint64_t>-1:
        return False
    seen[0] = counter + 1
    return before != 0 and counter + 1 > before


cdef int _judge_gpu(uint64_t *words, const Row *row, int64_t now_ns, int64_t hold_ns) noexcept nogil:
    cdef uint64_t active = 0
    cdef uint64_t began
    if words[G_CAP] and row.power_instant_mw != 0xFFFFFFFFU and row.power_instant_mw > words[G_CAP]:
        if not words[G_OVER_SINCE]:
            words[G_OVER_SINCE] = now_ns
        if now_ns - <int64_t>words[G_OVER_SINCE] >= hold_ns:
            active = OVER_CAP
    else:
        words[G_OVER_SINCE] = 0
    if _moved(&words[G_BRAKE_SEEN], row.power_brake_ns):
        active |= BRAKE
    if _moved(&words[G_THERMAL_SEEN], row.thermal_hw_ns):
        active |= THERMAL
    began = active & ~words[G_ACTIVE]
    words[G_ACTIVE] = active
    if began:
        words[G_EXCURSION_KINDS] = began
        fb_store(&words[G_EXCURSIONS], words[G_EXCURSIONS] + 1)
    return 1 if began else 0


cdef int _judge_host(uint64_t *header, uint64_t total_mw, int64_t now_ns) noexcept nogil:
    cdef bint is_over = header[W_LEASE] and total_mw > header[W_LEASE]
    cdef bint is_active, began
    if not is_over:
        header[W_OVER_SINCE] = 0
    elif not header[W_OVER_SINCE]:
        header[W_OVER_SINCE] = now_ns
    is_active = is_over and now_ns - <int64_t>header[W_OVER_SINCE] >= <int64_t>header[W_HOLD]
    began = is_active and not header[W_ACTIVE]
    header[W_ACTIVE] = is_active
    if began:
        fb_store(&header[W_EXCURSIONS], header[W_EXCURSIONS] + 1)
    return began
