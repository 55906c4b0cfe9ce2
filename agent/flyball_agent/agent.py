"""The agent whole: what the governor says becomes MQTT messages, what the broker brings goes to the governor unopened.

Every method that takes something from outside returns at once and raises nothing for bad input, so that neither a lost
broker nor a lost governor does more than delay.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Final

from flyball_agent import host_facts
from flyball_agent.config import AgentConfig
from flyball_agent.governor_link import Descriptors, GovernorLink
from flyball_agent.host_facts import HostFacts, HostReader
from flyball_agent.host_health import HostHealth
from flyball_agent.host_power import HostPowerReader, ZonePower
from flyball_agent.session import Session
from flyball_agent.state_columns import columns_of
from flyball_agent.state_window import GpuWindow, StateWindow
from flyball_agent.telemetry_batches import TelemetryBatches
from flyball_fast.errors import FlyballFastError
from flyball_fast.ring import Ring
from flyball_wire.codec import encode
from flyball_wire.errors import WireError
from flyball_wire.lease import HostMode
from flyball_wire.local_socket import ORDER_EVENT, DeviceEvent, HelloReply, StatusReply
from flyball_wire.messages import Birth, Event, GpuColumns, State, Telemetry
from flyball_wire.topics import OrderChannel

EXCURSION_BEFORE_S: Final = 2.0  # full-rate rows before a trigger, published at once
EXCURSION_AFTER_S: Final = 2.0
STATUS_STALE_S: Final = 5.0  # a governor silent for longer counts as gone
REPORT_STALE_S: Final = 2.5  # the governor reports every second; ask when it does not
REFUSAL_EVERY_S: Final = 30.0  # one event for each kind of order; the exporter counts them all
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class View:
    """What is known now, for State messages and the exporter; everything may be missing."""

    hello: HelloReply | None = None
    status: StatusReply | None = None
    status_at_s: float = float("-inf")  # monotonic
    report_at_s: float = float("-inf")
    windows: tuple[GpuWindow, ...] = ()
    facts: HostFacts | None = None
    zones: tuple[ZonePower, ...] = ()
    events_total: dict[str, int] = field(default_factory=dict)
    xids_total: dict[tuple[int | None, str], int] = field(default_factory=dict)  # (gpu, XID)
    last_xid: dict[int | None, str] = field(default_factory=dict)


class Agent:
    """Joins link, window and session; construction starts nothing, `tick` runs once a second."""

    def __init__(self, config: AgentConfig, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.view = View()
        self.session: Session | None = None
        self.link: GovernorLink | None = None
        self.health: HostHealth | None = None
        self._monotonic = monotonic
        self._window: StateWindow | None = None
        self._batches: TelemetryBatches | None = None
        self._reader = HostReader()
        self._power_reader = HostPowerReader()
        self._refused_at_s: dict[str, float] = {}
        self._last_change: tuple[object, ...] = ()
        self._boot_id = host_facts.read_boot_id()

    # What the governor says (GovernorListener).

    def handle_hello(self, hello: HelloReply, descriptors: Descriptors) -> None:
        """Take the inventory and map the ring; a host id that is not ours is refused."""
        if hello.host != self.config.host_id:
            _log.error("governor is host %r, this agent %r: not used", hello.host, self.config.host_id)
            descriptors.close()
            return
        self.view.hello = hello
        self._attach(descriptors)
        if self.health is not None:
            self.health.take_hello(hello)
            self.health.take_kernel_log(descriptors.kernel_log)
        elif descriptors.kernel_log is not None:
            os.close(descriptors.kernel_log)
        if self.session is not None:
            self.session.publish_newest("birth", self.make_birth(self.session.session_id))

    def handle_report(self, envelope: bytes) -> None:
        """Relay a signed report as it is."""
        self.view.report_at_s = self._monotonic()
        if self.session is not None:
            self.session.publish_newest("ack", envelope)

    def handle_status(self, status: StatusReply) -> None:
        """Take the governor's state."""
        self.view.status = status
        self.view.status_at_s = self._monotonic()

    def handle_device_event(self, event: DeviceEvent) -> None:
        """Publish what the device side noticed; an order that the governor verified goes to the health of this host."""
        if event.name == ORDER_EVENT:
            if self.health is not None:
                self.health.take_order(dict(event.fields))
            return
        if self.health is not None:
            self.health.take_device_event(event)
        if event.name == "xid":
            self._count_xid(event)
        if event.name == "excursion":
            self.send_excursion(event.gpu)
        self.publish_event(event.name, event.severity, event.gpu, event.fields, occurred_at_s=event.occurred_at_s)

    def _count_xid(self, event: DeviceEvent) -> None:
        """Count by GPU and number: a gauge of the last one, as others have it, hides the same one coming again."""
        xid = dict(event.fields).get("code", "unknown")
        key = event.gpu, xid
        self.view.xids_total[key] = self.view.xids_total.get(key, 0) + 1
        self.view.last_xid[event.gpu] = xid

    def handle_refusal(self, action: str, error: str) -> None:
        """Say that the governor refused an order, not every time: refused leases come again every few seconds."""
        now_s = self._monotonic()
        if action in ("lease", "command"):
            if now_s - self._refused_at_s.get(action, float("-inf")) < REFUSAL_EVERY_S:
                return
            self._refused_at_s[action] = now_s
            self.publish_event("order_refused", "warning", None, (("action", action), ("error", error)))
        else:
            _log.warning("governor refused %s: %s", action, error)

    def handle_governor_lost(self) -> None:
        """Forget what only a living governor can say; the ring's last rows stay until they are stale."""
        self.view.status = None
        self._detach()
        self.view.windows = ()
        if self.health is not None:
            self.health.take_kernel_log(None)

    # What the broker brings.

    def handle_order(self, channel: OrderChannel, envelope: bytes) -> None:
        """Pass a lease or command on, unopened."""
        if self.link is not None:
            self.link.send(channel, envelope)

    def handle_connected(self, is_connected: bool) -> None:  # noqa: FBT001 - a listener
        """Say at once how things are when a session begins."""
        if is_connected and self.link is not None:
            self.link.send("report")

    # What this host says.

    def make_birth(self, session_id: str) -> bytes:
        """Return the birth payload of a session."""
        hello, exporter = self.view.hello, self.config.exporter
        return encode(
            Birth(
                host=self.config.host_id,
                session=session_id,
                boot_id=hello.boot_id if hello is not None else self._boot_id,
                incarnation=hello.incarnation if hello is not None else None,
                report_key_id=hello.key_id if hello is not None else None,
                report_public_key=hello.public_key if hello is not None else None,
                agent_version=metadata.version("flyball"),
                is_simulated=hello.is_simulated if hello is not None else False,
                gpus=hello.gpus if hello is not None else (),
                hostname=host_facts.read_hostname(),
                cpu_count=host_facts.cpu_count(),
                memory_bytes=host_facts.memory_total_bytes(),
                exporter=f"{exporter.address}:{exporter.port}" if exporter.enabled else None,
                born_at_s=time.time(),
            )
        )

    def make_will(self, session_id: str) -> bytes:
        """Return what the broker says when this host falls silent."""
        return encode(self._state(session_id, 0, is_online=False))

    def publish_event(
        self,
        name: str,
        severity: str,
        gpu: int | None,
        fields: tuple[tuple[str, str], ...],
        *,
        occurred_at_s: float | None = None,
        correlation_id: str | None = None,
    ) -> None:
        """Publish an event in order, over any outage; one that does not fit the wire is logged and dropped."""
        self.view.events_total[severity] = self.view.events_total.get(severity, 0) + 1
        if self.session is None:
            return
        try:
            payload = encode(
                Event(
                    host=self.config.host_id,
                    session=self.session.session_id,
                    seq=self.session.next_sequence("event"),
                    occurred_at_s=time.time() if occurred_at_s is None else occurred_at_s,
                    name=name,
                    severity=severity,
                    gpu=gpu,
                    correlation_id=correlation_id,
                    fields=fields,
                )
            )
        except WireError as error:
            _log.error("event %s dropped: %s", name[:128], error)
            return
        self.session.publish_kept("event", payload)

    async def run_ticks(self) -> None:
        """Tick once in a state period."""
        await _run_every(self.config.state_period_s, self.tick)

    async def run_telemetry(self) -> None:
        """Send the ring's rows once in a telemetry period."""
        await _run_every(self.config.telemetry.period_s, self.send_telemetry)

    def send_telemetry(self) -> None:
        """Publish the rows written since the last call, over any outage that the spool can hold."""
        if self._batches is None or self.session is None:
            return
        self._send_columns("steady", self._batches.take())

    def _send_columns(self, window: str, batches: Iterable[bytes]) -> None:
        if self.session is None:
            return
        for columns in batches:
            sequence = self.session.next_sequence("telemetry")
            message = Telemetry(self.config.host_id, self.session.session_id, sequence, window, columns)
            try:
                self.session.publish_kept("telemetry", encode(message))
            except WireError as error:
                _log.error("telemetry dropped: %s", error)

    def send_excursion(self, gpu: int | None) -> None:
        """Publish the full-rate rows before a trigger at once, and those after it when they are there."""
        self._send_window("excursion_before", gpu, EXCURSION_BEFORE_S)
        with contextlib.suppress(RuntimeError):  # no loop runs: the rows after it come with the steady batches
            loop = asyncio.get_running_loop()
            loop.call_later(EXCURSION_AFTER_S, self._send_window, "excursion_after", gpu, EXCURSION_AFTER_S)

    def _send_window(self, window: str, gpu: int | None, seconds: float) -> None:
        if self._batches is not None:
            self._send_columns(window, self._batches.take_window(gpu, seconds))

    def tick(self) -> None:
        """Sum up the second that ended, ask the governor for the next one, publish the state."""
        now_s = self._monotonic()
        self.view.facts = self._reader.read()
        self.view.zones = self._power_reader.read(now_s)
        self.view.windows = self._window.take(time.monotonic_ns()) if self._window is not None else ()
        if self.health is not None:
            self.health.take_samples(self.view.status if self.is_governor_alive else None, self.view.windows)
        if self.link is not None:
            self.link.ask_status()
            if now_s - self.view.report_at_s > REPORT_STALE_S:
                self.link.ask_report()
        if self.session is not None:
            self._publish_state(self.session)

    @property
    def is_governor_alive(self) -> bool:
        """Whether the governor answered lately."""
        return self.view.status is not None and self._monotonic() - self.view.status_at_s <= STATUS_STALE_S

    def _publish_state(self, session: Session) -> None:
        """Publish the newest state; a change of what matters is kept in order, over any outage."""
        state = self._state(session.session_id, session.next_sequence("state"), is_online=True)
        change = (state.mode, state.is_gated, state.governor_alive, state.gpus.health)
        try:
            payload = encode(state)
        except WireError as error:
            _log.error("state dropped: %s", error)
            return
        if change != self._last_change and not session.is_connected:
            session.publish_kept("state", payload)
        else:
            session.publish_newest("state", payload)
        self._last_change = change

    def _state(self, session_id: str, sequence: int, *, is_online: bool) -> State:
        status = self.view.status if self.is_governor_alive else None
        mode: HostMode = status.mode if status is not None else "observe"
        facts = self.view.facts
        return State(
            host=self.config.host_id,
            session=session_id,
            seq=sequence,
            is_online=is_online,
            sampled_at_s=time.time(),
            mode=mode,
            is_gated=status.is_gated if status is not None else True,
            governor_alive=status is not None,
            samples_total=status.samples_total if status is not None else 0,
            missed_ticks_total=status.missed_ticks_total if status is not None else 0,
            rate_hz=status.rate_hz if status is not None else 0.0,
            cpu_ratio=facts.cpu_ratio if facts is not None else None,
            memory_used_bytes=facts.memory_used_bytes if facts is not None else None,
            spooled=self.session.waiting() if self.session is not None else 0,
            gpus=self._columns(status, is_online=is_online),
        )

    def _columns(self, status: StatusReply | None, *, is_online: bool) -> GpuColumns:
        """Return the GPUs' columns; the governor's word on health stands unless it is ok and more is known."""
        columns = columns_of(self.view.hello if is_online else None, status, self.view.windows)
        if self.health is None:
            return columns
        words = [(self.health.word(gpu) or word) if word == "ok" else word for gpu, word in enumerate(columns.health)]
        return replace(columns, health=tuple(words))

    def _attach(self, descriptors: Descriptors) -> None:
        """Map the ring that came with a hello; without one there are no windows."""
        self._detach()
        ring, descriptors.ring = descriptors.ring, None
        if ring is None:
            return
        try:
            attached = Ring.attach(ring)
        except (FlyballFastError, OSError, ValueError) as error:
            os.close(ring)
            _log.error("ring of the governor not used: %s", error)
            return
        self._window = StateWindow(attached)
        self._batches = TelemetryBatches(attached)

    def _detach(self) -> None:
        self._batches = None
        if self._window is not None:
            self._window.close()
            self._window = None


async def _run_every(period_s: float, act: Callable[[], None]) -> None:
    """Act at whole periods of the loop's clock, without drift; what comes too late is not made up for."""
    loop = asyncio.get_running_loop()
    due = loop.time() + period_s
    while True:
        await asyncio.sleep(due - loop.time())
        due += period_s * (1 + max(0, int((loop.time() - due) / period_s)))
        act()


def spool_directory(config: AgentConfig) -> Path:
    """Return where messages wait while the broker is away."""
    return Path(config.state_dir) / "spool"
