"""Facts of the host beside its GPUs: InfiniBand ports, links of interfaces, systemd units, memory, disks, panics.

Reads sysfs, `systemctl show` and psutil. A source that cannot be read says nothing; one that hangs holds up no other,
because each round has a time limit and blocking reads run in a thread.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from flyball_agent.catalogue import Catalogue
from flyball_agent.device_facts import DeviceFacts
from flyball_agent.facts import NODE, Entity, Fact, level_of
from flyball_agent.health_config import HealthConfig
from flyball_agent.isolation import IsolationError
from flyball_agent.isolation_slurm import CommandRunner, run_command
from flyball_agent.kernel_lines import Classification, normalise_address

READ_S: Final = 5.0
ACTIVE: Final = "4:"  # of `state` under /sys/class/infiniband: "4: ACTIVE"
MAX_PANICS: Final = 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the kernel shows things."""

    infiniband: Path = Path("/sys/class/infiniband")
    net: Path = Path("/sys/class/net")


@dataclass(slots=True)
class HostSources:
    """One round of reading at a time.

    Args:
        config: Which units, interfaces and folders.
        devices: Debounces what is polled.
        catalogue: What a panic means.
        ports: Ports that were active once, by name; kept over restarts by the caller.
        panics: Names of dumps that were told, kept likewise.
    """

    config: HealthConfig
    devices: DeviceFacts
    catalogue: Catalogue
    folders: Folders = field(default_factory=Folders)
    run: CommandRunner = run_command
    ports: set[str] = field(default_factory=set)
    panics: set[str] = field(default_factory=set)

    async def read(self, at_s: float) -> list[Fact]:
        """Return the facts of one round."""
        found: list[Fact] = []
        for read in (self._read_files, self._read_units):
            try:
                async with asyncio.timeout(READ_S):
                    found += await read(at_s)
            except TimeoutError:
                _log.error("a source of the host did not answer within %.0f s", READ_S)
        return found

    async def _read_files(self, at_s: float) -> list[Fact]:
        return await asyncio.to_thread(self._read_blocking, at_s)

    def _read_blocking(self, at_s: float) -> list[Fact]:
        found = [*self._carriers(at_s), *self._memory(at_s), *self._disks(at_s), *self._new_panics(at_s)]
        return [*found, *self._infiniband(at_s)] if self.config.infiniband else found

    def _infiniband(self, at_s: float) -> Iterator[Fact]:
        """Compare each port with what it was once: a port that never was active is not used here."""
        down: dict[str, list[str]] = {}
        for state in sorted(self.folders.infiniband.glob("*/ports/*/state")):
            device, port = state.parts[-4], state.parts[-2]
            name = f"{device}/{port}"
            is_active = (_text(state) or "").startswith(ACTIVE)
            self.ports |= {name} if is_active else set()
            missing = down.setdefault(device, [])
            missing += [] if is_active or name not in self.ports else [name]
        gone = {name.partition("/")[0] for name in self.ports} - down.keys()
        down |= {device: [f"{device} is gone"] for device in gone}
        for device, missing in down.items():
            yield from self._poll(self._nic(device), "absence.port", missing, at_s)

    def _nic(self, device: str) -> Entity:
        link = self.folders.infiniband / device / "device"
        address = normalise_address(link.resolve().name) if link.exists() else None
        return Entity("nic", address or device)

    def _carriers(self, at_s: float) -> Iterator[Fact]:
        for name in self.config.carriers:
            has_link = _text(self.folders.net / name / "carrier") == "1"
            yield from self._poll(Entity("nic", name), "absence.port", [] if has_link else [name], at_s)

    def _memory(self, at_s: float) -> Iterator[Fact]:
        memory = psutil.virtual_memory()
        ratio = memory.available / memory.total if memory.total else 1.0
        yield from self.devices.poll(NODE, "gauge.memory_low", 1.0 - ratio, at_s, f"{ratio:.1%} of memory left")

    def _disks(self, at_s: float) -> Iterator[Fact]:
        try:
            used = psutil.disk_usage("/").percent / 100.0
        except OSError:
            return
        yield from self.devices.poll(NODE, "gauge.disk_full", used, at_s, f"/ is {used:.1%} full")

    def _new_panics(self, at_s: float) -> Iterator[Fact]:
        """Tell of each dump that the kernel left at a panic, once; somebody else clears the folder."""
        folder = Path(self.config.panics) if self.config.panics else None
        names = sorted(path.name for path in folder.glob("dmesg-*")) if folder is not None else []
        fresh = [name for name in names if name not in self.panics]
        if not fresh:
            return
        self.panics = set(names[-MAX_PANICS:])
        policy = self.catalogue.events["kernel_panic"]
        found = Classification(
            event="kernel_panic", severity=policy.severity, action=policy.action, scope=policy.scope, group=policy.group
        )
        yield Fact(
            at_s,
            self.devices.boot_id,
            "pstore",
            NODE,
            "event.kernel_panic",
            level_of(found),
            policy.action or "none",
            policy.group or "unknown",
            evidence=f"{folder}: {', '.join(fresh[:8])}",
            count=len(fresh),
        )

    async def _read_units(self, at_s: float) -> list[Fact]:
        if not self.config.units:
            return []
        words = ["systemctl", "show", "--property=Id,ActiveState", *self.config.units]
        try:
            code, output = await self.run(words)
        except IsolationError as error:
            _log.debug("%s", error)
            return []
        return [] if code != 0 else self._poll(NODE, "absence.unit", inactive_units(output), at_s)

    def _poll(self, entity: Entity, code: str, missing: list[str], at_s: float) -> list[Fact]:
        return list(self.devices.poll(entity, code, float(bool(missing)), at_s, ", ".join(missing)[:200]))


def inactive_units(output: str) -> list[str]:
    """Return `NAME STATE` of each unit that `systemctl show` does not call active or on its way there."""
    units = [_properties(block) for block in output.split("\n\n") if block.strip()]
    fine = {"active", "activating", "reloading"}
    return [
        f"{unit.get('Id', '?')} {unit.get('ActiveState', '?')}" for unit in units if unit.get("ActiveState") not in fine
    ]


def kept_of(sources: HostSources) -> dict[str, Any]:
    """Return what must survive a restart, as plain values."""
    return {"ports": sorted(sources.ports), "panics": sorted(sources.panics)}


def restore_kept(sources: HostSources, plain: Mapping[str, Any]) -> None:
    """Take over what `kept_of` gave."""
    sources.ports, sources.panics = set(plain["ports"]), set(plain["panics"])


def _properties(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
