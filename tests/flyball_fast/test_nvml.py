"""The NVML binding and the sweep: both twins, one suite, on the simulated library."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import flyball_simgpu
from flyball_fast import _nvml_py, _sweep_py
from flyball_fast.errors import (
    DeviceError,
    DeviceLost,
    DriverNotLoaded,
    LibraryNotFound,
    NoPermission,
    NotSupported,
)
from flyball_fast.nvml_records import ENERGY, POWER_INSTANT, SweepPlan
from flyball_fast.ring import Ring
from flyball_simgpu import plant_state

_nvml_c = pytest.importorskip("flyball_fast._nvml_c")
_sweep_c = pytest.importorskip("flyball_fast._sweep_c")
LIBRARY = Path(flyball_simgpu.__file__).parent / "lib" / "libnvidia-ml.so.1"
Nvml = _nvml_py.Nvml


class Twin(NamedTuple):
    nvml: ModuleType
    sweep: ModuleType


@pytest.fixture(params=[Twin(_nvml_py, _sweep_py), Twin(_nvml_c, _sweep_c)], ids=["py", "c"])
def twin(request: pytest.FixtureRequest) -> Twin:
    pair: Twin = request.param
    return pair


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[plant_state.PlantFile]:
    monkeypatch.setenv("FLYBALL_SIM_PLANT", str(tmp_path / "plant"))
    monkeypatch.setenv("FLYBALL_SIM_HOST", "host-00")
    with plant_state.create(tmp_path / "plant", hosts=1, gpus=2) as made:
        yield made


@pytest.fixture
def nvml(twin: Twin, plant: plant_state.PlantFile) -> Iterator[_nvml_py.Nvml]:
    opened: _nvml_py.Nvml = twin.nvml.Nvml(str(LIBRARY))
    opened.open()
    yield opened
    opened.close()


def wait_until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.002)


class Sweeping:
    """A sweep in its own thread."""

    def __init__(self, twin: Twin, nvml: _nvml_py.Nvml, plan: SweepPlan) -> None:
        self.ring = Ring.create(nvml.gpu_count, capacity=256)
        self.stop = bytearray(1)
        self._thread = threading.Thread(target=twin.sweep.run, args=(nvml, self.ring, plan, self.stop))

    def __enter__(self) -> Ring:
        self._thread.start()
        return self.ring

    def __exit__(self, *unused: object) -> None:
        self.stop[0] = 1
        self._thread.join()
        self.ring.close()


def compile_library(folder: Path, source: str) -> str:
    (folder / "stub.c").write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libstub.so", folder / "stub.c"], check=True)
    return str(folder / "libstub.so")


def test_a_gpu_is_described_with_its_names_and_bounds(nvml: _nvml_py.Nvml, plant: plant_state.PlantFile) -> None:
    gpu = nvml.describe(1)

    assert gpu.uuid == plant.gpu("host-00", 1).uuid.decode()
    assert gpu.name == "NVIDIA H100 80GB HBM3"
    assert (gpu.min_limit_mw, gpu.max_limit_mw, gpu.default_limit_mw) == (200_000, 700_000, 700_000)
    assert gpu.max_sm_clock_mhz == 1980
    assert gpu.persistence is True
    assert gpu.pci == plant.gpu("host-00", 1).pci_bus_id.decode().lower()


def test_versions_and_symbols_are_told(nvml: _nvml_py.Nvml) -> None:
    assert nvml.gpu_count == 2
    assert nvml.driver_version() == "580.95.05"
    assert nvml.library_version() == "13.580.95.05"
    assert nvml.symbols["nvmlDeviceGetFieldValues"]


def test_fields_come_in_one_call_and_an_unknown_one_has_no_value(
    nvml: _nvml_py.Nvml, plant: plant_state.PlantFile
) -> None:
    plant.gpu("host-00", 0).power_instant_mw = 123_456

    power, energy, unknown = nvml.read_fields(0, [POWER_INSTANT, ENERGY, 99_999])

    assert (power.field, power.value, power.code) == (POWER_INSTANT, 123_456, 0)
    assert energy.value == 0
    assert unknown.value is None
    assert unknown.code != 0


def test_a_limit_written_reads_back(nvml: _nvml_py.Nvml) -> None:
    nvml.set_limit_mw(0, 450_000)

    assert nvml.requested_limit_mw(0) == 450_000
    assert nvml.enforced_limit_mw(0) == 450_000
    assert nvml.requested_limit_mw(1) == 700_000


def test_clocks_lock_and_go_again(nvml: _nvml_py.Nvml, plant: plant_state.PlantFile) -> None:
    nvml.set_locked_clocks_mhz(0, 600, 1200)
    assert plant.gpu("host-00", 0).locked_clock_max_mhz == 1200

    nvml.reset_locked_clocks(0)
    assert plant.gpu("host-00", 0).locked_clock_max_mhz == 0


def test_a_limit_outside_the_bounds_is_refused_and_named(nvml: _nvml_py.Nvml) -> None:
    with pytest.raises(DeviceError, match=r"gpu 0: .*900000 mW.*INVALID_ARGUMENT"):
        nvml.set_limit_mw(0, 900_000)


def test_no_permission_and_a_lost_gpu_are_errors_of_their_own(
    nvml: _nvml_py.Nvml, plant: plant_state.PlantFile
) -> None:
    plant.gpu("host-00", 0).set_error = 4
    with pytest.raises(NoPermission, match="CAP_SYS_ADMIN"):
        nvml.set_limit_mw(0, 450_000)

    plant.gpu("host-00", 1).is_lost = 1
    with pytest.raises(DeviceLost, match="gpu 1"):
        nvml.set_limit_mw(1, 450_000)


def test_a_gpu_that_is_not_there_is_an_index_error(nvml: _nvml_py.Nvml) -> None:
    with pytest.raises(IndexError, match=r"expected 0\.\.1"):
        nvml.describe(2)


def test_no_library_says_what_was_tried(twin: Twin) -> None:
    with pytest.raises(LibraryNotFound, match=r"tried /nowhere/libnvidia-ml.so.1 .*FLYBALL_NVML_LIBRARY"):
        twin.nvml.Nvml("/nowhere/libnvidia-ml.so.1").open()


def test_another_library_is_told_apart(twin: Twin, tmp_path: Path) -> None:
    path = compile_library(tmp_path, "int unrelated(void) { return 0; }")

    with pytest.raises(LibraryNotFound, match="is no NVML library: it lacks nvmlInitWithFlags"):
        twin.nvml.Nvml(path).open()


def test_a_library_without_driver_is_error_9_by_name(twin: Twin, plant: plant_state.PlantFile) -> None:
    plant.host("host-00").is_driver_loaded = 0

    with pytest.raises(DriverNotLoaded, match="error 9 DRIVER_NOT_LOADED") as raised:
        twin.nvml.Nvml(str(LIBRARY)).open()
    assert raised.value.code == 9


def test_a_library_with_few_symbols_serves_what_it_has(twin: Twin, tmp_path: Path) -> None:
    path = compile_library(
        tmp_path,
        "int nvmlInit_v2(void) { return 0; } int nvmlShutdown(void) { return 0; }"
        "int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return 0; }"
        "int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = (void *)1; return 0; }"
        "int nvmlDeviceGetPowerUsage(void *d, unsigned *mw) { *mw = 55000; return 0; }"
        "int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *mj) { *mj = 77; return 0; }",
    )
    nvml = twin.nvml.Nvml(path)
    nvml.open()

    assert not nvml.symbols["nvmlDeviceSetPowerManagementLimit"]
    assert nvml.describe(0).max_limit_mw is None
    assert nvml.temperature_c(0) is None
    with pytest.raises(NotSupported, match="lacks it"):
        nvml.set_limit_mw(0, 1)
    with Sweeping(twin, nvml, SweepPlan()) as ring:
        wait_until(lambda: ring.head(0) > 3)
        row = ring.latest(0)
    assert row is not None
    assert (row.power_instant_mw, row.power_average_mw, row.energy_mj, row.temperature_c) == (None, 55_000, 77, None)
    nvml.close()


def test_an_event_arrives_with_its_gpu_and_code(nvml: _nvml_py.Nvml, plant: plant_state.PlantFile) -> None:
    assert set(nvml.open_events([0, 1])) == {0, 1}
    gpu = plant.gpu("host-00", 1)
    gpu.events[0].type, gpu.events[0].data, gpu.events[0].sequence = 8, 79, 1
    gpu.event_count = 1

    event = nvml.wait_event(5000)

    assert event == (1, 8, 79)
    assert nvml.wait_event(1) is None


def test_the_sweep_fills_rows_and_slow_values(twin: Twin, nvml: _nvml_py.Nvml, plant: plant_state.PlantFile) -> None:
    gpu = plant.gpu("host-00", 1)
    gpu.power_instant_mw, gpu.power_average_mw, gpu.energy_mj = 321_000, 320_000, 5_000
    gpu.throttle_power_ns, gpu.temperature_mc = 42, 61_000
    gpu.graphics_clock_mhz, gpu.event_reasons = 1_500, 4

    with Sweeping(twin, nvml, SweepPlan(rates_hz=(100, 50, 10, 10))) as ring:
        wait_until(lambda: ring.head(1) > 10 and ring.slow(1)["ecc_corrected"] is not None)
        row, slow, status = ring.latest(1), ring.slow(1), ring.status()

    assert row is not None
    assert (row.power_instant_mw, row.power_average_mw, row.energy_mj) == (321_000, 320_000, 5_000)
    assert (row.power_cap_ns, row.temperature_c, row.sm_clock_mhz, row.reasons) == (42, 61, 1_500, 4)
    assert (slow["limit_enforced_mw"], slow["limit_requested_mw"]) == (700_000, 700_000)
    assert slow["memory_total_bytes"] == gpu.memory_total_bytes
    assert status.ticks[0] >= 10
    assert sum(status.lateness) >= status.ticks[0]
    assert status.calls > 20


def test_a_lost_gpu_is_unknown_and_the_other_goes_on_until_it_is_back(
    twin: Twin, nvml: _nvml_py.Nvml, plant: plant_state.PlantFile
) -> None:
    with Sweeping(twin, nvml, SweepPlan(rates_hz=(100, 50, 20, 20))) as ring:
        plant.gpu("host-00", 0).is_lost = 1
        wait_until(lambda: ring.state(0) == "lost")
        last = ring.head(0)
        wait_until(lambda: ring.head(0) > last)
        row = ring.latest(0)
        assert row is not None
        assert row._replace(t_mono_ns=None) == (None,) * 13
        before = ring.head(1)
        wait_until(lambda: ring.head(1) > before + 3)
        assert ring.state(1) == "ok"

        plant.gpu("host-00", 0).is_lost = 0
        wait_until(lambda: (row := ring.latest(0)) is not None and row.power_instant_mw is not None)


def test_a_gpu_left_out_is_never_called(twin: Twin, nvml: _nvml_py.Nvml, plant: plant_state.PlantFile) -> None:
    with Sweeping(twin, nvml, SweepPlan(rates_hz=(100, 50, 20, 20), left_out=frozenset({0}))) as ring:
        wait_until(lambda: ring.head(0) > 5)
        row = ring.latest(0)
        assert ring.state(0) == "left_out"
        assert ring.gpu_word(0, "errors") == 0

    assert row is not None
    assert row.power_instant_mw is None


def test_a_call_that_hangs_is_named_by_the_heartbeat(
    twin: Twin, nvml: _nvml_py.Nvml, plant: plant_state.PlantFile
) -> None:
    with Sweeping(twin, nvml, SweepPlan(rates_hz=(100, 50, 20, 20))) as ring:
        wait_until(lambda: ring.head(0) > 2)
        plant.gpu("host-00", 1).hang_calls = 1 << 2  # field values
        wait_until(lambda: plant.gpu("host-00", 1).hung_call_count == 1)

        assert ring.heartbeat()[:2] == ("field_values", 1)
        plant.gpu("host-00", 1).hang_calls = 0


def test_the_fast_tier_gives_way_to_the_budget_and_says_so(
    twin: Twin, nvml: _nvml_py.Nvml, plant: plant_state.PlantFile
) -> None:
    plant.host("host-00").call_cost_us[2] = 500
    plan = SweepPlan(rates_hz=(100, 10, 1, 1), window_s=0.1, lock_budget_ratio=0.02)

    with Sweeping(twin, nvml, plan) as ring:
        wait_until(lambda: ring.status().budget_steps >= 2)
        status = ring.status()

    assert status.period_ns[0] > 10_000_000
    assert status.period_ns[2] == 1_000_000_000


def test_a_ring_too_small_is_refused(twin: Twin, nvml: _nvml_py.Nvml) -> None:
    with Ring.create(1) as ring, pytest.raises(ValueError, match="a ring of 1 GPUs for 2"):
        twin.sweep.run(nvml, ring, SweepPlan(), bytearray(1))


@pytest.mark.parametrize("rates", [(0, 1, 1, 1), (20, 10, 1, 2000)])
def test_an_impossible_rate_is_refused(rates: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"expected 0\.001\.\.1000"):
        SweepPlan(rates_hz=rates)
