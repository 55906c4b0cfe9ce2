/* Attaches to the plant file as a driver would be attached to: descriptor, lock, handles, cost and hangs of calls. */
#define _GNU_SOURCE
#include "session.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct nvmlDevice_st {
    uint32_t index;
};

static struct {
    pthread_mutex_t mutex;
    unsigned int init_count;
    int descriptor, is_writable;
    uint8_t *base;
    size_t size;
    FbHost *host;
    FbGpu *gpus;
    int in_flight;
} session = {.mutex = PTHREAD_MUTEX_INITIALIZER, .descriptor = -1};

static struct nvmlDevice_st devices[FB_MAX_GPUS];
static _Thread_local uint64_t thread_cpu_ns;
static uint64_t clock_cost_ns;

static uint64_t read_clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t fb_now_ns(void) { return read_clock_ns(CLOCK_MONOTONIC); }
uint64_t fb_unix_us(void) { return read_clock_ns(CLOCK_REALTIME) / 1000u; }
FB_EXPORT uint64_t flyball_sim_thread_cpu_ns(void) { return thread_cpu_ns; }

void fb_sleep_ms(unsigned int milliseconds) {
    struct timespec pause = {.tv_sec = milliseconds / 1000u, .tv_nsec = (long)(milliseconds % 1000u) * 1000000L};
    nanosleep(&pause, NULL);
}

/* What one reading of the thread's CPU clock costs: two of them stand in each call, half of both inside the count. */
static void measure_clock_cost(void) {
    uint64_t started = read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    for (int i = 0; i < 64; i++)
        read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    clock_cost_ns = (read_clock_ns(CLOCK_THREAD_CPUTIME_ID) - started) / 65u;
}

static int is_plant(const FbHeader *header, size_t size) {
    return memcmp(header->magic, FB_MAGIC, sizeof header->magic) == 0 && header->layout_version == FB_LAYOUT_VERSION &&
           header->header_size == sizeof(FbHeader) && header->host_size == sizeof(FbHost) &&
           header->gpu_size == sizeof(FbGpu) && header->file_size <= size;
}

/* The host named by FLYBALL_SIM_HOST; without the variable, the first. */
static FbHost *find_host(uint8_t *base) {
    const FbHeader *header = (const FbHeader *)base;
    FbHost *hosts = (FbHost *)(base + header->hosts_offset);
    const char *name = getenv("FLYBALL_SIM_HOST");
    for (uint32_t i = 0; i < header->host_count; i++)
        if (name == NULL || strncmp(hosts[i].id, name, sizeof hosts[i].id) == 0)
            return &hosts[i];
    return NULL;
}

/* A shared lock on the host's first byte: the control client sees who holds the driver open, as rmmod would. */
static void lock_host(int descriptor, const uint8_t *base, const FbHost *host) {
    struct flock lock = {
        .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = (off_t)((const uint8_t *)host - base), .l_len = 1};
    (void)fcntl(descriptor, F_OFD_SETLK, &lock);
}

static void *map_plant(int *descriptor, int *is_writable, size_t *size) {
    const char *path = getenv("FLYBALL_SIM_PLANT");
    struct stat status;
    if (path == NULL)
        return NULL;
    *is_writable = 1;
    *descriptor = open(path, O_RDWR | O_CLOEXEC);
    if (*descriptor < 0) {
        *is_writable = 0;
        *descriptor = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (*descriptor < 0)
        return NULL;
    if (fstat(*descriptor, &status) == 0 && (size_t)status.st_size >= sizeof(FbHeader)) {
        int protection = *is_writable ? PROT_READ | PROT_WRITE : PROT_READ;
        void *base = mmap(NULL, (size_t)status.st_size, protection, MAP_SHARED, *descriptor, 0);
        *size = (size_t)status.st_size;
        if (base != MAP_FAILED)
            return base;
    }
    close(*descriptor);
    return NULL;
}

static nvmlReturn_t attach(void) {
    int descriptor = -1, is_writable = 0;
    size_t size = 0;
    uint8_t *base = map_plant(&descriptor, &is_writable, &size);
    if (base == NULL)
        return NVML_ERROR_DRIVER_NOT_LOADED;
    FbHost *host = is_plant((const FbHeader *)base, size) ? find_host(base) : NULL;
    if (host == NULL || !host->is_driver_loaded || host->gpu_count > FB_MAX_GPUS) {
        munmap(base, size);
        close(descriptor);
        return NVML_ERROR_DRIVER_NOT_LOADED;
    }
    lock_host(descriptor, base, host);
    session.descriptor = descriptor;
    session.is_writable = is_writable;
    session.base = base;
    session.size = size;
    session.gpus = (FbGpu *)(base + ((const FbHeader *)base)->gpus_offset) + host->first_gpu;
    for (uint32_t i = 0; i < FB_MAX_GPUS; i++)
        devices[i].index = i;
    measure_clock_cost();
    __atomic_store_n(&session.host, host, __ATOMIC_RELEASE);
    return NVML_SUCCESS;
}

/* The descriptor closes at once; the mapping stays while another thread is inside a call. */
static void detach(void) {
    __atomic_store_n(&session.host, NULL, __ATOMIC_RELEASE);
    close(session.descriptor);
    session.descriptor = -1;
    for (int i = 0; i < 50 && __atomic_load_n(&session.in_flight, __ATOMIC_ACQUIRE) > 0; i++)
        fb_sleep_ms(1);
    if (__atomic_load_n(&session.in_flight, __ATOMIC_ACQUIRE) == 0)
        munmap(session.base, session.size);
}

FB_EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags; /* no GPUs, no attach, force: all the same here */
    pthread_mutex_lock(&session.mutex);
    nvmlReturn_t result = session.init_count == 0 ? attach() : NVML_SUCCESS;
    if (result == NVML_SUCCESS)
        session.init_count++;
    pthread_mutex_unlock(&session.mutex);
    return result;
}

