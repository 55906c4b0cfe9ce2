"""Ask serving and training engines what they have done, and join it with the energy of their GPUs."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from flyball_agent.config import EngineConfig
from flyball_agent.engine_metrics import MAX_PAGE_BYTES, WorkDone, WorkKind, parse_counters, work_between
from flyball_agent.exposition import Family
from flyball_agent.state_window import GpuWindow

PERIOD_S: Final = 10.0
TIMEOUT_S: Final = 3.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Seen:
    """One engine's last page, and what was done since the one before."""

    at_s: float
    counts: dict[WorkKind, float]
    energy_j: float | None
    done: WorkDone | None = None


@dataclass(slots=True)
class EngineReader:
    """Reads every configured engine in turn; one that does not answer leaves its work unknown.

    Args:
        engines: Where they count, and on which GPUs they work.
        windows: Returns what is known of each GPU now.
    """

    engines: Sequence[EngineConfig]
    windows: Callable[[], Sequence[GpuWindow]]
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    async def run(self) -> None:
        """Read for ever."""
        while True:
            for engine in self.engines:
                await self.read(engine, time.monotonic())
            await asyncio.sleep(PERIOD_S)

    async def read(self, engine: EngineConfig, now_s: float) -> None:
        """Read one engine once."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                page = await _fetch(engine.url) if engine.url else _read_file(Path(engine.file))
        except (OSError, ValueError, TimeoutError) as error:
            self._seen.pop(engine.name, None)
            if engine.name not in self._told:
                _log.warning("engine %s: its counters cannot be read: %s", engine.name, repr(error))
            self._told.add(engine.name)
            return
        self._told.discard(engine.name)
        now = _Seen(now_s, parse_counters(page), self._energy_j(engine))
        before = self._seen.get(engine.name)
        if before is not None:
            now.done = work_between(before.counts, now.counts, _grown(before, now), now_s - before.at_s)
        self._seen[engine.name] = now

    def families(self) -> Iterator[Family]:
        """Yield what each engine has counted and its work per joule over the last period."""
        total = Family("flyball_work_total", "counter", "Tokens or steps that an engine counts.")
        per_joule = Family("flyball_work_per_joule", "gauge", "Of them for each joule of the GPUs that did them.")
        for name, seen in self._seen.items():
            for kind, value in seen.counts.items():
                labels = {"engine": name, "work": kind}
                total.add(value, labels)
                per_joule.add(seen.done.per_joule(kind) if seen.done is not None else None, labels)
        yield from (total, per_joule)

    def _energy_j(self, engine: EngineConfig) -> float | None:
        windows = self.windows()
        gpus = engine.gpus or tuple(range(len(windows)))
        energies = [windows[gpu].energy_j if gpu < len(windows) else None for gpu in gpus]
        known = [energy for energy in energies if energy is not None]
        return sum(known) if known and len(known) == len(gpus) else None


def _grown(before: _Seen, now: _Seen) -> float | None:
    """Return the joules between two readings; None when either is unknown or the driver was loaded again."""
    if before.energy_j is None or now.energy_j is None or now.energy_j < before.energy_j:
        return None
    return now.energy_j - before.energy_j


def _read_file(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_PAGE_BYTES).decode(errors="replace")


async def _fetch(url: str) -> str:
    """Return the page behind an http address; raise ValueError when it is no page."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80, limit=MAX_PAGE_BYTES)
    try:
        path = parts.path or "/metrics"
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {parts.netloc}\r\nAccept: text/plain\r\n\r\n".encode())
        received = bytearray()
        while len(received) <= MAX_PAGE_BYTES and (chunk := await reader.read(65_536)):
            received += chunk
    finally:
        writer.close()
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0]
    if b" 200" not in status[:16]:
        raise ValueError(f"{url}: answered {status[:60]!r}, expected 200")
    return body.decode(errors="replace")
