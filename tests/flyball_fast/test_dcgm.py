"""The DCGM binding against the simulated library (labelled so: it has not run against a real host engine)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flyball_simgpu
from flyball_fast import dcgm
from flyball_fast.errors import DeviceError, LibraryNotFound
from flyball_simgpu import control, plant_state

_dcgm_c: Any = pytest.importorskip("flyball_fast._dcgm_c")

LIBRARY = str(Path(flyball_simgpu.__file__).parent / "lib" / "libdcgm.so.4")
HOST = "host-00"
FIELDS = [dcgm.POWER_INSTANT_W, dcgm.ENERGY_MJ, dcgm.UTILIZATION_PERCENT]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> plant_state.PlantFile:
    monkeypatch.setenv("FLYBALL_SIM_PLANT", str(tmp_path / "plant"))
    monkeypatch.setenv("FLYBALL_SIM_HOST", HOST)
    return plant_state.create(tmp_path / "plant", hosts=[HOST], gpus=2)


@pytest.fixture
def engine(plant: plant_state.PlantFile) -> Iterator[Any]:
    found = _dcgm_c.Dcgm(LIBRARY)
    found.open()
    yield found
    found.close()


def test_structures_have_the_sizes_of_the_public_headers() -> None:
    assert _dcgm_c.SIZES == {"dcgmConnectV2Params": 16, "dcgmFieldValue_v2": 4128}


def test_watched_fields_are_read_of_every_gpu_in_one_call(engine: Any, plant: plant_state.PlantFile) -> None:
    plant.gpu(HOST, 1).power_instant_mw = 431_500
    engine.watch(FIELDS, 0.1)
    values = {(one.gpu, one.field): one.value for one in engine.latest(engine.gpus(), FIELDS)}

    assert values[1, dcgm.POWER_INSTANT_W] == pytest.approx(431.5)
    assert values[0, dcgm.ENERGY_MJ] == 0
    assert len(values) == 6


def test_blank_values_are_unknown(engine: Any, plant: plant_state.PlantFile) -> None:
    control.lose_gpu(plant, HOST, 0)
    control.set_mig(plant, HOST, 1, is_on=True)
    engine.watch([*FIELDS, 9999], 1.0)
    values = {(one.gpu, one.field): one.value for one in engine.latest([0, 1], [*FIELDS, 9999])}

    assert [values[0, field] for field in FIELDS] == [None, None, None]
    assert values[1, dcgm.UTILIZATION_PERCENT] is None
    assert values[1, dcgm.POWER_INSTANT_W] is not None
    assert values[1, 9999] is None


def test_a_field_that_is_not_watched_is_unknown(engine: Any) -> None:
    engine.watch([dcgm.ENERGY_MJ], 1.0)
    reading = engine.latest([0], [dcgm.TEMPERATURE_C])[0]

    assert (reading.value, dcgm.NAMES[reading.status]) == (None, "NOT_WATCHED")


def test_a_lost_connection_is_an_error_that_says_so(engine: Any, plant: plant_state.PlantFile) -> None:
    control.unload_driver(plant, HOST, is_forced=True)

    with pytest.raises(DeviceError, match="CONNECTION_NOT_VALID"):
        engine.latest([0], FIELDS)


def test_without_an_engine_or_a_library_the_error_names_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLYBALL_SIM_PLANT", raising=False)
    with pytest.raises(DeviceError, match="no host engine answers"):
        _dcgm_c.Dcgm(LIBRARY).open("127.0.0.1:5555")
    with pytest.raises(LibraryNotFound, match="none-such"):
        _dcgm_c.Dcgm("/none-such/libdcgm.so.4").open()


@pytest.mark.parametrize(("fields", "period_s"), [([], 1.0), ([1] * 129, 1.0), ([155], 0.0)])
def test_bad_watches_are_refused_before_the_engine_hears_of_them(
    engine: Any, fields: list[int], period_s: float
) -> None:
    with pytest.raises(ValueError, match="expected"):
        engine.watch(fields, period_s)


@pytest.mark.skipif("FLYBALL_REAL_DCGM" not in os.environ, reason="FLYBALL_REAL_DCGM names no host engine's address")
def test_a_real_host_engine_tells_power() -> None:
    engine = _dcgm_c.Dcgm()
    engine.open(os.environ["FLYBALL_REAL_DCGM"])
    engine.watch([dcgm.POWER_AVERAGE_W], 1.0)

    assert engine.latest(engine.gpus(), [dcgm.POWER_AVERAGE_W])