FB_EXPORT nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
FB_EXPORT nvmlReturn_t nvmlInit(void) { return nvmlInitWithFlags(0); }

FB_EXPORT nvmlReturn_t nvmlShutdown(void) {
    pthread_mutex_lock(&session.mutex);
    nvmlReturn_t result = session.init_count > 0 ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
    if (session.init_count > 0 && --session.init_count == 0)
        detach();
    pthread_mutex_unlock(&session.mutex);
    return result;
}

int fb_may_write(void) { return session.is_writable; }
int fb_is_attached(void) { return __atomic_load_n(&session.host, __ATOMIC_ACQUIRE) != NULL; }
nvmlDevice_t fb_handle(uint32_t index) { return &devices[index]; }
FbGpu *fb_gpu_at(uint32_t index) { return &session.gpus[index]; }
uint32_t fb_gpu_index(const FbGpu *gpu) { return (uint32_t)(gpu - session.gpus); }

static int is_hanging(const uint32_t *mask, enum FbCall kind) {
    return (__atomic_load_n(mask, __ATOMIC_RELAXED) >> kind) & 1u;
}

/* A call that does not return until the control client clears its bit. */
static void hang(const uint32_t *mask, uint32_t *hung_count, enum FbCall kind) {
    if (!is_hanging(mask, kind))
        return;
    if (session.is_writable)
        __atomic_add_fetch(hung_count, 1u, __ATOMIC_RELAXED);
    while (is_hanging(mask, kind))
        fb_sleep_ms(5);
    if (session.is_writable)
        __atomic_sub_fetch(hung_count, 1u, __ATOMIC_RELAXED);
}

static void spend(const FbHost *host, enum FbCall kind) {
    uint32_t cost_us = host->call_cost_us[kind];
    if (cost_us == 0)
        return;
    if (host->is_cost_slept) {
        struct timespec pause = {.tv_sec = cost_us / 1000000u, .tv_nsec = (long)(cost_us % 1000000u) * 1000L};
        nanosleep(&pause, NULL);
        return;
    }
    uint64_t until = fb_now_ns() + (uint64_t)cost_us * 1000u;
    while (fb_now_ns() < until)
        ;
}

static nvmlReturn_t check_device(FbScope *scope, enum FbCall kind, nvmlDevice_t device) {
    if (device < devices || device >= devices + FB_MAX_GPUS || device->index >= scope->host->gpu_count)
        return NVML_ERROR_INVALID_ARGUMENT;
    FbGpu *gpu = scope->gpu = &session.gpus[device->index];
    hang(&gpu->hang_calls, &gpu->hung_call_count, kind);
    if (gpu->is_lost || device->index >= scope->host->gpus_shown)
        return NVML_ERROR_GPU_IS_LOST;
    if (gpu->needs_reset)
        return NVML_ERROR_RESET_REQUIRED;
    return (nvmlReturn_t)gpu->read_error;
}

FbScope fb_enter_unbound(enum FbCall kind) {
    FbScope scope = {.cpu_started_ns = read_clock_ns(CLOCK_THREAD_CPUTIME_ID)};
    __atomic_add_fetch(&session.in_flight, 1, __ATOMIC_ACQ_REL);
    scope.host = __atomic_load_n(&session.host, __ATOMIC_ACQUIRE);
    if (scope.host == NULL) {
        scope.result = NVML_ERROR_UNINITIALIZED;
        return scope;
    }
    hang(&scope.host->hang_calls, &scope.host->hung_call_count, kind);
    spend(scope.host, kind);
    return scope;
}

FbScope fb_enter(enum FbCall kind, int names_device, nvmlDevice_t device) {
    FbScope scope = fb_enter_unbound(kind);
    if (scope.result == NVML_SUCCESS && names_device)
        scope.result = check_device(&scope, kind, device);
    if (scope.host != NULL && !scope.host->is_driver_loaded)
        scope.result = NVML_ERROR_DRIVER_NOT_LOADED;
    return scope;
}

void fb_leave(FbScope *scope) {
    uint64_t spent_ns = read_clock_ns(CLOCK_THREAD_CPUTIME_ID) - scope->cpu_started_ns + clock_cost_ns;
    thread_cpu_ns += spent_ns;
    if (scope->host != NULL && session.is_writable) {
        __atomic_add_fetch(&scope->host->library_cpu_ns, spent_ns, __ATOMIC_RELAXED);
        __atomic_add_fetch(&scope->host->library_call_count, 1u, __ATOMIC_RELAXED);
    }
    __atomic_sub_fetch(&session.in_flight, 1, __ATOMIC_ACQ_REL);
}

nvmlReturn_t fb_copy_text(char *target, unsigned int length, const char *text) {
    if (target == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(text) + 1 > length)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(target, text);
    return NVML_SUCCESS;
}
