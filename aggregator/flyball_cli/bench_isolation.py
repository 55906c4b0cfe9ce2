"""`flyball bench isolation`: from a kernel line to an incident, refused work, a gate, and work that has left.

Real processes: a governor on simulated GPUs hands the descriptor of the kernel log to an agent that enforces. The log
is a socket with one record a read, as /dev/kmsg gives them. A fault is a double-bit error of a GPU that nothing has
happened to; when a host would soon be isolated as a whole, a fresh agent takes over. Work is a process for each GPU
that ends on SIGUSR1, its checkpoint signal. Times are wall time, read by polling every millisecond.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flyball_agent.config import AgentConfig, BrokerConfig, ExporterConfig
from flyball_agent.health_config import HealthConfig, IsolationConfig
from flyball_agent.state_file import check_gpu
from flyball_governor.config import EventsConfig, GovernorConfig, SocketConfig
from flyball_simgpu.control import sim_environment
from flyball_simgpu.plant_state import create
from flyball_wire.config import print_config
from flyball_wire.errors import FlyballError

HOST: Final = "bench"
GPUS: Final = 32
ROUNDS_EACH: Final = 7  # of one agent: the eighth isolated GPU, a quarter of them, isolates the host
WAIT_S: Final = 30.0
POLL_S: Final = 0.001
WORK: Final = 'trap "exit 0" USR1; while :; do sleep 0.05; done'
DRAIN: Final = """#!/bin/sh
index=$(sed 's/.*"gpu_index": *\\([0-9]*\\).*/\\1/')
pid=$(cat "$1/work-$index")
kill -USR1 "$pid"
while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
echo "process $pid left on its checkpoint signal"
"""


class BenchError(FlyballError):
    """The processes did not come up, or a fault was not isolated in time."""


@dataclass(slots=True)
class Times:
    """Seconds from the send of the kernel line."""

    incident_s: list[float] = field(default_factory=list)  # in the agent's journal, on disk
    refused_s: list[float] = field(default_factory=list)  # `flyball-agent check` says no
    gate_s: list[float] = field(default_factory=list)  # the first means of isolation stands
    drained_s: list[float] = field(default_factory=list)  # from the gate: work left on its signal, and the agent knows


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command below `flyball bench`."""
    parser = subparsers.add_parser("isolation", help="from a kernel line to refused work and drained, real processes")
    parser.add_argument("--rounds", type=int, default=35, help="faults (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 when a bound does not hold."""
    result = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:24} {value}" for name, value in result.items()))
    return 0 if result["holds"] else 1


def measure(rounds: int) -> dict[str, Any]:
    """Return the quantiles, and whether they keep the bounds.

    Raises:
        BenchError: a process did not come up, or a fault was not isolated.
    """
    times = Times()
    with tempfile.TemporaryDirectory(prefix="flyball-bench-") as name, _governor(Path(name)) as log:
        number = 0
        while number < rounds:
            count = min(ROUNDS_EACH, rounds - number)
            with _agent(Path(name), log, number) as folder:
                for gpu in range(count):
                    _round(folder, log, gpu, times)
            number += count
    holds = (
        _quantile(times.incident_s, 0.99) < 0.1
        and _quantile(times.refused_s, 0.99) < 1.0
        and max(times.refused_s) <= 3.0
        and _quantile(times.drained_s, 0.99) <= 10.0
    )
    return {"rounds": rounds, **_quantiles(times), "holds": holds, "cores": os.cpu_count(), "simulated": True}


class _Log:
    """The stand-in of the kernel log: the newest connection gets the records."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._listener.settimeout(WAIT_S)
        self._reader: socket.socket | None = None
        self._sequence = 0

    def accept(self) -> None:
        """Wait for the next hello of an agent."""
        self.close_reader()
        try:
            self._reader, _ = self._listener.accept()
        except TimeoutError:
            raise BenchError(f"nobody asked for the kernel log within {WAIT_S:.0f} s") from None

    def write(self, text: str) -> None:
        """Send one record of the kernel's facility."""
        assert self._reader is not None  # noqa: S101 - accepted before
        self._sequence += 1
        at_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._reader.send(f"3,{self._sequence},{at_us},-;{text}\n".encode())

    def close_reader(self) -> None:
        """Let go of the last reader."""
        if self._reader is not None:
            self._reader.close()

    def close(self) -> None:
        """Close everything."""
        self.close_reader()
        self._listener.close()


@contextlib.contextmanager
def _governor(root: Path) -> Iterator[_Log]:
    """Run a governor over simulated GPUs for the length of the block."""
    create(root / "plant", hosts=[HOST], gpus=GPUS).close()
    log = _Log(root / "kernel.sock")
    config = GovernorConfig(
        host=HOST,
        mode="observe",
        state_dir=str(root / "governor"),
        socket=SocketConfig(path=str(root / "governor.sock")),
        events=EventsConfig(kernel_log_path=str(log.path)),
    )
    (root / "governor.toml").write_text(print_config(config))
    environment = {**os.environ, **sim_environment(root / "plant", HOST)}
    with _process("flyball_governor", root / "governor.toml", root / "governor.log", environment):
        _wait((root / "governor.sock").exists, "the governor's socket")
        try:
            yield log
        finally:
            log.close()


