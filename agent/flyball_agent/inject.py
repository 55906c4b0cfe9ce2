"""`flyball-agent inject`: a fault for a drill, marked as injected from here to the aggregator.

The command leaves a small file in a folder that only the agent's user may write; the agent takes it as a fact. A drill
counts towards no record of a GPU.
"""

import argparse
import json
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from flyball_agent.catalogue import Catalogue
from flyball_agent.device_facts import RECOVERY, RETURN_CODES
from flyball_agent.facts import NODE, Entity, Fact, Level, facts_of_message
from flyball_agent.gauges import RULES
from flyball_agent.isolation import write_whole
from flyball_agent.kernel_lines import classify_line, normalise_address
from flyball_agent.kernel_messages import KernelMessage

DEFAULT_FOLDER: Final = Path("/run/flyball/drills")
KINDS: Final = ("line", "return_code", "recovery", "gauge", "unit", "hang")
MAX_BYTES: Final = 16_384


class DrillError(ValueError):
    """A drill names something that does not exist; the message says what was expected."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = subparsers.add_parser("inject", help="give the agent a fault for a drill, marked as injected")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("value", help="kernel line, NVML code, recovery action, gauge code, unit name, or `hung`")
    parser.add_argument("--gpu", help="PCI address of the GPU (for return_code, recovery and gauge)")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="drill folder of the agent (%(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Leave the drill; 0, or 1 when the folder cannot be written."""
    try:
        leave_drill(arguments.folder, arguments.kind, arguments.value, arguments.gpu)
    except OSError as error:
        sys.stderr.write(f"flyball-agent inject: {error}\n")
        return 1
    return 0


def leave_drill(folder: Path, kind: str, value: str, gpu: str | None = None) -> None:
    """Leave a drill where the agent takes it.

    Raises:
        OSError: the folder cannot be written.
    """
    drill = {"kind": kind, "value": value, "gpu": gpu}
    write_whole(folder / f"{uuid.uuid4().hex}.json", json.dumps(drill).encode(), mode=0o600)


def take_drills(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield and remove the drills that wait; a file that is none is removed and skipped."""
    for path in sorted(folder.glob("*.json"))[:64]:
        raw = path.read_bytes()[:MAX_BYTES]
        path.unlink(missing_ok=True)
        try:
            drill = json.loads(raw)
        except ValueError:
            continue
        if isinstance(drill, dict):
            yield drill


def drill_facts(drill: dict[str, Any], catalogue: Catalogue, *, at_s: float, boot_id: str) -> list[Fact]:
    """Return the facts of a drill, all marked as injected.

    Raises:
        DrillError: a kind, code, gauge or device that does not exist.
    """
    kind, value = drill.get("kind"), str(drill.get("value", ""))
    if kind == "line":
        message = KernelMessage(0.0, 0, classify_line(value, catalogue), value)
        facts = facts_of_message(message, at_s=at_s, boot_id=boot_id, source="drill")
        if not facts:
            raise DrillError(f"drill: {value[:80]!r} says nothing, expected a kernel line with a fault")
        return [replace(fact, is_injected=True) for fact in facts]
    if kind == "hang":
        fact = Fact(at_s, boot_id, "drill", NODE, "driver.hung", Level.QUARANTINED, "reboot_node", "hang")
    elif kind == "unit":
        fact = Fact(at_s, boot_id, "drill", NODE, "absence.unit", Level.DEGRADED, group="unit", evidence=value)
    else:
        fact = _device_fact(str(kind), value, _gpu(drill), at_s, boot_id)
    return [replace(fact, is_injected=True)]


def _device_fact(kind: str, value: str, gpu: Entity, at_s: float, boot_id: str) -> Fact:
    if kind == "gauge" and value in RULES:
        return Fact(at_s, boot_id, "drill", gpu, value, Level.DEGRADED, group=RULES[value].group)
    number = int(value) if value.isdecimal() else -1
    if kind == "return_code" and number in RETURN_CODES:
        code, level, action, is_hard = RETURN_CODES[number]
        return Fact(at_s, boot_id, "drill", gpu, code, level, action, "bus", is_hard=is_hard)
    if kind == "recovery" and number in RECOVERY:
        level, action = RECOVERY[number]
        told = Fact(at_s, boot_id, "drill", gpu, "recovery", level, action, "driver", recovery=number)
        return replace(told, is_hard=level >= Level.QUARANTINED, is_over=number == 0)
    raise DrillError(f"drill: {kind} {value[:40]!r}, expected one of {', '.join(KINDS)} with a known code")


def _gpu(drill: dict[str, Any]) -> Entity:
    address = normalise_address(str(drill.get("gpu") or ""))
    if address is None:
        raise DrillError(f"drill: GPU {drill.get('gpu')!r}, expected a PCI address such as 0000:9b:00.0")
    return Entity("gpu", address)
