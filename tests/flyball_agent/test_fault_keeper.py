"""From a kernel line to refused work, drained, repaired and released: the parts together, and killed in the middle."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.flyball_agent.health_bench import GPU
from tests.flyball_agent.test_kernel_log import record

from flyball_agent.catalogue import load_catalogue
from flyball_agent.facts import NODE, Fact, Level
from flyball_agent.fault_keeper import Decision, FaultKeeper, KeeperParts
from flyball_agent.health import HealthMachine
from flyball_agent.health_inputs import Boot, Intent, Order
from flyball_agent.health_journal import HealthJournal
from flyball_agent.health_record import State
from flyball_agent.isolation import Isolation, OwnershipBook, Profile, Target
from flyball_agent.isolation_bench import measure_isolation
from flyball_agent.isolation_gates import SystemdGate
from flyball_agent.isolation_guard import GuardLimits, IsolationGuard, Surroundings
from flyball_agent.kernel_log import DescriptorSource, KernelLog
from flyball_agent.kernel_messages import MessageClassifier
from flyball_agent.state_file import Gpu, check_gpu, health_plain, write_health

LINE = "NVRM: Xid (PCI:0000:9b:00): 48, pid=1, name=a, DBE"
GPUS = [Gpu(3, "GPU-3", GPU.name)]


class Helpers:
    """Jobs, governor and aggregator that answer as a test says."""

    def __init__(self, *, permit: bool | None = True, can_repair: bool = True) -> None:
        self.permit = permit
        self.can_repair = can_repair
        self.done: list[str] = []
        self.drain_gate = asyncio.Event()
        self.drain_gate.set()

    async def ask_permit(self, target: Target) -> bool | None:
        self.done.append("ask")
        return self.permit

    async def drain(self, target: Target) -> str:
        self.done.append("drain")
        await self.drain_gate.wait()
        return "no work left"

    async def repair(self, target: Target, action: str) -> tuple[bool, str]:
        self.done.append(action)
        return self.can_repair, "reset seen"

    async def validate(self, target: Target) -> tuple[bool, str]:
        self.done.append("validate")
        return True, "memory copied"


class House:
    """A keeper over real files, with a clock that tests move."""

    def __init__(self, folder: Path, helpers: Helpers, *, is_enforcing: bool = True) -> None:
        self.folder = folder
        self.helpers = helpers
        self.now_s = time.time()
        self.told: list[Decision] = []
        self.is_enforcing = is_enforcing
        self.guard = IsolationGuard(GuardLimits(is_enforcing=is_enforcing, may_repair=True))
        book = OwnershipBook(folder / "held.json")
        book.load()
        profile = Profile((SystemdGate(folder / "quarantine"),))
        self.isolation = Isolation(lambda _: profile, book, is_dry=lambda: not is_enforcing)
        self.journal = HealthJournal(folder / "journal", HealthMachine())

    def parts(self) -> KeeperParts:
        return KeeperParts(
            journal=self.journal,
            guard=self.guard,
            isolation=self.isolation,
            hands=self.helpers,
            now_s=lambda: self.now_s,
            surroundings=lambda machine: Surroundings(self.now_s),
            target_of=target_of,
            publish_state=self.publish,
            tell=self.told.append,
        )

    def publish(self) -> None:
        plain = health_plain(self.journal.machine, GPUS, now_s=self.now_s, is_enforcing=self.is_enforcing)
        write_health(self.folder / "health.json", plain)

    def check(self) -> int:
        return check_gpu((self.folder / "health.json").read_bytes(), "3", self.now_s)[0]

    @property
    def gate(self) -> Path:
        return self.folder / "quarantine" / "gpu-3"

    def log(self, descriptor: int) -> KernelLog:
        def clock() -> float:
            return self.now_s

        classifier = MessageClassifier(load_catalogue(), now_s=clock)
        return KernelLog(DescriptorSource(descriptor), classifier, boot_id="boot-1", now_s=clock)


def target_of(intent: Intent) -> Target:
    index = 3 if intent.entity == GPU else None
    return Target(intent.entity, intent.incident, "node7", index, "GPU-3" if index else None, intent.detail)


@asynccontextmanager
async def keeper(house: House) -> AsyncIterator[FaultKeeper]:
    with house.journal:
        house.journal.apply(Boot(house.now_s, "boot-1", house.now_s - 86_400, 8))
        async with FaultKeeper(house.parts()) as running:
            yield running


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


def hard(house: House) -> Fact:
    return Fact(house.now_s, "boot-1", "kmsg", GPU, "xid.48", Level.QUARANTINED, "reset_gpu", "memory", is_hard=True)


async def test_a_kernel_line_refuses_new_work_and_is_carried_to_the_end(tmp_path: Path) -> None:
    house = House(tmp_path, Helpers())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    async with keeper(house) as running:
        with ours, theirs:
            following = asyncio.create_task(running.run(house.log(ours.fileno()), ours.fileno()))
            theirs.send(record(1, LINE))
            await until(lambda: running.machine.state(GPU) is State.VALIDATING)
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
        assert (house.check(), house.gate.exists()) == (1, True)
        await running.wait_idle()
        house.now_s += 400
        running.tick()
        await running.wait_idle()
        assert house.helpers.done == ["drain", "reset_gpu", "validate"]
        assert (running.machine.state(GPU), house.gate.exists()) == (State.HEALTHY, False)


async def test_new_work_is_refused_before_anything_slow_begins(tmp_path: Path) -> None:
    house = House(tmp_path, Helpers())
    async with keeper(house) as running:
        running.take(hard(house))
        assert house.check() == 1


async def test_an_observing_host_decides_tells_and_touches_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, Helpers(), is_enforcing=False)
    async with keeper(house) as running:
        running.take(hard(house))
        await running.wait_idle()
    rules = [decision.verdict.rule for decision in house.told if decision.intent.kind == "isolate"]
    assert rules == ["observing: this host does not enforce"]
    assert (house.gate.exists(), house.helpers.done) == (False, [])


async def test_a_host_that_begins_to_enforce_isolates_what_it_only_watched(tmp_path: Path) -> None:
    async with keeper(House(tmp_path, Helpers(), is_enforcing=False)) as running:
        running.take(hard(House(tmp_path, Helpers())))
    house = House(tmp_path, Helpers())
    async with keeper(house) as running:
        await running.wait_idle()
    assert house.gate.exists()


async def test_a_drain_that_hangs_delays_no_other_entity(tmp_path: Path) -> None:
    house = House(tmp_path, Helpers(permit=True))
    house.helpers.drain_gate.clear()
    async with keeper(house) as running:
        running.take(hard(house))
        await until(lambda: running.machine.state(GPU) is State.DRAINING)
        running.take(Fact(house.now_s, "boot-1", "sampler", NODE, "driver.hung", Level.QUARANTINED, group="hang"))
        await until(lambda: running.machine.state(NODE) is State.DRAINING)
        assert (house.folder / "quarantine" / "node").exists()


async def test_no_answer_leaves_a_host_to_the_offline_rule(tmp_path: Path) -> None:
    house = House(tmp_path, Helpers(permit=None))
    async with keeper(house) as running:
        soft = Fact(house.now_s, "boot-1", "x", NODE, "absence.unit", Level.QUARANTINED, group="unit")
        running.take(soft)
        await running.wait_idle()
        assert running.machine.state(NODE) is State.SUSPECT
        running.take(Fact(house.now_s, "boot-1", "x", NODE, "driver.hung", Level.QUARANTINED, group="hang"))
        house.now_s += 100
        running.tick()
        await until(lambda: running.machine.state(NODE).refuses_work)


async def test_an_operators_resume_lifts_what_we_hold_whatever_the_mode(tmp_path: Path) -> None:
    house = House(tmp_path, Helpers(can_repair=False))
    async with keeper(house) as running:
        running.take(hard(house))
        await running.wait_idle()
        assert house.gate.exists()
        house.guard.limits = GuardLimits()
        running.take(Order(house.now_s + 1, GPU, "resume", "ann"))
        await running.wait_idle()
        assert (house.gate.exists(), house.check()) == (False, 0)


CHILD = """
import sys
from pathlib import Path
from flyball_agent.facts import Entity, Fact, Level
from flyball_agent.health import HealthMachine
from flyball_agent.health_inputs import Boot
from flyball_agent.health_journal import HealthJournal

with HealthJournal(Path(sys.argv[1]), HealthMachine()) as journal:
    journal.apply(Boot(1.0, "b", 0.0, 8))
    for number in range(10**6):
        entity = Entity("gpu", f"0000:{number % 256:02x}:00.0")
        journal.apply(Fact(2.0 + number, "b", "kmsg", entity, f"xid.{number}", Level.QUARANTINED, is_hard=True))
        print(number, flush=True)
"""


def test_what_was_told_is_still_known_after_kill_9(tmp_path: Path) -> None:
    """Every input that was acknowledged is in the journal, whatever was being written when the process died."""
    path = tmp_path / "journal"
    with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        last = -1
        for line in child.stdout:
            last = int(line)
            if last >= 40:
                break
        os.kill(child.pid, signal.SIGKILL)
    with HealthJournal(path, HealthMachine()) as journal:
        known = {code for health in journal.machine.healths.values() for i in health.incidents for code in i.causes}
    assert {f"xid.{number}" for number in range(last + 1)} <= known


def test_a_real_process_refuses_work_within_the_promised_three_seconds() -> None:
    times = measure_isolation(rounds=2)
    assert 0 < times.refused_max_s <= times.gate_max_s < 3.0
