"""How much faster than time the twin runs, by this process's own CPU time: the plant alone, and with the control."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from flyball_twin.plant import Demand, Plant, Posted, make_boards
from flyball_twin.scenario import FleetPart, Scenario, SitePart, WorkPart
from flyball_twin.scenario_run import ScenarioRun

START_S = 40  # every host is leased to for the first time: not what a long run is like


def measure(hosts: int, gpus: int, seconds: int) -> dict[str, Any]:
    """Return simulated seconds for a second of CPU on one core."""
    return {
        "hosts": hosts,
        "gpus": hosts * gpus,
        "plant_ratio": round(_plant(hosts, gpus, seconds), 1),
        "control_ratio": round(_controlled(hosts, gpus, seconds), 1),
    }


def _plant(hosts: int, gpus: int, seconds: int) -> float:
    boards = make_boards(["h100"] * hosts, gpus)
    count = hosts * gpus
    plant = Plant(boards, seed=1, history_rows=4)
    demand = Demand(np.full(count, 0.3), np.full(count, 0.6), boards.peak_w, 0.8 * boards.peak_w, np.ones(count, bool))
    posted = Posted(boards.default_limit_w.copy(), np.ones(count), np.zeros(count, bool), np.zeros(count))
    started_s = time.process_time()
    for _ in range(seconds):
        plant.step(1.0, demand, posted)
    return seconds / (time.process_time() - started_s)


def _controlled(hosts: int, gpus: int, seconds: int) -> float:
    serving, training = hosts // 2, hosts * 2 // 5
    scenario = Scenario(
        seconds=START_S + seconds,
        site=SitePart(rack_hosts=20),
        fleet=(FleetPart("h100", hosts, gpus),),
        work=(WorkPart("serving", serving), WorkPart("training", training)),
    )
    run = ScenarioRun(scenario, Path())
    while run.second < START_S:
        run.advance()
    started_s = time.process_time()
    while not run.is_done:
        run.advance()
    return seconds / (time.process_time() - started_s)
