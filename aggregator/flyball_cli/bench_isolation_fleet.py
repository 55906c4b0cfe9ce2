"""`flyball bench isolation-fleet`: the same hard fault on many hosts at once, and one aggregator that gives permits.

Every host is the agent's real health room with its own journal and files in memory; the aggregator's desk is the real
one. Events and orders pass between them encoded, orders signed and verified; the broker and the governors are left out.
All of it shares one process here, so a host's time is that of its own call, and the last gate waits for the work of
all hosts on one core. Once all at once, with the guard against common causes as shipped; once without it, so that the
pools decide, and host after host, since one core cannot give all of them an answer within the half second they wait.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flyball_agent.config import AgentConfig
from flyball_agent.facts import NODE
from flyball_agent.health_config import HealthConfig, IsolationConfig
from flyball_agent.host_health import HostHealth
from flyball_agent.state_file import check_gpu
from flyball_aggregator.health.health_desk import HealthDesk
from flyball_aggregator.health.mode import GuardSettings
from flyball_aggregator.site import Element, Host, Site
from flyball_wire.codec import decode, encode
from flyball_wire.local_socket import DeviceEvent, HelloReply
from flyball_wire.messages import Command, Event, GpuInventory
from flyball_wire.signing import SigningKey, open_signed, sign

GPUS: Final = 8
SESSION: Final = "ab" * 16
XID: Final = 151  # fatal, asks for a reboot, and nothing that a host may decide alone
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a private folder is made in it
SETTLE_S: Final = 60.0


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command below `flyball bench`."""
    parser = subparsers.add_parser("isolation-fleet", help="one hard fault on many hosts at once; permits of one desk")
    parser.add_argument("--hosts", type=int, default=500)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 when a bound does not hold."""
    result = measure(arguments.hosts)
    print(json.dumps(result) if arguments.json else "\n".join(f"{name:24} {value}" for name, value in result.items()))
    return 0 if result["holds"] else 1


def measure(hosts: int) -> dict[str, Any]:
    """Return how long each host took to refuse its GPU, and how many hosts were taken out."""
    found: dict[str, Any] = {"hosts": hosts, "cores": os.cpu_count()}
    for word, settings in (("guarded", GuardSettings()), ("pools_only", GuardSettings(host_ratio=2.0))):
        with tempfile.TemporaryDirectory(prefix="flyball-bench-", dir=MEMORY if MEMORY.is_dir() else None) as name:
            part = asyncio.run(_measure(Path(name), hosts, settings))
        found |= {f"{word}_{key}": value for key, value in part.items()}
    return {**found, "holds": found["guarded_holds"] and found["pools_only_holds"]}


@dataclass(slots=True)
class _Fleet:
    """Hosts by name, and the order desk between them."""

    key: SigningKey = field(default_factory=lambda: SigningKey("lease-1", Ed25519PrivateKey.generate()))
    hosts: dict[str, HostHealth] = field(default_factory=dict)
    events: int = 0
    orders: int = 0
    desk: HealthDesk | None = None

    def send(self, host: str, act: str, fields: Mapping[str, str]) -> bool:
        """Sign an order, and hand it on as the host's governor would."""
        self.orders += 1
        arguments = (("act", act), *fields.items())
        envelope = sign(Command(host, SESSION, "c", 1, self.orders, 0, 1000, "health", arguments), self.key)
        asyncio.get_running_loop().call_soon(self._deliver, host, envelope)
        return True

    def _deliver(self, host: str, envelope: bytes) -> None:
        order = open_signed(Command, envelope, {self.key.key_id: self.key.public_bytes})
        self.hosts[host].take_order(dict(order.arguments))

    def take(self, payload: bytes) -> None:
        """Take an event as it came from the broker."""
        self.events += 1
        if self.desk is not None:
            self.desk.take_event(decode(Event, payload))


