"""`flyball bench host`: what governor and agent of one host cost, on simulated GPUs, and how punctual they sample.

A whole site of one host runs as under `flyball up`, everything switched on. CPU time is that of the governor's
processes and of the agent; what the simulated library itself spent, by its own thread clocks, is told apart and taken
off. Beside it one and the same sweep through our sampler and through nvidia-ml-py (`sweep_comparison`).
"""

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flyball_cli.broker import prepare_broker
from flyball_cli.process_cost import ProcessCost, read_cost, with_children
from flyball_cli.ring_link import borrow_ring
from flyball_cli.up_files import HostFiles, host_names, lay_out, write_configs
from flyball_cli.up_options import UpOptions, check_options
from flyball_cli.up_ports import choose_ports
from flyball_cli.up_run import SiteRun, UpError, plant_path, state_folder
from flyball_fast.ring import Ring
from flyball_fast.ring_layout import LATENESS_BUCKETS
from flyball_simgpu.control import sim_environment
from flyball_simgpu.plant_state import PlantFile
from flyball_wire.errors import ConfigError

WARM_UP_S: Final = 4.0  # starts, first journal writes and the first budget window are no steady cost
SCRAPE_EVERY_S: Final = 5.0  # three times as often as Prometheus by default
COSTS_US: Final = (0, 5, 20)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command below `flyball bench`."""
    parser = subparsers.add_parser("host", help="cost and punctuality of governor and agent on one host")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--hz", type=float, default=100.0, help="rate of the fast tier")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--no-comparison", action="store_true", help="leave out the sweep through nvidia-ml-py")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; the figures judge nothing by themselves."""
    if not 1.0 <= arguments.hz <= 1000.0:
        raise ConfigError(f"--hz {arguments.hz:g}: expected 1 to 1000")
    if not (math.isfinite(arguments.seconds) and arguments.seconds >= 1.0):
        raise ConfigError(f"--seconds {arguments.seconds:g}: expected at least 1")
    options = check_options(
        UpOptions(
            hosts=1,
            gpus=arguments.gpus,
            is_simulated_only=True,
            api_port=0,
            broker_port=0,
            for_s=arguments.seconds,
            is_json=True,
        )
    )
    figures = asyncio.run(measure(options, arguments.hz, is_compared=not arguments.no_comparison))
    if figures is None:
        return 1
    if arguments.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:28} {value}" for name, value in figures.items()))
    return 0


async def measure(options: UpOptions, rate_hz: float, *, is_compared: bool) -> dict[str, Any] | None:
    """Return the figures of one run; None when the host did not come up (the reason is on stderr)."""
    with state_folder(options) as root, plant_path() as plant:
        files = lay_out(root, plant, host_names(options))
        ports = choose_ports(options, 1)
        write_configs(files, options, ports, None)
        broker = prepare_broker(options.broker, files.broker, ports.broker)
        site = _MeasuredSite(options, files, ports, broker)
        site.rate_hz = rate_hz
        if await site.run() or site.found is None:
            return None
        figures = figures_of(*site.found, rate_hz)
    if is_compared:
        figures["comparison"] = await asyncio.to_thread(compare_sweeps, options)
    return figures


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters of one moment: times in seconds, memory in bytes."""

    at_s: float
    governor: ProcessCost
    agent: ProcessCost
    library_cpu_s: float
    library_calls: int
    missed: tuple[int, ...]
    ticks: tuple[int, ...]
    period_ns: tuple[int, ...]
    lateness: tuple[int, ...]
    lateness_max_ns: int
    sampler_cpu_s: float
    budget_steps: int


class _MeasuredSite(SiteRun):
    """A site of one host whose steady part is measured instead of told."""

    rate_hz = 100.0
    found: tuple[Reading, Reading] | None = None

    def _host_environment(self, host: HostFiles) -> dict[str, str]:
        environment = super()._host_environment(host)
        asked = {"RATE_HZ": str(self.rate_hz), "PROBE": "false"}  # the rate asked for, whatever the sensor is worth
        return {**environment, **{f"FLYBALL_GOVERNOR__SAMPLING__{key}": value for key, value in asked.items()}}

    async def _follow(self) -> None:
        await asyncio.sleep(WARM_UP_S)
        scraping = asyncio.create_task(self._scrape())
        host = self.files.hosts[0]
        with PlantFile(self.files.plant) as plant:
            ring = await asyncio.to_thread(borrow_ring, host.socket)
            try:
                before = self._read(plant, ring, host.host)
                await asyncio.sleep(self.options.for_s or 20.0)
                self.found = before, self._read(plant, ring, host.host)
            finally:
                ring.close()
        scraping.cancel()

    def _report(self) -> None:
        """Say nothing of the site: the figures are of one host's programs."""

    def _read(self, plant: PlantFile, ring: Ring, host: str) -> Reading:
        status, record = ring.status(), plant.host(host)
        governor, agent = (self.supervisor.children[f"{name}/{host}"].pid for name in ("governor", "agent"))
        if governor is None or agent is None:
            raise UpError(f"governor or agent of {host} ended while it was measured")
        return Reading(
            at_s=asyncio.get_running_loop().time(),
            governor=read_cost(with_children(governor)),
            agent=read_cost(with_children(agent)),
            library_cpu_s=record.library_cpu_ns / 1e9,
            library_calls=record.library_call_count,
            missed=status.missed,
            ticks=status.ticks,
            period_ns=status.period_ns,
            lateness=status.lateness,
            lateness_max_ns=status.lateness_max_ns,
            sampler_cpu_s=status.cpu_ns / 1e9,
            budget_steps=status.budget_steps,
        )

    async def _scrape(self) -> None:
        """Ask the exporter for its page, as a Prometheus server would."""
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.ports.exporters[0])
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.read()
            writer.close()
            await asyncio.sleep(SCRAPE_EVERY_S)


