"""Pass on what the device side noticed, and let go of the driver when it is being unloaded."""

import time
from typing import Final

from flyball_governor.device import DeviceEvent
from flyball_governor.governor import Governor
from flyball_wire.local_socket import DeviceEvent as EventReply

UNBOUND_S: Final = 30.0  # a driver update must find nobody attached; longer ones are met by trying again
_SEVERITY: Final = {
    "xid": "critical",
    "ecc_double_bit": "critical",
    "poison": "critical",
    "unavailable": "critical",
    "lost": "critical",
    "stalled": "critical",
    "recovered": "info",
    "sampler_budget": "info",
    "excursion": "critical",
}


async def pump_events(governor: Governor) -> None:
    """Hand on events for as long as the device side yields them."""
    async for event in governor.side.events():
        if governor.config.events.enabled:
            governor.publish(event_reply(event))
        if event.kind == "driver_unbound":
            await governor.quiesce("the driver is being unloaded", resume_after_s=UNBOUND_S)
        if event.kind == "inventory_changed":
            governor.restart("the GPUs are others than before")


def event_reply(event: DeviceEvent) -> EventReply:
    """Return the event as the agent hears it, with its time on the wall clock."""
    occurred_at_s = time.time() - (time.monotonic_ns() - event.monotonic_ns) / 1e9
    fields = [("count", str(event.count))]
    if event.code is not None:
        fields.append(("code", str(event.code)))
    if event.detail:
        fields.append(("detail", event.detail[:1024]))
    return EventReply(0, occurred_at_s, event.kind, _SEVERITY.get(event.kind, "warning"), event.gpu, tuple(fields))