@dataclass(slots=True)
class _Publisher:
    """Carries the events of one host."""

    fleet: _Fleet
    host: str

    def __call__(
        self,
        name: str,
        severity: str,
        gpu: int | None,
        fields: tuple[tuple[str, str], ...],
        *,
        occurred_at_s: float | None = None,
        correlation_id: str | None = None,
    ) -> None:
        """Encode an event and let the desk take it later, as over a broker."""
        at_s = time.time() if occurred_at_s is None else occurred_at_s
        payload = encode(Event(self.host, SESSION, 0, at_s, name, severity, gpu, correlation_id, fields))
        asyncio.get_running_loop().call_soon(self.fleet.take, payload)


async def _measure(root: Path, count: int, settings: GuardSettings) -> dict[str, Any]:
    fleet = _Fleet()
    names = [f"h{number}" for number in range(count)]
    site = Site(
        name="bench",
        elements=(Element("feed", kind="feed", rating_w=1e9),),
        hosts=tuple(Host(name=name, element="feed", gpus=GPUS) for name in names),
    )
    fleet.desk = HealthDesk(site, fleet, lambda _: None, time.time)
    fleet.desk.guard.settings = settings
    for name in names:
        fleet.hosts[name] = _open(root / name, name, fleet)
    tasks = [asyncio.create_task(health.run()) for health in fleet.hosts.values()]
    await asyncio.sleep(2.0)  # everybody's first second
    try:
        return await _fault(fleet, root, is_serial=settings.host_ratio > 1.0)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for health in fleet.hosts.values():
            health.close()


async def _fault(fleet: _Fleet, root: Path, *, is_serial: bool) -> dict[str, Any]:
    event = DeviceEvent(0, time.time(), "xid", "critical", 0, (("count", "1"), ("code", str(XID))))
    started_s, refused_s = time.monotonic(), list[float]()
    for name, health in fleet.hosts.items():
        began_s = time.monotonic()
        health.take_device_event(event)
        is_refused = check_gpu((root / name / "health.json").read_bytes(), "0", time.time())[0] == 1
        refused_s.append(time.monotonic() - began_s if is_refused else float("inf"))
        if is_serial:
            await _wait_for([root / name / "gates" / "gpu-0"])
    await _wait_for([root / name / "gates" / "gpu-0" for name in fleet.hosts])
    gated_s = time.monotonic() - started_s
    await asyncio.sleep(2.0)  # permits come, or are given up, within half a second
    out = sum(health.machine.state(NODE).refuses_work for health in fleet.hosts.values())
    usage = fleet.desk.permits.usage()["fleet"] if fleet.desk is not None else (0, 0)
    return {
        "refused_p50_s": round(sorted(refused_s)[len(refused_s) // 2], 4),
        "refused_max_s": round(max(refused_s), 4),
        "last_gate_s": round(gated_s, 3),
        "hosts_out": out,
        "places": usage[1],
        "mode": fleet.desk.mode.value if fleet.desk is not None else "",
        "events": fleet.events,
        "orders": fleet.orders,
        "holds": max(refused_s) <= 3.0 and out <= usage[1],
    }


async def _wait_for(gates: list[Path]) -> None:
    until_s = time.monotonic() + SETTLE_S
    while not all(gate.exists() for gate in gates) and time.monotonic() < until_s:
        await asyncio.sleep(0.002 * len(gates) ** 0.5)


def _open(folder: Path, name: str, fleet: _Fleet) -> HostHealth:
    folder.mkdir()
    config = AgentConfig(
        host=name,
        state_dir=str(folder),
        health=HealthConfig(
            file=str(folder / "health.json"),
            drills=str(folder / "drills"),
            kernel_log="off",
            infiniband=False,
            panics="",
        ),
        isolation=IsolationConfig(mode="enforce", gates=str(folder / "gates"), opt_out_file=str(folder / "out")),
    )
    health = HostHealth(config, _Publisher(fleet, name), "boot")
    health.open()
    health.take_hello(
        HelloReply(1, name, SESSION, "boot", "k", bytes(32), True, _gpus(), has_ring=False, has_kernel_log=False)
    )
    return health


def _gpus() -> tuple[GpuInventory, ...]:
    return tuple(
        GpuInventory(gpu, f"GPU-{gpu}", "H100", f"0000:{gpu + 1:02x}:00.0", "NVIDIA", 200_000, 700_000, 700_000)
        for gpu in range(GPUS)
    )
