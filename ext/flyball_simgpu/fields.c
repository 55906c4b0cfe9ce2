/* nvmlDeviceGetFieldValues: one call, many values, each with its own return code, timestamp and latency. */
#include "session.h"

enum FieldKind { NOT_KNOWN, WORD, COUNTER, THOUSANDTHS, ENFORCED, LINK_SUM, CONSTANT };

/* By field number. value: an offset into FbGpu, or the number itself for CONSTANT. */
static const struct Field {
    enum FieldKind kind;
    long value;
    int is_power;   /* carries the sensor's timestamp; scope 0 (the GPU) only */
} FIELDS[] = {
    [1] = {WORD, offsetof(FbGpu, ecc_mode_current), 0},
    [2] = {WORD, offsetof(FbGpu, ecc_mode_pending), 0},
    [3] = {COUNTER, offsetof(FbGpu, ecc_volatile_corrected), 0},
    [4] = {COUNTER, offsetof(FbGpu, ecc_volatile_uncorrected), 0},
    [5] = {COUNTER, offsetof(FbGpu, ecc_aggregate_corrected), 0},
    [6] = {COUNTER, offsetof(FbGpu, ecc_aggregate_uncorrected), 0},
    [38] = {LINK_SUM, offsetof(FbGpu, link_crc_errors), 0},
    [52] = {LINK_SUM, offsetof(FbGpu, link_replay_errors), 0},
    [59] = {LINK_SUM, offsetof(FbGpu, link_recovery_errors), 0},
    [74] = {COUNTER, offsetof(FbGpu, throttle_power_ns), 0},
    [75] = {COUNTER, offsetof(FbGpu, throttle_thermal_ns), 0},
    [76] = {COUNTER, offsetof(FbGpu, throttle_sync_boost_ns), 0},
    [77] = {COUNTER, offsetof(FbGpu, throttle_board_limit_ns), 0},
    [78] = {COUNTER, offsetof(FbGpu, throttle_low_utilisation_ns), 0},
    [79] = {COUNTER, offsetof(FbGpu, throttle_reliability_ns), 0},
    [80] = {COUNTER, offsetof(FbGpu, throttle_application_clocks_ns), 0},
    [81] = {COUNTER, offsetof(FbGpu, throttle_base_clocks_ns), 0},
    [82] = {THOUSANDTHS, offsetof(FbGpu, memory_temperature_mc), 0},
    [83] = {COUNTER, offsetof(FbGpu, energy_mj), 1},
    [91] = {WORD, offsetof(FbGpu, link_count), 0},
    [94] = {COUNTER, offsetof(FbGpu, pcie_replay_count), 0},
    [142] = {WORD, offsetof(FbGpu, remapped_corrected), 0},
    [143] = {WORD, offsetof(FbGpu, remapped_uncorrected), 0},
    [144] = {WORD, offsetof(FbGpu, remap_pending), 0},
    [145] = {WORD, offsetof(FbGpu, remap_failed), 0},
    [161] = {LINK_SUM, offsetof(FbGpu, link_replay_errors), 0},
    [162] = {LINK_SUM, offsetof(FbGpu, link_recovery_errors), 0},
    [163] = {LINK_SUM, offsetof(FbGpu, link_crc_errors), 0},
    [185] = {WORD, offsetof(FbGpu, power_average_mw), 1},
    [186] = {WORD, offsetof(FbGpu, power_instant_mw), 1},
    [187] = {WORD, offsetof(FbGpu, min_limit_mw), 1},
    [188] = {WORD, offsetof(FbGpu, max_limit_mw), 1},
    [189] = {WORD, offsetof(FbGpu, default_limit_mw), 1},
    [190] = {ENFORCED, 0, 1},
    [191] = {COUNTER, offsetof(FbGpu, energy_mj), 1},
    [192] = {WORD, offsetof(FbGpu, requested_limit_mw), 1},
    [193] = {CONSTANT, -8, 0},   /* degrees of margin at which it shuts down, slows down, is at its limit: */
    [194] = {CONSTANT, -2, 0},   /* what nvidia-smi shows for H100 boards */
    [196] = {CONSTANT, 0, 0},
    [197] = {COUNTER, offsetof(FbGpu, pcie_sent_bytes), 0},
    [198] = {COUNTER, offsetof(FbGpu, pcie_received_bytes), 0},
    [202] = {COUNTER, offsetof(FbGpu, link_sent_bytes), 0},
    [204] = {COUNTER, offsetof(FbGpu, link_received_bytes), 0},
    [230] = {WORD, offsetof(FbGpu, recovery_action), 0},
    [269] = {COUNTER, offsetof(FbGpu, throttle_software_thermal_ns), 0},
    [270] = {COUNTER, offsetof(FbGpu, throttle_hardware_thermal_ns), 0},
    [271] = {COUNTER, offsetof(FbGpu, throttle_brake_ns), 0},
};

#define FIELD_POWER_INSTANT 186u

static const struct Field *find_field(unsigned int id) {
    int is_known = id < sizeof FIELDS / sizeof *FIELDS && FIELDS[id].kind != NOT_KNOWN;
    return is_known ? &FIELDS[id] : NULL;
}

static uint64_t sum_links(const FbGpu *gpu, const uint64_t *errors) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < gpu->link_count && i < FB_LINKS; i++)
        sum += errors[i];
    return sum;
}

static void read_value(const FbGpu *gpu, const struct Field *field, nvmlFieldValue_t *answer) {
    const uint8_t *member = (const uint8_t *)gpu + field->value;
    answer->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    switch (field->kind) {
    case NOT_KNOWN:
        return;
    case WORD: /* the low half of a 64-bit word is its value here: little-endian and far below 2^32 */
        answer->value.uiVal = *(const uint32_t *)(const void *)member;
        return;
    case ENFORCED:
        answer->value.uiVal = fb_enforced_mw(gpu);
        return;
    case THOUSANDTHS:
        answer->value.uiVal = (unsigned int)(*(const int32_t *)(const void *)member / 1000);
        return;
    case CONSTANT:
        answer->valueType = NVML_VALUE_TYPE_SIGNED_INT;
        answer->value.siVal = (int)field->value;
        return;
    case COUNTER:
    case LINK_SUM:
        answer->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
        answer->value.ullVal = field->kind == COUNTER ? *(const uint64_t *)(const void *)member
                                                      : sum_links(gpu, (const uint64_t *)(const void *)member);
    }
}

static void answer_field(const FbGpu *gpu, uint64_t now_us, nvmlFieldValue_t *answer) {
    const struct Field *field = find_field(answer->fieldId);
    int is_missing = field == NULL || (field->is_power && answer->scopeId != 0) ||
                     (answer->fieldId == FIELD_POWER_INSTANT && gpu->is_instant_unsupported);
    answer->nvmlReturn = is_missing ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
    answer->value.ullVal = 0;
    answer->timestamp = (long long)(!is_missing && field->is_power && gpu->sensor_read_at_unix_us != 0
                                        ? gpu->sensor_read_at_unix_us
                                        : now_us);
    if (!is_missing)
        read_value(gpu, field, answer);
}

FB_EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values) {
    uint64_t started_ns = fb_now_ns();
    FB_GPU_CALL(FB_CALL_FIELDS, device);
    if (count < 1 || values == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    uint64_t now_us = fb_unix_us();
    for (int i = 0; i < count; i++)
        answer_field(gpu, now_us, &values[i]);
    long long latency_us = (long long)((fb_now_ns() - started_ns) / 1000u) / count;
    for (int i = 0; i < count; i++)
        values[i].latencyUsec = latency_us;
    return NVML_SUCCESS;
}
