"""Start, watch, restart and end child processes as systemd would, for `flyball up`.

No child outlives its supervisor: each asks the kernel for SIGTERM on the parent's death. A child that ends is started
again after a delay, unless a script holds it down.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

log = logging.getLogger(__name__)

RESTART_DELAY_S: Final = 1.0  # RestartSec of our units
STOP_GRACE_S: Final = 8.0  # then SIGKILL, as TimeoutStopSec
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run: name, argument list, extra environment and where its output goes."""

    name: str
    argv: tuple[str, ...]
    log_path: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    """One supervised process."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.restarts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._held = asyncio.Event()  # set: may run
        self._held.set()
        self._is_ending = False

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def run(self) -> None:
        """Keep the child running until `end` was called."""
        while await self._may_run():
            code = await self._run_once()
            if not self._is_over(code) and self._held.is_set():
                await asyncio.sleep(RESTART_DELAY_S)

    async def _may_run(self) -> bool:
        await self._held.wait()
        return not self._is_ending

    def _is_over(self, code: int) -> bool:
        if not self._is_ending:
            self.restarts += 1
            log.warning("%s ended with %s", self.spec.name, code)
        return self._is_ending

    async def _run_once(self) -> int:
        with self.spec.log_path.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.spec.environment},
                preexec_fn=_die_with_parent,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which ends its children in order
            )
        return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal if the child runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self, *, hold: bool) -> None:
        """Kill -9; with `hold` it stays down until `start`."""
        if hold:
            self._held.clear()
        self.send(signal.SIGKILL)

    def start(self) -> None:
        """Let a held child run again."""
        self._held.set()

    async def end(self) -> None:
        """End the child: SIGTERM, then SIGKILL after the grace."""
        self._is_ending = True
        self._held.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_GRACE_S)
        except TimeoutError:
            log.warning("%s did not end in %.0f s: killed", self.spec.name, STOP_GRACE_S)
            self.send(signal.SIGKILL)
            await process.wait()


class Supervisor:
    """A set of children by name; entering starts nothing, `add` does."""

    def __init__(self) -> None:
        self.children: dict[str, Child] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    def add(self, spec: ChildSpec) -> Child:
        """Start a child and keep it running."""
        child = Child(spec)
        self.children[spec.name] = child
        self._tasks[spec.name] = asyncio.create_task(child.run(), name=f"child {spec.name}")
        return child

    def matching(self, target: str) -> list[Child]:
        """Return the children that a target means: `agent` is all agents, `agent/host-1` one of them."""
        return [child for name, child in self.children.items() if name == target or name.split("/")[0] == target]

    @property
    def restarts(self) -> dict[str, int]:
        """How often each child had to be started again."""
        return {name: child.restarts for name, child in self.children.items()}

    async def end(self) -> None:
        """End all children, last started first."""
        for name in reversed(self.children):
            await self.children[name].end()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()


def command_line(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the argument list that runs one of our programs with this interpreter."""
    return (sys.executable, "-m", module, *arguments)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
