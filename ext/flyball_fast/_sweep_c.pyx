# cython: boundscheck=False, wraparound=False, cdivision=True
"""Sample every GPU into the ring at fixed rates, without the GIL: the compiled twin of `_sweep_py`."""

from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport write
from posix.time cimport CLOCK_MONOTONIC, TIMER_ABSTIME, clock_gettime, timespec

from ._excursions_c cimport judge_rows
from ._nvml_c cimport MAX_GPUS, Nvml
from .layout cimport (
    CALL_CLOCKS,
    CALL_EVENT_REASONS,
    CALL_FIELD_VALUES,
    CALL_MEMORY,
    CALL_TEMPERATURE,
    CALL_UTILIZATION,
    G_ERRORS,
    G_LAST_CODE,
    G_SLOW,
    G_SLOW_SEQ,
    G_STATE,
    LATENESS_BUCKETS,
    STATE_LEFT_OUT,
    STATE_LOST,
    STATE_OK,
    STATE_UNSEEN,
    TIERS,
    W_BUDGET_STEPS,
    W_CALL,
    W_CALL_NS,
    W_CALL_STARTED,
    W_CALLS,
    W_CPU_NS,
    W_LATENCY_US,
    W_LATENESS,
    W_LATENESS_MAX,
    W_MISSED,
    W_OTHER_CALL_NS,
    W_PERIOD,
    W_TICK,
    W_TICKS,
    Row,
    fb_fence,
    fb_store,
    forget_row,
    gpu_words,
    store_row,
)
from .nvml_abi cimport Api, field_value, nvmlDevice_t, nvmlFieldValue_t, nvmlMemory_t, nvmlUtilization_t

from flyball_fast.nvml_records import FAST_FIELDS, RARE_FIELDS, SECOND_FIELDS
from flyball_fast.ring_layout import SLOW_INDEX

cdef extern from "<time.h>" nogil:
    int clock_nanosleep(int clock, int flags, const timespec *until, timespec *left)
    enum:
        CLOCK_THREAD_CPUTIME_ID

cdef enum:
    FAST_COUNT = 6
    SLOW_MOST = 32
    AVERAGE_FIELD = 185
    STOP_SLICE_NS = 100000000    # the stop flag is looked at this often, at least
    SLOWEST_FAST_NS = 1000000000  # no tier gives way below 1 Hz
    SM_CLOCK = 1
    MEMORY_CLOCK = 2

cdef struct SlowFields:
    int count
    uint32_t field[SLOW_MOST]
    int place[SLOW_MOST]

cdef struct Loop:
    uint8_t *base
    uint64_t *words
    uint64_t capacity
    int gpus
    nvmlDevice_t handles[MAX_GPUS]
    bint touched[MAX_GPUS]
    bint lost[MAX_GPUS]
    Row kept[MAX_GPUS]
    uint32_t fast_fields[FAST_COUNT]
    SlowFields second
    SlowFields rare
    int64_t due[TIERS]
    int64_t asked[TIERS]
    int64_t period[TIERS]
    double cpu_budget
    double lock_budget
    int64_t window_ns
    int64_t window_start
    uint64_t window_cpu
    uint64_t window_lock_ns
    int steps
    int calm_windows
    const uint8_t *stop
    int alarm_fd


def run(Nvml nvml not None, ring, plan, stop, int alarm_fd=-1):
    """Sample until `stop[0]` is not 0; see the twin."""
    cdef Loop loop
    cdef const uint8_t[::1] stop_view = stop
    cdef uint8_t[::1] memory = ring.memory
    cdef Api *api = &nvml.api
    memset(&loop, 0, sizeof(Loop))
    if stop_view.shape[0] < 1:
        raise ValueError("stop: empty, expected one byte")
    if ring.gpu_count > MAX_GPUS or ring.gpu_count < nvml.count:
        raise ValueError(f"a ring of {ring.gpu_count} GPUs for {nvml.count}")
    loop.base = &memory[0]
    loop.words = <uint64_t *>loop.base
    loop.capacity = ring.capacity
    loop.stop = &stop_view[0]
    loop.alarm_fd = alarm_fd
    _take_gpus(&loop, nvml, plan.left_out)
    _take_plan(&loop, plan)
    with nogil:
        _loop(&loop, api)