@contextlib.contextmanager
def _agent(root: Path, log: _Log, number: int) -> Iterator[Path]:
    """Run a fresh agent, which knows of no fault, for the length of the block."""
    folder = root / f"agent-{number}"
    folder.mkdir()
    hook = folder / "drain"
    hook.write_text(DRAIN)
    hook.chmod(0o700)
    config = AgentConfig(
        host=HOST,
        governor_socket=str(root / "governor.sock"),
        state_dir=str(folder),
        broker=BrokerConfig(enabled=False),
        exporter=ExporterConfig(enabled=False),
        health=HealthConfig(file=str(folder / "health.json"), drills=str(folder / "drills"), kernel_log="kmsg"),
        isolation=IsolationConfig(
            mode="enforce",
            gates=str(folder / "gates"),
            opt_out_file=str(folder / "out"),
            drain_hook=(str(hook), str(folder)),
            actions_per_day=1000,
            gpus_without_permit=GPUS,
        ),
    )
    (folder / "agent.toml").write_text(print_config(config))
    with _process("flyball_agent", folder / "agent.toml", folder / "agent.log", dict(os.environ)):
        log.accept()
        _wait(lambda: _check(folder, 0) == 0, "a healthy GPU in the health file")
        yield folder


@contextlib.contextmanager
def _process(module: str, config: Path, log: Path, environment: dict[str, str]) -> Iterator[None]:
    words = [sys.executable, "-m", module, "--config", str(config)]
    with log.open("wb") as output, subprocess.Popen(words, env=environment, stdout=output, stderr=output) as child:
        try:
            yield
        except BenchError as error:
            raise BenchError(f"{error}; {module} said: {log.read_text(errors='replace')[-600:]}") from None
        finally:
            child.terminate()


def _round(folder: Path, log: _Log, gpu: int, times: Times) -> None:
    with subprocess.Popen([shutil.which("sh") or "/bin/sh", "-c", WORK]) as work:
        (folder / f"work-{gpu}").write_text(str(work.pid))
        try:
            _time_round(folder, log, gpu, work, times)
        finally:
            work.kill()


def _time_round(folder: Path, log: _Log, gpu: int, work: "subprocess.Popen[bytes]", times: Times) -> None:
    journal, gate = folder / "health" / "journal", folder / "gates" / f"gpu-{gpu}"
    read = journal.stat().st_size
    bus = json.loads((folder / "health.json").read_bytes())["gpus"][gpu]["pci"].rpartition(".")[0]
    started_s = time.monotonic()
    log.write(f"NVRM: Xid (PCI:{bus}): 48, pid=1, name=bench, double bit error")
    found: dict[str, float] = {}
    conditions: dict[str, Callable[[], bool]] = {
        "incident": lambda: b'"xid.48"' in _tail(journal, read),
        "refused": lambda: _check(folder, gpu) == 1,
        "gate": gate.exists,
        "drained": lambda: work.poll() is not None and _state(folder, gpu) == "DRAINED",
    }
    while len(found) < len(conditions):
        now_s = time.monotonic() - started_s
        if now_s > WAIT_S:
            raise BenchError(f"GPU {gpu}: after {WAIT_S:.0f} s only {', '.join(found) or 'nothing'} came true")
        for name, is_true in conditions.items():
            if name not in found and is_true():
                found[name] = time.monotonic() - started_s
        time.sleep(POLL_S)
    times.incident_s.append(found["incident"])
    times.refused_s.append(found["refused"])
    times.gate_s.append(found["gate"])
    times.drained_s.append(found["drained"] - found["gate"])


def _tail(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read()


def _check(folder: Path, gpu: int) -> int:
    path = folder / "health.json"
    return check_gpu(path.read_bytes() if path.exists() else None, str(gpu), time.time())[0]


def _state(folder: Path, gpu: int) -> str:
    return str(json.loads((folder / "health.json").read_bytes())["gpus"][gpu]["state"])


def _wait(condition: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > until_s:
            raise BenchError(f"{what}: not there within {WAIT_S:.0f} s")
        time.sleep(0.02)


def _quantiles(times: Times) -> dict[str, float]:
    columns = {"incident": times.incident_s, "refused": times.refused_s, "gate": times.gate_s}
    columns["drained"] = times.drained_s
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        f"{name}_{word}_s": round(_quantile(values, share), 4)
        for name, values in columns.items()
        for word, share in shares.items()
    }


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[
        min(len(values) - 1, max(0, round(share * len(values)) - 1 if share < 1 else len(values) - 1))
    ]
