"""Means of isolation that are files of our own: a systemd gate, a container device list; and hooks and the governor."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from flyball_agent.isolation import OWNER, IsolationError, Target, target_to_plain, write_whole
from flyball_agent.isolation_slurm import CommandRunner, run_command


class SystemdGate:
    """A file per isolated entity; units that opted in carry `ConditionPathExists=!<folder>/node`, /fabric, /gpu-N."""

    name = "systemd_gate"
    limit_s = 2.0
    is_host_wide = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def probe(self, target: Target) -> str | None:
        """Return why the gate cannot be used: an entity that no unit can name."""
        return None if self._gate(target) else f"no gate for {target.entity}"

    async def apply(self, target: Target) -> None:
        """Create the gate with our tag in it; one of another owner stays."""
        gate = self._known_gate(target)
        if not gate.exists() or self._is_ours(gate):
            write_whole(gate, f"{target.tag}\n{target.reason}\n".encode())

    async def verify(self, target: Target) -> bool:
        """Tell whether the gate stands."""
        return self._known_gate(target).exists()

    async def revert(self, target: Target) -> None:
        """Remove the gate if it is ours."""
        gate = self._known_gate(target)
        if gate.exists() and self._is_ours(gate):
            gate.unlink()

    def _gate(self, target: Target) -> Path | None:
        if target.entity.kind in {"node", "fabric"}:
            return self._folder / target.entity.kind
        is_gpu = target.entity.kind == "gpu" and target.gpu_index is not None
        return self._folder / f"gpu-{target.gpu_index}" if is_gpu else None

    def _known_gate(self, target: Target) -> Path:
        gate = self._gate(target)
        if gate is None:
            raise IsolationError(f"systemd gate: {target.entity} has no GPU index, expected one")
        return gate

    @staticmethod
    def _is_ours(gate: Path) -> bool:
        return gate.read_text(encoding="utf-8", errors="replace").startswith(f"{OWNER}:")


class CdiSpec:
    """A container device list without the isolated GPUs, written beside the vendor's full one (CDI, JSON)."""

    name = "cdi"
    limit_s = 2.0
    is_host_wide = False

    def __init__(self, full: Path, written: Path) -> None:
        self._full = full
        self._written = written

    async def probe(self, target: Target) -> str | None:
        """Return why it cannot be used: no full list, or an entity that is no GPU."""
        if target.entity.kind != "gpu" or not self._names(target):
            return f"{target.entity} is no GPU with a name"
        return None if self._full.is_file() else f"{self._full} does not exist"

    async def apply(self, target: Target) -> None:
        """Write the list without the target's GPU, keeping what is left out already."""
        self._write(self._left_out() | self._names(target))

    async def verify(self, target: Target) -> bool:
        """Tell whether the written list lacks the GPU."""
        return self._written.is_file() and self._names(target) <= self._left_out()

    async def revert(self, target: Target) -> None:
        """Put the GPU back into the list."""
        self._write(self._left_out() - self._names(target))

    @staticmethod
    def _names(target: Target) -> set[str]:
        return {str(name) for name in (target.gpu_index, target.gpu_uuid) if name is not None}

    def _left_out(self) -> set[str]:
        if not self._written.is_file():
            return set()
        annotations = self._read(self._written).get("annotations", {})
        return set(filter(None, annotations.get("flyball.isolated", "").split(",")))

    def _write(self, left_out: set[str]) -> None:
        spec = self._read(self._full)
        devices = [device for device in spec.get("devices", []) if str(device.get("name")) not in left_out | {"all"}]
        annotations = {**spec.get("annotations", {}), "flyball.isolated": ",".join(sorted(left_out))}
        write_whole(self._written, json.dumps({**spec, "devices": devices, "annotations": annotations}).encode())

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            spec = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise IsolationError(f"{path}: {error}, expected a CDI specification in JSON") from None
        if not isinstance(spec, dict):
            raise IsolationError(f"{path}: expected a CDI specification in JSON")
        return spec


class Hook:
    """A program of the site: JSON on stdin, exit code 0 for yes. `operation` is probe, apply, verify or revert."""

    def __init__(
        self, name: str, command: tuple[str, ...], run: CommandRunner = run_command, limit_s: float = 10.0
    ) -> None:
        self.name = f"hook:{name}"
        self.is_host_wide = False
        self.limit_s = limit_s
        self._command = command
        self._run = run

    async def probe(self, target: Target) -> str | None:
        """Return what the hook says against it."""
        code, output = await self._call("probe", target)
        return None if code == 0 else output.strip()[:200] or f"exit {code}"

    async def apply(self, target: Target) -> None:
        """Let the hook isolate."""
        await self._must("apply", target)

    async def verify(self, target: Target) -> bool:
        """Ask the hook whether the isolation stands."""
        return (await self._call("verify", target))[0] == 0

    async def revert(self, target: Target) -> None:
        """Let the hook lift it."""
        await self._must("revert", target)

    async def _must(self, operation: str, target: Target) -> None:
        code, output = await self._call(operation, target)
        if code != 0:
            raise IsolationError(f"{self.name} {operation} {target.entity}: exit {code}, {output.strip()[:200]!r}")

    async def _call(self, operation: str, target: Target) -> tuple[int, str]:
        given = {"version": 1, "operation": operation, **target_to_plain(target)}
        return await self._run(self._command, json.dumps(given).encode())


class GovernorOrders(Protocol):
    """The way to the governor for what needs root; it carries orders that the aggregator signed."""

    async def order(self, action: str, arguments: Mapping[str, str]) -> tuple[bool, str]:
        """Return (done, detail) of one order."""


GOVERNOR_ACTIONS: Final = {
    # name of the means: (order that isolates, order that asks, order that lifts)
    "nvml_drain": ("nvml_drain_on", "nvml_drain_state", "nvml_drain_off"),
    "device_cgroup": ("cgroup_close", "cgroup_state", "cgroup_open"),
    "stop_units": ("units_stop", "units_state", "units_start"),
}


class GovernorGate:
    """A means that only the governor may use."""

    def __init__(self, name: str, orders: GovernorOrders, limit_s: float = 30.0) -> None:
        self.name = name
        self.is_host_wide = False
        self.limit_s = limit_s
        self._orders = orders
        self._apply, self._state, self._revert = GOVERNOR_ACTIONS[name]

    async def probe(self, target: Target) -> str | None:
        """Return why it cannot be used: no governor, or an entity without a GPU."""
        if self.name == "nvml_drain" and target.gpu_uuid is None:
            return f"{target.entity} is no GPU"
        is_done, detail = await self._orders.order("probe", {"action": self._apply})
        return None if is_done else detail

    async def apply(self, target: Target) -> None:
        """Order it."""
        await self._must(self._apply, target)

    async def verify(self, target: Target) -> bool:
        """Ask for it."""
        return (await self._orders.order(self._state, _arguments(target)))[0]

    async def revert(self, target: Target) -> None:
        """Order the opposite."""
        await self._must(self._revert, target)

    async def _must(self, action: str, target: Target) -> None:
        is_done, detail = await self._orders.order(action, _arguments(target))
        if not is_done:
            raise IsolationError(f"governor {action} {target.entity}: {detail}")


def _arguments(target: Target) -> dict[str, str]:
    plain = {"entity": str(target.entity), "gpu_uuid": target.gpu_uuid, "owner": target.tag, "reason": target.reason}
    return {key: value for key, value in plain.items() if value is not None}
