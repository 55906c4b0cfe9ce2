import subprocess
from ctypes import LittleEndianStructure, sizeof
from pathlib import Path

import pytest

from flyball_simgpu import plant_layout
from flyball_simgpu.plant_layout import PlantEvent, PlantGpu, PlantHeader, PlantHost, PlantProcess
from flyball_simgpu.plant_state import PlantFile, PlantFileError, create, write_gate

RECORDS = {
    "FbHeader": PlantHeader,
    "FbHost": PlantHost,
    "FbGpu": PlantGpu,
    "FbEvent": PlantEvent,
    "FbProcess": PlantProcess,
}


def python_layout(name: str, record: type[LittleEndianStructure]) -> list[str]:
    members = [(field[0], getattr(record, field[0])) for field in record._fields_]
    return [f"{name} {sizeof(record)}"] + [f"{name}.{member} {at.offset} {at.size}" for member, at in members]


def c_layout(folder: Path) -> list[str]:
    lines = ['#include "plant_state.h"', "#include <stdio.h>", "int main(void) {"]
    for name, record in RECORDS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        for field in record._fields_:
            member = f"{name}.{field[0]}"
            size = f"sizeof((({name} *)0)->{field[0]})"
            lines.append(f'printf("{member} %zu %zu\\n", offsetof({name}, {field[0]}), {size});')
    source = folder / "layout.c"
    source.write_text("\n".join([*lines, "return 0; }"]))
    program = folder / "layout"
    include = Path(plant_layout.__file__).parent
    subprocess.run(["gcc", f"-I{include}", str(source), "-o", str(program)], check=True)
    return subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.splitlines()


def test_the_c_and_python_layouts_agree_field_by_field(tmp_path: Path) -> None:
    expected = [line for name, record in RECORDS.items() for line in python_layout(name, record)]

    assert expected == c_layout(tmp_path)


def test_the_fields_leave_no_hole_so_none_is_missing() -> None:
    for record in RECORDS.values():
        sizes = sum(getattr(record, field[0]).size for field in record._fields_)
        assert sizes == sizeof(record)


def test_a_new_file_shows_idle_gpus_at_their_default_limits_behind_closed_gates(plant_file: PlantFile) -> None:
    gpu = plant_file.gpu("host-b", 1)

    assert (gpu.requested_limit_mw, gpu.default_limit_mw) == (700_000, 700_000)
    assert gpu.power_true_mw == 72_000
    assert [host.is_gate_open for host in plant_file.hosts] == [0, 0]
    assert len({gpu.uuid for gpu in plant_file.gpus}) == 4


def test_the_same_seed_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        create(tmp_path / name, hosts=3, gpus=4, model="a100", seed=7).close()

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_gate_written_by_one_process_is_seen_by_another(plant_file: PlantFile) -> None:
    write_gate(plant_file.path, "host-b", is_open=True)

    assert [host.is_gate_open for host in plant_file.hosts] == [0, 1]


def test_unknown_names_say_what_was_expected(plant_file: PlantFile) -> None:
    with pytest.raises(PlantFileError, match=r"'host-z': not in .* expected one of host-a, host-b"):
        plant_file.host("host-z")
    with pytest.raises(PlantFileError, match=r"gpu 2 of host 'host-a': outside 0\.\.1"):
        plant_file.gpu("host-a", 2)


def test_impossible_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlantFileError, match="each named once"):
        create(tmp_path / "plant", hosts=["a", "a"])
    with pytest.raises(PlantFileError, match=r"gpus 65: outside 1\.\.64"):
        create(tmp_path / "plant", hosts=1, gpus=65)
    with pytest.raises(ValueError, match="'h101': not known, expected one of a100"):
        create(tmp_path / "plant", hosts=1, model="h101")


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"FLYPLANT")
    (tmp_path / "other").write_bytes(bytes(8192))

    with pytest.raises(PlantFileError, match="too short"):
        PlantFile(tmp_path / "short")
    with pytest.raises(PlantFileError, match="not a plant file of layout 1"):
        PlantFile(tmp_path / "other")
