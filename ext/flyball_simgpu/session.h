/* One attached session of the simulated driver, and the guard that every exported call passes. */
#ifndef FLYBALL_SESSION_H
#define FLYBALL_SESSION_H

#include "nvml_abi.h"
#include "plant_state.h"

#define FB_MAX_GPUS 64u

typedef struct {
    nvmlReturn_t result;    /* not NVML_SUCCESS: return it and touch nothing */
    FbHost *host;
    FbGpu *gpu;             /* NULL for calls that name no device */
    uint64_t cpu_started_ns;
} FbScope;

/* Wait out what the control client asks (a hang, a cost), then say whether the call may go on. */
FbScope fb_enter(enum FbCall kind, int names_device, nvmlDevice_t device);
/* Like fb_enter for a host call, but an unloaded driver does not end it. */
FbScope fb_enter_unbound(enum FbCall kind);
void fb_leave(FbScope *scope);

#define FB_SCOPE __attribute__((cleanup(fb_leave))) FbScope scope
#define FB_HOST_CALL(kind)                                                                                             \
    FB_SCOPE = fb_enter((kind), 0, NULL);                                                                              \
    if (scope.result != NVML_SUCCESS)                                                                                  \
        return scope.result;                                                                                           \
    FbHost *const host = scope.host;                                                                                   \
    (void)host
#define FB_GPU_CALL(kind, device)                                                                                      \
    FB_SCOPE = fb_enter((kind), 1, (device));                                                                          \
    if (scope.result != NVML_SUCCESS)                                                                                  \
        return scope.result;                                                                                           \
    FbGpu *const gpu = scope.gpu;                                                                                      \
    (void)gpu
/* For calls that change the device. */
#define FB_SET_CALL(kind, device)                                                                                      \
    FB_GPU_CALL((kind), (device));                                                                                     \
    if (!fb_may_write())                                                                                               \
        return NVML_ERROR_NO_PERMISSION;                                                                               \
    if (gpu->set_error != 0)                                                                                           \
        return (nvmlReturn_t)gpu->set_error

int fb_may_write(void);
int fb_is_attached(void);
nvmlDevice_t fb_handle(uint32_t index);
uint32_t fb_gpu_index(const FbGpu *gpu);
FbGpu *fb_gpu_at(uint32_t index);
/* The lower of the in-band and the out-of-band limit. */
uint32_t fb_enforced_mw(const FbGpu *gpu);
uint64_t fb_now_ns(void);
uint64_t fb_unix_us(void);
void fb_sleep_ms(unsigned int milliseconds);
nvmlReturn_t fb_copy_text(char *target, unsigned int length, const char *text);

#endif