cdef int _take_gpus(Loop *loop, Nvml nvml, left_out) except -1:
    cdef int gpu
    loop.gpus = nvml.count
    for gpu in range(nvml.count):
        forget_row(&loop.kept[gpu])
        loop.handles[gpu] = nvml.handles[gpu]
        loop.touched[gpu] = gpu not in left_out
        loop.lost[gpu] = nvml.handle_codes[gpu] != 0
        _say_state(loop, gpu, STATE_LEFT_OUT if gpu in left_out else STATE_LOST if loop.lost[gpu] else STATE_UNSEEN)
        if loop.lost[gpu]:
            loop.touched[gpu] = False
    return 0


cdef int _take_plan(Loop *loop, plan) except -1:
    cdef int tier
    for index, field in enumerate(FAST_FIELDS.values()):
        loop.fast_fields[index] = field
    _take_fields(&loop.second, SECOND_FIELDS)
    _take_fields(&loop.rare, RARE_FIELDS)
    for tier in range(TIERS):
        loop.asked[tier] = loop.period[tier] = plan.periods_ns()[tier]
        loop.words[W_PERIOD + tier] = loop.period[tier]
    loop.cpu_budget = plan.cpu_budget_ratio
    loop.lock_budget = plan.lock_budget_ratio
    loop.window_ns = int(plan.window_s * 1e9)
    return 0


cdef int _take_fields(SlowFields *fields, table) except -1:
    for index, (name, field) in enumerate(table.items()):
        fields.field[index] = field
        fields.place[index] = SLOW_INDEX[name]
    fields.count = len(table)
    return 0


cdef int64_t _now() noexcept nogil:
    cdef timespec at
    clock_gettime(CLOCK_MONOTONIC, &at)
    return <int64_t>at.tv_sec * 1000000000 + at.tv_nsec


cdef uint64_t _cpu() noexcept nogil:
    cdef timespec at
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at)
    return <uint64_t>at.tv_sec * 1000000000 + at.tv_nsec


cdef void _sleep_until(int64_t deadline) noexcept nogil:
    cdef timespec until
    until.tv_sec = deadline // 1000000000
    until.tv_nsec = deadline % 1000000000
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL)


cdef void _loop(Loop *loop, const Api *api) noexcept nogil:
    cdef int64_t deadline
    cdef int64_t now = _now()
    cdef uint64_t cpu_before = _cpu()
    cdef uint64_t cpu_base = loop.words[W_CPU_NS]
    cdef int tier
    loop.window_start = now
    for tier in range(TIERS):
        loop.due[tier] = now
    while not loop.stop[0]:
        deadline = loop.due[0]
        for tier in range(1, TIERS):
            deadline = min(deadline, loop.due[tier])
        if deadline - now > STOP_SLICE_NS:
            _sleep_until(now + STOP_SLICE_NS)
            now = _now()
            fb_store(&loop.words[W_TICK], now)
            continue
        _sleep_until(deadline)
        now = _now()
        fb_store(&loop.words[W_TICK], now)
        _note_lateness(loop, now - deadline)
        for tier in range(TIERS):
            if loop.due[tier] <= deadline:
                _tick(loop, api, tier)
                if tier == 0 and judge_rows(loop.base, loop.gpus, loop.capacity, _now()):
                    _alarm(loop.alarm_fd)
        now = _now()
        loop.words[W_CPU_NS] = cpu_base + _cpu() - cpu_before
        _judge_budget(loop, now)
    fb_store(&loop.words[W_CALL_STARTED], 0)


cdef void _alarm(int fd) noexcept nogil:
    cdef uint64_t one = 1
    if fd >= 0:
        write(fd, &one, 8)  # an eventfd: it fails only when nobody has read it 2**64 times


cdef void _note_lateness(Loop *loop, int64_t late_ns) noexcept nogil:
    cdef uint64_t late_us = <uint64_t>late_ns // 1000 if late_ns > 0 else 0
    cdef int bucket = 0
    while late_us and bucket < LATENESS_BUCKETS - 1:
        late_us >>= 1
        bucket += 1
    loop.words[W_LATENESS + bucket] += 1
    if late_ns > <int64_t>loop.words[W_LATENESS_MAX]:
        loop.words[W_LATENESS_MAX] = late_ns


