/* Event sets: what the control client pushes into a GPU's ring, and driver bind and unbind. */
#include "session.h"

#include <stdlib.h>

#define SLICE_MS 20u /* how often a waiting thread looks: bounds an event's delay and costs 50 wake-ups a second */

#define SUPPORTED_EVENTS 0xFC9Bull /* ECC 1 and 2, XID 8, clock 0x10, power source 0x80, 0x400 .. 0x8000 */

struct nvmlEventSet_st {
    uint64_t types[FB_MAX_GPUS], seen[FB_MAX_GPUS];
};

struct nvmlSystemEventSet_st {
    uint64_t types;
    uint32_t unbinds_seen, binds_seen;
};

FB_EXPORT nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types) {
    FB_GPU_CALL(FB_CALL_EVENTS, device);
    if (types == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *types = SUPPORTED_EVENTS;
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) {
    FB_HOST_CALL(FB_CALL_EVENTS);
    if (set == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *set = calloc(1, sizeof **set);
    return *set == NULL ? NVML_ERROR_MEMORY : NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    free(set);
    return fb_is_attached() ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

/* Events from before the registration are not delivered. */
FB_EXPORT nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set) {
    FB_GPU_CALL(FB_CALL_EVENTS, device);
    if (set == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (types & ~SUPPORTED_EVENTS)
        return NVML_ERROR_NOT_SUPPORTED;
    uint32_t index = fb_gpu_index(gpu);
    if (set->types[index] == 0)
        set->seen[index] = __atomic_load_n(&gpu->event_count, __ATOMIC_ACQUIRE);
    set->types[index] |= types;
    return NVML_SUCCESS;
}

/* The oldest event of this GPU that the set asked for; what was overwritten in the ring is skipped. */
static int take_event(nvmlEventSet_t set, uint32_t index, nvmlEventData_t *data) {
    const FbGpu *gpu = fb_gpu_at(index);
    uint64_t count = __atomic_load_n(&gpu->event_count, __ATOMIC_ACQUIRE);
    if (count > set->seen[index] + FB_EVENT_RING)
        set->seen[index] = count - FB_EVENT_RING;
    while (set->seen[index] < count) {
        const FbEvent *event = &gpu->events[set->seen[index]++ % FB_EVENT_RING];
        if (!(event->type & set->types[index]))
            continue;
        *data = (nvmlEventData_t){fb_handle(index), event->type, event->data, event->gpu_instance_id, event->compute_instance_id};
        return 1;
    }
    return 0;
}

static nvmlReturn_t look(const FbHost *host, nvmlEventSet_t set, nvmlEventData_t *data) {
    nvmlReturn_t result = NVML_ERROR_TIMEOUT;
    for (uint32_t i = 0; i < host->gpu_count; i++) {
        if (set->types[i] != 0 && take_event(set, i, data))
            return NVML_SUCCESS;
        if (set->types[i] != 0 && fb_gpu_at(i)->is_lost)
            result = NVML_ERROR_GPU_IS_LOST;
    }
    return result;
}

FB_EXPORT nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms) {
    FB_HOST_CALL(FB_CALL_EVENTS);
    if (set == NULL || data == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    uint64_t until_ns = fb_now_ns() + (uint64_t)timeout_ms * 1000000u;
    for (;;) {
        if (!fb_is_attached())
            return NVML_ERROR_UNINITIALIZED;
        if (!host->is_driver_loaded)
            return NVML_ERROR_DRIVER_NOT_LOADED;
        nvmlReturn_t result = look(host, set, data);
        uint64_t now_ns = fb_now_ns();
        if (result == NVML_SUCCESS || (result == NVML_ERROR_TIMEOUT && now_ns >= until_ns))
            return result;
        uint64_t left_ms = now_ns >= until_ns ? 0 : (until_ns - now_ns) / 1000000u + 1u;
        fb_sleep_ms(left_ms < SLICE_MS ? (unsigned int)left_ms : SLICE_MS);
        if (result == NVML_ERROR_GPU_IS_LOST)
            return result;
    }
}

FB_EXPORT nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms) {
    return nvmlEventSetWait_v2(set, data, timeout_ms);
}

FB_EXPORT nvmlReturn_t nvmlSystemEventSetCreate(nvmlSystemEventSetRequest_v1_t *request) {
    FB_HOST_CALL(FB_CALL_EVENTS);
    if (request == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (request->version != NVML_STRUCT_VERSION(nvmlSystemEventSetRequest_v1_t, 1U))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    request->set = calloc(1, sizeof *request->set);
    return request->set == NULL ? NVML_ERROR_MEMORY : NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlSystemEventSetFree(nvmlSystemEventSetRequest_v1_t *request) {
    if (request == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    free(request->set);
    request->set = NULL;
    return NVML_SUCCESS;
}

/* Types: 1 unbind, 2 bind. */
FB_EXPORT nvmlReturn_t nvmlSystemRegisterEvents(nvmlSystemRegisterEventRequest_v1_t *request) {
    FB_HOST_CALL(FB_CALL_EVENTS);
    if (request == NULL || request->set == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (request->version != NVML_STRUCT_VERSION(nvmlSystemRegisterEventRequest_v1_t, 1U))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    request->set->types |= request->eventTypes;
    request->set->unbinds_seen = host->driver_unbind_count;
    request->set->binds_seen = host->driver_bind_count;
    return NVML_SUCCESS;
}

static unsigned int take_system_events(const FbHost *host, nvmlSystemEventSetWaitRequest_v1_t *request) {
    struct nvmlSystemEventSet_st *set = request->set;
    const FbGpu *gpu = fb_gpu_at(0);
    unsigned int gpu_id = gpu->pci_domain << 16 | gpu->pci_bus << 8 | gpu->pci_device;
    unsigned int found = 0;
    if ((set->types & 1u) && set->unbinds_seen != host->driver_unbind_count && found < request->dataSize)
        request->data[found++] = (nvmlSystemEventData_v1_t){1u, gpu_id};
    if ((set->types & 2u) && set->binds_seen != host->driver_bind_count && found < request->dataSize)
        request->data[found++] = (nvmlSystemEventData_v1_t){2u, gpu_id};
    set->unbinds_seen = host->driver_unbind_count;
    set->binds_seen = host->driver_bind_count;
    return found;
}

/* Works while the driver is unloaded: that is what it is for. */
FB_EXPORT nvmlReturn_t nvmlSystemEventSetWait(nvmlSystemEventSetWaitRequest_v1_t *request) {
    FB_SCOPE = fb_enter_unbound(FB_CALL_EVENTS);
    if (scope.result != NVML_SUCCESS)
        return scope.result;
    if (request == NULL || request->set == NULL || request->data == NULL || request->dataSize == 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (request->version != NVML_STRUCT_VERSION(nvmlSystemEventSetWaitRequest_v1_t, 1U))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    uint64_t until_ns = fb_now_ns() + (uint64_t)request->timeoutms * 1000000u;
    while (fb_is_attached()) {
        request->numEvent = take_system_events(scope.host, request);
        if (request->numEvent > 0)
            return NVML_SUCCESS;
        if (fb_now_ns() >= until_ns)
            return NVML_ERROR_TIMEOUT;
        fb_sleep_ms(SLICE_MS);
    }
    return NVML_ERROR_UNINITIALIZED;
}
