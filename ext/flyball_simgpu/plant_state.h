/* The shared-memory file between the plant (physics), the simulated device libraries and the control client.
 *
 * Layout: one FbHeader, then host_count FbHost, then gpu_count FbGpu (a host's GPUs are consecutive). Little-endian,
 * naturally aligned, fixed sizes; plant_state.py states the same layout and a test compares the two field by field.
 * Every word has one writer: P the plant, L a simulated library, C the control client or the governor's gate.
 * Words are at most 8 bytes and aligned, so that a reader sees old or new, never a mixture.
 */
#ifndef FLYBALL_PLANT_STATE_H
#define FLYBALL_PLANT_STATE_H

#include <stddef.h>
#include <stdint.h>

#define FB_MAGIC "FLYPLANT"
#define FB_LAYOUT_VERSION 1u
#define FB_EVENT_RING 32u   /* events kept per GPU; older ones are overwritten */
#define FB_PROCESS_SLOTS 16u
#define FB_LINKS 18u        /* NVLink links per GPU at most (H100: 18) */
#define FB_CALL_KINDS 16u

/* Kinds of calls: bit numbers of hang_calls and indexes of call_cost_us. */
enum FbCall {
    FB_CALL_SESSION = 0,    /* init, count, handles, system queries */
    FB_CALL_IDENTITY = 1,   /* name, UUID, PCI, serial */
    FB_CALL_FIELDS = 2,     /* nvmlDeviceGetFieldValues */
    FB_CALL_POWER = 3,      /* power and energy readings */
    FB_CALL_LIMIT_GET = 4,
    FB_CALL_LIMIT_SET = 5,
    FB_CALL_CLOCK_GET = 6,
    FB_CALL_CLOCK_SET = 7,
    FB_CALL_UTILISATION = 8,
    FB_CALL_TEMPERATURE = 9,
    FB_CALL_REASONS = 10,   /* clocks event reasons, violation status */
    FB_CALL_MEMORY = 11,    /* memory info, ECC, remapped rows */
    FB_CALL_MODE = 12,      /* persistence, MIG, ECC mode */
    FB_CALL_PROCESSES = 13,
    FB_CALL_LINKS = 14,     /* NVLink, PCIe */
    FB_CALL_EVENTS = 15
};

typedef struct {            /* 256 bytes */
    char magic[8];
    uint32_t layout_version, header_size, host_size, gpu_size, host_count, gpu_count;
    uint64_t hosts_offset, gpus_offset, file_size;
    uint64_t seed;
    /* P: where the physics stands. Times are CLOCK_MONOTONIC nanoseconds unless named _unix_. */
    uint64_t plant_pid, step_count, late_step_count, stepped_at_ns;
    /* P: the meter. Wall power of the site, true, in milliwatts; means are over whole seconds. */
    uint64_t site_power_mw, site_second_mean_mw, site_uncapped_second_mean_mw, seconds_observed, second_ended_at_unix_ns;
    /* C: the load may start (1); P: when it did, 0 before. */
    uint32_t load_released, stop_requested;
    uint64_t load_started_at_ns;
    uint64_t unmanaged_load_mw; /* C: what else hangs on the site's meter */
    uint8_t reserved[96];
} FbHeader;

typedef struct {            /* 512 bytes */
    char id[64];
    uint32_t index, first_gpu, gpu_count, reserved0;
    /* C: what the host is. gpus_shown < gpu_count hides the last ones (a GPU count change). */
    uint32_t is_gate_open, is_driver_loaded, gpus_shown, hang_calls;
    uint32_t is_cost_slept, hung_call_count, driver_unbind_count, driver_bind_count;
    uint32_t call_cost_us[FB_CALL_KINDS];
    char driver_version[32];
    char nvml_version[32];
    uint32_t cuda_version, reserved1;
    /* P: the meter, milliwatts; host_power is at the wall: GPUs + own power. */
    uint64_t host_power_mw, gpu_power_mw, second_mean_mw, gate_changed_at_ns;
    /* L: what the simulated libraries of this host have cost: CPU time of their own and number of calls. */
    uint64_t library_cpu_ns, library_call_count;
    uint8_t reserved[216];
} FbHost;

typedef struct {
    uint64_t sequence;      /* counts from 1; written last */
    uint64_t type, data, at_us;
    uint32_t gpu_instance_id, compute_instance_id;
} FbEvent;

