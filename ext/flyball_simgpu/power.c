/* Power and energy readings, power limits and their bounds. */
#include "session.h"

#define POWER_WORD(function, kind, type, expression)                                                                   \
    FB_EXPORT nvmlReturn_t function(nvmlDevice_t device, type *value) {                                                \
        FB_GPU_CALL(kind, device);                                                                                     \
        if (value == NULL)                                                                                             \
            return NVML_ERROR_INVALID_ARGUMENT;                                                                        \
        *value = (type)(expression);                                                                                   \
        return NVML_SUCCESS;                                                                                           \
    }

/* The lowest of the in-band and the out-of-band limit: what the power unit enforces. */
uint32_t fb_enforced_mw(const FbGpu *gpu) {
    uint32_t out_of_band = gpu->out_of_band_limit_mw, requested = gpu->requested_limit_mw;
    return out_of_band != 0 && out_of_band < requested ? out_of_band : requested;
}

/* GA100 and older answer with the newest sensor reading, later chips with the 1 s mean (plant: is_average_windowed). */
POWER_WORD(nvmlDeviceGetPowerUsage, FB_CALL_POWER, unsigned int,
           gpu->is_average_windowed ? gpu->power_average_mw : gpu->power_instant_mw)
POWER_WORD(nvmlDeviceGetTotalEnergyConsumption, FB_CALL_POWER, unsigned long long, gpu->energy_mj)
POWER_WORD(nvmlDeviceGetPowerManagementLimit, FB_CALL_LIMIT_GET, unsigned int, gpu->requested_limit_mw)
POWER_WORD(nvmlDeviceGetEnforcedPowerLimit, FB_CALL_LIMIT_GET, unsigned int, fb_enforced_mw(gpu))
POWER_WORD(nvmlDeviceGetPowerManagementDefaultLimit, FB_CALL_LIMIT_GET, unsigned int, gpu->default_limit_mw)
POWER_WORD(nvmlDeviceGetPowerManagementMode, FB_CALL_LIMIT_GET, unsigned int, 1)

FB_EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned int *least, unsigned int *most) {
    FB_GPU_CALL(FB_CALL_LIMIT_GET, device);
    if (least == NULL || most == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *least = gpu->min_limit_mw;
    *most = gpu->max_limit_mw;
    return NVML_SUCCESS;
}

static nvmlReturn_t post_limit(FbGpu *gpu, unsigned int limit_mw) {
    if (limit_mw < gpu->min_limit_mw || limit_mw > gpu->max_limit_mw)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (gpu->is_set_ignored)
        return NVML_SUCCESS;
    __atomic_store_n(&gpu->requested_limit_mw, limit_mw, __ATOMIC_RELAXED);
    __atomic_store_n(&gpu->limit_posted_at_ns, fb_now_ns(), __ATOMIC_RELAXED);
    __atomic_add_fetch(&gpu->limit_post_count, 1u, __ATOMIC_RELEASE);
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceSetPowerManagementLimit(nvmlDevice_t device, unsigned int limit_mw) {
    FB_SET_CALL(FB_CALL_LIMIT_SET, device);
    return post_limit(gpu, limit_mw);
}

FB_EXPORT nvmlReturn_t nvmlDeviceSetPowerManagementLimit_v2(nvmlDevice_t device, const nvmlPowerValue_v2_t *limit) {
    FB_SET_CALL(FB_CALL_LIMIT_SET, device);
    if (limit == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (limit->version != NVML_STRUCT_VERSION(nvmlPowerValue_v2_t, 2U))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (limit->powerScope != 0) /* 0 = GPU; a module scope exists on Grace boards only */
        return NVML_ERROR_NOT_SUPPORTED;
    return post_limit(gpu, limit->powerValueMw);
}
