"""The health room inside the running agent: events, kernel lines, drills and orders in; file, words and events out."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.flyball_agent.fake_governor import HOST, INCARNATION, inventory

from flyball_agent.config import AgentConfig
from flyball_agent.facts import NODE, Entity
from flyball_agent.health_config import HealthConfig, IsolationConfig
from flyball_agent.health_record import State
from flyball_agent.host_health import Clocks, HostHealth
from flyball_agent.inject import leave_drill
from flyball_agent.state_file import check_gpu
from flyball_agent.state_window import GpuWindow
from flyball_wire.local_socket import DeviceEvent, HelloReply, StatusReply

GPU = Entity("gpu", "0000:01:00.0")
LINE = "NVRM: Xid (PCI:0000:01:00): 48, pid=1, name=a, DBE"


@dataclass
class Told:
    """Events that the health room published."""

    events: list[tuple[str, str, int | None, dict[str, str], str | None]] = field(default_factory=list)

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
        assert all(len(value.encode()) <= 1024 for _, value in fields)
        self.events.append((name, severity, gpu, dict(fields), correlation_id))

    def named(self, name: str) -> list[dict[str, str]]:
        return [fields for told, _, _, fields, _ in self.events if told == name]


@dataclass
class Clock:
    unix: float = 2e9
    monotonic: float = 1000.0

    def advance(self, seconds: float) -> None:
        self.unix += seconds
        self.monotonic += seconds

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.unix, lambda: self.monotonic)


def hello(gpus: int = 4) -> HelloReply:
    return HelloReply(
        request_id=1,
        host=HOST,
        incarnation=INCARNATION,
        boot_id="boot",
        key_id="k",
        public_key=bytes(32),
        is_simulated=True,
        gpus=inventory(gpus),
        has_ring=False,
        has_kernel_log=False,
    )


def status(*health: str) -> StatusReply:
    return StatusReply(
        request_id=1,
        mode="enforce",
        is_gated=False,
        is_quiesced=False,
        phase="leased",
        lease_milliwatts=None,
        lease_remaining_ms=None,
        bound_milliwatts=0,
        caps_milliwatts=(None,) * len(health),
        health=health,
        samples_total=0,
        missed_ticks_total=0,
        rate_hz=20.0,
        notes=(),
    )


def config_in(folder: Path, mode: str = "enforce") -> AgentConfig:
    return AgentConfig(
        host=HOST,
        state_dir=str(folder),
        health=HealthConfig(file=str(folder / "health.json"), drills=str(folder / "drills"), kernel_log="kmsg"),
        isolation=IsolationConfig(
            mode="enforce" if mode == "enforce" else "observe",
            gates=str(folder / "gates"),
            opt_out_file=str(folder / "out"),
        ),
    )


@contextlib.asynccontextmanager
async def opened(config: AgentConfig, told: Told, clock: Clock) -> AsyncIterator[HostHealth]:
    health = HostHealth(config, told, "boot", clock.clocks())
    health.open()
    health.take_hello(hello())
    task = asyncio.create_task(health.run())
    try:
        yield health
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        health.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not condition():
            await asyncio.sleep(0.005)


def xid(number: int, gpu: int = 1) -> DeviceEvent:
    return DeviceEvent(0, 2e9, "xid", "critical", gpu, (("count", "1"), ("code", str(number))))


def refusal(folder: Path, clock: Clock, gpu: str = "1") -> int:
    return check_gpu((folder / "health.json").read_bytes(), gpu, clock.unix)[0]


async def test_a_hard_xid_refuses_work_before_the_call_returns_and_is_told_once(tmp_path: Path) -> None:
    told, clock = Told(), Clock()
    async with opened(config_in(tmp_path), told, clock) as health:
        health.take_samples(status(*["ok"] * 4), (GpuWindow(is_sampled=True),) * 4)
        health.tick()
        assert refusal(tmp_path, clock) == 0

        health.take_device_event(xid(48))
        assert refusal(tmp_path, clock) == 1
        assert refusal(tmp_path, clock, "2") == 0
        assert health.word(1) == "quarantined"
        assert health.word(2) is None

        await until((tmp_path / "gates" / "gpu-1").exists)
        await until(lambda: health.machine.state(GPU) is State.DRAINING)
        before = len(told.named("incident"))
        for _ in range(100):
            health.take_device_event(xid(48))
        assert len(told.named("incident")) == before
    first = told.named("incident")[0]
    assert (first["entity"], first["codes"], first["injected"]) == (str(GPU), "xid.48", "false")
    assert told.named("drain_incomplete")[0]["entity"] == str(GPU)


async def test_a_fresh_install_only_says_what_it_would_do(tmp_path: Path) -> None:
    told, clock = Told(), Clock()
    async with opened(config_in(tmp_path, "observe"), told, clock) as health:
        health.take_device_event(xid(48))
        assert refusal(tmp_path, clock) == 0
        assert health.word(1) == "degraded"
        decided = [fields for fields in told.named("health") if fields["kind"] == "isolate"]
    assert (decided[0]["allowed"], decided[0]["rule"]) == ("false", "observing: this host does not enforce")
    assert not (tmp_path / "gates").exists()


async def test_kernel_lines_come_by_the_descriptor_and_are_not_read_twice_over_a_restart(tmp_path: Path) -> None:
    told, clock = Told(), Clock()
    for _ in range(2):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            async with opened(config_in(tmp_path), told, clock) as health:
                health.take_kernel_log(theirs.detach())
                ours.send(f"3,7,1000000,-;{LINE}\n".encode())
                ours.send(b"6,8,1000001,-;usb 1-1: new device\n")
                await until(lambda: health.machine.state(GPU).refuses_work)
                await until(lambda: _kept(tmp_path) == ["boot", 8])
                count = health.machine.healths[GPU].incidents[0].causes["xid.48"].count
    assert count == 1


def _kept(folder: Path) -> object:
    path = folder / "health" / "kernel_log.json"
    return json.loads(path.read_text()) if path.exists() else None


async def test_what_was_isolated_is_still_refused_after_a_restart_and_limits_count_on(tmp_path: Path) -> None:
    told, clock = Told(), Clock()
    async with opened(config_in(tmp_path), told, clock) as health:
        health.take_device_event(xid(48))
        await until((tmp_path / "gates" / "gpu-1").exists)
    (tmp_path / "health.json").unlink()

    async with opened(config_in(tmp_path), Told(), clock) as health:
        await until((tmp_path / "health.json").exists)
        assert refusal(tmp_path, clock) == 1
        kept = json.loads((tmp_path / "health" / "limits.json").read_text())
    assert kept["actions"][0] == clock.unix


async def test_an_isolation_that_somebody_takes_down_is_set_up_again(tmp_path: Path) -> None:
    told, clock = Told(), Clock()
    config = config_in(tmp_path)
    config = replace(config, isolation=replace(config.isolation, recheck_s=1.0))
    gate = tmp_path / "gates" / "gpu-1"
    async with opened(config, told, clock) as health:
        health.take_device_event(xid(48))
        await until(gate.exists)
        gate.unlink()
        clock.advance(2.0)
        await until(gate.exists)
        await until(lambda: any("another hand" in fields["rule"] for fields in told.named("health")))


async def test_a_host_waits_for_a_permit_and_takes_the_fleets_answer(tmp_path: Path) -> None:
    told, clock = Told(), Clock()
    async with opened(config_in(tmp_path), told, clock) as health:
        health.take_order({"act": "isolate", "entity": "node", "by": "op"})
        assert health.machine.state(NODE).refuses_work  # an operator needs no permit
        health.take_order({"act": "resume", "entity": "node", "by": "op", "hours": "1"})
        assert not health.machine.state(NODE).refuses_work

        clock.advance(1.0)
        health.take_device_event(xid(79))
        await until(lambda: bool(told.named("permit_request")))
        asked = next(identity for name, _, _, _, identity in told.events if name == "permit_request")
        health.take_order({"act": "permit", "correlation_id": asked or "", "granted": "true"})
        await until(lambda: health.machine.state(NODE).refuses_work)


async def test_orders_that_make_no_sense_change_nothing(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(config_in(tmp_path), Told(), clock) as health:
        for fields in ({"act": "burn", "entity": "node"}, {"act": "mode", "mode": "x"}, {"act": "window"}, {}):
            health.take_order(dict(fields))
        assert health.orders.mode == "normal"
        assert not health.orders.windows

        health.take_order({"act": "window", "begins_s": "0", "ends_s": str(clock.unix + 60), "covers": HOST})
        health.take_device_event(xid(48))
        await asyncio.sleep(0)
        assert not (tmp_path / "gates").exists()  # maintenance: isolation rests


async def test_a_drill_is_marked_from_end_to_end(tmp_path: Path) -> None:
    told, clock = Told(), Clock()
    async with opened(config_in(tmp_path), told, clock) as health:
        leave_drill(tmp_path / "drills", "line", LINE)
        health.tick()
        assert health.machine.state(GPU).refuses_work
    assert {fields["injected"] for fields in told.named("incident")} == {"true"}


async def test_a_driver_that_hangs_is_suspect_after_5_s_and_hung_after_15_s(tmp_path: Path) -> None:
    told, clock = Told(), Clock()
    async with opened(config_in(tmp_path), told, clock) as health:
        health.take_samples(status(*["ok"] * 4), (GpuWindow(is_sampled=True),) * 4)
        seen: dict[str, float] = {}
        for second in range(1, 17):
            clock.advance(1.0)
            health.take_samples(status(*["stalled"] * 4), (GpuWindow(),) * 4)
            for cause in health.machine.healths[NODE].open_causes() if NODE in health.machine.healths else []:
                seen.setdefault(cause.code, second)
    assert seen == {"driver.slow": 5, "driver.hung": 15}


async def test_a_gpu_that_nobody_hears_of_is_unknown_and_not_healthy(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(config_in(tmp_path), Told(), clock) as health:
        health.take_samples(status(*["ok"] * 4), (GpuWindow(is_sampled=True),) * 4)
        health.tick()
        assert refusal(tmp_path, clock) == 0
        clock.advance(16.0)
        health.take_samples(None, ())
        health.tick()
        assert refusal(tmp_path, clock) == 2
