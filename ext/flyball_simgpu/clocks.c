/* Clocks: present, greatest and locked ones, and the reasons why they are what they are. */
#include "session.h"

enum { GRAPHICS = 0, SM = 1, MEMORY = 2, VIDEO = 3 };

static nvmlReturn_t pick_clock(unsigned int type, unsigned int graphics_mhz, unsigned int memory_mhz, unsigned int *clock_mhz) {
    if (clock_mhz == NULL || type > VIDEO)
        return NVML_ERROR_INVALID_ARGUMENT;
    /* The video clock follows the graphics clock at about 0.9 of it. */
    *clock_mhz = type == MEMORY ? memory_mhz : type == VIDEO ? graphics_mhz * 9u / 10u : graphics_mhz;
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned int type, unsigned int *clock_mhz) {
    FB_GPU_CALL(FB_CALL_CLOCK_GET, device);
    return pick_clock(type, gpu->graphics_clock_mhz, gpu->memory_clock_mhz, clock_mhz);
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned int type, unsigned int *clock_mhz) {
    FB_GPU_CALL(FB_CALL_CLOCK_GET, device);
    return pick_clock(type, gpu->graphics_clock_max_mhz, gpu->memory_clock_max_mhz, clock_mhz);
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t device, unsigned int *state) {
    FB_GPU_CALL(FB_CALL_CLOCK_GET, device);
    if (state == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *state = gpu->performance_state;
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetSupportedMemoryClocks(nvmlDevice_t device, unsigned int *count, unsigned int *clocks_mhz) {
    FB_GPU_CALL(FB_CALL_CLOCK_GET, device);
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned int room = *count;
    *count = 1;
    if (room < 1 || clocks_mhz == NULL)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    clocks_mhz[0] = gpu->memory_clock_max_mhz;
    return NVML_SUCCESS;
}

/* Highest first, as the driver lists them. */
FB_EXPORT nvmlReturn_t nvmlDeviceGetSupportedGraphicsClocks(nvmlDevice_t device, unsigned int memory_mhz, unsigned int *count,
                                                            unsigned int *clocks_mhz) {
    FB_GPU_CALL(FB_CALL_CLOCK_GET, device);
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (memory_mhz != gpu->memory_clock_max_mhz)
        return NVML_ERROR_NOT_FOUND;
    unsigned int room = *count;
    *count = (gpu->graphics_clock_max_mhz - gpu->graphics_clock_min_mhz) / gpu->graphics_clock_step_mhz + 1u;
    if (room < *count || clocks_mhz == NULL)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned int i = 0; i < *count; i++)
        clocks_mhz[i] = gpu->graphics_clock_max_mhz - i * gpu->graphics_clock_step_mhz;
    return NVML_SUCCESS;
}

static nvmlReturn_t post_clocks(FbGpu *gpu, unsigned int least_mhz, unsigned int most_mhz) {
    if (gpu->is_set_ignored)
        return NVML_SUCCESS;
    __atomic_store_n(&gpu->locked_clock_min_mhz, least_mhz, __ATOMIC_RELAXED);
    __atomic_store_n(&gpu->locked_clock_max_mhz, most_mhz, __ATOMIC_RELAXED);
    __atomic_store_n(&gpu->clock_posted_at_ns, fb_now_ns(), __ATOMIC_RELAXED);
    __atomic_add_fetch(&gpu->clock_post_count, 1u, __ATOMIC_RELEASE);
    return NVML_SUCCESS;
}

/* A maximum outside the device's range is refused; between two steps the device takes the lower. */
FB_EXPORT nvmlReturn_t nvmlDeviceSetGpuLockedClocks(nvmlDevice_t device, unsigned int least_mhz, unsigned int most_mhz) {
    FB_SET_CALL(FB_CALL_CLOCK_SET, device);
    if (least_mhz > most_mhz || most_mhz < gpu->graphics_clock_min_mhz || most_mhz > gpu->graphics_clock_max_mhz)
        return NVML_ERROR_INVALID_ARGUMENT;
    return post_clocks(gpu, least_mhz, most_mhz);
}

FB_EXPORT nvmlReturn_t nvmlDeviceResetGpuLockedClocks(nvmlDevice_t device) {
    FB_SET_CALL(FB_CALL_CLOCK_SET, device);
    return post_clocks(gpu, 0, 0);
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *reasons) {
    FB_GPU_CALL(FB_CALL_REASONS, device);
    if (reasons == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *reasons = gpu->event_reasons;
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons) {
    return nvmlDeviceGetCurrentClocksEventReasons(device, reasons);
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetSupportedClocksEventReasons(nvmlDevice_t device, unsigned long long *reasons) {
    FB_GPU_CALL(FB_CALL_REASONS, device);
    if (reasons == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *reasons = 0x1FF; /* idle .. display clock setting */
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetSupportedClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons) {
    return nvmlDeviceGetSupportedClocksEventReasons(device, reasons);
}

/* Policy 0 power, 1 thermal, 2 sync boost ...: the same counters as fields 74 to 81. */
FB_EXPORT nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t device, unsigned int policy, nvmlViolationTime_t *time) {
    FB_GPU_CALL(FB_CALL_REASONS, device);
    const uint64_t counters[] = {gpu->throttle_power_ns,           gpu->throttle_thermal_ns,
                                 gpu->throttle_sync_boost_ns,      gpu->throttle_board_limit_ns,
                                 gpu->throttle_low_utilisation_ns, gpu->throttle_reliability_ns};
    if (time == NULL || policy >= sizeof counters / sizeof *counters)
        return NVML_ERROR_INVALID_ARGUMENT;
    time->referenceTime = fb_unix_us() * 1000u;
    time->violationTime = counters[policy];
    return NVML_SUCCESS;
}
