"""Split, caps, sampler and simulated NVML together on real physics: load hops from GPU to GPU every two seconds."""

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.flyball_governor.test_governor_process import wait_until

from flyball_simgpu.control import sim_environment
from flyball_simgpu.plant_state import PlantFile, create
from flyball_twin.live_plant import LivePlant, make_live
from flyball_twin.plant import Demand

HOP_S, HOPS, LIMIT_W = 2.0, 6, 900.0


@dataclass
class Hopping:
    """All work on one GPU, on the other one after each hop."""

    peak_w: NDArray[np.float64]

    def demand(self, elapsed_s: float, is_running: NDArray[np.bool_]) -> Demand:
        compute = np.zeros(len(self.peak_w))
        compute[int(elapsed_s / HOP_S) % 2] = 1.0
        return Demand(compute * is_running, np.zeros_like(compute), self.peak_w, self.peak_w, is_running)

    def serve(self, *_: object) -> None:
        """Do nothing: there is always more."""


@dataclass
class Record:
    """Seconds since the load began, total true power, and caps, step by step."""

    rows: list[tuple[float, float, list[float]]] = field(default_factory=list)

    def step(self, live: LivePlant, last_s: float) -> float:
        """Advance the physics by the time since the last step; return now."""
        now_s = time.monotonic()
        live.advance(now_s - last_s)
        if live.load_started_s is not None:
            caps = [gpu.requested_limit_mw / 1000 for gpu in live.file.gpus_of("h1")]
            at_s = live.plant.time_s - live.load_started_s
            self.rows.append((at_s, float(live.plant.power_w.sum()), caps))
        time.sleep(0.005)
        return now_s

    def follow_s(self, hop: int) -> float:
        """Return how long after a hop the GPU with the work had its watts."""
        begin_s = hop * HOP_S
        return next(at_s - begin_s for at_s, _, caps in self.rows if at_s > begin_s and caps[hop % 2] >= 600)

    def worst_mean_w(self) -> float:
        """Return the highest 1 s mean from the second hop on."""
        times = np.array([row[0] for row in self.rows])
        power = np.array([row[1] for row in self.rows])
        begins = np.arange(HOP_S, times[-1] - 1, 0.1)
        return float(max(power[(times >= begin) & (times < begin + 1)].mean() for begin in begins))


@pytest.fixture
def live(tmp_path: Path) -> LivePlant:
    plant: PlantFile = create(tmp_path / "plant", hosts=["h1"], gpus=2, gates_open=True)
    found = make_live(plant, seed=1)
    found.workload = Hopping(found.plant.boards.peak_w)
    return found


def test_a_shift_of_load_is_followed_in_half_a_second_and_the_true_mean_stays_inside_the_limit(
    tmp_path: Path, live: LivePlant
) -> None:
    config = tmp_path / "governor.toml"
    config.write_text(
        f'host = "h1"\nmode = "enforce"\nhost_limit_w = {LIMIT_W}\nstate_dir = "{tmp_path}/state"\n'
        f'[socket]\npath = "{tmp_path}/gov.sock"\n'
    )
    environment = {**os.environ, **sim_environment(tmp_path / "plant", "h1")}
    record, last_s = Record(), time.monotonic()
    with subprocess.Popen([sys.executable, "-m", "flyball_governor", "--config", str(config)], env=environment) as one:
        try:
            wait_until(lambda: (tmp_path / "state/gate").exists() and is_open(tmp_path), "the gate is open")
            live.file.release_load()
            while not record.rows or record.rows[-1][0] < HOPS * HOP_S:
                last_s = record.step(live, last_s)
        finally:
            one.terminate()

    assert statistics.median(record.follow_s(hop) for hop in range(1, HOPS)) <= 0.5
    assert record.worst_mean_w() <= LIMIT_W


def is_open(folder: Path) -> bool:
    """Say whether the gate file says open."""
    return (folder / "state/gate").read_text().strip() == "open"
