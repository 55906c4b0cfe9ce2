"""Power racks in order: shelves, switches, hosts on the way up, the reverse on the way down; a leak stops a rise."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["shelf", "switch", "host"]
_UP: Final[tuple[Kind, ...]] = ("shelf", "switch", "host")


@dataclass(frozen=True, slots=True)
class PowerTask:
    """Switch one device of a rack on or off."""

    device: str
    kind: Kind
    rack: str
    is_on: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """What stands against a task: racks with a leak or without a leak reading, and devices that still carry work."""

    leaking: frozenset[str] = frozenset()
    unread: frozenset[str] = frozenset()
    working: frozenset[str] = frozenset()


def next_tasks(tasks: Iterable[PowerTask], done: frozenset[str], gate: Gate) -> tuple[list[PowerTask], dict[str, str]]:
    """Return (tasks that may start now, why the others wait), by device.

    Args:
        tasks: All tasks, in any order.
        done: Devices whose task has ended, with its state read back.
        gate: What stands against.
    """
    open_tasks = [task for task in tasks if task.device not in done]
    ready: list[PowerTask] = []
    waiting: dict[str, str] = {}
    for task in open_tasks:
        why = _against(task, gate) or _before(task, open_tasks)
        if why is None:
            ready.append(task)
        else:
            waiting[task.device] = why
    return ready, waiting


def _against(task: PowerTask, gate: Gate) -> str | None:
    if task.is_on and task.rack in gate.leaking:
        return f"rack {task.rack} leaks"
    if task.is_on and task.rack in gate.unread:
        return f"rack {task.rack} has no leak reading"
    return f"{task.device} still has work" if not task.is_on and task.device in gate.working else None


def _before(task: PowerTask, open_tasks: list[PowerTask]) -> str | None:
    order = _UP if task.is_on else _UP[::-1]
    earlier = order[: order.index(task.kind)]
    first = next(
        (
            other
            for other in open_tasks
            if other.rack == task.rack and other.is_on is task.is_on and other.kind in earlier
        ),
        None,
    )
    return f"after {first.kind} {first.device}" if first else None