cdef void _tick(Loop *loop, const Api *api, int tier) noexcept nogil:
    cdef int64_t before = _now()
    cdef int64_t behind
    cdef int gpu
    for gpu in range(loop.gpus):
        if tier == 0:
            _read_fast(loop, api, gpu)
        elif loop.touched[gpu] and not loop.lost[gpu]:
            if tier == 1:
                _read_clocks(loop, api, gpu)
            elif tier == 2:
                _read_slow(loop, api, gpu, &loop.second, True)
            else:
                _read_slow(loop, api, gpu, &loop.rare, False)
        elif tier == 2 and loop.touched[gpu]:
            loop.lost[gpu] = False  # ask it again; the next fast tick tells
    loop.words[W_CALL_NS + tier] += _now() - before
    loop.words[W_TICKS + tier] += 1
    loop.due[tier] += loop.period[tier]
    behind = _now() - loop.due[tier]
    if behind > 0:
        loop.words[W_MISSED + tier] += behind // loop.period[tier] + 1
        loop.due[tier] += (behind // loop.period[tier] + 1) * loop.period[tier]


cdef int64_t _begin(Loop *loop, int gpu, int call) noexcept nogil:
    cdef int64_t now = _now()
    loop.words[W_CALL] = (<uint64_t>gpu << 32) | call
    fb_store(&loop.words[W_CALL_STARTED], now)
    return now


cdef int64_t _end(Loop *loop) noexcept nogil:
    fb_store(&loop.words[W_CALL_STARTED], 0)
    loop.words[W_CALLS] += 1
    return _now()


cdef void _end_untold(Loop *loop, int64_t started) noexcept nogil:
    cdef uint64_t took = _end(loop) - started
    loop.words[W_OTHER_CALL_NS] += took


cdef bint _is_lost(int code) noexcept nogil:
    # UNINITIALIZED, DRIVER_NOT_LOADED, GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND
    return code == 1 or code == 9 or code == 15 or code == 16 or code == 28


cdef void _say_state(Loop *loop, int gpu, int state) noexcept nogil:
    fb_store(&gpu_words(loop.base, gpu, loop.capacity)[G_STATE], state)


cdef int _read_fields(Loop *loop, const Api *api, int gpu, int count, nvmlFieldValue_t *values) noexcept nogil:
    cdef int64_t started
    cdef uint64_t *words = gpu_words(loop.base, gpu, loop.capacity)
    cdef int64_t told = 0
    cdef int code = 13
    cdef int i
    if api.fields is NULL:
        return code
    started = _begin(loop, gpu, CALL_FIELD_VALUES)
    code = api.fields(loop.handles[gpu], count, values)
    started = _end(loop) - started
    for i in range(count):
        told += values[i].latencyUsec if values[i].latencyUsec > 0 else 0
        if code == 0 and _is_lost(values[i].nvmlReturn):
            code = values[i].nvmlReturn
    if told:
        loop.words[W_LATENCY_US] += told
    else:
        loop.words[W_OTHER_CALL_NS] += started
    if code != 0:
        words[G_LAST_CODE] = code
        words[G_ERRORS] += 1
    return code


cdef void _read_fast(Loop *loop, const Api *api, int gpu) noexcept nogil:
    cdef nvmlFieldValue_t values[FAST_COUNT]
    cdef uint64_t read[FAST_COUNT]
    cdef Row row = loop.kept[gpu]
    cdef int code
    cdef int i
    if not loop.touched[gpu] or loop.lost[gpu]:
        forget_row(&row)
        row.t_mono_ns = _now()
        store_row(loop.base, gpu, loop.capacity, &row)
        return
    memset(values, 0, sizeof(values))
    for i in range(FAST_COUNT):
        values[i].fieldId = loop.fast_fields[i]
    code = _read_fields(loop, api, gpu, FAST_COUNT, values)
    row.t_mono_ns = _now()
    if _is_lost(code):
        _lose(loop, gpu)
        forget_row(&row)
        row.t_mono_ns = _now()
    elif code == 0:
        _say_state(loop, gpu, STATE_OK)
        for i in range(FAST_COUNT):
            if not field_value(&values[i], &read[i]):
                read[i] = <uint64_t>-1
        row.power_instant_mw = <uint32_t>min(read[0], <uint64_t>0xFFFFFFFF)
        row.energy_mj = read[1]
        row.power_cap_ns = read[2]
        row.power_brake_ns = read[3]
        row.thermal_hw_ns = read[4]
        row.thermal_sw_ns = read[5]
    elif code == 13:
        _read_energy(loop, api, gpu, &row)
    store_row(loop.base, gpu, loop.capacity, &row)


cdef void _read_energy(Loop *loop, const Api *api, int gpu, Row *row) noexcept nogil:
    """Ask the energy the old way, on a library without field values."""
    cdef unsigned long long energy = 0
    cdef int64_t started
    if api.energy is not NULL:
        started = _begin(loop, gpu, CALL_FIELD_VALUES)
        if api.energy(loop.handles[gpu], &energy) == 0:
            row.energy_mj = energy
        _end_untold(loop, started)


cdef void _lose(Loop *loop, int gpu) noexcept nogil:
    loop.lost[gpu] = True
    forget_row(&loop.kept[gpu])
    _say_state(loop, gpu, STATE_LOST)
    _forget_slow(loop, gpu)


cdef void _forget_slow(Loop *loop, int gpu) noexcept nogil:
    cdef uint64_t *words = gpu_words(loop.base, gpu, loop.capacity)
    cdef int place
    fb_store(&words[G_SLOW_SEQ], words[G_SLOW_SEQ] | 1)  # odd already when a writer died in here
    fb_fence()
    for place in range(SLOW_MOST):
        words[G_SLOW + place] = <uint64_t>-1
    fb_store(&words[G_SLOW_SEQ], words[G_SLOW_SEQ] + 1)


cdef uint16_t _clock(Loop *loop, const Api *api, int gpu, int kind) noexcept nogil:
    cdef unsigned int value = 0
    cdef int code = 13
    cdef int64_t started
    if api.clock is NULL:
        return 0xFFFF
    started = _begin(loop, gpu, CALL_CLOCKS)
    code = api.clock(loop.handles[gpu], kind, &value)
    _end_untold(loop, started)
    return <uint16_t>value if code == 0 and value < 0xFFFF else 0xFFFF


cdef void _read_clocks(Loop *loop, const Api *api, int gpu) noexcept nogil:
    cdef Row *row = &loop.kept[gpu]
    row.sm_clock_mhz = _clock(loop, api, gpu, SM_CLOCK)
    row.memory_clock_mhz = _clock(loop, api, gpu, MEMORY_CLOCK)
    row.utilization_percent = _utilization(loop, api, gpu)
    row.temperature_c = _temperature(loop, api, gpu)
    row.reasons = _reasons(loop, api, gpu)
    row.power_average_mw = _average(loop, api, gpu)


cdef uint8_t _utilization(Loop *loop, const Api *api, int gpu) noexcept nogil:
    cdef nvmlUtilization_t rates
    cdef int code = 13
    cdef int64_t started
    if api.utilization is NULL:
        return 0xFF
    started = _begin(loop, gpu, CALL_UTILIZATION)
    code = api.utilization(loop.handles[gpu], &rates)
    _end_untold(loop, started)
    return <uint8_t>rates.gpu if code == 0 and rates.gpu < 0xFF else 0xFF


cdef int8_t _temperature(Loop *loop, const Api *api, int gpu) noexcept nogil:
    cdef unsigned int value = 0
    cdef int code = 13
    cdef int64_t started
    if api.temperature is NULL:
        return -128
    started = _begin(loop, gpu, CALL_TEMPERATURE)
    code = api.temperature(loop.handles[gpu], 0, &value)
    _end_untold(loop, started)
    return <int8_t>value if code == 0 and value <= 127 else -128


cdef uint16_t _reasons(Loop *loop, const Api *api, int gpu) noexcept nogil:
    cdef unsigned long long value = 0
    cdef int code = 13
    cdef int64_t started
    if api.event_reasons is NULL:
        return 0xFFFF
    started = _begin(loop, gpu, CALL_EVENT_REASONS)
    code = api.event_reasons(loop.handles[gpu], &value)
    _end_untold(loop, started)
    return <uint16_t>(value & 0x7FFF) if code == 0 else 0xFFFF


cdef uint32_t _average(Loop *loop, const Api *api, int gpu) noexcept nogil:
    cdef nvmlFieldValue_t value
    cdef uint64_t read = 0
    cdef unsigned int usage = 0
    cdef int code
    cdef int64_t started
    memset(&value, 0, sizeof(value))
    value.fieldId = AVERAGE_FIELD
    code = _read_fields(loop, api, gpu, 1, &value)
    if code == 0 and field_value(&value, &read):
        return <uint32_t>min(read, <uint64_t>0xFFFFFFFF)
    if _is_lost(code) or api.power_usage is NULL:
        return <uint32_t>-1
    started = _begin(loop, gpu, CALL_FIELD_VALUES)
    code = api.power_usage(loop.handles[gpu], &usage)
    _end_untold(loop, started)
    return usage if code == 0 else <uint32_t>-1


cdef void _read_slow(
    Loop *loop, const Api *api, int gpu, const SlowFields *fields, bint with_memory
) noexcept nogil:
    cdef nvmlFieldValue_t values[SLOW_MOST]
    cdef uint64_t *words = gpu_words(loop.base, gpu, loop.capacity)
    cdef nvmlMemory_t memory
    cdef uint64_t read
    cdef int64_t started
    cdef int memory_code = 13
    cdef int code
    cdef int i
    memset(values, 0, sizeof(values))
    for i in range(fields.count):
        values[i].fieldId = fields.field[i]
    code = _read_fields(loop, api, gpu, fields.count, values)
    if with_memory and api.memory is not NULL:
        started = _begin(loop, gpu, CALL_MEMORY)
        memory_code = api.memory(loop.handles[gpu], &memory)
        _end_untold(loop, started)
    fb_store(&words[G_SLOW_SEQ], words[G_SLOW_SEQ] | 1)  # odd already when a writer died in here
    fb_fence()
    for i in range(fields.count):
        words[G_SLOW + fields.place[i]] = <uint64_t>-1
        if code == 0 and field_value(&values[i], &read):
            words[G_SLOW + fields.place[i]] = read
    if with_memory:
        words[G_SLOW] = _now()
        words[G_SLOW + 6] = memory.used if memory_code == 0 else <uint64_t>-1
        words[G_SLOW + 7] = memory.total if memory_code == 0 else <uint64_t>-1
    fb_store(&words[G_SLOW_SEQ], words[G_SLOW_SEQ] + 1)


cdef void _judge_budget(Loop *loop, int64_t now) noexcept nogil:
    """Let the fast tiers give way when a window cost too much, and come back after six calm ones."""
    cdef uint64_t cpu = loop.words[W_CPU_NS]
    cdef uint64_t held = loop.words[W_LATENCY_US] * 1000 + loop.words[W_OTHER_CALL_NS]
    cdef double elapsed = <double>(now - loop.window_start)
    cdef double share
    if elapsed < loop.window_ns:
        return
    share = max(
        (cpu - loop.window_cpu) / elapsed / loop.cpu_budget, (held - loop.window_lock_ns) / elapsed / loop.lock_budget
    )
    if loop.window_cpu or loop.window_lock_ns:  # the first window holds the start
        if share > 1:
            loop.calm_windows = 0
            _give_way(loop)
        elif share < 0.4 and loop.steps:
            loop.calm_windows += 1
            if loop.calm_windows >= 6:
                loop.calm_windows = 0
                _come_back(loop)
    loop.window_start = now
    loop.window_cpu = cpu
    loop.window_lock_ns = held


cdef void _give_way(Loop *loop) noexcept nogil:
    cdef int tier
    for tier in range(2):
        if loop.period[tier] < SLOWEST_FAST_NS:
            loop.period[tier] = min(loop.period[tier] * 2, <int64_t>SLOWEST_FAST_NS)
            loop.steps += 1
            break
    _say_periods(loop)


cdef void _come_back(Loop *loop) noexcept nogil:
    cdef int tier
    for tier in range(1, -1, -1):
        if loop.period[tier] > loop.asked[tier]:
            loop.period[tier] = max(loop.period[tier] // 2, loop.asked[tier])
            loop.steps -= 1
            break
    _say_periods(loop)


cdef void _say_periods(Loop *loop) noexcept nogil:
    cdef int tier
    for tier in range(TIERS):
        loop.words[W_PERIOD + tier] = loop.period[tier]
    loop.words[W_BUDGET_STEPS] = loop.steps
