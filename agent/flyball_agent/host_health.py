"""The health of this host within the running agent: sources in, incidents and health out, isolation by the keeper.

Every `take_...` returns at once and raises nothing for bad input. What must be refused is refused, and on disk, when it
returns; repairs and drains run beside.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flyball_agent.catalogue import Catalogue, load_catalogue, load_with_overlay
from flyball_agent.config import AgentConfig
from flyball_agent.device_facts import DeviceFacts, DeviceSample
from flyball_agent.event_facts import facts_of_event
from flyball_agent.facts import NODE, Entity
from flyball_agent.fault_keeper import Decision, FaultKeeper, KeeperParts
from flyball_agent.fleet_orders import FleetOrders, entity_order
from flyball_agent.health import HealthMachine
from flyball_agent.health_events import decision_fields, incident_fields, incident_severity, incident_signature
from flyball_agent.health_inputs import Boot, Input, Intent, Progress
from flyball_agent.health_journal import HealthJournal
from flyball_agent.health_record import State
from flyball_agent.host_hands import HostHands, Publish
from flyball_agent.host_sources import HostSources, kept_of, restore_kept
from flyball_agent.incidents import Incident
from flyball_agent.inject import DrillError, drill_facts, take_drills
from flyball_agent.isolation import Isolation, OwnershipBook, Target
from flyball_agent.isolation_guard import IsolationGuard, Surroundings, in_window
from flyball_agent.isolation_profile import limits_of, profile_of
from flyball_agent.kept_values import KeptValue
from flyball_agent.kernel_follow import KernelFollower
from flyball_agent.kernel_lines import normalise_address
from flyball_agent.kernel_log import LogPosition
from flyball_agent.notices import Notices
from flyball_agent.state_file import Gpu, health_plain, write_health
from flyball_agent.state_window import GpuWindow
from flyball_wire.errors import ConfigError
from flyball_wire.local_socket import DeviceEvent, HelloReply, StatusReply

TICK_S: Final = 1.0
FILE_EVERY_S: Final = 10.0  # the file is refused as stale after 60 s
SOURCES_S: Final = 10.0
KEPT: Final = ("gpus", "limits", "orders", "kernel_log", "sources")
UNSEEN_S: Final = 15.0  # a GPU without samples and without the governor's word for longer is unknown
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clocks:
    """Unix time and a monotonic clock, seconds."""

    unix_s: Callable[[], float] = time.time
    monotonic_s: Callable[[], float] = time.monotonic


class HostHealth:
    """Joins the parts; `open` before anything else, `run` for as long as the agent does, `close` at its end.

    Args:
        config: Tables health and isolation, host id, state directory.
        publish: Carries events to the fleet.
        boot_id: Of the kernel, until the governor tells it.
        clocks: For tests.
    """

    def __init__(self, config: AgentConfig, publish: Publish, boot_id: str, clocks: Clocks | None = None) -> None:
        self.config = config
        self.gpus: tuple[Gpu, ...] = ()
        self.orders = FleetOrders()
        self.file_errors = 0
        self._clocks = clocks or Clocks()
        self._publish = publish
        self._boot_id = boot_id
        folder = Path(config.state_dir) / "health"
        self._kept = {name: KeptValue(folder / f"{name}.json") for name in KEPT}
        self._catalogue = _read_catalogue(config.health.catalogue_overlay)
        self._machine = HealthMachine()
        self._journal = HealthJournal(folder / "journal", self._machine)
        self._book = OwnershipBook(folder / "held.json")
        self._guard = IsolationGuard(limits_of(config.isolation), save=self._save_limits)
        self._hands = HostHands(config.isolation, publish, self._codes_of, self._is_answering)
        self._devices = DeviceFacts(boot_id)
        self._seen_s: dict[str, float] = {}
        self._told: dict[str, tuple[object, ...]] = {}
        self._written: tuple[object, float] = (None, float("-inf"))
        self._stack = contextlib.ExitStack()
        self._rechecked_s = self._clocks.monotonic_s()
        self._keeper = FaultKeeper(self._keeper_parts())
        self._sources = HostSources(config.health, self._devices, self._catalogue)
        self._notices = Notices(config.health)
        self._follower = KernelFollower(self._keeper, self._catalogue, config.health.kernel_log)

    @property
    def machine(self) -> HealthMachine:
        """Return the health machine, to read."""
        return self._machine

    @property
    def catalogue(self) -> Catalogue:
        """Return the catalogue in force."""
        return self._catalogue

    @property
    def is_enforcing(self) -> bool:
        """Tell whether isolation is more than a dry run."""
        return self.config.isolation.mode == "enforce" and not self._is_opted_out()

    def open(self) -> None:
        """Read back what is kept.

        Raises:
            ConfigError: the state directory cannot be used.
        """
        try:
            self._stack.enter_context(self._journal)
            self._book.load()
            self._restore()
            self._take_boot()
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._stack.close()
            raise ConfigError(f"state_dir {self.config.state_dir}: health: {error}") from None

    def close(self) -> None:
        """Close the journal; isolations stay."""
        self._follower.stop()
        self._stack.close()

    async def run(self) -> None:
        """Let time pass, take drills, look after the isolations; only cancelling ends it."""
        async with self._keeper, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._notices.run(), name="notices")
            tasks.create_task(self._read_sources(), name="host sources")
            while True:
                self.tick()
                now_s = self._clocks.monotonic_s()
                if now_s - self._rechecked_s >= self.config.isolation.recheck_s:
                    self._rechecked_s = now_s
                    tasks.create_task(self._keeper.recheck(), name="recheck")
                await asyncio.sleep(TICK_S)

    # What comes in

    def take(self, *inputs: Input) -> None:
        """Take inputs; a disk that refuses them is told, and nothing is done about them."""
        if not inputs:
            return
        try:
            self._keeper.take_all(inputs)
        except OSError as error:
            _log.error("health journal: %s; not acted on: %s", error, inputs)

    def take_hello(self, hello: HelloReply) -> None:
        """Take the inventory; the last one is kept for the time before the next hello."""
        self.gpus = tuple(
            Gpu(gpu.index, gpu.uuid, normalise_address(gpu.pci_address) or gpu.pci_address) for gpu in hello.gpus
        )
        self._kept["gpus"].save([[gpu.index, gpu.uuid, gpu.pci] for gpu in self.gpus])
        self._boot_id = self._devices.boot_id = hello.boot_id
        self._take_boot()

    def take_kernel_log(self, descriptor: int | None) -> None:
        """Follow the kernel log behind a descriptor, which belongs to this from now on; None: the governor is gone."""
        self._follower.follow(descriptor, self._boot_id)

    def take_device_event(self, event: DeviceEvent) -> None:
        """Take what the device side noticed."""
        at_s = self._clocks.unix_s()
        self.take(*facts_of_event(event, self._pci(event.gpu), self._catalogue, at_s, self._boot_id))

    def take_order(self, fields: dict[str, str]) -> None:
        """Take an order of the fleet, whose signature the governor checked."""
        act = fields.get("act", "")
        try:
            if act == "permit":
                self._hands.take_permit(fields.get("correlation_id", ""), is_granted=fields.get("granted") == "true")
            elif act == "mode":
                self.orders.take_mode(fields)
            elif act == "window":
                self.orders.take_window(fields)
            else:
                self.take(entity_order(act, fields, self._clocks.unix_s()))
        except ValueError as error:
            _log.error("order of the fleet refused: %s", error)
        self._kept["orders"].save(self.orders.to_plain())

    def take_samples(self, status: StatusReply | None, windows: tuple[GpuWindow, ...]) -> None:
        """Take one second of every GPU; `status` None is a governor that does not answer: then nothing is known."""
        if status is None or status.is_quiesced:
            return
        at_s, now_s = self._clocks.unix_s(), self._clocks.monotonic_s()
        found: list[Input] = []
        for gpu, window, word in zip(self.gpus, windows, status.health, strict=False):
            entity = Entity("gpu", gpu.pci)
            if word == "ok" and window.is_sampled:
                self._seen_s[gpu.pci] = now_s
                found += self._observed(entity, at_s)
            reasons, busy = window.clock_reasons, window.utilisation_ratio
            found += self._devices.of_sample(entity, DeviceSample(at_s, clock_reasons=reasons, utilisation_ratio=busy))
        if self.gpus and len(self._seen_s) >= len(self.gpus):
            found += self._observed(NODE, at_s)
        found += self._devices.of_count(len(self.gpus), at_s)
        heard_s = [self._seen_s[gpu.pci] for gpu in self.gpus if gpu.pci in self._seen_s and not self._is_lost(gpu)]
        if heard_s:
            found += self._devices.of_silence(now_s - min(heard_s), at_s)
        self.take(*found)

    def tick(self) -> None:
        """Let time pass: drills, what went quiet, what is due, and the file of health."""
        at_s = self._clocks.unix_s()
        self._take_drills(at_s)
        self.orders.forget_ended(at_s)
        try:
            self._keeper.tick()
        except OSError as error:
            _log.error("health journal: %s", error)
        self._tell_incidents()
        if (position := self._follower.position) is not None:
            self._kept["kernel_log"].save([position.boot_id, position.sequence])

    # What goes out

    def word(self, index: int) -> str | None:
        """Return the health word of a GPU for the fleet; None where there is nothing to say."""
        pci = self._pci(index)
        state = self._machine.effective_state(Entity("gpu", pci)) if pci is not None else State.UNKNOWN
        if state in {State.UNKNOWN, State.HEALTHY}:
            return None
        if state.refuses_work and not self.is_enforcing:
            return "degraded"  # a dry run takes nothing away
        return state.name.lower()

    def _publish_file(self) -> None:
        now_s, monotonic_s = self._clocks.unix_s(), self._clocks.monotonic_s()
        unseen = {gpu.pci for gpu in self.gpus if monotonic_s - self._seen_s.get(gpu.pci, monotonic_s) > UNSEEN_S}
        enforcing = self.is_enforcing
        plain = health_plain(self._machine, self.gpus, now_s=now_s, is_enforcing=enforcing, unseen=unseen)
        content = {name: value for name, value in plain.items() if name != "written_s"}
        if content == self._written[0] and monotonic_s - self._written[1] < FILE_EVERY_S:
            return
        try:
            write_health(Path(self.config.health.file), plain)
        except OSError as error:
            self.file_errors += 1
            if self.file_errors == 1:
                _log.error("health file %s: %s; nobody can ask it", self.config.health.file, error)
            return
        self._written = (content, monotonic_s)

    def _tell_incidents(self) -> None:
        """Publish each incident that says more than when it was told last."""
        for entity, health in self._machine.healths.items():
            for incident in health.incidents:
                self._tell_incident(incident, self._machine.state(entity))
        open_ids = {incident.id for health in self._machine.healths.values() for incident in health.incidents}
        for incident in self._machine.closed:
            if incident.id in self._told and incident.id not in open_ids:
                self._tell_incident(incident, State.HEALTHY)
                del self._told[incident.id]

    def _tell_incident(self, incident: Incident, state: State) -> None:
        signature = incident_signature(incident, state)
        if self._told.get(incident.id) == signature:
            return
        self._told[incident.id] = signature
        self._publish(
            "incident",
            incident_severity(incident),
            self._index(incident.entity),
            incident_fields(incident, state),
            occurred_at_s=self._clocks.unix_s(),
            correlation_id=incident.id,
        )

    async def _read_sources(self) -> None:
        """Read what the host says beside its GPUs, for as long as the agent runs."""
        while True:
            self.take(*await self._sources.read(self._clocks.unix_s()))
            self._kept["sources"].save(kept_of(self._sources))
            await asyncio.sleep(SOURCES_S)

    def _tell_decision(self, decision: Decision) -> None:
        intent = decision.intent
        state = self._machine.state(intent.entity)
        if intent.kind == "notify" and not in_window(self._surroundings(self._machine)):
            self._notices.put(self._notice(decision, state))
        severity = "info" if intent.kind in {"notify", "release", "validate"} else "warning"
        self._publish(
            "health",
            severity,
            self._index(str(intent.entity)),
            decision_fields(decision, state),
            occurred_at_s=decision.at_s,
            correlation_id=intent.incident or None,
        )

    def _notice(self, decision: Decision, state: State) -> dict[str, object]:
        intent = decision.intent
        told = {"host": self.config.host_id, "entity": str(intent.entity), "state": state.name}
        return told | {
            "detail": intent.detail,
            "incident": intent.incident,
            "injected": intent.is_injected,
            "enforcing": self.is_enforcing,
            "time_s": decision.at_s,
        }

    # Parts of the keeper

    def _keeper_parts(self) -> KeeperParts:
        profile = profile_of(self.config.isolation)
        return KeeperParts(
            journal=self._journal,
            guard=self._guard,
            isolation=Isolation(lambda _: profile, self._book, is_dry=lambda: not self.is_enforcing),
            hands=self._hands,
            now_s=self._clocks.unix_s,
            surroundings=self._surroundings,
            target_of=self._target_of,
            publish_state=self._publish_file,
            tell=self._tell_decision,
            note_taken=self._tell_incidents,
        )

    def _surroundings(self, machine: HealthMachine) -> Surroundings:
        isolated = [e for e, health in machine.healths.items() if e.kind == "gpu" and health.state.refuses_work]
        return Surroundings(
            now_s=self._clocks.unix_s(),
            is_opted_out=self._is_opted_out(),
            mode=self.orders.mode,
            windows=self.orders.windows,
            belongs_to=frozenset((self.config.host_id, *self.config.isolation.belongs_to)),
            isolated_gpus=len(isolated),
        )

    def _target_of(self, intent: Intent) -> Target:
        entity = intent.entity.parent or intent.entity
        gpu = next((gpu for gpu in self.gpus if gpu.pci == entity.name), None)
        host = self.config.isolation.slurm_node or self.config.host_id
        index, uuid = (gpu.index, gpu.uuid) if gpu is not None else (None, None)
        return Target(intent.entity, intent.incident, host, index, uuid, intent.detail)

    def _codes_of(self, target: Target) -> str:
        health = self._machine.healths.get(target.entity)
        return ",".join(cause.code for cause in health.open_causes()[:16]) if health is not None else ""

    def _is_answering(self, target: Target) -> bool:
        """Tell whether the driver gives fresh samples of a GPU, or of every GPU of the host."""
        wanted = [gpu for gpu in self.gpus if target.gpu_index in {None, gpu.index}]
        now_s = self._clocks.monotonic_s()
        fresh = [now_s - self._seen_s.get(gpu.pci, float("-inf")) <= UNSEEN_S for gpu in wanted]
        return bool(wanted) and all(fresh)

    # Small parts

    def _restore(self) -> None:
        if (gpus := self._kept["gpus"].load()) is not None:
            self.gpus = tuple(Gpu(int(index), str(uuid), str(pci)) for index, uuid, pci in gpus)
            self._devices.gpu_count = len(self.gpus)
        if (limits := self._kept["limits"].load()) is not None:
            self._guard.restore(limits)
        if (orders := self._kept["orders"].load()) is not None:
            self.orders.restore(orders)
        if (sources := self._kept["sources"].load()) is not None:
            restore_kept(self._sources, sources)
        if (position := self._kept["kernel_log"].load()) is not None:
            self._follower.saved = LogPosition(str(position[0]), int(position[1]))

    def _take_boot(self) -> None:
        """Tell the machine of a boot or inventory that it does not know yet."""
        host = self._machine.host
        if (host.boot_id, host.gpu_count) == (self._boot_id, len(self.gpus)) or not self._boot_id:
            return
        at_s = self._clocks.unix_s()
        self.take(Boot(at_s, self._boot_id, at_s - time.clock_gettime(time.CLOCK_BOOTTIME), len(self.gpus)))

    def _take_drills(self, at_s: float) -> None:
        try:
            drills = list(take_drills(Path(self.config.health.drills)))
        except OSError as error:
            _log.error("drills: %s", error)
            return
        for drill in drills:
            try:
                facts = drill_facts(drill, self._catalogue, at_s=at_s, boot_id=self._boot_id)
            except DrillError as error:
                _log.error("%s", error)
                continue
            self.take(*facts)

    def _observed(self, entity: Entity, at_s: float) -> list[Input]:
        is_new = self._machine.state(entity) is State.UNKNOWN
        return [Progress(at_s, entity, "observed")] if is_new else []

    def _is_lost(self, gpu: Gpu) -> bool:
        """A GPU known to be out of order is no sign of a hanging driver."""
        return self._machine.state(Entity("gpu", gpu.pci)).refuses_work

    def _is_opted_out(self) -> bool:
        return Path(self.config.isolation.opt_out_file).exists()

    def _save_limits(self) -> None:
        self._kept["limits"].save(self._guard.to_plain())

    def _pci(self, index: int | None) -> str | None:
        return next((gpu.pci for gpu in self.gpus if gpu.index == index), None)

    def _index(self, entity: str) -> int | None:
        return next((gpu.index for gpu in self.gpus if gpu.pci in entity), None)


def _read_catalogue(overlay: str) -> Catalogue:
    return load_with_overlay(Path(overlay)) if overlay else load_catalogue()
