"""The layout of the plant file: the Python twin of plant_state.h, field by field (a test compares the two)."""

from ctypes import Array, LittleEndianStructure, c_char, c_int32, c_uint8, c_uint32, c_uint64
from typing import Annotated, TypeVar, get_args, get_type_hints

LAYOUT_VERSION = 1
EVENT_RING = 32
PROCESS_SLOTS = 16
LINKS = 18
CALL_KINDS = (
    "session",
    "identity",
    "fields",
    "power",
    "limit_get",
    "limit_set",
    "clock_get",
    "clock_set",
    "utilisation",
    "temperature",
    "reasons",
    "memory",
    "mode",
    "processes",
    "links",
    "events",
)

Layout = TypeVar("Layout", bound=LittleEndianStructure)
U32 = Annotated[int, c_uint32]
U64 = Annotated[int, c_uint64]
I32 = Annotated[int, c_int32]


def laid_out(cls: type[Layout]) -> type[Layout]:
    """Give a ctypes structure its fields from the annotations of its class, in their order."""
    hints = get_type_hints(cls, include_extras=True)
    cls._fields_ = [(name, get_args(hints[name])[1]) for name in cls.__annotations__]
    return cls


@laid_out
class PlantHeader(LittleEndianStructure):
    """The first 256 bytes: sizes, the plant's clock, the site's meter and the load's release."""

    magic: Annotated[bytes, c_char * 8]
    layout_version: U32
    header_size: U32
    host_size: U32
    gpu_size: U32
    host_count: U32
    gpu_count: U32
    hosts_offset: U64
    gpus_offset: U64
    file_size: U64
    seed: U64
    plant_pid: U64
    step_count: U64
    late_step_count: U64
    stepped_at_ns: U64
    site_power_mw: U64
    site_second_mean_mw: U64
    site_uncapped_second_mean_mw: U64
    seconds_observed: U64
    second_ended_at_unix_ns: U64
    load_released: U32
    stop_requested: U32
    load_started_at_ns: U64
    unmanaged_load_mw: U64
    reserved: Annotated[Array[c_uint8], c_uint8 * 96]


@laid_out
class PlantHost(LittleEndianStructure):
    """512 bytes of one host: its gate, driver and call costs, and its meter."""

    id: Annotated[bytes, c_char * 64]
    index: U32
    first_gpu: U32
    gpu_count: U32
    reserved0: U32
    is_gate_open: U32
    is_driver_loaded: U32
    gpus_shown: U32
    hang_calls: U32
    is_cost_slept: U32
    hung_call_count: U32
    driver_unbind_count: U32
    driver_bind_count: U32
    call_cost_us: Annotated[Array[c_uint32], c_uint32 * len(CALL_KINDS)]
    driver_version: Annotated[bytes, c_char * 32]
    nvml_version: Annotated[bytes, c_char * 32]
    cuda_version: U32
    reserved1: U32
    host_power_mw: U64
    gpu_power_mw: U64
    second_mean_mw: U64
    gate_changed_at_ns: U64
    library_cpu_ns: U64
    library_call_count: U64
    reserved: Annotated[Array[c_uint8], c_uint8 * 216]


@laid_out
class PlantEvent(LittleEndianStructure):
    """One event of a GPU, as an NVML event set delivers it."""

    sequence: U64
    type: U64
    data: U64
    at_us: U64
    gpu_instance_id: U32
    compute_instance_id: U32


@laid_out
class PlantProcess(LittleEndianStructure):
    """One process on a GPU; kind 0 is an empty slot."""

    pid: U32
    kind: U32
    used_bytes: U64


