# cython: boundscheck=False, wraparound=False, cdivision=True
"""Write, read and sum up rows of a ring's memory: the compiled twin of `_ring_py`."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from .layout cimport (
    COLUMN_COUNT,
    G_BEGIN,
    G_END,
    GPU_HEADER_BYTES,
    HEADER_BYTES,
    ROW_BYTES,
    Row,
    fb_fence,
    fb_load,
    forget_row,
    gpu_words,
    load_row,
    store_row,
)

from flyball_fast.ring_layout import COLUMNS

cdef tuple UNKNOWN = tuple(column.unknown for column in COLUMNS)
cdef tuple NOTHING_NEW = (None, None, None)
cdef tuple NAMES = tuple(column.name for column in COLUMNS)


cdef int _check(const uint8_t[::1] memory, int64_t gpu, int64_t capacity) except -1:
    if capacity <= 0 or capacity & (capacity - 1) or gpu < 0:
        raise ValueError(f"gpu {gpu}, capacity {capacity}: expected gpu >= 0 and a power of two")
    if memory.shape[0] < HEADER_BYTES + (gpu + 1) * (GPU_HEADER_BYTES + ROW_BYTES * capacity):
        raise ValueError(f"gpu {gpu}: beyond a ring of {memory.shape[0]} bytes")
    return 0


def append(uint8_t[::1] memory not None, int64_t gpu, int64_t capacity, values):
    """Write one row and return its index; one writer only."""
    cdef Row row
    _check(memory, gpu, capacity)
    if len(values) != COLUMN_COUNT:
        raise ValueError(f"gpu {gpu}: a row of {len(values)} values, expected {COLUMN_COUNT}")
    _fill(&row, values)
    cdef uint64_t index = gpu_words(&memory[0], gpu, capacity)[G_END]
    store_row(&memory[0], gpu, capacity, &row)
    return index


cdef int _fill(Row *row, object values) except -1:
    cdef list cells = [UNKNOWN[i] if values[i] is None else values[i] for i in range(COLUMN_COUNT)]
    try:
        row.t_mono_ns = cells[0]
        row.energy_mj = cells[1]
        row.power_cap_ns = cells[2]
        row.thermal_sw_ns = cells[3]
        row.thermal_hw_ns = cells[4]
        row.power_brake_ns = cells[5]
        row.power_instant_mw = cells[6]
        row.power_average_mw = cells[7]
        row.reasons = cells[8]
        row.sm_clock_mhz = cells[9]
        row.memory_clock_mhz = cells[10]
        row.temperature_c = cells[11]
        row.utilization_percent = cells[12]
    except OverflowError as error:
        raise OverflowError(f"a value of {dict(zip(NAMES, values))} does not fit its column") from error
    return 0


def row(const uint8_t[::1] memory not None, int64_t gpu, int64_t capacity, int64_t index):
    """Return one row; None when it is not written yet or no longer there."""
    cdef Row found
    _check(memory, gpu, capacity)
    cdef uint8_t *base = <uint8_t *>&memory[0]
    cdef uint64_t *words = gpu_words(base, gpu, capacity)
    if index < 0 or index >= <int64_t>fb_load(&words[G_END]):
        return None
    load_row(base, gpu, capacity, index, &found)
    fb_fence()
    if index < <int64_t>fb_load(&words[G_BEGIN]) - capacity:
        return None
    values = (
        found.t_mono_ns, found.energy_mj, found.power_cap_ns, found.thermal_sw_ns, found.thermal_hw_ns,
        found.power_brake_ns, found.power_instant_mw, found.power_average_mw, found.reasons, found.sm_clock_mhz,
        found.memory_clock_mhz, found.temperature_c, found.utilization_percent,
    )
    return tuple([None if values[i] == UNKNOWN[i] else values[i] for i in range(COLUMN_COUNT)])


cdef struct Sums:
    int64_t first_ns
    int64_t last_ns
    uint64_t known
    uint32_t least
    uint32_t most
    uint64_t total
    uint64_t energy_first
    uint64_t energy_last


cdef void _sum_rows(uint8_t *data, int64_t capacity, int64_t first, int64_t stop, Sums *out) noexcept nogil:
    cdef uint64_t *energies = <uint64_t *>(data + 8 * capacity)
    cdef uint32_t *powers = <uint32_t *>(data + 48 * capacity)
    cdef int64_t i
    cdef uint64_t energy
    cdef uint32_t power
    out.known = out.total = 0
    out.least = <uint32_t>-1
    out.most = 0
    out.energy_first = out.energy_last = <uint64_t>-1
    for i in range(first, stop):
        power = powers[i & (capacity - 1)]
        energy = energies[i & (capacity - 1)]
        if power != <uint32_t>-1:
            out.known += 1
            out.total += power
            out.least = min(out.least, power)
            out.most = max(out.most, power)
        if energy != <uint64_t>-1:
            if out.energy_first == <uint64_t>-1:
                out.energy_first = energy
            out.energy_last = energy
    out.first_ns = (<int64_t *>data)[first & (capacity - 1)]
    out.last_ns = (<int64_t *>data)[(stop - 1) & (capacity - 1)]


def summarize(const uint8_t[::1] memory not None, int64_t gpu, int64_t capacity, int64_t first, int64_t stop):
    """Sum up rows first..stop-1 of one GPU; see the twin for what comes back."""
    cdef Sums sums
    _check(memory, gpu, capacity)
    cdef uint8_t *base = <uint8_t *>&memory[0]
    cdef uint64_t *words = gpu_words(base, gpu, capacity)
    if first < 0 or first >= stop or stop > <int64_t>fb_load(&words[G_END]) or stop - first > capacity:
        return None
    with nogil:
        _sum_rows(<uint8_t *>words + GPU_HEADER_BYTES, capacity, first, stop, &sums)
    fb_fence()
    if first < <int64_t>fb_load(&words[G_BEGIN]) - capacity:
        return None
    times = tuple([None if at == UNKNOWN[0] else at for at in (sums.first_ns, sums.last_ns)])
    power = (sums.least, sums.most, sums.total) if sums.known else (None, None, None)
    energy = (sums.energy_first, sums.energy_last) if sums.energy_first != <uint64_t>-1 else (None, None)
    return (*times, sums.known, *power, *energy)


def look(const uint8_t[::1] memory not None, int64_t gpus, int64_t capacity, int64_t[::1] marks not None):
    """Sum up what is new of every GPU; see the twin for what comes back."""
    cdef int64_t gpu
    _check(memory, gpus - 1, capacity)
    if marks.shape[0] != 3 * gpus:
        raise ValueError(f"{marks.shape[0]} marks for {gpus} GPUs, expected three for each")
    return [_look_at(<uint8_t *>&memory[0], gpu, capacity, &marks[3 * gpu]) for gpu in range(gpus)]


cdef tuple _look_at(uint8_t *base, int64_t gpu, int64_t capacity, int64_t *marks):
    cdef Row newest
    cdef Sums sums
    cdef uint64_t *words = gpu_words(base, gpu, capacity)
    cdef int64_t stop = <int64_t>fb_load(&words[G_END])
    cdef int64_t first = max(marks[0], <int64_t>fb_load(&words[G_BEGIN]) - capacity)
    cdef object ratio = None
    marks[0] = stop
    if stop <= first:
        return NOTHING_NEW
    _sum_rows(<uint8_t *>words + GPU_HEADER_BYTES, capacity, first, stop, &sums)
    load_row(base, gpu, capacity, stop - 1, &newest)
    fb_fence()
    if first < <int64_t>fb_load(&words[G_BEGIN]) - capacity:
        return NOTHING_NEW
    if newest.power_cap_ns != <uint64_t>-1 and newest.t_mono_ns > marks[1] >= 0 and marks[2] >= 0:
        if <int64_t>newest.power_cap_ns >= marks[2]:
            ratio = min(1.0, <double>(<int64_t>newest.power_cap_ns - marks[2]) / <double>(newest.t_mono_ns - marks[1]))
    marks[1] = newest.t_mono_ns
    marks[2] = <int64_t>newest.power_cap_ns
    return (
        sums.most if sums.known else None,
        None if newest.power_instant_mw == <uint32_t>-1 else newest.power_instant_mw,
        ratio,
    )


def forgotten():
    """Return a row of which nothing is known, as the sampler writes it (for the test that both layouts agree)."""
    cdef Row row
    forget_row(&row)
    return (
        row.t_mono_ns, row.energy_mj, row.power_cap_ns, row.thermal_sw_ns, row.thermal_hw_ns, row.power_brake_ns,
        row.power_instant_mw, row.power_average_mw, row.reasons, row.sm_clock_mhz, row.memory_clock_mhz,
        row.temperature_c, row.utilization_percent,
    )
