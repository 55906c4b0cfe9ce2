"""The live plant: steps the physics in real time at 100 Hz behind the simulated libraries, and meters it.

`python -m flyball_twin.live_plant --plant FILE --hosts 4 --gpus 8` owns the plant file's telemetry. It reads posted
limits, clocks, faults and gates from it every step. A late step integrates the real elapsed time.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TextIO

import numpy as np

from flyball_simgpu.plant_layout import PlantGpu, PlantHost
from flyball_simgpu.plant_state import PlantFile, create
from flyball_twin.meter import Meter, MeterSecond
from flyball_twin.plant import Demand, Plant, Posted, make_boards
from flyball_twin.workloads import Greedy, TraceError, TraceReplay, Workload, read_requests, scale_trace

STEP_S = 0.01
STATE_EVERY = 5  # steps between updates of temperatures, utilisation and memory: they change slowly
LATE_S = 0.005  # a step that starts later than half a period counts as late
MAX_STEP_S = 1.0  # longer pauses (a stopped process) are integrated in pieces


class LivePlant:
    """Couples a plant file with the physics; `advance` does one step of a given length."""

    def __init__(self, file: PlantFile, plant: Plant, workload: Workload) -> None:
        """Map the file's records as arrays; nothing runs yet."""
        self.file, self.plant, self.workload = file, plant, workload
        header = file.header
        self._gpus = np.frombuffer(file.memory, np.dtype(PlantGpu), header.gpu_count, header.gpus_offset)
        self._hosts = np.frombuffer(file.memory, np.dtype(PlantHost), header.host_count, header.hosts_offset)
        self._host_of = plant.boards.host_of
        self._meter = Meter(header.host_count)
        self._clock_max_mhz = self._gpus["graphics_clock_max_mhz"].astype(np.float64)
        self._clock_min_mhz = self._gpus["graphics_clock_min_mhz"].astype(np.float64)
        self.load_started_s: float | None = None

    def advance(self, step_s: float) -> list[MeterSecond]:
        """Advance physics, telemetry and meter by `step_s`; return the seconds the meter completed."""
        demand = self._demand()
        self.plant.step(step_s, demand, self._posted())
        if self.load_started_s is not None:
            elapsed_s = self.plant.time_s - step_s - self.load_started_s
            self.workload.serve(elapsed_s, step_s, self.plant.compute_speed, self.plant.decode_speed)
        self._write_power()
        if self.file.header.step_count % STATE_EVERY == 0:
            self._write_state(demand)
        self._write_clocks()
        unmanaged_w = self.file.header.unmanaged_load_mw * 1e-3
        seconds = self._meter.record(step_s, self.plant.host_power_w, self.plant.uncapped_host_w, unmanaged_w)
        self._write_header(seconds)
        return seconds

    def _demand(self) -> Demand:
        gates = self._hosts["is_gate_open"] != 0
        if self.load_started_s is None and self.file.header.load_released and gates.all():
            self.load_started_s = self.plant.time_s
            self.file.header.load_started_at_ns = time.monotonic_ns()
        if self.load_started_s is None:
            return self.workload.demand(0.0, np.zeros(len(self._gpus), bool))
        return self.workload.demand(self.plant.time_s - self.load_started_s, self._may_run(gates))

    def _may_run(self, gates: np.ndarray) -> np.ndarray:
        """Return which GPUs may work: gate open, driver loaded, not lost and not waiting for a reset."""
        is_host_up = gates & (self._hosts["is_driver_loaded"] != 0)
        return np.asarray(is_host_up[self._host_of] & (self._gpus["is_lost"] == 0) & (self._gpus["needs_reset"] == 0))

    def _posted(self) -> Posted:
        gpus = self._gpus
        requested = gpus["requested_limit_mw"].astype(np.float64)
        foreign = gpus["out_of_band_limit_mw"]
        limit_mw = np.where(foreign > 0, np.minimum(requested, foreign), requested)
        locked = gpus["locked_clock_max_mhz"]
        ratio = np.where(locked > 0, locked / self._clock_max_mhz, 1.0)
        return Posted(limit_mw * 1e-3, ratio, gpus["is_power_braked"] != 0, gpus["inlet_offset_c"].astype(np.float64))

    def _write_power(self) -> None:
        gpus, plant = self._gpus, self.plant
        sensors = plant.sensors
        gpus["power_true_mw"] = plant.power_w * 1e3
        gpus["power_instant_mw"] = sensors.instant_w * 1e3
        gpus["power_average_mw"] = sensors.average_w * 1e3
        now_us = time.time_ns() // 1000
        gpus["sensor_read_at_unix_us"] = now_us - ((plant.time_s - sensors.read_at_s) * 1e6).astype(np.int64)
        gpus["energy_mj"] = sensors.energy_j * 1e3
        gpus["energy_true_mj"] = plant.energy_j * 1e3
        gpus["applied_limit_mw"] = plant.applied_limit_w * 1e3
        gpus["demand_mw"] = plant.demand_w * 1e3
        gpus["work_done_us"] = plant.work_s * 1e6

    def _write_state(self, demand: Demand) -> None:
        gpus, plant = self._gpus, self.plant
        busy = demand.compute + demand.decode
        gpus["gpu_utilisation_percent"] = np.minimum(busy * 100.0, 100.0)
        gpus["memory_utilisation_percent"] = np.minimum(30.0 * demand.compute + 70.0 * demand.decode, 100.0)
        gpus["memory_used_bytes"] = np.where(demand.is_resident, 0.9 * gpus["memory_total_bytes"], 0)
        gpus["temperature_mc"] = plant.temperature_celsius * 1e3
        gpus["memory_temperature_mc"] = plant.memory_celsius * 1e3
        times = plant.throttle_s
        gpus["throttle_software_thermal_ns"] = gpus["throttle_thermal_ns"] = times["software_thermal"] * 1e9
        gpus["throttle_brake_ns"] = times["brake"] * 1e9
        gpus["throttle_application_clocks_ns"] = times["clocks"] * 1e9

    def _write_clocks(self) -> None:
        gpus, plant = self._gpus, self.plant
        gpus["event_reasons"] = plant.reasons
        gpus["graphics_clock_mhz"] = np.maximum(plant.clock_ratio * self._clock_max_mhz, self._clock_min_mhz)
        gpus["throttle_power_ns"] = plant.throttle_s["power"] * 1e9

    def _write_header(self, seconds: list[MeterSecond]) -> None:
        header, plant = self.file.header, self.plant
        self._hosts["host_power_mw"] = plant.host_power_w * 1e3
        own_w = plant.host_power_w - np.add.reduceat(plant.power_w, plant.boards.host_starts)
        self._hosts["gpu_power_mw"] = (plant.host_power_w - own_w) * 1e3
        header.site_power_mw = round(float(plant.host_power_w.sum()) * 1e3) + header.unmanaged_load_mw
        header.step_count += 1
        header.stepped_at_ns = time.monotonic_ns()
        for second in seconds:
            self._hosts["second_mean_mw"] = second.host_w * 1e3
            header.site_second_mean_mw = round(second.site_w * 1e3)
            header.site_uncapped_second_mean_mw = round(second.uncapped_site_w * 1e3)
            header.second_ended_at_unix_ns = time.time_ns()
            header.seconds_observed += 1

    def line(self, second: MeterSecond) -> str:
        """Return one meter second as a JSON line: wall watts; load_s counts from the load's start, null before."""
        load_s = None if self.load_started_s is None else round(second.number - self.load_started_s, 3)
        hosts = {host.id.decode(): round(watts, 1) for host, watts in zip(self.file.hosts, second.host_w, strict=True)}
        record = {
            "second": second.number,
            "ended_at": time.time(),
            "load_s": load_s,
            "site_w": round(second.site_w, 1),
            "uncapped_site_w": round(second.uncapped_site_w, 1),
            "hosts_w": hosts,
            "late_steps": self.file.header.late_step_count,
        }
        return json.dumps(record)


