/* Simulated libdcgm.so.4: a host engine's answers out of the plant file, through the part of DCGM's public ABI used here.
 *
 * Standalone mode only: dcgmConnect_v2 takes any address. An unloaded driver reads as a lost connection.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "plant_state.h"

#define EXPORT __attribute__((visibility("default")))
enum { OK = 0, BADPARAM = -1, UNINITIALIZED = -10, VER_MISMATCH = -12, NOT_WATCHED = -16, CONNECTION_NOT_VALID = -21 };
#define INT64_BLANK 0x7ffffffffffffff0ll
#define FP64_BLANK 140737488355328.0
#define MAX_GPUS 32u
#define MAX_FIELDS 128

typedef struct { uint32_t version, persist, timeout_ms, is_unix_socket; } ConnectParams;
typedef struct { int32_t group; uint32_t id; } Entity;
typedef struct {
    uint32_t version, group, entity;
    uint16_t field, type;
    int32_t status;
    uint32_t unused;
    int64_t at_us;
    union { int64_t i64; double dbl; char text[4096]; } value;
} FieldValue;

_Static_assert(sizeof(ConnectParams) == 16, "dcgmConnectV2Params");
_Static_assert(sizeof(FieldValue) == 4128, "dcgmFieldValue_v2");

static struct {
    int is_initialised;
    const FbHost *host;
    const FbGpu *gpus;
    uint16_t watched[MAX_FIELDS];
    int watched_count;
} engine;

static int map_plant(void) {
    const char *path = getenv("FLYBALL_SIM_PLANT"), *id = getenv("FLYBALL_SIM_HOST");
    struct stat status;
    int file = path != NULL && id != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return 0;
    int is_sized = fstat(file, &status) == 0 && (size_t)status.st_size >= sizeof(FbHeader);
    uint8_t *base = is_sized ? mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
    close(file);
    if (base == MAP_FAILED)
        return 0;
    const FbHeader *header = (const FbHeader *)(const void *)base;
    if (memcmp(header->magic, FB_MAGIC, 8) != 0 || header->file_size > (uint64_t)status.st_size)
        return 0;
    const FbHost *hosts = (const FbHost *)(const void *)(base + header->hosts_offset);
    for (uint32_t i = 0; i < header->host_count; i++) {
        if (strcmp(hosts[i].id, id) == 0) {
            engine.host = &hosts[i];
            engine.gpus = (const FbGpu *)(const void *)(base + header->gpus_offset) + hosts[i].first_gpu;
            return 1;
        }
    }
    return 0;
}

static int is_connected(uintptr_t handle) { return handle == 1 && engine.host != NULL && engine.host->is_driver_loaded; }

EXPORT int dcgmInit(void) {
    engine.is_initialised = 1;
    return OK;
}

EXPORT int dcgmShutdown(void) {
    engine.is_initialised = 0;
    return OK;
}

EXPORT int dcgmConnect_v2(const char *address, ConnectParams *params, uintptr_t *handle) {
    if (!engine.is_initialised)
        return UNINITIALIZED;
    if (address == NULL || params == NULL || handle == NULL)
        return BADPARAM;
    if (params->version != (sizeof *params | 2u << 24))
        return VER_MISMATCH;
    if (!map_plant() || !is_connected(1))
        return CONNECTION_NOT_VALID;
    *handle = 1;
    return OK;
}

EXPORT int dcgmDisconnect(uintptr_t handle) { return handle == 1 ? OK : BADPARAM; }

EXPORT int dcgmGetAllSupportedDevices(uintptr_t handle, uint32_t ids[MAX_GPUS], int *count) {
    if (!is_connected(handle))
        return CONNECTION_NOT_VALID;
    *count = 0;
    for (uint32_t i = 0; i < engine.host->gpus_shown && i < MAX_GPUS; i++)
        ids[(*count)++] = i;
    return OK;
}

EXPORT int dcgmFieldGroupCreate(uintptr_t handle, int count, const uint16_t *fields, const char *name, uintptr_t *group) {
    if (!is_connected(handle))
        return CONNECTION_NOT_VALID;
    if (count < 1 || count > MAX_FIELDS || fields == NULL || name == NULL || group == NULL)
        return BADPARAM;
    memcpy(engine.watched, fields, (size_t)count * sizeof *fields);
    engine.watched_count = count;
    *group = 7;
    return OK;
}

EXPORT int dcgmWatchFields(uintptr_t handle, uintptr_t group, uintptr_t fields, long long period_us, double keep_s, int keep) {
    (void)group, (void)keep_s, (void)keep;
    if (!is_connected(handle))
        return CONNECTION_NOT_VALID;
    return fields == 7 && period_us > 0 ? OK : BADPARAM;
}

static int is_watched(uint16_t field) {
    for (int i = 0; i < engine.watched_count; i++)
        if (engine.watched[i] == field)
            return 1;
    return 0;
}

/* Say the value of a field by its number; 'd' and 'i' are DCGM's own letters for double and 64-bit integer. */
static void answer(const FbGpu *gpu, FieldValue *value) {
    value->type = 'i';
    switch (value->field) {
    case 155: value->type = 'd'; value->value.dbl = (double)gpu->power_average_mw / 1000.0; break;
    case 157: value->type = 'd'; value->value.dbl = (double)gpu->power_instant_mw / 1000.0; break;
    case 156: value->value.i64 = (int64_t)gpu->energy_mj; break;
    case 100: value->value.i64 = gpu->graphics_clock_mhz; break;
    case 150: value->value.i64 = gpu->temperature_mc / 1000; break;
    case 140: value->value.i64 = gpu->memory_temperature_mc / 1000; break;
    case 203: value->value.i64 = gpu->mig_mode_current ? INT64_BLANK + 2 : gpu->gpu_utilisation_percent; break;
    case 310: value->value.i64 = (int64_t)gpu->ecc_volatile_corrected; break;
    case 311: value->value.i64 = (int64_t)gpu->ecc_volatile_uncorrected; break;
    default: value->value.i64 = INT64_BLANK + 2; /* not supported */
    }
    if (gpu->is_lost && value->type == 'd')
        value->value.dbl = FP64_BLANK + 1.0;
    else if (gpu->is_lost)
        value->value.i64 = INT64_BLANK + 1; /* not found */
}

EXPORT int dcgmEntitiesGetLatestValues(uintptr_t handle, Entity *entities, unsigned int entity_count, uint16_t *fields,
                                       unsigned int field_count, unsigned int flags, FieldValue *values) {
    struct timespec now;
    (void)flags;
    if (!is_connected(handle))
        return CONNECTION_NOT_VALID;
    clock_gettime(CLOCK_REALTIME, &now);
    for (unsigned int e = 0; e < entity_count; e++) {
        for (unsigned int f = 0; f < field_count; f++) {
            FieldValue *value = &values[e * field_count + f];
            if (entities[e].id >= engine.host->gpu_count)
                return BADPARAM;
            value->version = sizeof *value | 2u << 24;
            value->group = (uint32_t)entities[e].group;
            value->entity = entities[e].id;
            value->field = fields[f];
            value->status = is_watched(fields[f]) ? OK : NOT_WATCHED;
            value->at_us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
            answer(&engine.gpus[entities[e].id], value);
        }
    }
    return OK;
}
