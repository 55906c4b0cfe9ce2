"""Follow the kernel log for as long as the agent runs: by the governor's descriptor, else by journalctl."""

import asyncio
import contextlib
import logging
import os
import shutil
import time
from typing import Final

from flyball_agent.catalogue import Catalogue
from flyball_agent.fault_keeper import FaultKeeper
from flyball_agent.kernel_journal import ENTRY_BYTES, JournalLog, journal_command
from flyball_agent.kernel_log import DescriptorSource, KernelLog, LogPosition
from flyball_agent.kernel_messages import MessageClassifier

RETRY_S: Final = 2.0
_log = logging.getLogger(__name__)


class KernelFollower:
    """One source at a time; `follow` changes it, `stop` ends it.

    Args:
        keeper: Takes the facts.
        catalogue: What messages mean.
        source: auto, kmsg, journal or off, as configured.
    """

    def __init__(self, keeper: FaultKeeper, catalogue: Catalogue, source: str) -> None:
        self.saved: LogPosition | None = None
        self._keeper = keeper
        self._source = source
        self._classifier = MessageClassifier(catalogue, now_s=time.monotonic)
        self._log: KernelLog | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def position(self) -> LogPosition | None:
        """Where to resume, None before the first record."""
        return self._log.position if self._log is not None else None

    def follow(self, descriptor: int | None, boot_id: str) -> None:
        """Follow a descriptor, which belongs to this from now on; without one the journal, where there is one."""
        self.stop()
        if descriptor is not None and self._source in {"auto", "kmsg"}:
            self._task = asyncio.get_running_loop().create_task(self._follow_descriptor(descriptor, boot_id))
            return
        if descriptor is not None:
            os.close(descriptor)
        if self._source == "journal" or (self._source == "auto" and shutil.which("journalctl")):
            self._task = asyncio.get_running_loop().create_task(self._follow_journal())

    def stop(self) -> None:
        """Stop following; the position stays."""
        self.saved = self.position or self.saved
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _follow_descriptor(self, descriptor: int, boot_id: str) -> None:
        """Read until cancelled; what cannot be read, or kept, now is tried again from where the last was kept."""
        try:
            os.set_blocking(descriptor, False)
            while True:
                source, saved = DescriptorSource(descriptor), self.saved
                log = KernelLog(source, self._classifier, boot_id=boot_id, now_s=time.monotonic, saved=saved)
                self._log = log
                try:
                    await self._keeper.follow(log, descriptor)
                except OSError as error:
                    _log.error("kernel log: %s; tried again", error)
                await asyncio.sleep(RETRY_S)
        finally:
            os.close(descriptor)

    async def _follow_journal(self) -> None:
        journal = JournalLog(self._classifier)
        while True:
            try:
                await self._read_journal(journal)
            except (OSError, ValueError) as error:
                _log.error("journalctl: %s; tried again", error)
            await asyncio.sleep(RETRY_S)

    async def _read_journal(self, journal: JournalLog) -> None:
        command = journal_command(journal.cursor)
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, limit=ENTRY_BYTES
        )
        assert process.stdout is not None  # noqa: S101 - asked for above
        try:
            async for line in process.stdout:
                for message in journal.take_entry(line):
                    self._keeper.take_message(message)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