def run(live: LivePlant, meter: TextIO | None) -> None:
    """Step until asked to stop, at absolute deadlines."""
    header = live.file.header
    header.plant_pid, header.stop_requested = os.getpid(), 0
    last = time.monotonic()
    deadline = last + STEP_S
    while not header.stop_requested:
        time.sleep(max(0.0, deadline - time.monotonic()))
        now = time.monotonic()
        header.late_step_count += int(now - deadline > LATE_S)
        for part_s in _parts(now - last):
            _report(live, live.advance(part_s), meter)
        last = now
        deadline += STEP_S * max(1.0, np.ceil((now - deadline) / STEP_S))


def _parts(elapsed_s: float) -> list[float]:
    """Cut a long pause into steps the physics takes."""
    count = max(1, int(np.ceil(elapsed_s / MAX_STEP_S)))
    return [elapsed_s / count] * count


def _report(live: LivePlant, seconds: list[MeterSecond], meter: TextIO | None) -> None:
    for second in seconds:
        if meter is not None:
            meter.write(live.line(second) + "\n")
            meter.flush()


def make_live(file: PlantFile, *, seed: int, workload: Workload | None = None) -> LivePlant:
    """Return a live plant for an open plant file; without a workload the load is greedy."""
    models = [file.gpus[host.first_gpu].model.decode() for host in file.hosts]
    boards = make_boards(models, [host.gpu_count for host in file.hosts])
    return LivePlant(file, Plant(boards, seed=seed), workload or Greedy(boards))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="flyball-plant", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plant", required=True, type=Path, help="the plant file; made when it is not there")
    parser.add_argument(
        "--hosts", default="4", help="how many, or ids separated by commas (only when the file is made)"
    )
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of each host (only when the file is made)")
    parser.add_argument("--model", default="h100", help="board model, or one per host separated by commas")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--meter", type=Path, help="file or pipe for one JSON line a second of true wall power; - is stdout"
    )
    parser.add_argument("--trace", type=Path, help="request list to replay; without it the load is greedy")
    parser.add_argument("--limit-w", type=float, help="site limit (wall) that --demand refers to")
    parser.add_argument("--demand", type=float, default=1.2, help="mean uncapped draw over the limit, for --trace")
    parser.add_argument("--window-s", type=int, default=600, help="seconds of the trace over which that mean is taken")
    parser.add_argument("--release", action="store_true", help="start the load as soon as all gates are open")
    parser.add_argument("--open-gates", action="store_true", help="open every gate when the file is made")
    options = parser.parse_args(arguments)
    if options.trace is not None and options.limit_w is None:
        parser.error("--trace needs --limit-w: its demand is a multiple of the limit")
    return options


