/* The part of NVML's public ABI that is answered here: own declarations of its names, structs and version words.
 *
 * Source: the structures and constants that nvidia-ml-py (pynvml 13) declares; sizes are asserted below.
 */
#ifndef FLYBALL_NVML_ABI_H
#define FLYBALL_NVML_ABI_H

#include <stdint.h>

#define FB_EXPORT __attribute__((visibility("default")))

typedef int nvmlReturn_t;
enum {
    NVML_SUCCESS = 0, NVML_ERROR_UNINITIALIZED = 1, NVML_ERROR_INVALID_ARGUMENT = 2, NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NO_PERMISSION = 4, NVML_ERROR_NOT_FOUND = 6, NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9, NVML_ERROR_TIMEOUT = 10, NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_RESET_REQUIRED = 16, NVML_ERROR_MEMORY = 20, NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    NVML_ERROR_UNKNOWN = 999
};

typedef struct nvmlDevice_st *nvmlDevice_t;
typedef struct nvmlEventSet_st *nvmlEventSet_t;
typedef struct nvmlSystemEventSet_st *nvmlSystemEventSet_t;

#define NVML_STRUCT_VERSION(type, number) ((unsigned int)(sizeof(type) | ((number) << 24U)))

typedef union {
    double dVal;
    unsigned int uiVal;
    unsigned long ulVal;
    unsigned long long ullVal;
    signed long long sllVal;
    int siVal;
    unsigned short usVal;
} nvmlValue_t;
enum { NVML_VALUE_TYPE_UNSIGNED_INT = 1, NVML_VALUE_TYPE_UNSIGNED_LONG_LONG = 3, NVML_VALUE_TYPE_SIGNED_INT = 5 };

typedef struct {
    unsigned int fieldId, scopeId;
    long long timestamp, latencyUsec;
    unsigned int valueType;
    nvmlReturn_t nvmlReturn;
    nvmlValue_t value;
} nvmlFieldValue_t;

typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;

typedef struct { unsigned int gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { unsigned int version, powerScope, powerValueMw; } nvmlPowerValue_v2_t;
typedef struct { unsigned int version, sensorType; int temperature; } nvmlTemperature_v1_t;
typedef struct { unsigned int version; int marginTemperature; } nvmlMarginTemperature_v1_t;
typedef struct { unsigned long long referenceTime, violationTime; } nvmlViolationTime_t;
typedef struct { unsigned int max, high, partial, low, none; } nvmlRowRemapperHistogramValues_t;
typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
    unsigned int gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_v2_t;

typedef struct {
    nvmlDevice_t device;
    unsigned long long eventType, eventData;
    unsigned int gpuInstanceId, computeInstanceId;
} nvmlEventData_t;

typedef struct {
    unsigned int version, type;
    union { char str[41]; unsigned char bytes[16]; } value;
} nvmlUUID_t;

typedef struct { unsigned int version; nvmlSystemEventSet_t set; } nvmlSystemEventSetRequest_v1_t;
typedef struct { unsigned int version; unsigned long long eventTypes; nvmlSystemEventSet_t set; } nvmlSystemRegisterEventRequest_v1_t;
typedef struct { unsigned long long eventType; unsigned int gpuId; } nvmlSystemEventData_v1_t;
typedef struct {
    unsigned int version, timeoutms;
    nvmlSystemEventSet_t set;
    nvmlSystemEventData_v1_t *data;
    unsigned int dataSize, numEvent;
} nvmlSystemEventSetWaitRequest_v1_t;

/* The version words nvidia-ml-py sends. */
_Static_assert(NVML_STRUCT_VERSION(nvmlMemory_v2_t, 2U) == 0x02000028, "nvmlMemory_v2");
_Static_assert(NVML_STRUCT_VERSION(nvmlPowerValue_v2_t, 2U) == 0x0200000C, "nvmlPowerValue_v2");
_Static_assert(NVML_STRUCT_VERSION(nvmlTemperature_v1_t, 1U) == 0x0100000C, "nvmlTemperature_v1");
_Static_assert(NVML_STRUCT_VERSION(nvmlMarginTemperature_v1_t, 1U) == 0x01000008, "nvmlMarginTemperature_v1");
_Static_assert(NVML_STRUCT_VERSION(nvmlUUID_t, 1U) == 0x01000034, "nvmlUUID_v1");
_Static_assert(NVML_STRUCT_VERSION(nvmlSystemEventSetRequest_v1_t, 1U) == 0x01000010, "nvmlSystemEventSetCreateRequest_v1");
_Static_assert(NVML_STRUCT_VERSION(nvmlSystemRegisterEventRequest_v1_t, 1U) == 0x01000018, "nvmlSystemRegisterEventRequest_v1");
_Static_assert(NVML_STRUCT_VERSION(nvmlSystemEventSetWaitRequest_v1_t, 1U) == 0x01000020, "nvmlSystemEventSetWaitRequest_v1");
_Static_assert(sizeof(nvmlFieldValue_t) == 40, "nvmlFieldValue_t");
_Static_assert(sizeof(nvmlPciInfo_t) == 68, "nvmlPciInfo_t");

#endif
