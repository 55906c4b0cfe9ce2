# The layout of ring_layout.py for C; tests/flyball_fast/test_ring.py holds the two together.
from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    static inline void fb_store(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
    static inline uint64_t fb_load(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
    static inline void fb_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    """
    void fb_store(uint64_t *word, uint64_t value) noexcept nogil
    uint64_t fb_load(const uint64_t *word) noexcept nogil
    void fb_fence() noexcept nogil

cdef enum:
    HEADER_BYTES = 4096
    GPU_HEADER_BYTES = 1024
    ROW_BYTES = 64
    TIERS = 4
    LATENESS_BUCKETS = 32
    COLUMN_COUNT = 13
    SLOW_COUNT = 21

cdef enum:  # ring_layout.WORDS
    W_MAGIC = 0
    W_VERSION = 1
    W_GPU_COUNT = 2
    W_CAPACITY = 3
    W_ROW_BYTES = 4
    W_GENERATION = 7
    W_CALL_STARTED = 8
    W_CALL = 9
    W_TICK = 10
    W_CALLS = 11
    W_LATENCY_US = 12
    W_OTHER_CALL_NS = 13
    W_CPU_NS = 14
    W_LATENESS_MAX = 15
    W_BUDGET_STEPS = 16
    W_TICKS = 20
    W_MISSED = 24
    W_CALL_NS = 28
    W_PERIOD = 32
    W_LEASE = 40
    W_HOLD = 41
    W_OVER_SINCE = 42
    W_ACTIVE = 43
    W_EXCURSIONS = 44
    W_LATENESS = 64

cdef enum:  # ring_layout.CALLS
    CALL_FIELD_VALUES = 3
    CALL_CLOCKS = 4
    CALL_UTILIZATION = 5
    CALL_TEMPERATURE = 6
    CALL_EVENT_REASONS = 7
    CALL_MEMORY = 8

cdef enum:  # ring_layout.GPU_WORDS
    G_BEGIN = 0
    G_END = 1
    G_STATE = 2
    G_LAST_CODE = 3
    G_ERRORS = 4
    G_SLOW_SEQ = 5
    G_SLOW = 16
    G_CAP = 64
    G_OVER_SINCE = 65
    G_BRAKE_SEEN = 66
    G_THERMAL_SEEN = 67
    G_ACTIVE = 68
    G_EXCURSIONS = 69
    G_EXCURSION_KINDS = 70

cdef enum:  # ring_layout.STATES
    STATE_UNSEEN = 0
    STATE_OK = 1
    STATE_LOST = 2
    STATE_LEFT_OUT = 3

cdef struct Row:
    int64_t t_mono_ns
    uint64_t energy_mj
    uint64_t power_cap_ns
    uint64_t thermal_sw_ns
    uint64_t thermal_hw_ns
    uint64_t power_brake_ns
    uint32_t power_instant_mw
    uint32_t power_average_mw
    uint16_t reasons
    uint16_t sm_clock_mhz
    uint16_t memory_clock_mhz
    int8_t temperature_c
    uint8_t utilization_percent


cdef inline void forget_row(Row *row) noexcept nogil:
    row.t_mono_ns = <int64_t>(<uint64_t>1 << 63)
    row.energy_mj = row.power_cap_ns = row.thermal_sw_ns = row.thermal_hw_ns = row.power_brake_ns = <uint64_t>-1
    row.power_instant_mw = row.power_average_mw = <uint32_t>-1
    row.reasons = row.sm_clock_mhz = row.memory_clock_mhz = 0xFFFF
    row.temperature_c = -128
    row.utilization_percent = 0xFF


cdef inline uint64_t *gpu_words(uint8_t *base, uint64_t gpu, uint64_t capacity) noexcept nogil:
    return <uint64_t *>(base + HEADER_BYTES + gpu * (GPU_HEADER_BYTES + ROW_BYTES * capacity))


cdef inline void store_row(uint8_t *base, uint64_t gpu, uint64_t capacity, const Row *row) noexcept nogil:
    cdef uint64_t *words = gpu_words(base, gpu, capacity)
    cdef uint8_t *data = <uint8_t *>words + GPU_HEADER_BYTES
    cdef uint64_t index = words[G_END]
    cdef uint64_t slot = index & (capacity - 1)
    fb_store(&words[G_BEGIN], index + 1)
    fb_fence()
    (<int64_t *>data)[slot] = row.t_mono_ns
    (<uint64_t *>(data + 8 * capacity))[slot] = row.energy_mj
    (<uint64_t *>(data + 16 * capacity))[slot] = row.power_cap_ns
    (<uint64_t *>(data + 24 * capacity))[slot] = row.thermal_sw_ns
    (<uint64_t *>(data + 32 * capacity))[slot] = row.thermal_hw_ns
    (<uint64_t *>(data + 40 * capacity))[slot] = row.power_brake_ns
    (<uint32_t *>(data + 48 * capacity))[slot] = row.power_instant_mw
    (<uint32_t *>(data + 52 * capacity))[slot] = row.power_average_mw
    (<uint16_t *>(data + 56 * capacity))[slot] = row.reasons
    (<uint16_t *>(data + 58 * capacity))[slot] = row.sm_clock_mhz
    (<uint16_t *>(data + 60 * capacity))[slot] = row.memory_clock_mhz
    (<int8_t *>(data + 62 * capacity))[slot] = row.temperature_c
    (data + 63 * capacity)[slot] = row.utilization_percent
    fb_store(&words[G_END], index + 1)


cdef inline void load_row(uint8_t *base, uint64_t gpu, uint64_t capacity, uint64_t index, Row *row) noexcept nogil:
    cdef uint8_t *data = <uint8_t *>gpu_words(base, gpu, capacity) + GPU_HEADER_BYTES
    cdef uint64_t slot = index & (capacity - 1)
    row.t_mono_ns = (<int64_t *>data)[slot]
    row.energy_mj = (<uint64_t *>(data + 8 * capacity))[slot]
    row.power_cap_ns = (<uint64_t *>(data + 16 * capacity))[slot]
    row.thermal_sw_ns = (<uint64_t *>(data + 24 * capacity))[slot]
    row.thermal_hw_ns = (<uint64_t *>(data + 32 * capacity))[slot]
    row.power_brake_ns = (<uint64_t *>(data + 40 * capacity))[slot]
    row.power_instant_mw = (<uint32_t *>(data + 48 * capacity))[slot]
    row.power_average_mw = (<uint32_t *>(data + 52 * capacity))[slot]
    row.reasons = (<uint16_t *>(data + 56 * capacity))[slot]
    row.sm_clock_mhz = (<uint16_t *>(data + 58 * capacity))[slot]
    row.memory_clock_mhz = (<uint16_t *>(data + 60 * capacity))[slot]
    row.temperature_c = (<int8_t *>(data + 62 * capacity))[slot]
    row.utilization_percent = (data + 63 * capacity)[slot]