@laid_out
class PlantGpu(LittleEndianStructure):
    """4096 bytes of one GPU: identity, posted limits and clocks, faults, telemetry, health, processes, events."""

    model: Annotated[bytes, c_char * 16]
    name: Annotated[bytes, c_char * 96]
    uuid: Annotated[bytes, c_char * 80]
    serial: Annotated[bytes, c_char * 32]
    pci_bus_id: Annotated[bytes, c_char * 32]
    vbios_version: Annotated[bytes, c_char * 32]
    index: U32
    host_index: U32
    minor_number: U32
    pci_domain: U32
    pci_bus: U32
    pci_device: U32
    pci_device_id: U32
    pci_subsystem_id: U32
    architecture: U32
    brand: U32
    compute_major: U32
    compute_minor: U32
    is_average_windowed: U32
    link_count: U32
    graphics_clock_max_mhz: U32
    graphics_clock_min_mhz: U32
    graphics_clock_step_mhz: U32
    memory_clock_max_mhz: U32
    default_limit_mw: U32
    min_limit_mw: U32
    max_limit_mw: U32
    slowdown_temperature_c: U32
    shutdown_temperature_c: U32
    memory_max_temperature_c: U32
    memory_total_bytes: U64
    memory_reserved_bytes: U64
    requested_limit_mw: U32
    locked_clock_min_mhz: U32
    locked_clock_max_mhz: U32
    limit_post_count: U32
    clock_post_count: U32
    is_persistent: U32
    limit_posted_at_ns: U64
    clock_posted_at_ns: U64
    out_of_band_limit_mw: U32
    is_lost: U32
    needs_reset: U32
    set_error: U32
    is_set_ignored: U32
    read_error: U32
    hang_calls: U32
    is_power_braked: U32
    is_instant_unsupported: U32
    mig_mode_current: U32
    mig_mode_pending: U32
    ecc_mode_current: U32
    ecc_mode_pending: U32
    recovery_action: U32
    reset_count: U32
    inlet_offset_c: U32
    hung_call_count: U32
    reserved1: U32
    power_true_mw: U64
    power_instant_mw: U64
    power_average_mw: U64
    sensor_read_at_unix_us: U64
    energy_mj: U64
    energy_true_mj: U64
    work_done_us: U64
    event_reasons: U64
    memory_used_bytes: U64
    pcie_sent_bytes: U64
    pcie_received_bytes: U64
    link_sent_bytes: U64
    link_received_bytes: U64
    throttle_power_ns: U64
    throttle_software_thermal_ns: U64
    throttle_hardware_thermal_ns: U64
    throttle_brake_ns: U64
    throttle_thermal_ns: U64
    throttle_sync_boost_ns: U64
    throttle_board_limit_ns: U64
    throttle_low_utilisation_ns: U64
    throttle_reliability_ns: U64
    throttle_application_clocks_ns: U64
    throttle_base_clocks_ns: U64
    applied_limit_mw: U32
    demand_mw: U32
    graphics_clock_mhz: U32
    memory_clock_mhz: U32
    gpu_utilisation_percent: U32
    memory_utilisation_percent: U32
    temperature_mc: I32
    memory_temperature_mc: I32
    performance_state: U32
    reserved2: U32
    ecc_volatile_corrected: U64
    ecc_volatile_uncorrected: U64
    ecc_aggregate_corrected: U64
    ecc_aggregate_uncorrected: U64
    ecc_sram_corrected: U64
    ecc_sram_uncorrected: U64
    pcie_replay_count: U64
    remapped_corrected: U32
    remapped_uncorrected: U32
    remap_pending: U32
    remap_failed: U32
    remap_banks_max: U32
    remap_banks_high: U32
    remap_banks_partial: U32
    remap_banks_low: U32
    remap_banks_none: U32
    reserved3: U32
    link_is_down: Annotated[Array[c_uint8], c_uint8 * 24]
    link_crc_errors: Annotated[Array[c_uint64], c_uint64 * LINKS]
    link_replay_errors: Annotated[Array[c_uint64], c_uint64 * LINKS]
    link_recovery_errors: Annotated[Array[c_uint64], c_uint64 * LINKS]
    processes: Annotated[Array[PlantProcess], PlantProcess * PROCESS_SLOTS]
    event_count: U64
    events: Annotated[Array[PlantEvent], PlantEvent * EVENT_RING]
    reserved: Annotated[Array[c_uint8], c_uint8 * 1256]
