/* Versions, counts, handles and names: the calls that say what is there. */
#include "session.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static const struct {
    nvmlReturn_t code;
    const char *text;
} ERRORS[] = {
    {0, "The operation was successful"}, {1, "Uninitialized"}, {2, "Invalid Argument"}, {3, "Not Supported"},
    {4, "Insufficient Permissions"}, {5, "Already Initialized"}, {6, "Not Found"}, {7, "Insufficient Size"},
    {8, "Insufficient External Power"}, {9, "Driver Not Loaded"}, {10, "Timeout"}, {11, "Interrupt Request Issue"},
    {12, "NVML Shared Library Not Found"}, {13, "Function Not Found"}, {14, "Corrupted infoROM"}, {15, "GPU is lost"},
    {16, "GPU requires restart"}, {17, "The operating system has blocked the request."},
    {18, "RM has detected an NVML/RM version mismatch."}, {19, "In use by another client"}, {20, "Insufficient Memory"},
    {21, "No data"}, {22, "Function is not supported with vGPU ECC"}, {23, "Insufficient Resources"},
    {24, "Frequency not supported"}, {25, "Argument version mismatch"}, {26, "Deprecated"}, {27, "Not ready"},
    {28, "GPU not found"}, {29, "Invalid state"}, {30, "Reset type not supported"}};

FB_EXPORT const char *nvmlErrorString(nvmlReturn_t result) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == result)
            return ERRORS[i].text;
    return "Unknown Error";
}

FB_EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    FB_HOST_CALL(FB_CALL_SESSION);
    return fb_copy_text(version, length, host->driver_version);
}

FB_EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
    FB_HOST_CALL(FB_CALL_SESSION);
    return fb_copy_text(version, length, host->nvml_version);
}

FB_EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) {
    FB_HOST_CALL(FB_CALL_SESSION);
    if (version == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *version = (int)host->cuda_version;
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }

FB_EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    FB_HOST_CALL(FB_CALL_SESSION);
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = host->gpus_shown;
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetCount(unsigned int *count) { return nvmlDeviceGetCount_v2(count); }

/* A handle to a GPU that fell off the bus is refused, as the driver does. */
static nvmlReturn_t hand_out(uint32_t index, nvmlDevice_t *device) {
    if (fb_gpu_at(index)->is_lost)
        return NVML_ERROR_GPU_IS_LOST;
    *device = fb_handle(index);
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    FB_HOST_CALL(FB_CALL_SESSION);
    if (device == NULL || index >= host->gpus_shown)
        return NVML_ERROR_INVALID_ARGUMENT;
    return hand_out(index, device);
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device) {
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

static nvmlReturn_t find_text(const FbHost *host, const char *wanted, size_t offset, nvmlDevice_t *device) {
    if (wanted == NULL || device == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (uint32_t i = 0; i < host->gpus_shown; i++)
        if (strcasecmp(wanted, (const char *)fb_gpu_at(i) + offset) == 0)
            return hand_out(i, device);
    return NVML_ERROR_NOT_FOUND;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    FB_HOST_CALL(FB_CALL_SESSION);
    return find_text(host, uuid, offsetof(FbGpu, uuid), device);
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUIDV(const nvmlUUID_t *uuid, nvmlDevice_t *device) {
    FB_HOST_CALL(FB_CALL_SESSION);
    if (uuid == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (uuid->version != NVML_STRUCT_VERSION(nvmlUUID_t, 1U))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (uuid->type != 1) /* 1 = ASCII; the binary form is not kept */
        return NVML_ERROR_NOT_SUPPORTED;
    return find_text(host, uuid->value.str, offsetof(FbGpu, uuid), device);
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device) {
    FB_HOST_CALL(FB_CALL_SESSION);
    return find_text(host, serial, offsetof(FbGpu, serial), device);
}

/* Accepts the 4-digit and the 8-digit domain, as the driver does. */
FB_EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device) {
    FB_HOST_CALL(FB_CALL_SESSION);
    unsigned int domain, bus, slot;
    if (bus_id == NULL || device == NULL || sscanf(bus_id, "%x:%x:%x", &domain, &bus, &slot) != 3)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (uint32_t i = 0; i < host->gpus_shown; i++) {
        const FbGpu *gpu = fb_gpu_at(i);
        if (gpu->pci_domain == domain && gpu->pci_bus == bus && gpu->pci_device == slot)
            return hand_out(i, device);
    }
    return NVML_ERROR_NOT_FOUND;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *bus_id, nvmlDevice_t *device) {
    return nvmlDeviceGetHandleByPciBusId_v2(bus_id, device);
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    FB_GPU_CALL(FB_CALL_IDENTITY, device);
    return fb_copy_text(name, length, gpu->name);
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    FB_GPU_CALL(FB_CALL_IDENTITY, device);
    return fb_copy_text(uuid, length, gpu->uuid);
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned int length) {
    FB_GPU_CALL(FB_CALL_IDENTITY, device);
    return fb_copy_text(serial, length, gpu->serial);
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char *version, unsigned int length) {
    FB_GPU_CALL(FB_CALL_IDENTITY, device);
    return fb_copy_text(version, length, gpu->vbios_version);
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    FB_GPU_CALL(FB_CALL_IDENTITY, device);
    if (pci == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    memset(pci, 0, sizeof *pci);
    pci->domain = gpu->pci_domain;
    pci->bus = gpu->pci_bus;
    pci->device = gpu->pci_device;
    pci->pciDeviceId = gpu->pci_device_id;
    pci->pciSubSystemId = gpu->pci_subsystem_id;
    memcpy(pci->busId, gpu->pci_bus_id, sizeof pci->busId - 1);
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0", gpu->pci_domain & 0xFFFFu, gpu->pci_bus & 0xFFu,
             gpu->pci_device & 0xFFu);
    return NVML_SUCCESS;
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    FB_GPU_CALL(FB_CALL_IDENTITY, device);
    if (major == NULL || minor == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *major = (int)gpu->compute_major;
    *minor = (int)gpu->compute_minor;
    return NVML_SUCCESS;
}

#define IDENTITY_WORD(function, member)                                                                                \
    FB_EXPORT nvmlReturn_t function(nvmlDevice_t device, unsigned int *value) {                                        \
        FB_GPU_CALL(FB_CALL_IDENTITY, device);                                                                         \
        if (value == NULL)                                                                                             \
            return NVML_ERROR_INVALID_ARGUMENT;                                                                        \
        *value = gpu->member;                                                                                          \
        return NVML_SUCCESS;                                                                                           \
    }

IDENTITY_WORD(nvmlDeviceGetIndex, index)
IDENTITY_WORD(nvmlDeviceGetMinorNumber, minor_number)
IDENTITY_WORD(nvmlDeviceGetArchitecture, architecture)
IDENTITY_WORD(nvmlDeviceGetBrand, brand)
IDENTITY_WORD(nvmlDeviceGetModuleId, index)
