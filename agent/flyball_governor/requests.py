"""Answer what local clients ask the governor: who it is, how it is, what it reports, and what it shall do.

Leases and commands come as signed envelopes; their signature is checked before anything in them is read.
"""

import logging
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from flyball_fast.errors import DeviceError
from flyball_governor.control_socket import Answer
from flyball_governor.governor import Governor
from flyball_governor.lease_keeper import LeaseReceived, ReleaseReceived
from flyball_wire.codec import M
from flyball_wire.errors import SignatureError, WireError
from flyball_wire.lease import NO_FENCE, Fence, Lease
from flyball_wire.local_socket import (
    HEALTH_ACTS,
    ORDER_EVENT,
    DeviceEvent,
    GateReply,
    HelloReply,
    ReportReply,
    Request,
    StatusReply,
)
from flyball_wire.messages import Command, GpuInventory
from flyball_wire.signing import open_signed

SIMULATED_VARIABLE: Final = "FLYBALL_SIM_PLANT"  # set where the device library is the simulated one
MAX_NOTES: Final = 32

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Requests:
    """The closed set of requests; `refused_total` counts what did not verify or came too late."""

    governor: Governor
    refused_total: int = 0
    _last_command: Fence = NO_FENCE
    _last_health: Fence = NO_FENCE
    _answers: dict[str, Callable[[Request], Awaitable[Answer]]] = field(init=False)

    def __post_init__(self) -> None:
        """Name the answer to each action."""
        self._answers = {
            "hello": self._hello,
            "status": self._status,
            "gate": self._gate,
            "report": self._report,
            "lease": self._lease,
            "lower": self._lower,
            "command": self._command,
            "quiesce": self._quiesce,
            "resume": self._resume,
        }

    async def handle_request(self, request: Request) -> Answer:
        """Return the answer.

        Raises:
            WireError: the request is refused; nothing has changed.
        """
        try:
            return await self._answers[request.action](request)
        except SignatureError as error:
            self.refused_total += 1
            log.warning("%s refused: %s", request.action, error)
            raise
        except DeviceError as error:
            raise WireError(f"{request.action}: {error}") from None

    async def _hello(self, request: Request) -> Answer:
        identity, descriptors = self.governor.identity, []
        ring = self.governor.caps.ring
        if ring is not None:
            descriptors.append(ring.read_only_fd())
        kernel_log = self._open_kernel_log()
        if kernel_log is not None:
            descriptors.append(kernel_log)
        reply = HelloReply(
            request_id=request.request_id,
            host=identity.host,
            incarnation=identity.incarnation,
            boot_id=identity.boot_id,
            key_id=identity.key.key_id,
            public_key=identity.key.public_bytes,
            is_simulated=SIMULATED_VARIABLE in os.environ,
            gpus=inventory_of(self.governor),
            has_ring=ring is not None,
            has_kernel_log=kernel_log is not None,
        )
        return Answer(reply, tuple(descriptors))

    def _open_kernel_log(self) -> int | None:
        events = self.governor.config.events
        if not (events.enabled and events.kernel_log):
            return None
        try:
            return open_kernel_log(events.kernel_log_path)
        except OSError:
            return None

    async def _status(self, request: Request) -> Answer:
        return Answer(status_of(self.governor, request.request_id))

    async def _gate(self, request: Request) -> Answer:
        gate = self.governor.gate
        return Answer(GateReply(request.request_id, gate.is_open, gate.reason[:512]))

    async def _report(self, request: Request) -> Answer:
        envelope = self.governor.seat.envelope
        if envelope is None:
            raise WireError("report: there is none yet: caps are on their way to the devices' minimum")
        return Answer(ReportReply(request.request_id, envelope))

    async def _lease(self, request: Request) -> Answer:
        lease, generation = self._open(Lease, request.body)
        now_ms = self.governor.clock.boot_ms()
        await self.governor.decide(LeaseReceived(lease, now_ms, generation))
        return await self._report(request)

    async def _lower(self, request: Request) -> Answer:
        await self._report(request)  # refused before it changes anything where there is no report yet
        await self.governor.lower(request.limit_milliwatts)
        return await self._report(request)

    async def _quiesce(self, request: Request) -> Answer:
        await self.governor.quiesce("quiesced by an operator")
        return await self._gate(request)

    async def _resume(self, request: Request) -> Answer:
        await self.governor.resume()
        return await self._gate(request)

    async def _command(self, request: Request) -> Answer:
        await self._report(request)  # refused before it changes anything where there is no report yet
        command, _ = self._open(Command, request.body)
        if command.action == "health":
            self._hand_on(command)
            return await self._report(request)
        self._last_command = self._check_order(command, self._last_command)
        match command.action:
            case "release":
                fence = Fence(command.epoch, command.seq)
                now_ms = self.governor.clock.boot_ms()
                await self.governor.decide(
                    ReleaseReceived(command.incarnation, fence, command.stamp_ms, command.ttl_ms, now_ms)
                )
            case "quiesce":
                await self.governor.quiesce("quiesced by a signed command")
            case "resume":
                await self.governor.resume()
            case action:
                raise WireError(f"command: action {action[:40]!r}, expected release, quiesce or resume")
        return await self._report(request)

    def _hand_on(self, command: Command) -> None:
        """Hand an order about health to the agent: it has no key, and this program has no part in health.

        Such orders have a numbering of their own, since the ledger numbers the others.
        """
        arguments = dict(command.arguments)
        if arguments.get("act") not in HEALTH_ACTS:
            raise WireError(f"command: act {arguments.get('act', '')[:40]!r}, expected one of {', '.join(HEALTH_ACTS)}")
        self._last_health = self._check_order(command, self._last_health)
        now_s = self.governor.clock.unix_s()
        self.governor.publish(DeviceEvent(0, now_s, ORDER_EVENT, "info", None, command.arguments))

    def _check_order(self, command: Command, last: Fence) -> Fence:
        """Refuse a command for another governor, of the past, or seen before; return its place in the order."""
        identity, now_ms = self.governor.identity, self.governor.clock.boot_ms()
        if command.host != identity.host or command.incarnation != identity.incarnation:
            raise WireError("command: for another governor incarnation")
        order = Fence(command.epoch, command.seq)
        if order <= last:
            raise WireError(f"command: ({order.epoch}, {order.seq}) is not after the last one")
        newest_ms = max(now_ms, self.governor.seat.state.report_stamp_ms)  # stamps may run ahead of the clock by a few
        if not command.stamp_ms <= newest_ms or now_ms > command.stamp_ms + command.ttl_ms:
            raise WireError("command: dead on arrival")
        return order

    def _open(self, kind: type[M], envelope: bytes) -> tuple[M, int]:
        """Return a signed message and the generation of the key that signed it."""
        config = self.governor.config
        if not config.is_lease_needed:
            raise WireError(f"{kind.KIND}: no key is trusted here (lease.trusted)")
        generations = {key.generation for key in config.lease.trusted}
        for generation in sorted(generations, reverse=True):
            keys = {
                key.key_id: bytes.fromhex(key.public_key)
                for key in config.lease.trusted
                if key.generation == generation
            }
            try:
                return open_signed(kind, envelope, keys), generation
            except SignatureError as error:
                refusal = error
        raise refusal


