"""Drain the host in Slurm, and resume it only where the drain is still ours: the reason begins with our tag."""

import asyncio
import os
import re
import signal
from collections.abc import Sequence
from typing import Final, Protocol

from flyball_agent.isolation import OWNER, IsolationError, Target

REASON_CHARACTERS: Final = 200
_FLAGS = re.compile(r"[*~#$@^!%-]")  # suffixes such as "not responding" (sinfo, NODE STATE CODES)
_STATE = re.compile(r"\bState=(\S+)")
_REASON = re.compile(r"\bReason=(.*?)(?:\s+\[[^\]]*@[^\]]*\])?\s*(?:\s\w+=|$)", re.MULTILINE)
_DRAINED_BASES = frozenset({"IDLE", "DOWN", "DRAINED"})


class CommandRunner(Protocol):
    """Runs a program and returns its exit code and output."""

    async def __call__(self, command: Sequence[str], stdin: bytes = b"") -> tuple[int, str]:
        """Run a program from a list of words, without a shell."""


async def run_command(command: Sequence[str], stdin: bytes = b"") -> tuple[int, str]:
    """Run a program in its own process group; killed with its children when the caller's time limit ends.

    Raises:
        IsolationError: the program cannot be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise IsolationError(f"{command[0]}: {error.strerror}") from None
    try:
        output, _ = await process.communicate(stdin)
    except BaseException:
        _kill_group(process)
        raise
    return process.returncode or 0, output.decode("utf-8", "replace")


def _kill_group(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)


class SlurmDrain:
    """`scontrol update NodeName=... State=DRAIN|RESUME`."""

    name = "slurm"
    limit_s = 10.0
    is_host_wide = True

    def __init__(self, run: CommandRunner = run_command, *, scontrol: str = "scontrol") -> None:
        self._run = run
        self._scontrol = scontrol

    async def probe(self, target: Target) -> str | None:
        """Return why Slurm cannot be used: no scontrol, or a node it does not know."""
        try:
            await self._show(target)
        except IsolationError as error:
            return str(error)
        return None

    async def apply(self, target: Target) -> None:
        """Drain the host with our tag as reason; a drain of anybody else stays as it is."""
        states, reason = await self._show(target)
        if "DRAIN" in states and not _is_ours(reason):
            return
        text = " ".join(f"{target.tag} {target.reason}".split())[:REASON_CHARACTERS]
        await self._update(target, "State=DRAIN", f"Reason={text}")

    async def verify(self, target: Target) -> bool:
        """Tell whether the host takes no new jobs."""
        states, _ = await self._show(target)
        return "DRAIN" in states

    async def revert(self, target: Target) -> None:
        """Resume the host if the drain is ours; an operator who drained it in between has the last word."""
        states, reason = await self._show(target)
        if "DRAIN" in states and _is_ours(reason):
            await self._update(target, "State=RESUME")

    async def is_drained(self, target: Target) -> bool:
        """Tell whether no job is left on the host."""
        states, _ = await self._show(target)
        return "DRAIN" in states and bool(states & _DRAINED_BASES) and "COMPLETING" not in states

    async def _show(self, target: Target) -> tuple[frozenset[str], str]:
        code, output = await self._run([self._scontrol, "show", "node", target.host, "--oneliner"])
        state = _STATE.search(output)
        if code != 0 or state is None:
            raise IsolationError(f"scontrol show node {target.host}: exit {code}, {output.strip()[:200]!r}")
        reason = _REASON.search(output)
        return frozenset(_FLAGS.sub("", state[1]).split("+")), reason[1].strip() if reason else ""

    async def _update(self, target: Target, *fields: str) -> None:
        code, output = await self._run([self._scontrol, "update", f"NodeName={target.host}", *fields])
        if code != 0:
            raise IsolationError(f"scontrol update {target.host} {fields[0]}: exit {code}, {output.strip()[:200]!r}")


def _is_ours(reason: str) -> bool:
    return reason.startswith(f"{OWNER}:")