def _open_file(options: argparse.Namespace) -> PlantFile:
    if options.plant.exists():
        return PlantFile(options.plant)
    hosts = int(options.hosts) if options.hosts.isdigit() else options.hosts.split(",")
    model = options.model.split(",") if "," in options.model else options.model
    return create(
        options.plant, hosts=hosts, gpus=options.gpus, model=model, seed=options.seed, gates_open=options.open_gates
    )


def _replay(live: LivePlant, options: argparse.Namespace) -> TraceReplay:
    requests = read_requests(options.trace)
    mean_w = options.demand * options.limit_w
    return scale_trace(live.plant.boards, requests, seed=options.seed, mean_site_w=mean_w, window_s=options.window_s)


def main(arguments: list[str] | None = None) -> int:
    """Run the live plant until SIGTERM, SIGINT or the file's stop word."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        file = _open_file(options)
        live = make_live(file, seed=options.seed)
        if options.trace is not None:
            live.workload = _replay(live, options)
    except (TraceError, ValueError, OSError) as error:
        print(f"flyball-plant: {error}", file=sys.stderr)
        return 78
    if options.release:
        file.release_load()

    def stop(number: int, frame: object) -> None:
        del number, frame
        file.header.stop_requested = 1

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if options.meter is None:
        run(live, None)
    elif str(options.meter) == "-":
        run(live, sys.stdout)
    else:
        with options.meter.open("a") as meter:
            run(live, meter)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