def open_kernel_log(path: str) -> int:
    """Return a descriptor that gives one record a read: /dev/kmsg, or a SOCK_SEQPACKET socket that stands in for it.

    Raises:
        OSError: it is not there, or may not be read.
    """
    if not Path(path).is_socket():
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as stand_in:
        stand_in.connect(path)
        return stand_in.detach()


def inventory_of(governor: Governor) -> tuple[GpuInventory, ...]:
    """Return the GPUs as other programs see them."""
    return tuple(
        GpuInventory(
            index=info.index,
            uuid=info.uuid,
            model=info.name,
            pci_address=info.pci,
            vendor=info.name.split(" ", 1)[0],
            minimum_milliwatts=record.cap.minimum_milliwatts,
            maximum_milliwatts=record.cap.maximum_milliwatts,
            default_milliwatts=record.cap.default_milliwatts,
        )
        for info, record in zip(governor.side.inventory(), governor.caps.book.records, strict=True)
    )


def status_of(governor: Governor, request_id: int) -> StatusReply:
    """Return how the governor fares."""
    state, ring = governor.seat.state, governor.caps.ring
    sampler = ring.status() if ring is not None else None
    samples = sum(ring.head(gpu) for gpu in range(ring.gpu_count)) if ring is not None else 0
    period_ns = sampler.period_ns[0] if sampler is not None else 0
    remaining_ms = max(0, state.expires_ms - governor.clock.boot_ms()) if state.lease_milliwatts is not None else None
    return StatusReply(
        request_id=request_id,
        mode=governor.config.effective_mode,
        is_gated=not governor.gate.is_open,
        is_quiesced=governor.is_quiesced,
        phase=state.phase,
        lease_milliwatts=state.lease_milliwatts,
        lease_remaining_ms=remaining_ms,
        bound_milliwatts=state.facts.bound_milliwatts,
        caps_milliwatts=governor.caps.book.limits(),
        health=gpu_health(governor),
        samples_total=samples,
        missed_ticks_total=sampler.missed[0] if sampler is not None else 0,
        rate_hz=1e9 / period_ns if period_ns else 0.0,
        notes=notes_of(governor),
    )


def gpu_health(governor: Governor) -> tuple[str, ...]:
    """Return each GPU's health word."""
    health, ring = governor.side.health(), governor.caps.ring
    words = []
    for record in governor.caps.book.records:
        if record.gpu in health.lost:
            words.append("lost")
        elif record.gpu in health.stalled:
            words.append("stalled")
        elif health.mode != "running" or (ring is not None and ring.state(record.gpu) != "ok"):
            words.append("unknown")
        else:
            words.append("ok")
    return tuple(words)


def notes_of(governor: Governor) -> tuple[str, ...]:
    """Return what a person should know, the latest of each kind."""
    caps, seat = governor.caps, governor.seat
    notes = [text for text in (caps.writer.journal_error, seat.journal_error) if text]
    notes += [f"{name}: {text}" for name, text in governor.notes.items()]
    notes += [f"gpu {record.gpu}: {record.refusal}" for record in caps.book.records if record.refusal]
    notes += [
        f"gpu {record.gpu}: another hand holds {record.foreign_ceiling_milliwatts} mW"
        for record in caps.book.records
        if record.foreign_ceiling_milliwatts is not None
    ]
    error = governor.side.health().error
    notes += [error] if error else []
    limit_w, least_w = governor.config.host_limit_w, seat.state.facts.minimum_milliwatts / 1000
    if limit_w is not None and limit_w < least_w:
        notes.append(f"host_limit_w {limit_w:g} W is below the devices' minima of {least_w:g} W: the minima hold")
    if not caps.is_enforcing and caps.targets:
        notes.append("observe: would set " + " ".join(f"{cap / 1000:.0f}" for cap in caps.targets) + " W")
    return tuple(note[:512] for note in [*notes, *seat.notes][:MAX_NOTES])
