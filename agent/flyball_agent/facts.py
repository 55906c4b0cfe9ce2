"""Facts: what a source saw about one entity, at one time, in the words of the catalogue. Frozen, small and ordered.

A fact says how far it may go on its own (`Level`); what becomes of it is decided by the health machine.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from flyball_agent.kernel_lines import Classification
from flyball_agent.kernel_messages import KernelMessage

EVIDENCE_CHARACTERS: Final = 512
FOLLOWERS: Final = frozenset({"xid.13", "xid.31", "xid.43", "xid.45", "xid.154"})  # often only the echo of a fault
_PLACE = re.compile(r"GPC (\d+), TPC (\d+)")
_ISOLATING = frozenset(
    ("reset_gpu", "drain_and_reset", "reboot_node", "power_cycle", "reset_all_gpus_on_node", "support", "drain")
)


class Level(IntEnum):
    """How far one cause takes an entity."""

    NOTE = 0  # recorded, changes nothing
    SUSPECT = 1
    DEGRADED = 2
    QUARANTINED = 3


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """Something that has a health of its own: `gpu`, `mig`, `nic`, `fabric` or `node`, and its name within the host."""

    kind: str
    name: str = ""

    @property
    def parent(self) -> "Entity | None":
        """Return the GPU of a MIG instance."""
        return Entity("gpu", self.name.rpartition("/")[0]) if self.kind == "mig" else None

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


NODE: Final = Entity("node")
FABRIC: Final = Entity("fabric")


def parse_entity(text: str) -> Entity:
    """Return the entity of its text form."""
    kind, _, name = text.partition(":")
    return Entity(kind, name)


@dataclass(frozen=True, slots=True)
class Fact:
    """One observation.

    Args:
        at_s: Unix seconds of the agent's steady clock.
        boot_id: Boot in which it was seen.
        source: kmsg, journal, nvml, sampler, systemd, sysfs, host.
        code: What was seen, such as `xid.79`, `gauge.power_brake`, `lost`.
        level: How far it may go on its own.
        action: Repair it asks for.
        group: Root-cause group; facts of one group on one entity are one incident.
        is_hard: Evidence that only a proven repair clears.
        is_over: The condition of this code has ended.
        recovery: The driver's recovery action, where the fact tells it (0 to 5).
        place: Where on the device, for patterns.
        count: How many sightings this stands for.
    """

    at_s: float
    boot_id: str
    source: str
    entity: Entity
    code: str
    level: Level
    action: str = "none"
    group: str = "gpu"
    is_hard: bool = False
    is_over: bool = False
    recovery: int | None = None
    place: str = ""
    evidence: str = ""
    count: int = 1
    is_injected: bool = False


def facts_of_message(message: KernelMessage, *, at_s: float, boot_id: str, source: str = "kmsg") -> list[Fact]:
    """Return the facts of a kernel message; one about a GPU that concerns the host too gives a second for the host."""
    if message.lost:
        return [Fact(at_s, boot_id, source, NODE, "log.lost", Level.NOTE, evidence=f"{message.lost} records lost")]
    found = message.found
    if not found.is_interesting or found.severity == "continuation":
        return []
    base = Fact(
        at_s=at_s,
        boot_id=boot_id,
        source=source,
        entity=_entity(found),
        code=code_of(found),
        level=level_of(found),
        action=found.action or "none",
        group=found.group or "unknown",
        is_hard=found.severity == "fatal",
        is_over=found.recovery == 0,
        recovery=found.recovery,
        place=_place(found, message.text),
        evidence=message.text[:EVIDENCE_CHARACTERS],
        count=1 + message.repeats,
        is_injected=found.is_injected,
    )
    return [base]


def code_of(found: Classification) -> str:
    """Return the code under which a message is counted."""
    if found.xid is not None:
        return f"xid.{found.xid}"
    return f"sxid.{found.sxid}" if found.sxid is not None else f"event.{found.event}"


def level_of(found: Classification) -> Level:
    """Return how far a message may go: only severity `fatal` isolates, and only with an action that repairs."""
    actions = (found.action or "none").split("+")
    if found.severity == "fatal" and _ISOLATING.intersection(actions):
        return Level.DEGRADED if found.scope == "storage" else Level.QUARANTINED
    if found.severity in {"info", "continuation"}:
        return Level.NOTE
    if "reset_gpu_when_idle" in actions:
        return Level.QUARANTINED if found.instance else Level.DEGRADED
    suspicious = {"triage", "await_154", "support", "drain_p2p", "recover_imex"}
    return Level.SUSPECT if suspicious.intersection(actions) and found.pci else Level.NOTE


def _entity(found: Classification) -> Entity:
    if found.sxid is not None or found.scope == "fabric":
        return FABRIC
    if found.scope == "nic" and found.pci:
        return Entity("nic", found.pci)
    if found.pci is None or (found.scope in {"nic", "storage", "node"} and found.xid is None):
        return NODE
    if found.instance and found.scope == "app":
        return Entity("mig", f"{found.pci}/{found.instance}")
    return Entity("gpu", found.pci)


def _place(found: Classification, text: str) -> str:
    """Return where an exception happened: the same place twice is the hardware, different places are the program."""
    if found.xid != 13:
        return ""
    place = _PLACE.search(text)
    return f"{place[1]}.{place[2]}" if place else ""