typedef struct {
    uint32_t pid, kind;     /* kind: 0 empty, 1 compute, 2 graphics, 3 MPS */
    uint64_t used_bytes;
} FbProcess;

typedef struct {            /* 4096 bytes */
    /* Identity, written once by whoever creates the file. */
    char model[16], name[96], uuid[80], serial[32], pci_bus_id[32], vbios_version[32];
    uint32_t index, host_index, minor_number, pci_domain, pci_bus, pci_device, pci_device_id, pci_subsystem_id;
    uint32_t architecture, brand, compute_major, compute_minor, is_average_windowed, link_count;
    uint32_t graphics_clock_max_mhz, graphics_clock_min_mhz, graphics_clock_step_mhz, memory_clock_max_mhz;
    uint32_t default_limit_mw, min_limit_mw, max_limit_mw, slowdown_temperature_c, shutdown_temperature_c;
    uint32_t memory_max_temperature_c;
    uint64_t memory_total_bytes, memory_reserved_bytes;

    /* L: what was asked of the device (the control client writes them on a reset). 0 MHz = not locked. */
    uint32_t requested_limit_mw, locked_clock_min_mhz, locked_clock_max_mhz, limit_post_count, clock_post_count;
    uint32_t is_persistent;
    uint64_t limit_posted_at_ns, clock_posted_at_ns;

    /* C: faults and modes. out_of_band_limit_mw 0 = none. set_error is the nvmlReturn_t of every set call, 0 = works. */
    uint32_t out_of_band_limit_mw, is_lost, needs_reset, set_error, is_set_ignored, read_error, hang_calls;
    uint32_t is_power_braked, is_instant_unsupported, mig_mode_current, mig_mode_pending, ecc_mode_current;
    uint32_t ecc_mode_pending, recovery_action, reset_count, inlet_offset_c;
    uint32_t hung_call_count, reserved1; /* L: calls that hang now */

    /* P: telemetry. power_true is what the board draws now; instant and average are what its sensors say. */
    uint64_t power_true_mw, power_instant_mw, power_average_mw, sensor_read_at_unix_us;
    uint64_t energy_mj, energy_true_mj, work_done_us; /* work: microseconds at full speed since the start */
    uint64_t event_reasons, memory_used_bytes, pcie_sent_bytes, pcie_received_bytes, link_sent_bytes, link_received_bytes;
    uint64_t throttle_power_ns, throttle_software_thermal_ns, throttle_hardware_thermal_ns, throttle_brake_ns;
    uint64_t throttle_thermal_ns, throttle_sync_boost_ns, throttle_board_limit_ns, throttle_low_utilisation_ns;
    uint64_t throttle_reliability_ns, throttle_application_clocks_ns, throttle_base_clocks_ns;
    uint32_t applied_limit_mw, demand_mw; /* what the power loop holds now; what it would draw without a cap */
    uint32_t graphics_clock_mhz, memory_clock_mhz, gpu_utilisation_percent, memory_utilisation_percent;
    int32_t temperature_mc, memory_temperature_mc; /* thousandths of a degree Celsius */
    uint32_t performance_state, reserved2;

    /* C: health counters the device work reads. */
    uint64_t ecc_volatile_corrected, ecc_volatile_uncorrected, ecc_aggregate_corrected, ecc_aggregate_uncorrected;
    uint64_t ecc_sram_corrected, ecc_sram_uncorrected, pcie_replay_count;
    uint32_t remapped_corrected, remapped_uncorrected, remap_pending, remap_failed;
    uint32_t remap_banks_max, remap_banks_high, remap_banks_partial, remap_banks_low, remap_banks_none, reserved3;
    uint8_t link_is_down[24];
    uint64_t link_crc_errors[FB_LINKS], link_replay_errors[FB_LINKS], link_recovery_errors[FB_LINKS];

    FbProcess processes[FB_PROCESS_SLOTS];
    uint64_t event_count;   /* C: events pushed so far; event n is at events[(n - 1) % FB_EVENT_RING] */
    FbEvent events[FB_EVENT_RING];
    uint8_t reserved[1256];
} FbGpu;

_Static_assert(sizeof(FbHeader) == 256, "header size");
_Static_assert(sizeof(FbHost) == 512, "host size");
_Static_assert(sizeof(FbGpu) == 4096, "gpu size");

#endif
