"""What nvidia-ml-py, unchanged and in its own process, meets in the simulated library."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from flyball_simgpu import control
from flyball_simgpu.plant_state import PlantFile

UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION = 1, 2, 3, 4
NOT_FOUND, DRIVER_NOT_LOADED, TIMEOUT, GPU_IS_LOST, RESET_REQUIRED = 6, 9, 10, 15, 16

Start = Callable[..., Any]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline, "condition not met within 10 s"
        time.sleep(0.002)


def test_it_shows_the_gpus_of_its_own_host_only(start_nvml: Start, plant_file: PlantFile) -> None:
    nvml = start_nvml("host-b")
    nvml("nvmlInit()")

    assert nvml("nvmlDeviceGetCount()") == 2
    assert nvml("nvmlDeviceGetUUID(gpu(1))") == plant_file.gpu("host-b", 1).uuid.decode()
    assert nvml("nvmlDeviceGetName(gpu(0))") == "NVIDIA H100 80GB HBM3"
    assert nvml("nvmlSystemGetDriverVersion()") == "580.95.05"
    assert nvml("nvmlSystemGetCudaDriverVersion()") == 13000
    assert nvml("nvmlDeviceGetCudaComputeCapability(gpu())") == [9, 0]


@pytest.mark.parametrize(
    "handle",
    [
        "nvmlDeviceGetHandleByUUID(nvmlDeviceGetUUID(gpu(1)))",
        "nvmlDeviceGetHandleByUUIDV(nvmlDeviceGetUUID(gpu(1)).encode(), 1)",
        "nvmlDeviceGetHandleBySerial(nvmlDeviceGetSerial(gpu(1)))",
        "nvmlDeviceGetHandleByPciBusId(nvmlDeviceGetPciInfo(gpu(1)).busId)",
        "nvmlDeviceGetHandleByPciBusId(nvmlDeviceGetPciInfo(gpu(1)).busIdLegacy)",
    ],
)
def test_a_gpu_is_found_by_each_of_its_names(nvml: Any, handle: str) -> None:
    assert nvml(f"nvmlDeviceGetIndex({handle})") == 1
    assert nvml(f"nvmlDeviceGetMinorNumber({handle})") == 1


def test_a_name_that_is_not_there_is_not_found(nvml: Any) -> None:
    assert nvml.code("nvmlDeviceGetHandleByUUID('GPU-none')") == NOT_FOUND
    assert nvml.code("gpu(2)") == INVALID_ARGUMENT


def test_field_values_carry_their_own_codes_and_the_sensor_time(nvml: Any, plant_file: PlantFile) -> None:
    gpu = plant_file.gpu("host-a", 0)
    gpu.power_instant_mw, gpu.power_average_mw, gpu.energy_mj = 512_000, 480_000, 2**40
    gpu.sensor_read_at_unix_us, gpu.throttle_brake_ns, gpu.memory_temperature_mc = 1_700_000_000_000_000, 7, 61_900

    values = nvml("nvmlDeviceGetFieldValues(gpu(), [186, 185, 83, 271, 82, (186, 1), 9999])")

    assert [value["value"] & 0xFFFFFFFFFF for value in values[:5]] == [512_000, 480_000, 0, 7, 61]
    assert values[2]["value"] == 2**40
    assert [value["nvmlReturn"] for value in values] == [0, 0, 0, 0, 0, NOT_SUPPORTED, NOT_SUPPORTED]
    assert [value["valueType"] for value in values[:4]] == [1, 1, 3, 3]
    assert values[0]["timestamp"] == 1_700_000_000_000_000
    assert values[3]["timestamp"] > 1_700_000_000_000_000


def test_limits_are_answered_by_every_call_that_knows_them(nvml: Any, plant_file: PlantFile) -> None:
    nvml("nvmlDeviceSetPowerManagementLimit(gpu(), 400000)")
    control.set_out_of_band_limit(plant_file, "host-a", 0, 350.0)

    values = nvml("nvmlDeviceGetFieldValues(gpu(), [187, 188, 189, 190, 192])")

    assert [value["value"] for value in values] == [200_000, 700_000, 700_000, 350_000, 400_000]
    assert nvml("nvmlDeviceGetPowerManagementLimit(gpu())") == 400_000
    assert nvml("nvmlDeviceGetEnforcedPowerLimit(gpu())") == 350_000
    assert nvml("nvmlDeviceGetPowerManagementDefaultLimit(gpu())") == 700_000
    assert nvml("nvmlDeviceGetPowerManagementLimitConstraints(gpu())") == [200_000, 700_000]


def test_a_posted_limit_reaches_the_plant_file_with_its_time(nvml: Any, plant_file: PlantFile) -> None:
    before = time.monotonic_ns()

    nvml("nvmlDeviceSetPowerManagementLimit_v2(gpu(1), 0, 333000)")

    gpu = plant_file.gpu("host-a", 1)
    assert (gpu.requested_limit_mw, gpu.limit_post_count) == (333_000, 1)
    assert gpu.limit_posted_at_ns > before


@pytest.mark.parametrize("limit_mw", [0, 199_999, 700_001])
def test_a_limit_outside_the_bounds_is_refused_and_changes_nothing(nvml: Any, limit_mw: int) -> None:
    assert nvml.code(f"nvmlDeviceSetPowerManagementLimit(gpu(), {limit_mw})") == INVALID_ARGUMENT
    assert nvml("nvmlDeviceGetPowerManagementLimit(gpu())") == 700_000


def test_without_permission_every_set_call_is_refused_and_reads_go_on(nvml: Any, plant_file: PlantFile) -> None:
    control.refuse_sets(plant_file, "host-a", 0)

    assert nvml.code("nvmlDeviceSetPowerManagementLimit(gpu(), 400000)") == NO_PERMISSION
    assert nvml.code("nvmlDeviceSetGpuLockedClocks(gpu(), 210, 1200)") == NO_PERMISSION
    assert nvml.code("nvmlDeviceSetPersistenceMode(gpu(), 0)") == NO_PERMISSION
    assert nvml.code("nvmlDeviceGetPowerUsage(gpu())") == 0


def test_an_ignored_set_succeeds_and_only_the_read_back_shows_it(nvml: Any, plant_file: PlantFile) -> None:
    control.ignore_sets(plant_file, "host-a", 0)

    assert nvml.code("nvmlDeviceSetPowerManagementLimit(gpu(), 400000)") == 0
    assert nvml("nvmlDeviceGetPowerManagementLimit(gpu())") == 700_000


def test_locked_clocks_are_posted_and_reset(nvml: Any, plant_file: PlantFile) -> None:
    gpu = plant_file.gpu("host-a", 0)
    nvml("nvmlDeviceSetGpuLockedClocks(gpu(), 210, 1200)")
    assert (gpu.locked_clock_min_mhz, gpu.locked_clock_max_mhz) == (210, 1200)

    nvml("nvmlDeviceResetGpuLockedClocks(gpu())")

    assert (gpu.locked_clock_min_mhz, gpu.locked_clock_max_mhz) == (0, 0)
    assert nvml.code("nvmlDeviceSetGpuLockedClocks(gpu(), 210, 3000)") == INVALID_ARGUMENT


def test_a_lost_gpu_answers_lost_and_its_neighbour_goes_on(nvml: Any, plant_file: PlantFile) -> None:
    nvml("keep.__setitem__('held', gpu(0))")
    control.lose_gpu(plant_file, "host-a", 0)

    assert nvml.code("nvmlDeviceGetFieldValues(held, [186])") == GPU_IS_LOST
    assert nvml.code("gpu(0)") == GPU_IS_LOST
    assert nvml.code("nvmlDeviceGetPowerUsage(gpu(1))") == 0


def test_a_reset_puts_the_limit_back_and_is_refused_while_the_driver_is_open(nvml: Any, plant_file: PlantFile) -> None:
    nvml("nvmlDeviceSetPowerManagementLimit(gpu(), 400000)")
    control.require_reset(plant_file, "host-a", 0)
    assert nvml.code("nvmlDeviceGetPowerUsage(gpu())") == RESET_REQUIRED
    with pytest.raises(control.DriverInUseError, match="gpu 0 of 'host-a': in use by another client"):
        control.reset_gpu(plant_file, "host-a", 0)

    nvml("nvmlShutdown()")
    control.reset_gpu(plant_file, "host-a", 0)
    nvml("nvmlInit()")

    assert nvml("nvmlDeviceGetPowerManagementLimit(gpu())") == 700_000


def test_a_hanging_call_returns_only_when_it_is_released(nvml: Any, plant_file: PlantFile) -> None:
    control.hang_call(plant_file, "host-a", 1, "fields")
    nvml.send("nvmlDeviceGetFieldValues(gpu(1), [186])[0].nvmlReturn")
    gpu = plant_file.gpu("host-a", 1)
    wait_until(lambda: gpu.hung_call_count == 1)

    control.release_calls(plant_file, "host-a")

    assert nvml.receive()["value"] == 0
    assert gpu.hung_call_count == 0


def test_other_calls_go_on_while_one_kind_hangs(start_nvml: Start, plant_file: PlantFile) -> None:
    control.hang_call(plant_file, "host-a", 0, "limit_set")
    nvml = start_nvml()
    nvml("nvmlInit()")

    assert nvml.code("nvmlDeviceGetFieldValues(gpu(0), [186])") == 0


def test_no_plant_file_or_an_unloaded_driver_is_error_9(start_nvml: Start, plant_file: PlantFile) -> None:
    assert start_nvml(FLYBALL_SIM_PLANT="/none").code("nvmlInit()") == DRIVER_NOT_LOADED
    assert start_nvml("host-z").code("nvmlInit()") == DRIVER_NOT_LOADED
    nvml = start_nvml()
    assert nvml("nvmlInit()") is None
    nvml("nvmlShutdown()")

    control.unload_driver(plant_file, "host-a")
    assert nvml.code("nvmlInit()") == DRIVER_NOT_LOADED

    control.load_driver(plant_file, "host-a")
    assert nvml.code("nvmlInit()") == 0


def test_calls_before_init_are_uninitialised(start_nvml: Start) -> None:
    nvml = start_nvml()
    nvml("nvmlInit()")
    nvml("nvmlShutdown()")

    assert nvml.code("nvmlDeviceGetCount()") == UNINITIALIZED


def test_a_driver_in_use_is_not_unloaded(nvml: Any, plant_file: PlantFile) -> None:
    assert control.is_driver_open(plant_file, "host-a")
    assert not control.is_driver_open(plant_file, "host-b")
    with pytest.raises(control.DriverInUseError):
        control.unload_driver(plant_file, "host-a")


def test_shutdown_leaves_no_descriptor_of_the_driver_open(nvml: Any, plant_file: PlantFile) -> None:
    listing = "sum(__import__('os').path.samefile(f, %r) for f in __import__('glob').glob('/proc/self/fd/*')"
    listing = listing % str(plant_file.path) + " if __import__('os').path.exists(f))"
    assert nvml(listing) == 1

    nvml("nvmlShutdown()")

    assert nvml(listing) == 0


def test_events_reach_the_sets_that_asked_for_them_with_their_data(nvml: Any, plant_file: PlantFile) -> None:
    control.inject_xid(plant_file, "host-a", 0, 13)
    nvml("keep.__setitem__('events', nvmlEventSetCreate())")
    nvml("[nvmlDeviceRegisterEvents(gpu(i), nvmlEventTypeXidCriticalError, events) for i in (0, 1)]")
    control.inject_event(plant_file, "host-a", 1, control.EVENT_POWER_SOURCE)
    control.inject_xid(plant_file, "host-a", 1, 31)
    control.inject_xid(plant_file, "host-a", 1, 31)

    for _ in range(2):
        event = nvml("nvmlEventSetWait_v2(events, 1000)")
        assert (event["eventType"], event["eventData"]) == (8, 31)
    assert nvml.code("nvmlEventSetWait_v2(events, 0)") == TIMEOUT


def test_a_waiting_set_hears_of_an_event_pushed_later(nvml: Any, plant_file: PlantFile) -> None:
    nvml("keep.__setitem__('events', nvmlEventSetCreate())")
    nvml("nvmlDeviceRegisterEvents(gpu(0), nvmlEventTypeXidCriticalError, events)")
    nvml.send("nvmlEventSetWait_v2(events, 20000)")

    control.inject_xid(plant_file, "host-a", 0, 79)

    assert nvml.receive()["value"]["eventData"] == 79


def test_a_lost_gpu_ends_the_wait_after_its_events(nvml: Any, plant_file: PlantFile) -> None:
    nvml("keep.__setitem__('events', nvmlEventSetCreate())")
    nvml("nvmlDeviceRegisterEvents(gpu(0), nvmlEventTypeXidCriticalError, events)")
    control.lose_gpu(plant_file, "host-a", 0)

    assert nvml("nvmlEventSetWait_v2(events, 20000)")["eventData"] == 79
    assert nvml.code("nvmlEventSetWait_v2(events, 20000)") == GPU_IS_LOST


def test_system_events_announce_unbind_and_bind(nvml: Any, plant_file: PlantFile) -> None:
    nvml("keep.__setitem__('system', nvmlSystemEventSetCreate(nvmlSystemEventSetCreateRequest_v1))")
    nvml("nvmlSystemRegisterEvents(nvmlSystemRegisterEventRequest_v1, 3, system)")
    wait = "nvmlSystemEventSetWait(nvmlSystemEventSetWaitRequest_v1, system, %d, (c_nvmlSystemEventData_v1_t * 4)(), 4)"
    control.announce_unbind(plant_file, "host-a")

    assert nvml(f"[e['eventType'] for e in {wait % 5000}]") == [1]

    control.unload_driver(plant_file, "host-a", is_forced=True)
    assert nvml.code("nvmlDeviceGetCount()") == DRIVER_NOT_LOADED
    control.load_driver(plant_file, "host-a")
    assert nvml(f"[e['eventType'] for e in {wait % 5000}]") == [2]


def test_a_call_cost_is_spent_and_the_library_counts_its_own_cpu_time(nvml: Any, plant_file: PlantFile) -> None:
    host = plant_file.host("host-a")
    nvml("keep.__setitem__('held', gpu(0))")
    control.set_call_cost(plant_file, "host-a", 2000, "fields")
    before_ns, before_calls = host.library_cpu_ns, host.library_call_count

    nvml("[nvmlDeviceGetFieldValues(held, [186, 83])[0].nvmlReturn for _ in range(5)]")

    assert host.library_call_count - before_calls == 5
    assert host.library_cpu_ns - before_ns > 1_000_000  # busy: at least part of 10 ms is CPU time on a loaded machine
    latency_us = nvml("nvmlDeviceGetFieldValues(held, [186, 83])[0].latencyUsec")
    assert latency_us >= 1000  # 2 ms shared by two fields


def test_a_slept_cost_uses_no_cpu(nvml: Any, plant_file: PlantFile) -> None:
    nvml("keep.__setitem__('held', gpu(0))")
    nvml("keep.__setitem__('spent', library().flyball_sim_thread_cpu_ns)")
    nvml("setattr(spent, 'restype', ctypes.c_uint64)")
    control.set_call_cost(plant_file, "host-a", 20_000, "power", is_slept=True)
    before_ns = nvml("spent()")

    nvml("nvmlDeviceGetPowerUsage(held)")

    assert 0 < nvml("spent()") - before_ns < 10_000_000


def test_fewer_gpus_shown_are_fewer_counted(nvml: Any, plant_file: PlantFile) -> None:
    control.show_gpus(plant_file, "host-a", 1)

    assert nvml("nvmlDeviceGetCount()") == 1
    assert nvml.code("gpu(1)") == INVALID_ARGUMENT


def test_mig_takes_utilisation_away(nvml: Any, plant_file: PlantFile) -> None:
    control.set_mig(plant_file, "host-a", 0, is_on=True)

    assert nvml("nvmlDeviceGetMigMode(gpu())") == [1, 1]
    assert nvml.code("nvmlDeviceGetUtilizationRates(gpu())") == NOT_SUPPORTED


def test_the_remaining_reads_answer(nvml: Any, plant_file: PlantFile) -> None:
    gpu = plant_file.gpu("host-a", 0)
    gpu.temperature_mc, gpu.gpu_utilisation_percent, gpu.event_reasons, gpu.graphics_clock_mhz = 56_000, 97, 4, 1410
    control.set_process(plant_file, "host-a", 0, 3, pid=4711, used_bytes=5)

    assert nvml("nvmlDeviceGetTemperature(gpu(), 0)") == 56
    assert nvml("nvmlDeviceGetTemperatureV(gpu(), 0)") == 56
    assert nvml("nvmlDeviceGetMarginTemperature(gpu())") == 31
    assert nvml("nvmlDeviceGetTemperatureThreshold(gpu(), 1)") == 87
    assert nvml("nvmlDeviceGetUtilizationRates(gpu())")["gpu"] == 97
    assert nvml("nvmlDeviceGetClockInfo(gpu(), NVML_CLOCK_SM)") == 1410
    assert nvml("nvmlDeviceGetMaxClockInfo(gpu(), NVML_CLOCK_GRAPHICS)") == 1980
    assert nvml("nvmlDeviceGetCurrentClocksEventReasons(gpu())") == 4
    assert nvml("nvmlDeviceGetCurrentClocksThrottleReasons(gpu())") == 4
    assert nvml("nvmlDeviceGetMemoryInfo(gpu())")["total"] == 80 * 1024**3
    assert nvml("nvmlDeviceGetMemoryInfo(gpu(), nvmlMemory_v2)")["used"] == 0
    assert nvml("nvmlDeviceGetEccMode(gpu())") == [1, 1]
    assert nvml("nvmlDeviceGetPersistenceMode(gpu())") == 1
    assert nvml("nvmlDeviceGetRemappedRows(gpu())") == [0, 0, 0, 0]
    assert nvml("nvmlDeviceGetTotalEccErrors(gpu(), 0, 0)") == 0
    assert nvml("nvmlDeviceGetNvLinkState(gpu(), 17)") == 1
    assert nvml("nvmlDeviceGetSupportedGraphicsClocks(gpu(), 2619)")[:2] == [1980, 1965]
    assert nvml("nvmlDeviceGetViolationStatus(gpu(), 0)")["violationTime"] == 0
    assert nvml("nvmlDeviceGetComputeRunningProcesses(gpu(0))[0].pid") == 4711
    assert nvml("nvmlDeviceGetComputeRunningProcesses(gpu(1))") == []