def figures_of(before: Reading, after: Reading, rate_hz: float) -> dict[str, Any]:
    """Return the figures between two readings, as they are printed."""
    seconds = after.at_s - before.at_s
    library_s = after.library_cpu_s - before.library_cpu_s
    governor_s = after.governor.cpu_s - before.governor.cpu_s
    agent_s = after.agent.cpu_s - before.agent.cpu_s
    lateness = [late - early for early, late in zip(before.lateness, after.lateness, strict=True)]
    ticks = after.ticks[0] - before.ticks[0]
    percent = 100.0 / seconds
    return {
        "cpu_core_percent": round((governor_s + agent_s - library_s) * percent, 3),
        "cpu_governor_percent": round((governor_s - library_s) * percent, 3),
        "cpu_agent_percent": round(agent_s * percent, 3),
        "cpu_sampler_thread_percent": round((after.sampler_cpu_s - before.sampler_cpu_s) * percent, 3),
        "cpu_percent_by_process": _by_process(before.governor, after.governor, percent),
        "simulated_library_percent": round(library_s * percent, 3),
        "simulated_library_calls_per_s": round((after.library_calls - before.library_calls) / seconds, 1),
        "pss_mib": round((after.governor.pss_bytes + after.agent.pss_bytes) / 2**20, 2),
        "pss_governor_mib": round(after.governor.pss_bytes / 2**20, 2),
        "pss_agent_mib": round(after.agent.pss_bytes / 2**20, 2),
        "missed_ticks": after.missed[0] - before.missed[0],
        "ticks": ticks,
        "rate_hz": rate_hz,
        "rate_in_force_hz": round(1e9 / after.period_ns[0], 3),
        "budget_steps": after.budget_steps,
        "lateness_p50_ms": _round(lateness_quantile_ms(lateness, 0.5)),
        "lateness_p99_ms": _round(lateness_quantile_ms(lateness, 0.99)),
        "lateness_max_ms": round(after.lateness_max_ns / 1e6, 3),
        "seconds": round(seconds, 2),
        "cores": os.cpu_count(),
        "load_average_1m": round(os.getloadavg()[0], 2),
        "simulated": True,
    }


def _by_process(before: ProcessCost, after: ProcessCost, percent: float) -> dict[str, float]:
    """Return the governor's processes, the simulated library's time included."""
    return {
        name: round((cpu_s - before.cpu_s_by_name.get(name, 0.0)) * percent, 3)
        for name, cpu_s in after.cpu_s_by_name.items()
    }


def lateness_quantile_ms(buckets: list[int], quantile: float) -> float | None:
    """Return a quantile of the ring's lateness histogram in ms, linear inside a bucket; None without ticks.

    Args:
        buckets: Bucket 0 counts ticks less than 1 µs late, bucket k those 2**(k-1) .. 2**k µs late.
        quantile: 0..1.
    """
    assert len(buckets) <= LATENESS_BUCKETS  # noqa: S101 - the ring's own length
    wanted = quantile * sum(buckets)
    passed = 0
    for number, count in enumerate(buckets):
        if count and passed + count >= wanted:
            low, high = (0.0, 1.0) if number == 0 else (2.0 ** (number - 1), 2.0**number)
            return (low + (high - low) * (wanted - passed) / count) / 1000.0
        passed += count
    return None


def compare_sweeps(options: UpOptions) -> list[dict[str, Any]]:
    """Return, for each cost of a simulated call, CPU µs of one sweep of all GPUs: ours, nvidia-ml-py's, the ratio."""
    with plant_path() as plant:
        return [_compare_at(plant, options, cost_us) for cost_us in COSTS_US]


def _compare_at(plant: Path, options: UpOptions, cost_us: int) -> dict[str, Any]:
    arguments = ["--plant", str(plant), "--gpus", str(options.gpus), "--cost-us", str(cost_us)]
    done = subprocess.run(
        [sys.executable, "-m", "flyball_cli.sweep_comparison", *arguments],
        env={**os.environ, **sim_environment(plant, "host-1")},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
