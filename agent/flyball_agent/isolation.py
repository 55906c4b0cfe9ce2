"""Keep new work away from what is broken, by any mix of means, in order, each proven, each undone by its owner only.

A means (`Actuator`) is idempotent, has a time limit and marks what it did with our tag. What is owned is on disk before
it is done, so that a crash leaves nothing behind that nobody would lift. A dry run says what would happen.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from flyball_agent.facts import Entity

OWNER: Final = "flyball"


class IsolationError(Exception):
    """A means could not do its work; the message says what, on which entity, and what was expected."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be kept from work, and why.

    Args:
        host: Name of the host as the scheduler knows it.
        gpu_index: Index of the GPU, for entities that are one or are part of one.
        reason: For people; one line.
    """

    entity: Entity
    incident: str
    host: str
    gpu_index: int | None = None
    gpu_uuid: str | None = None
    reason: str = ""

    @property
    def tag(self) -> str:
        """Return the mark by which we know our own."""
        return f"{OWNER}:{self.incident}"


class Actuator(Protocol):
    """One means of isolation."""

    @property
    def name(self) -> str:
        """Name in profiles and explanations."""

    @property
    def limit_s(self) -> float:
        """Time limit of each step."""

    @property
    def is_host_wide(self) -> bool:
        """Tell whether entities of one host share this means: it is lifted when the last of them is released."""

    async def probe(self, target: Target) -> str | None:
        """Return why this means cannot be used here, or None."""

    async def apply(self, target: Target) -> None:
        """Isolate; again is harmless.

        Raises:
            IsolationError: it did not work.
        """

    async def verify(self, target: Target) -> bool:
        """Tell whether the isolation stands."""

    async def revert(self, target: Target) -> None:
        """Lift what we own; what others own stays.

        Raises:
            IsolationError: it did not work.
        """


@dataclass(frozen=True, slots=True)
class StepResult:
    """What became of one means: applied, already (ours or another's), would, unavailable, failed, reverted or kept."""

    actuator: str
    outcome: str
    detail: str = ""

    @property
    def is_effective(self) -> bool:
        """Tell whether the isolation stands through this means."""
        return self.outcome in {"applied", "already"}


class OwnershipBook:
    """What we hold, by entity and means, on disk before it is done."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: dict[str, dict[str, str]] = {}

    def load(self) -> None:
        """Read the book; a missing one is empty, a broken one is an error.

        Raises:
            IsolationError: the book cannot be read; nothing may be lifted on a guess.
        """
        try:
            self._held = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._held = {}
        except (OSError, ValueError) as error:
            raise IsolationError(f"{self._path}: {error}, expected the book of what we isolated") from None

    def holds(self, entity: Entity, actuator: str) -> str | None:
        """Return the incident for which we hold an entity by a means, or None."""
        return self._held.get(str(entity), {}).get(actuator)

    def has_other_holder(self, entity: Entity, actuator: str) -> bool:
        """Tell whether another entity holds the same means."""
        return any(actuator in means for name, means in self._held.items() if name != str(entity))

    def held(self) -> list[tuple[str, str, str]]:
        """Return (entity, means, incident) of everything held, for re-applying after a start."""
        return [(entity, name, incident) for entity, means in self._held.items() for name, incident in means.items()]

    def take(self, entity: Entity, actuator: str, incident: str) -> None:
        """Write down that we hold an entity, before it is done."""
        self._held.setdefault(str(entity), {})[actuator] = incident
        self._save()

    def give_back(self, entity: Entity, actuator: str) -> None:
        """Write down that we hold it no more, after it is lifted."""
        means = self._held.get(str(entity), {})
        means.pop(actuator, None)
        if not means:
            self._held.pop(str(entity), None)
        self._save()

    def _save(self) -> None:
        write_whole(self._path, json.dumps(self._held, indent=1, sort_keys=True).encode())


@dataclass(frozen=True, slots=True)
class Profile:
    """Ordered means; `escalation` is used when none of them took effect."""

    steps: tuple[Actuator, ...]
    escalation: Actuator | None = None


class Isolation:
    """Runs the profile of an entity; `is_dry` is asked each time, so that a switch to enforcing needs no restart."""

    def __init__(
        self, profile_of: Callable[[Entity], Profile], book: OwnershipBook, *, is_dry: Callable[[], bool]
    ) -> None:
        self._profile_of = profile_of
        self._book = book
        self._is_dry = is_dry

    async def isolate(self, target: Target) -> list[StepResult]:
        """Apply all means in order; one that fails does not stop the next."""
        profile = self._profile_of(target.entity)
        results = [await self._apply_one(actuator, target) for actuator in profile.steps]
        escalation = profile.escalation
        if escalation is not None and not any(result.is_effective or result.outcome == "would" for result in results):
            results.append(await self._apply_one(escalation, target))
        return results

    async def release(self, target: Target) -> list[StepResult]:
        """Lift everything we hold on an entity, last means first; mode and dry run do not stop a release."""
        profile = self._profile_of(target.entity)
        every = [*profile.steps, *([profile.escalation] if profile.escalation else [])]
        return [
            await self._revert_one(actuator, target)
            for actuator in reversed(every)
            if self._book.holds(target.entity, actuator.name) is not None
        ]

    async def missing(self, target: Target) -> list[str]:
        """Return the means that we hold on an entity and that do not stand any more; one that cannot tell stands."""
        profile = self._profile_of(target.entity)
        gone = []
        for actuator in profile.steps:
            if self._book.holds(target.entity, actuator.name) is None:
                continue
            with contextlib.suppress(TimeoutError, IsolationError, OSError):
                async with asyncio.timeout(actuator.limit_s):
                    if not await actuator.verify(target):
                        gone.append(actuator.name)
        return gone

    async def _apply_one(self, actuator: Actuator, target: Target) -> StepResult:
        try:
            async with asyncio.timeout(actuator.limit_s):
                return await self._try_apply(actuator, target)
        except TimeoutError:
            return StepResult(actuator.name, "failed", f"no end within {actuator.limit_s} s")
        except (IsolationError, OSError) as error:
            return StepResult(actuator.name, "failed", str(error))

    async def _try_apply(self, actuator: Actuator, target: Target) -> StepResult:
        if (why := await actuator.probe(target)) is not None:
            return StepResult(actuator.name, "unavailable", why)
        if self._is_dry():
            return StepResult(actuator.name, "would", f"would isolate {target.entity}: {target.reason}")
        is_shared = actuator.is_host_wide and self._book.has_other_holder(target.entity, actuator.name)
        was_held = is_shared or self._book.holds(target.entity, actuator.name) is not None
        if not was_held and await actuator.verify(target):
            return StepResult(actuator.name, "already", "isolated by another owner, left alone")
        self._book.take(target.entity, actuator.name, target.incident)
        await actuator.apply(target)
        if not await actuator.verify(target):
            raise IsolationError(f"{actuator.name}: {target.entity} is not isolated after apply, expected it to be")
        return StepResult(actuator.name, "already" if was_held else "applied", target.reason)

    async def _revert_one(self, actuator: Actuator, target: Target) -> StepResult:
        if actuator.is_host_wide and self._book.has_other_holder(target.entity, actuator.name):
            self._book.give_back(target.entity, actuator.name)
            return StepResult(actuator.name, "kept", "another entity of this host still needs it")
        owned = replace(target, incident=self._book.holds(target.entity, actuator.name) or target.incident)
        try:
            async with asyncio.timeout(actuator.limit_s):
                await actuator.revert(owned)
        except (TimeoutError, IsolationError, OSError) as error:
            return StepResult(actuator.name, "failed", str(error) or f"no end within {actuator.limit_s} s")
        self._book.give_back(target.entity, actuator.name)
        return StepResult(actuator.name, "reverted")


def target_to_plain(target: Target) -> dict[str, object]:
    """Return a target as plain values, for hooks and explanations."""
    return {**asdict(target), "entity": str(target.entity), "owner": target.tag}


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file by a whole new one, on disk before it takes the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path)
