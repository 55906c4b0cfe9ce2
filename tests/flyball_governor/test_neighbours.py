"""Neighbours that fight the governor are named with the fix."""

from pathlib import Path

from flyball_governor.device import GpuInfo
from flyball_governor.neighbours import neighbour_notes


def gpu(index: int, *, persistence: bool | None = True) -> GpuInfo:
    return GpuInfo(index, f"GPU-{index}", "H100", "0000:19:00.0", persistence=persistence)


def process(root: Path, pid: int, name: str) -> None:
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True)
    (folder / "comm").write_text(f"{name}\n")


def test_a_host_where_nothing_fights_us_has_no_notes(tmp_path: Path) -> None:
    process(tmp_path, 7, "nv-hostengine")

    assert neighbour_notes([gpu(0), gpu(1, persistence=None)], tmp_path) == {}


def test_persistence_mode_that_is_off_is_named_with_its_command(tmp_path: Path) -> None:
    notes = neighbour_notes([gpu(0), gpu(1, persistence=False)], tmp_path)

    assert "GPUs [1]" in notes["persistence"]
    assert "nvidia-smi -pm 1" in notes["persistence"]


def test_a_second_host_engine_is_named_by_its_process(tmp_path: Path) -> None:
    for pid in (9, 30):
        process(tmp_path, pid, "nv-hostengine")

    assert "[9, 30]" in neighbour_notes([gpu(0)], tmp_path)["host engines"]


def test_a_boot_script_that_sets_limits_is_named_and_a_comment_is_not(tmp_path: Path) -> None:
    units = tmp_path / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    (units / "cap.service").write_text("[Service]\nExecStart=/usr/bin/nvidia-smi  -pl 400\n")
    (units / "other.service").write_text("# nvidia-smi -pl 300 was here\n")

    notes = neighbour_notes([gpu(0)], tmp_path)
    assert "cap.service" in notes["boot script"]
    assert "other.service" not in notes["boot script"]
