"""The course of `flyball up`: start everything in order, wait for governance, release the load, follow, end, report."""

import asyncio
import contextlib
import json
import math
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import flyball_simgpu
from flyball_cli.broker import BrokerPlan, prepare_broker, wait_ready
from flyball_cli.fault_script import FaultEvent, is_held_down
from flyball_cli.local_gpus import find_local_gpus
from flyball_cli.plant_link import PlantLink, read_meter
from flyball_cli.run_result import RunResult, summarise_power
from flyball_cli.site_watch import SiteWatch
from flyball_cli.supervisor import Child, ChildSpec, Supervisor, command_line
from flyball_cli.up_files import LOCAL_HOST, SITE_NAME, SITE_ROW, HostFiles, UpFiles, host_names, lay_out, write_configs
from flyball_cli.up_options import UpOptions
from flyball_cli.up_ports import UpPorts, choose_ports
from flyball_wire.errors import BrokerError, FlyballError

BROKER_READY_S: Final = 20.0
PLANT_READY_S: Final = 20.0
GOVERNED_S: Final = 60.0  # from start to every lease acknowledged
POLL_S: Final = 0.1
STATUS_EVERY_S: Final = 5.0


class UpError(FlyballError):
    """The site did not come up."""


Course = Callable[["SiteRun", PlantLink], Coroutine[Any, Any, None]]


async def run_site(options: UpOptions, course: Course | None = None) -> int:
    """Run a whole site as asked and return the exit code.

    Args:
        options: Of `flyball up`.
        course: What to do with the governed site in place of following it; the site ends after it.
    """
    with state_folder(options) as root, plant_path() as plant:
        local = None if options.is_simulated_only else find_local_gpus()
        hosts = (*host_names(options), *((LOCAL_HOST,) if local is not None else ()))
        files = lay_out(root, plant, hosts)
        ports = choose_ports(options, len(hosts))
        write_configs(files, options, ports, local)
        broker = prepare_broker(options.broker, files.broker, ports.broker)
        return await SiteRun(options, files, ports, broker, course).run()


