"""The health file of a host: what prologs, entrypoints and load balancers ask, without a privilege or a daemon.

A file that is missing, broken or old is unknown, never healthy.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flyball_agent.facts import FABRIC, NODE, Entity
from flyball_agent.health import HealthMachine
from flyball_agent.health_record import State
from flyball_agent.isolation import write_whole

VERSION: Final = 1
STALE_S: Final = 60.0  # written with each change and at least every 10 s
DEFAULT_PATH: Final = Path("/run/flyball/health.json")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the host numbers it."""

    index: int
    uuid: str
    pci: str


def health_plain(
    machine: HealthMachine,
    gpus: Sequence[Gpu],
    *,
    now_s: float,
    is_enforcing: bool,
    unseen: Collection[str] = (),
) -> dict[str, Any]:
    """Return the content of the file: the effective state of each GPU and of the host, and why.

    Args:
        machine: What is known.
        gpus: The inventory.
        now_s: Unix time.
        is_enforcing: False while this host only observes.
        unseen: PCI addresses of GPUs of which nothing was heard lately: unknown, unless they are known to be worse.
    """
    return {
        "version": VERSION,
        "written_s": now_s,
        "enforcing": is_enforcing,
        "node": _plain_state(machine, NODE),
        "fabric": _plain_state(machine, FABRIC),
        "gpus": [
            {"index": gpu.index, "uuid": gpu.uuid, "pci": gpu.pci, **_gpu_state(machine, gpu, unseen)} for gpu in gpus
        ],
        "mig": {str(entity): _plain_state(machine, entity) for entity in machine.healths if entity.kind == "mig"},
    }


def write_health(path: Path, plain: Mapping[str, Any]) -> None:
    """Replace the file by a whole new one.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(path, json.dumps(plain, separators=(",", ":")).encode())


def check_gpu(raw: bytes | None, wanted: str | None, now_s: float) -> tuple[int, str]:
    """Say whether new work may use a GPU, or the host where `wanted` is None.

    Args:
        raw: Content of the file, None when it cannot be read.
        wanted: Index, UUID or PCI address of a GPU.
        now_s: Unix time.

    Returns:
        (0 yes, 1 no, 2 unknown; text for people).
    """
    plain = _parse(raw)
    if plain is None or plain.get("version") != VERSION:
        return 2, "unknown: no health file of this version"
    age_s = now_s - float(plain["written_s"])
    if not -STALE_S <= age_s <= STALE_S:
        return 2, f"unknown: the health file is {age_s:.0f} s old"
    entry = plain["node"] if wanted is None else _find(plain["gpus"], wanted)
    if entry is None:
        return 2, f"unknown: no GPU {wanted!r} on this host"
    return _verdict(entry, is_enforcing=plain["enforcing"] is True)


def _verdict(entry: Mapping[str, Any], *, is_enforcing: bool) -> tuple[int, str]:
    state = State[entry["state"]]
    text = f"{state.name}: {entry.get('why') or 'no known fault'}"
    if state.refuses_work:
        return (1, text) if is_enforcing else (0, f"observing only, would refuse: {text}")
    return (2, text) if state is State.UNKNOWN and is_enforcing else (0, text)


def _gpu_state(machine: HealthMachine, gpu: Gpu, unseen: Collection[str]) -> dict[str, Any]:
    plain = _plain_state(machine, Entity("gpu", gpu.pci))
    if gpu.pci in unseen and not State[plain["state"]].refuses_work:
        return {**plain, "state": State.UNKNOWN.name, "why": "nothing was heard of it lately"}
    return plain


def _plain_state(machine: HealthMachine, entity: Entity) -> dict[str, Any]:
    state = machine.effective_state(entity)
    for deciding in (entity, FABRIC, NODE):
        if deciding in machine.healths and machine.state(deciding) is state:
            return {"state": state.name, "why": machine.healths[deciding].why, "by": str(deciding)}
    return {"state": state.name, "why": "", "by": str(entity)}


def _find(gpus: Sequence[Mapping[str, Any]], wanted: str) -> Mapping[str, Any] | None:
    return next((gpu for gpu in gpus if wanted in (str(gpu["index"]), gpu["uuid"], gpu["pci"])), None)


def _parse(raw: bytes | None) -> dict[str, Any] | None:
    try:
        plain = json.loads(raw) if raw else None
    except ValueError:
        return None
    return plain if isinstance(plain, dict) else None
