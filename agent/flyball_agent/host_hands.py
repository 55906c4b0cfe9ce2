"""What the fault keeper needs done by others: the aggregator's permit, and the site's own drain, repair and check."""

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from flyball_agent.facts import NODE
from flyball_agent.health_config import IsolationConfig
from flyball_agent.isolation import IsolationError, Target, target_to_plain
from flyball_agent.isolation_slurm import CommandRunner, SlurmDrain, run_command

POLL_S: Final = 2.0
MAX_WAITING: Final = 64


class Publish(Protocol):
    """Publishes an event of this host."""

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
        """Publish one event, over any outage."""


@dataclass(slots=True)
class HostHands:
    """Hands of one host.

    Args:
        publish: Carries permit requests to the aggregator; its answer comes back by `take_permit`.
        codes_of: Codes of the open causes of an entity, which the aggregator decides by.
        is_answering: Whether the driver answers for a target's GPU (all GPUs for the host) now.
    """

    config: IsolationConfig
    publish: Publish
    codes_of: Callable[[Target], str]
    is_answering: Callable[[Target], bool]
    run: CommandRunner = run_command
    _permits: dict[str, asyncio.Future[bool]] = field(default_factory=dict)

    async def ask_permit(self, target: Target) -> bool | None:
        """Ask the aggregator; the caller's time limit ends the wait."""
        correlation_id = uuid.uuid4().hex
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._permits[correlation_id] = answer
        fields = (("entity", str(target.entity)), ("codes", self.codes_of(target)), ("incident", target.incident))
        try:
            self.publish("permit_request", "warning", None, fields, correlation_id=correlation_id)
            return await answer
        finally:
            self._permits.pop(correlation_id, None)

    def take_permit(self, correlation_id: str, *, is_granted: bool) -> None:
        """Take the aggregator's answer; one to a question that nobody asks any more is dropped."""
        waiting = self._permits.get(correlation_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(is_granted)

    async def drain(self, target: Target) -> str | None:
        """Tell work to leave by the site's hook; with Slurm wait until no job is left."""
        is_gone, told = await self._drain(target)
        if is_gone:
            return told
        fields = (("entity", str(target.entity)), ("incident", target.incident), ("why", told))
        self.publish("drain_incomplete", "warning", target.gpu_index, fields, correlation_id=target.incident)
        return None

    async def _drain(self, target: Target) -> tuple[bool, str]:
        if self.config.drain_hook:
            code, output = await self._hook(self.config.drain_hook, "drain", target, self.config.drain_limit_s)
            return code == 0, output.strip()[:200] or f"drain hook ended with {code}"
        if "slurm" in self.config.means:
            return await self._wait_for_slurm(target)
        return False, "nothing tells work to leave here: no drain_hook, no slurm"

    async def repair(self, target: Target, action: str) -> tuple[bool, str]:
        """Let the site's hook repair; its output is the proof."""
        if not self.config.repair_hook:
            return False, f"{action}: no repair_hook is configured"
        hook, limit_s = self.config.repair_hook, self.config.repair_limit_s
        code, output = await self._hook(hook, action, target, limit_s)
        return code == 0, output.strip()[:200] or f"{action}: repair hook ended with {code}"

    async def validate(self, target: Target) -> tuple[bool, str]:
        """Check that the driver answers, then the site's own check."""
        if not self.is_answering(target):
            return False, f"the driver does not answer for {target.entity}"
        if not self.config.check_hook:
            return True, "the driver answers"
        code, output = await self._hook(self.config.check_hook, "check", target, self.config.repair_limit_s)
        return code == 0, output.strip()[:200] or f"check hook ended with {code}"

    async def _wait_for_slurm(self, target: Target) -> tuple[bool, str]:
        slurm = SlurmDrain(self.run)
        try:
            async with asyncio.timeout(self.config.drain_limit_s):
                while not await slurm.is_drained(target):
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            return False, f"jobs remain after {self.config.drain_limit_s:.0f} s"
        except IsolationError as error:
            return False, str(error)[:200]
        return True, "no job is left"

    async def _hook(self, command: tuple[str, ...], operation: str, target: Target, limit_s: float) -> tuple[int, str]:
        given = {"version": 1, "operation": operation, "host_wide": target.entity == NODE, **target_to_plain(target)}
        try:
            async with asyncio.timeout(limit_s):
                return await self.run(command, json.dumps(given).encode())
        except TimeoutError:
            return 124, f"{command[0]}: no end within {limit_s:.0f} s"
        except IsolationError as error:
            return 127, str(error)
