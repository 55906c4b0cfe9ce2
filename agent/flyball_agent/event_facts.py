"""Facts from what the governor's device side tells: XIDs that NVML pushed, recovery actions, lost and stalled GPUs."""

from collections.abc import Iterator
from typing import Final

from flyball_agent.catalogue import Catalogue
from flyball_agent.device_facts import RECOVERY, RETURN_CODES
from flyball_agent.facts import Entity, Fact, Level, level_of
from flyball_agent.kernel_lines import Classification
from flyball_wire.local_socket import DeviceEvent

LOST: Final = 15  # NVML_ERROR_GPU_IS_LOST, where an event names no code
RECOVERY_XID: Final = 154  # NVML gives its number without the action: the event `recovery_action` tells that


def facts_of_event(
    event: DeviceEvent, pci: str | None, catalogue: Catalogue, at_s: float, boot_id: str
) -> Iterator[Fact]:
    """Yield the facts of one device event; what is no fault of a GPU says nothing."""
    if pci is None:
        return
    gpu, code = Entity("gpu", pci), _code(event)
    if event.name == "xid" and code is not None and code != RECOVERY_XID:
        yield _xid(gpu, code, catalogue, at_s, boot_id)
    elif event.name == "recovery_action" and code is not None:
        level, action = RECOVERY.get(code, (Level.SUSPECT, "triage"))
        hard = level >= Level.QUARANTINED
        yield Fact(
            at_s, boot_id, "nvml", gpu, "recovery", level, action, "driver", hard, is_over=code == 0, recovery=code
        )
    elif event.name in {"lost", "unavailable"}:
        name, level, action, is_hard = RETURN_CODES.get(code or LOST, RETURN_CODES[LOST])
        yield Fact(at_s, boot_id, "nvml", gpu, name, level, action, "bus", is_hard)
    elif event.name in {"ecc_double_bit", "poison"}:
        yield Fact(at_s, boot_id, "nvml", gpu, f"nvml.{event.name}", Level.SUSPECT, "triage", "memory")
    elif event.name in {"stalled", "recovered"}:
        is_over = event.name == "recovered"
        level = Level.NOTE if is_over else Level.SUSPECT
        yield Fact(at_s, boot_id, "sampler", gpu, "gpu.stalled", level, group="hang", is_over=is_over)


def _xid(gpu: Entity, number: int, catalogue: Catalogue, at_s: float, boot_id: str) -> Fact:
    policy = catalogue.xid(number)
    found = Classification(
        xid=number,
        severity=policy.severity,
        action=policy.action,
        scope=policy.scope,
        group=policy.group,
        pci=gpu.name,
    )
    return Fact(
        at_s=at_s,
        boot_id=boot_id,
        source="nvml",
        entity=gpu,
        code=f"xid.{number}",
        level=level_of(found),
        action=policy.action or "none",
        group=policy.group or "unknown",
        is_hard=policy.severity == "fatal",
        evidence=f"NVML event XID {number}: {policy.meaning}",
    )


def _code(event: DeviceEvent) -> int | None:
    text = dict(event.fields).get("code", "")
    return int(text) if text.isdecimal() else None
