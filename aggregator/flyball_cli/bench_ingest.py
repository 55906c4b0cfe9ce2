"""`flyball bench ingest`: batches of thousands of hosts through a real broker into the aggregator's intake.

Every host is an MQTT connection of its own that publishes one real batch a second at QoS 1. CPU time and memory are
those of the process that takes and decodes the batches; the broker's are told beside them.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flyball_cli.broker import BrokerPlan, prepare_broker, wait_ready
from flyball_cli.ingest_hosts import DESCRIPTORS, raise_descriptor_limit
from flyball_cli.ingest_taker import CLIENTS
from flyball_cli.process_cost import read_cost
from flyball_cli.supervisor import ChildSpec, Supervisor, command_line
from flyball_cli.up_ports import take_port
from flyball_wire.errors import BrokerError, ConfigError

BROKER_READY_S: Final = 20.0
CONNECTED_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Ingest:
    """What to send through."""

    hosts: int
    seconds: int
    rows: int
    gpus: int
    client: str


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command below `flyball bench`."""
    parser = subparsers.add_parser("ingest", help="batches of many hosts through a broker into the intake")
    parser.add_argument("--hosts", type=int, default=3000)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--hz", type=int, default=10, dest="rows", help="rows of each GPU in a batch of one second")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--client", choices=sorted(CLIENTS), default="bulk", help="what listens to the broker")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; returns 1 when a batch was lost."""
    ingest = Ingest(arguments.hosts, arguments.seconds, arguments.rows, arguments.gpus, arguments.client)
    for name, low, high in (("hosts", 1, 60_000), ("seconds", 1, 3600), ("rows", 1, 1000), ("gpus", 1, 64)):
        if not low <= getattr(ingest, name) <= high:
            raise ConfigError(f"--{name} {getattr(ingest, name)}: expected {low} to {high}")
    figures = asyncio.run(measure(ingest))
    if arguments.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:28} {value}" for name, value in figures.items()))
    return 1 if figures["lost"] else 0


async def measure(ingest: Ingest) -> dict[str, Any]:
    """Return the figures of one run.

    Raises:
        ConfigError: no broker is installed, or too few descriptors are allowed.
        BrokerError: it does not answer, or not every host could connect.
    """
    wanted = ingest.hosts + DESCRIPTORS
    allowed = raise_descriptor_limit(wanted)  # the broker inherits it
    if allowed < wanted:
        raise ConfigError(
            f"--hosts {ingest.hosts}: {allowed} descriptors are allowed, expected {wanted}; see ulimit -n"
        )
    with _folder() as folder:
        plan = prepare_broker("auto", folder / "broker", take_port(0))
        async with Supervisor() as supervisor:
            broker = supervisor.add(ChildSpec("broker", plan.argv, folder / "broker.log"))
            await wait_ready(plan, BROKER_READY_S, lambda: broker.restarts == 0)
            assert broker.pid is not None  # noqa: S101 - it has answered
            return await _through(ingest, plan, broker.pid)


async def _through(ingest: Ingest, plan: BrokerPlan, broker_pid: int) -> dict[str, Any]:
    taker = await _start("flyball_cli.ingest_taker", port=plan.port, client=ingest.client)
    await _ready(taker, "the intake did not subscribe")
    hosts = await _start(
        "flyball_cli.ingest_hosts",
        port=plan.port,
        hosts=ingest.hosts,
        seconds=ingest.seconds,
        rows=ingest.rows,
        gpus=ingest.gpus,
    )
    await _ready(hosts, "not every host could connect")
    broker_before = read_cost([broker_pid])
    sent = await _finish(hosts, b"go\n")
    taken = await _finish(taker, b"")
    broker_s = read_cost([broker_pid]).cpu_s - broker_before.cpu_s
    return figures_of(ingest, plan, sent, taken, (taken["cpu_s"], broker_s))


def figures_of(
    ingest: Ingest, plan: BrokerPlan, sent: dict[str, Any], taken: dict[str, Any], cpu_s: tuple[float, float]
) -> dict[str, Any]:
    """Return the figures as they are printed; percentages are of one core over the seconds that were sent."""
    wanted = ingest.hosts * ingest.seconds
    intake_s, broker_s = cpu_s
    return {
        "messages": taken["messages"],
        "sent": sent["sent"],
        "acknowledged": sent["acknowledged"],
        "sent_ratio": round(sent["sent"] / wanted, 4),
        "broker": plan.description,
        "client": ingest.client,
        "qos": 1,
        "cpu_core_percent": round(100 * intake_s / ingest.seconds, 2),
        "cpu_us_per_message": round(1e6 * intake_s / max(1, taken["messages"]), 2),
        "broker_core_percent": round(100 * broker_s / ingest.seconds, 2),
        # Sequence gaps, and what never came of the last messages.
        "lost": taken["lost"] + max(0, sent["sent"] - taken["messages"] - taken["lost"]),
        "late": taken["late"],
        "doubled": taken["doubled"],
        "refused": taken["refused"],
        "rss_mib": taken["rss_mib"],
        "hosts": taken["hosts"],
        "rows": taken["rows"],
        "batch_bytes": sent["batch_bytes"],
        "seconds": round(sent["seconds"], 2),
        "cores": os.cpu_count(),
        "load_average_1m": round(os.getloadavg()[0], 2),
    }


async def _start(module: str, **options: str | int) -> asyncio.subprocess.Process:
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return await asyncio.create_subprocess_exec(
        *command_line(module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=sys.stderr,
    )


async def _ready(process: asyncio.subprocess.Process, otherwise: str) -> None:
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    try:
        async with asyncio.timeout(CONNECTED_S):
            said = await process.stdout.readline()
    except TimeoutError:
        said = b""
    if said.strip() != b"ready":
        process.kill()
        raise BrokerError(otherwise)


async def _finish(process: asyncio.subprocess.Process, word: bytes) -> dict[str, Any]:
    """Say the word and close the pipe; return what the process found."""
    output, _ = await process.communicate(word)
    found: dict[str, Any] = json.loads(output)
    return found


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="flyball-ingest-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
