/* Utilisation, temperatures, memory, ECC, remapped rows, modes, processes and links. */
#include "session.h"

#include <string.h>

FB_EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilisation) {
    FB_GPU_CALL(FB_CALL_UTILISATION, device);
    if (utilisation == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (gpu->mig_mode_current)
        return NVML_ERROR_NOT_SUPPORTED;
    utilisation->gpu = gpu->gpu_utilisation_percent;
    utilisation->memory = gpu->memory_utilisation_percent;
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned int sensor, unsigned int *temperature) {
    FB_GPU_CALL(FB_CALL_TEMPERATURE, device);
    if (temperature == NULL || sensor != 0) /* 0 = the GPU die, the only sensor type NVML names */
        return NVML_ERROR_INVALID_ARGUMENT;
    *temperature = (unsigned int)(gpu->temperature_mc / 1000);
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_v1_t *reading) {
    FB_GPU_CALL(FB_CALL_TEMPERATURE, device);
    if (reading == NULL || reading->sensorType != 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (reading->version != NVML_STRUCT_VERSION(nvmlTemperature_v1_t, 1U))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    reading->temperature = gpu->temperature_mc / 1000;
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t device, nvmlMarginTemperature_v1_t *margin) {
    FB_GPU_CALL(FB_CALL_TEMPERATURE, device);
    if (margin == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (margin->version != NVML_STRUCT_VERSION(nvmlMarginTemperature_v1_t, 1U))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    margin->marginTemperature = (int)gpu->slowdown_temperature_c - gpu->temperature_mc / 1000;
    return NVML_SUCCESS;
}

/* Threshold 0 shutdown, 1 slowdown, 2 memory, 3 GPU maximum. */
FB_EXPORT nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, unsigned int threshold, unsigned int *temperature) {
    FB_GPU_CALL(FB_CALL_TEMPERATURE, device);
    const unsigned int known[] = {gpu->shutdown_temperature_c, gpu->slowdown_temperature_c,
                                  gpu->memory_max_temperature_c, gpu->slowdown_temperature_c};
    if (temperature == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (threshold >= sizeof known / sizeof *known)
        return NVML_ERROR_NOT_SUPPORTED;
    *temperature = known[threshold];
    return NVML_SUCCESS;
}

/* The first version counts the reserved bytes as used. */
FB_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    FB_GPU_CALL(FB_CALL_MEMORY, device);
    if (memory == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    memory->total = gpu->memory_total_bytes;
    memory->used = gpu->memory_used_bytes + gpu->memory_reserved_bytes;
    memory->free = memory->total - memory->used;
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    FB_GPU_CALL(FB_CALL_MEMORY, device);
    if (memory == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (memory->version != NVML_STRUCT_VERSION(nvmlMemory_v2_t, 2U))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memory->total = gpu->memory_total_bytes;
    memory->reserved = gpu->memory_reserved_bytes;
    memory->used = gpu->memory_used_bytes;
    memory->free = memory->total - memory->used - memory->reserved;
    return NVML_SUCCESS;
}

/* Counter 0 volatile, 1 aggregate; error 0 corrected, 1 uncorrected. */
FB_EXPORT nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, unsigned int error, unsigned int counter,
                                                   unsigned long long *count) {
    FB_GPU_CALL(FB_CALL_MEMORY, device);
    const uint64_t counts[2][2] = {{gpu->ecc_volatile_corrected, gpu->ecc_aggregate_corrected},
                                   {gpu->ecc_volatile_uncorrected, gpu->ecc_aggregate_uncorrected}};
    if (count == NULL || error > 1 || counter > 1)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!gpu->ecc_mode_current)
        return NVML_ERROR_NOT_SUPPORTED;
    *count = counts[error][counter];
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, unsigned int error, unsigned int counter,
                                                       unsigned int location, unsigned long long *count) {
    FB_GPU_CALL(FB_CALL_MEMORY, device);
    const uint64_t sram[2] = {gpu->ecc_sram_corrected, gpu->ecc_sram_uncorrected};
    const uint64_t dram[2] = {gpu->ecc_volatile_corrected - sram[0], gpu->ecc_volatile_uncorrected - sram[1]};
    if (count == NULL || error > 1 || counter > 1)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!gpu->ecc_mode_current || counter == 1 || (location != 2 && location != 7)) /* 2 DRAM, 7 SRAM */
        return NVML_ERROR_NOT_SUPPORTED;
    *count = location == 2 ? dram[error] : sram[error];
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrected, unsigned int *uncorrected,
                                                 unsigned int *is_pending, unsigned int *has_failed) {
    FB_GPU_CALL(FB_CALL_MEMORY, device);
    if (corrected == NULL || uncorrected == NULL || is_pending == NULL || has_failed == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *corrected = gpu->remapped_corrected;
    *uncorrected = gpu->remapped_uncorrected;
    *is_pending = gpu->remap_pending;
    *has_failed = gpu->remap_failed;
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(nvmlDevice_t device, nvmlRowRemapperHistogramValues_t *banks) {
    FB_GPU_CALL(FB_CALL_MEMORY, device);
    if (banks == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *banks = (nvmlRowRemapperHistogramValues_t){gpu->remap_banks_max, gpu->remap_banks_high, gpu->remap_banks_partial,
                                                gpu->remap_banks_low, gpu->remap_banks_none};
    return NVML_SUCCESS;
}

#define MODE_PAIR(function, current_member, pending_member)                                                            \
    FB_EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {               \
        FB_GPU_CALL(FB_CALL_MODE, device);                                                                             \
        if (current == NULL || pending == NULL)                                                                        \
            return NVML_ERROR_INVALID_ARGUMENT;                                                                        \
        *current = gpu->current_member;                                                                                \
        *pending = gpu->pending_member;                                                                                \
        return NVML_SUCCESS;                                                                                           \
    }

MODE_PAIR(nvmlDeviceGetMigMode, mig_mode_current, mig_mode_pending)
MODE_PAIR(nvmlDeviceGetEccMode, ecc_mode_current, ecc_mode_pending)

FB_EXPORT nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, unsigned int *mode) {
    FB_GPU_CALL(FB_CALL_MODE, device);
    if (mode == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *mode = gpu->is_persistent;
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceSetPersistenceMode(nvmlDevice_t device, unsigned int mode) {
    FB_SET_CALL(FB_CALL_MODE, device);
    if (mode > 1)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!gpu->is_set_ignored)
        gpu->is_persistent = mode;
    return NVML_SUCCESS;
}

static nvmlReturn_t list_processes(const FbGpu *gpu, uint32_t kind, unsigned int *count, nvmlProcessInfo_v2_t *processes) {
    unsigned int found = 0;
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (uint32_t i = 0; i < FB_PROCESS_SLOTS; i++) {
        const FbProcess *process = &gpu->processes[i];
        if (process->kind != kind)
            continue;
        if (processes != NULL && found < *count)
            processes[found] = (nvmlProcessInfo_v2_t){process->pid, process->used_bytes, 0xFFFFFFFFu, 0xFFFFFFFFu};
        found++;
    }
    int is_short = found > *count || (processes == NULL && found > 0);
    *count = found;
    return is_short ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

#define PROCESS_LIST(function, kind)                                                                                   \
    FB_EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_v2_t *processes) {       \
        FB_GPU_CALL(FB_CALL_PROCESSES, device);                                                                        \
        return list_processes(gpu, kind, count, processes);                                                            \
    }

PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v2, 1)
PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v3, 1)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, 2)
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, 2)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, 3)
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, 3)

FB_EXPORT nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link, unsigned int *is_active) {
    FB_GPU_CALL(FB_CALL_LINKS, device);
    if (is_active == NULL || link >= gpu->link_count || link >= FB_LINKS)
        return NVML_ERROR_INVALID_ARGUMENT;
    *is_active = gpu->link_is_down[link] ? 0u : 1u;
    return NVML_SUCCESS;
}

/* Counter 0 DL replay, 1 DL recovery, 2 CRC flit. */
FB_EXPORT nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t device, unsigned int link, unsigned int counter,
                                                       unsigned long long *count) {
    FB_GPU_CALL(FB_CALL_LINKS, device);
    const uint64_t *counters[] = {gpu->link_replay_errors, gpu->link_recovery_errors, gpu->link_crc_errors};
    if (count == NULL || link >= gpu->link_count || link >= FB_LINKS || counter > 2)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = counters[counter][link];
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetPcieReplayCounter(nvmlDevice_t device, unsigned int *count) {
    FB_GPU_CALL(FB_CALL_LINKS, device);
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = (unsigned int)gpu->pcie_replay_count;
    return NVML_SUCCESS;
}