class SiteRun:
    """One run of a site; `run` does it all."""

    def __init__(
        self,
        options: UpOptions,
        files: UpFiles,
        ports: UpPorts,
        broker: BrokerPlan,
        course: Course | None = None,
    ) -> None:
        self.options = options
        self.files = files
        self.ports = ports
        self.broker = broker
        self.course = course
        self.supervisor = Supervisor()
        self.watch = SiteWatch(f"http://127.0.0.1:{ports.api}")
        self.ending = asyncio.Event()

    async def run(self) -> int:
        """Start, govern, follow and end; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.ending.set)
        try:
            async with self.supervisor:
                await self._start()
                async with self._gates() as plant:
                    await self._govern(plant)
                    await (self._follow() if self.course is None else self._take(self.course, plant))
        except (UpError, BrokerError) as error:
            raise UpError(f"{error}; logs: {self.files.logs}") from None
        self._report()
        return 0

    def _report(self) -> None:
        if self.options.is_json and self.course is None:
            print(json.dumps(asdict(self._result())))

    async def _start(self) -> None:
        self._say(f"state and logs in {self.files.root}")
        broker = self._add("broker", *self.broker.argv)
        await wait_ready(self.broker, BROKER_READY_S, lambda: broker.restarts == 0)
        self._say(f"broker: {self.broker.description} on 127.0.0.1:{self.ports.broker}")
        self._start_plant()
        await self._wait_plant()
        self._add(
            "aggregator",
            *command_line("flyball_aggregator", "--config", str(self.files.aggregator / "aggregator.toml")),
        )
        for host in self.files.hosts:
            self._start_host(host)
        simulated = f"{self.options.hosts} hosts of {self.options.gpus} simulated {self.options.model} GPUs"
        own = ", and this machine's own GPUs" if self.files.hosts[-1].host == LOCAL_HOST else ""
        self._say(f"{simulated}{own}; limit {self.options.site_limit_w / 1000:.1f} kW at the wall")

    def _start_plant(self) -> None:
        options = self.options
        arguments = ["--plant", str(self.files.plant), "--hosts", ",".join(host_names(options))]
        arguments += ["--gpus", str(options.gpus), "--model", options.model, "--seed", str(options.seed)]
        arguments += ["--meter", str(self.files.meter), "--limit-w", str(options.site_limit_w)]
        if options.trace is not None:
            arguments += ["--trace", str(options.trace), "--demand", str(options.demand_ratio)]
            arguments += ["--window-s", str(round(options.for_s or 600))]
        self._add("plant", *command_line("flyball_twin.live_plant", *arguments))
        gateway = ["--meter", str(self.files.meter), "--site", SITE_NAME, "--row", SITE_ROW]
        gateway += ["--broker-port", str(self.ports.broker)]
        self._add("meter-gateway", *command_line("flyball_cli.meter_gateway", *gateway))

    def _start_host(self, host: HostFiles) -> None:
        environment = self._host_environment(host)
        governor = command_line("flyball_governor", "--config", str(host.governor_toml))
        self._add(f"governor/{host.host}", *governor, environment=environment)
        self._add(f"agent/{host.host}", *command_line("flyball_agent", "--config", str(host.agent_toml)))

    def _host_environment(self, host: HostFiles) -> dict[str, str]:
        return {} if host.host == LOCAL_HOST else flyball_simgpu_environment(self.files.plant, host.host)

    async def _wait_plant(self) -> None:
        plant = self.supervisor.children["plant"]
        async with _within(PLANT_READY_S, "the plant did not start"):
            while not self.files.plant.exists():
                if plant.restarts:
                    raise UpError(f"the plant ended at its start: {_last_line(plant.spec.log_path)}")
                await asyncio.sleep(POLL_S)

    async def _govern(self, plant: PlantLink) -> None:
        """Wait until every lease is acknowledged and every gate open, then release the load."""
        ending = asyncio.create_task(self.ending.wait())
        governed = asyncio.create_task(self._wait_governed(plant))
        await asyncio.wait({ending, governed}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if governed.done():
            await governed
            plant.release_load()
            self._say(f"every lease is acknowledged; page: http://127.0.0.1:{self.ports.api}")
        else:
            governed.cancel()

    async def _wait_governed(self, plant: PlantLink) -> None:
        async with _within(GOVERNED_S, "not every lease was acknowledged"):
            await self.watch.wait_answering()
            while not (plant.carry_gates() and await self.watch.is_governed(host_names(self.options))):
                await asyncio.sleep(POLL_S)

    async def _follow(self) -> None:
        """Run scripted faults and tell how it goes, until the time is over or somebody ends it."""
        tasks = [asyncio.create_task(self._script(event)) for event in self.options.events]
        tasks.append(asyncio.create_task(self.watch.run()))
        if not self.options.is_json:
            tasks.append(asyncio.create_task(self._tell()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ending.wait(), self.options.for_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, course: Course, plant: PlantLink) -> None:
        """Take a course to its end, unless somebody ends the site before."""
        ending = asyncio.create_task(self.ending.wait())
        taken = asyncio.create_task(course(self, plant))
        await asyncio.wait({ending, taken}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        taken.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await taken

    async def _script(self, event: FaultEvent) -> None:
        await asyncio.sleep(event.at_s)
        for child in self.supervisor.matching(event.target):
            act(child, event, is_held=is_held_down(event, self.options.events))
        self._say(f"{event.at_s:g} s: {event.action} {event.target}")

    @contextlib.asynccontextmanager
    async def _gates(self) -> AsyncIterator[PlantLink]:
        """Carry the governors' gates to the simulated workload for the length of the block."""
        link = PlantLink(self.files.plant, [host for host in self.files.hosts if host.host != LOCAL_HOST])

        async def carry() -> None:
            while True:
                link.carry_gates()
                await asyncio.sleep(POLL_S)

        task = asyncio.create_task(carry())
        try:
            yield link
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            link.close()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(STATUS_EVERY_S)
            self._say(self.watch.line)

    def _result(self) -> RunResult:
        seconds = read_meter(self.files.meter, self.options.for_s or math.inf)
        mean_w, use, peak_w, over = summarise_power([second.site_w for second in seconds], self.options.site_limit_w)
        return RunResult(
            hosts=self.options.hosts,
            gpus=self.options.hosts * self.options.gpus,
            samples_total=self.watch.samples_total,
            limit_w=self.options.site_limit_w,
            uncapped_mean_w=round(fmean(second.uncapped_site_w for second in seconds), 1),
            mean_w=round(mean_w, 1),
            use_of_limit=round(use, 4),
            peak_1s_w=peak_w,
            seconds_over_limit=over,
            leases_acked=self.watch.leases_acked,
            broker=self.broker.description,
            simulated=True,
            seconds=len(seconds),
            restarts={name: count for name, count in self.supervisor.restarts.items() if count},
        )

    def _add(self, name: str, *argv: str, environment: dict[str, str] | None = None) -> Child:
        log = self.files.logs / f"{name.replace('/', '-')}.log"
        return self.supervisor.add(ChildSpec(name, argv, log, environment or {}))

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr if self.options.is_json else sys.stdout, flush=True)


def act(child: Child, event: FaultEvent, *, is_held: bool) -> None:
    """Carry out one scripted fault on one child."""
    if event.action == "kill":
        child.kill(hold=is_held)
    elif event.action == "start":
        child.start()
    else:
        child.send(signal.SIGSTOP if event.action == "stop" else signal.SIGCONT)


def flyball_simgpu_environment(plant: Path, host: str) -> dict[str, str]:
    """Return what makes a program see one simulated host's GPUs."""
    library = Path(flyball_simgpu.__file__).parent / "lib" / "libnvidia-ml.so.1"
    return {"FLYBALL_SIM_PLANT": str(plant), "FLYBALL_SIM_HOST": host, "FLYBALL_NVML_LIBRARY": str(library)}


@contextlib.contextmanager
def state_folder(options: UpOptions) -> Iterator[Path]:
    """Yield the folder of a site's state: the one asked for, else one that goes with the run."""
    if options.state is not None:
        options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield options.state
        return
    root = Path(tempfile.mkdtemp(prefix="flyball-up-"))
    yield root
    shutil.rmtree(root, ignore_errors=True)  # not after an error: then the logs are wanted


@contextlib.contextmanager
def plant_path() -> Iterator[Path]:
    """Yield a path for the plant's shared memory, in RAM where there is /dev/shm."""
    shared = Path("/dev/shm")  # noqa: S108 - a private folder is made in it
    folder = Path(tempfile.mkdtemp(prefix="flyball-plant-", dir=shared if shared.is_dir() else None))
    try:
        yield folder / "plant"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def _within(limit_s: float, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        raise UpError(f"{what} within {limit_s:.0f} s") from None


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
