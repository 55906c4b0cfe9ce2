"""A host for health tests: kernel lines in, states and intents out, with a clock that tests move."""

from flyball_agent.catalogue import load_catalogue
from flyball_agent.facts import Entity, Fact, Level, facts_of_message
from flyball_agent.health import HealthMachine
from flyball_agent.health_inputs import Boot, Input, Intent, Order, Progress
from flyball_agent.health_record import State
from flyball_agent.kernel_lines import classify_line
from flyball_agent.kernel_messages import KernelMessage

CATALOGUE = load_catalogue()
GPU = Entity("gpu", "0000:9b:00.0")
ADDRESS = "PCI:0000:9b:00"


class Bench:
    """One host of eight GPUs, up for a day."""

    def __init__(self, machine: HealthMachine | None = None, *, uptime_s: float = 86_400.0) -> None:
        self.machine = machine or HealthMachine()
        self.now_s = 1_000_000.0
        self.intents: list[Intent] = []
        self.give(Boot(self.now_s, "boot-1", self.now_s - uptime_s, 8))

    def give(self, given: Input) -> list[Intent]:
        intents = self.machine.apply(given)
        self.intents += intents
        return intents

    def line(self, text: str, *, address: str = ADDRESS) -> None:
        message = KernelMessage(0.0, 1, classify_line(text.replace("@", address), CATALOGUE), text)
        for fact in facts_of_message(message, at_s=self.now_s, boot_id=self.machine.host.boot_id):
            self.give(fact)

    def xid(self, number: int, text: str = "x", *, address: str = ADDRESS) -> None:
        self.line(f"NVRM: Xid (@): {number}, pid=1, name=a, {text}", address=address)

    def recovery(self, code: int, *, entity: Entity = GPU) -> None:
        """What the sampler tells of NVML field 230."""
        level = Level.NOTE if code == 0 else Level.QUARANTINED
        fact = Fact(
            self.now_s,
            "boot-1",
            "nvml",
            entity,
            "recovery",
            level,
            group="driver",
            is_over=code == 0,
            recovery=code,
            is_hard=code > 0,
        )
        self.give(fact)

    def gauge(self, code: str, *, is_over: bool = False, level: Level = Level.DEGRADED) -> None:
        self.give(Fact(self.now_s, "boot-1", "sampler", GPU, code, level, group="power", is_over=is_over))

    def progress(self, step: str, detail: str = "", *, entity: Entity = GPU) -> None:
        self.give(Progress(self.now_s, entity, step, detail))

    def order(self, act: str, *, entity: Entity = GPU, hours: float | None = None) -> None:
        self.give(Order(self.now_s, entity, act, "ann", hours))

    def wait(self, seconds: float, *, step_s: float = 10.0) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + step_s)
            self.intents += self.machine.tick(self.now_s)

    def state(self, entity: Entity = GPU) -> State:
        return self.machine.state(entity)

    def kinds(self, entity: Entity = GPU) -> list[str]:
        return [intent.kind for intent in self.intents if intent.entity == entity and intent.kind != "notify"]

    def drain(self) -> None:
        self.progress("isolated")
        self.progress("drained")

    def repair(self, proof: str = "reset seen") -> None:
        """Drain, reset, check: everything but the quiet time."""
        self.drain()
        self.progress("repair_started", "reset_gpu")
        self.progress("repaired", proof)
        self.recovery(0)
        self.progress("validated")
