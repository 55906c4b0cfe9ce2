import json
import subprocess
import sys
from pathlib import Path

from flyball_simgpu.plant_state import PlantFile, create
from flyball_twin.live_plant import LivePlant, make_live
from flyball_twin.meter import MeterSecond


def advance(live: LivePlant, seconds: float) -> list[MeterSecond]:
    done = []
    for _ in range(round(seconds * 100)):
        done += live.advance(0.01)
    return done


def test_gated_hosts_idle_until_every_gate_is_open_and_the_load_is_released(plant_file: PlantFile) -> None:
    live = make_live(plant_file, seed=1)
    plant_file.write_gate("host-a", is_open=True)
    plant_file.release_load()
    advance(live, 0.5)
    assert all(gpu.power_true_mw < 80_000 for gpu in plant_file.gpus)
    assert plant_file.header.load_started_at_ns == 0

    plant_file.write_gate("host-b", is_open=True)
    advance(live, 0.5)

    assert all(gpu.power_true_mw > 650_000 for gpu in plant_file.gpus)
    assert plant_file.header.load_started_at_ns > 0


def test_a_gate_that_closes_again_idles_its_host_only(plant_file: PlantFile) -> None:
    live = make_live(plant_file, seed=1)
    for host in ("host-a", "host-b"):
        plant_file.write_gate(host, is_open=True)
    plant_file.release_load()
    advance(live, 0.5)

    plant_file.write_gate("host-a", is_open=False)
    advance(live, 0.5)

    assert plant_file.gpu("host-a", 0).power_true_mw < 80_000
    assert plant_file.gpu("host-b", 0).power_true_mw > 650_000


def test_a_posted_limit_is_obeyed_and_shown(tmp_path: Path) -> None:
    with create(tmp_path / "plant", hosts=1, gpus=2, gates_open=True) as file:
        file.release_load()
        live = make_live(file, seed=1)
        file.gpus[0].requested_limit_mw = 300_000
        file.gpus[1].out_of_band_limit_mw = 400_000
        advance(live, 2.5)

        assert abs(file.gpus[0].power_average_mw - 297_600) < 4_000
        assert abs(file.gpus[1].power_average_mw - 396_800) < 5_000
        assert file.gpus[0].event_reasons == 4
        assert file.gpus[0].throttle_power_ns > 2_000_000_000
        assert 500 < file.gpus[0].graphics_clock_mhz < 1500


def test_the_meter_sums_hosts_to_the_site_and_energy_to_power(plant_file: PlantFile) -> None:
    for host in ("host-a", "host-b"):
        plant_file.write_gate(host, is_open=True)
    plant_file.release_load()
    live = make_live(plant_file, seed=1)

    seconds = advance(live, 3.0)

    assert [second.number for second in seconds] == [0, 1, 2]
    assert abs(seconds[2].site_w - seconds[2].host_w.sum()) < 1e-6
    gpu_j = sum(gpu.energy_true_mj for gpu in plant_file.gpus) / 1000.0
    assert abs(sum(second.site_w for second in seconds) - (1.27 * gpu_j + 3 * 180.0 * 4)) < 1.0
    assert plant_file.header.seconds_observed == 3
    assert plant_file.header.site_second_mean_mw == round(seconds[2].site_w * 1000)
    assert json.loads(live.line(seconds[2]))["load_s"] == 2.0


def test_a_lost_gpu_stops_working(plant_file: PlantFile) -> None:
    for host in ("host-a", "host-b"):
        plant_file.write_gate(host, is_open=True)
    plant_file.release_load()
    live = make_live(plant_file, seed=1)
    plant_file.gpu("host-a", 1).is_lost = 1

    advance(live, 0.5)

    assert plant_file.gpu("host-a", 1).power_true_mw < 80_000
    assert plant_file.gpu("host-a", 0).power_true_mw > 650_000


def test_the_process_steps_in_real_time_meters_and_stops_when_asked(tmp_path: Path) -> None:
    plant = tmp_path / "plant"
    command = [sys.executable, "-m", "flyball_twin.live_plant", "--plant", str(plant), "--hosts", "a,b", "--gpus", "2"]
    process = subprocess.Popen(
        [*command, "--release", "--open-gates", "--meter", "-"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(2)]
    with PlantFile(plant) as file:
        file.header.stop_requested = 1

    assert process.wait(10) == 0
    process.stdout.close()
    assert [line["second"] for line in lines] == [0, 1]
    assert lines[1]["site_w"] > 4000.0
    assert set(lines[1]["hosts_w"]) == {"a", "b"}


def test_bad_arguments_name_what_was_expected(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flyball_twin.live_plant", "--plant", str(tmp_path / "plant"), "--model", "h101"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert result.returncode == 78
    assert "model 'h101': not known, expected one of" in result.stderr
