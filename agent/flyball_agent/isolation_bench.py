"""Measure, with a real process, how long a kernel line takes to become an incident and to keep new work away.

The parent plays the kernel and a scheduler's prolog: it sends one record and asks the health file until it refuses. The
child is the fault keeper with a real journal, health file and gate; helpers that are not measured answer at once.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from flyball_agent.catalogue import load_catalogue
from flyball_agent.fault_keeper import FaultKeeper, KeeperParts
from flyball_agent.health import HealthMachine
from flyball_agent.health_inputs import Boot, Intent
from flyball_agent.health_journal import HealthJournal
from flyball_agent.isolation import Isolation, OwnershipBook, Profile, Target
from flyball_agent.isolation_gates import SystemdGate
from flyball_agent.isolation_guard import GuardLimits, IsolationGuard, Surroundings
from flyball_agent.kernel_log import DescriptorSource, KernelLog
from flyball_agent.kernel_messages import MessageClassifier
from flyball_agent.state_file import Gpu, check_gpu, health_plain, write_health

_LINE = "3,1,1000000,-;NVRM: Xid (PCI:0000:9b:00): 48, pid=1, name=bench, double bit error\n"
_GPU = Gpu(0, "GPU-bench", "0000:9b:00.0")
ROUND_S = 10.0


@dataclass(frozen=True, slots=True)
class IsolationTimes:
    """Seconds from the record to the health file that refuses, and to the gate that stands."""

    rounds: int
    refused_p50_s: float
    refused_p99_s: float
    refused_max_s: float
    gate_p99_s: float
    gate_max_s: float


class NoHelp:
    """Helpers that have nothing to do."""

    async def ask_permit(self, target: Target) -> bool | None:  # noqa: ARG002
        """No aggregator answers."""
        return None

    async def drain(self, target: Target) -> str:  # noqa: ARG002
        """There is no work."""
        return "no work"

    async def repair(self, target: Target, action: str) -> tuple[bool, str]:
        """Nothing is repaired."""
        return False, f"{action} of {target.entity} is not measured"

    async def validate(self, target: Target) -> tuple[bool, str]:
        """Nothing is checked."""
        return False, f"{target.entity} is not checked"


def measure_isolation(rounds: int = 30) -> IsolationTimes:
    """Return the times over some rounds, each with a process and folder of its own."""
    pairs = [_one_round() for _ in range(rounds)]
    refused, gates = (sorted(times) for times in zip(*pairs, strict=True))
    last = max(0, round(0.99 * rounds) - 1)
    return IsolationTimes(rounds, refused[rounds // 2], refused[last], refused[-1], gates[last], gates[-1])


def _one_round() -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="flyball-bench-") as name:
        folder = Path(name)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            words = [sys.executable, "-m", "flyball_agent.isolation_bench", str(folder), str(theirs.fileno())]
            with subprocess.Popen(words, pass_fds=[theirs.fileno()]) as child:
                try:
                    return _time_round(folder, ours)
                finally:
                    child.kill()


def _time_round(folder: Path, ours: socket.socket) -> tuple[float, float]:
    _wait((folder / "health.json").exists)
    started_s = time.monotonic()
    ours.send(_LINE.encode())
    _wait(lambda: check_gpu((folder / "health.json").read_bytes(), "0", time.time())[0] == 1)
    refused_s = time.monotonic() - started_s
    _wait((folder / "quarantine" / "gpu-0").exists)
    return refused_s, time.monotonic() - started_s


def _wait(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + ROUND_S
    while not condition():
        if time.monotonic() > until_s:
            raise TimeoutError(f"not isolated within {ROUND_S} s")
        time.sleep(0.001)


async def _keep(folder: Path, descriptor: int) -> None:
    os.set_blocking(descriptor, False)
    machine, book = HealthMachine(), OwnershipBook(folder / "held.json")
    gate = Profile((SystemdGate(folder / "quarantine"),))

    def publish() -> None:
        write_health(folder / "health.json", health_plain(machine, [_GPU], now_s=time.time(), is_enforcing=True))

    with HealthJournal(folder / "journal", machine) as journal:
        journal.apply(Boot(time.time(), "bench", 0.0, 8))
        parts = KeeperParts(
            journal=journal,
            guard=IsolationGuard(GuardLimits(is_enforcing=True)),
            isolation=Isolation(lambda _: gate, book, is_dry=lambda: False),
            hands=NoHelp(),
            now_s=time.time,
            surroundings=lambda _: Surroundings(time.time()),
            target_of=_target,
            publish_state=publish,
            tell=lambda _: None,
        )
        classifier = MessageClassifier(load_catalogue(), now_s=time.monotonic)
        log = KernelLog(DescriptorSource(descriptor), classifier, boot_id="bench", now_s=time.monotonic)
        async with FaultKeeper(parts) as keeper:
            await keeper.run(log, descriptor)


def _target(intent: Intent) -> Target:
    return Target(intent.entity, intent.incident, "bench", _GPU.index, _GPU.uuid, intent.detail)


def main(words: list[str]) -> int:
    """Run as the child with a folder and a descriptor; without them measure and print JSON."""
    if words:
        asyncio.run(_keep(Path(words[0]), int(words[1])))
    else:
        sys.stdout.write(json.dumps(asdict(measure_isolation())) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
