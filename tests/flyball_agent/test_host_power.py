"""Powercap zones laid out as the kernel has them on a two-socket server."""

from pathlib import Path

import pytest

from flyball_agent.host_power import HostPowerReader


def zone(root: Path, folder: str, name: str, energy_uj: int, range_uj: int = 262_143_328_850) -> Path:
    path = root / folder
    path.mkdir(exist_ok=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    return path / "energy_uj"


def test_power_is_the_growth_of_each_counter_over_the_time(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    memory = zone(tmp_path, "intel-rapl:0:0", "dram", 500_000)
    reader = HostPowerReader(tmp_path)

    assert [(one.zone, one.power_w) for one in reader.read(10.0)] == [("package-0", None), ("package-0/dram", None)]
    package.write_text("301000000")
    memory.write_text("40500000")
    found = {one.zone: one for one in reader.read(12.0)}
    assert found["package-0"].power_w == pytest.approx(150.0)
    assert found["package-0/dram"].power_w == pytest.approx(20.0)
    assert found["package-0"].energy_j == pytest.approx(300.0)


def test_a_counter_that_starts_anew_loses_nothing(tmp_path: Path) -> None:
    energy = zone(tmp_path, "intel-rapl:0", "package-0", 900, range_uj=1000)
    reader = HostPowerReader(tmp_path)
    reader.read(0.0)
    energy.write_text("100")

    assert reader.read(1.0)[0].power_w == pytest.approx(200e-6)


def test_what_may_not_be_read_is_absent(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (tmp_path / "intel-rapl:1").mkdir()

    assert [one.zone for one in HostPowerReader(tmp_path).read(0.0)] == ["package-0"]
    assert HostPowerReader(tmp_path / "none").read(0.0) == ()
