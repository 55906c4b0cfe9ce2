"""What a reader child samples from, and how its sampling thread gets its time on a loaded host."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from flyball_fast.nvml_records import SweepPlan
from flyball_fast.ring import Ring
from flyball_governor.device import Devices, EventKind

FIFO_PRIORITY = 5  # above ordinary threads, below the kernel's own
NICE = -10
_PR_SET_TIMERSLACK = 29  # linux/prctl.h
TIMER_SLACK_NS = 1000  # the default of 50 µs is half of the lateness we aim at


class SeenEvent(NamedTuple):
    """One event as a driver delivered it; gpu None when it does not say which."""

    kind: EventKind
    gpu: int | None
    code: int


class SampledDevices(Devices, Protocol):
    """Devices that can also fill a ring and tell events; called in a reader child only."""

    def versions(self) -> dict[str, str]:
        """Return what is known of driver and library versions, each under its name."""
        ...

    def tune(self, plan: SweepPlan, ring: Ring, stop: Sequence[int]) -> SweepPlan:
        """Return the plan at rates worth sampling at; takes `plan.probe_s` at most."""
        ...

    def sample(self, ring: Ring, plan: SweepPlan, stop: Sequence[int], alarm_fd: int) -> None:
        """Fill the ring until `stop[0]` is set; the heartbeat names each driver call, the eventfd tells excursions."""
        ...

    def open_events(self) -> None:
        """Ask for events; raise `NotSupported` where the driver has none."""
        ...

    def wait_event(self, timeout_s: float) -> SeenEvent | None:
        """Return the next event, or None after the time."""
        ...


def prefer_this_thread() -> str:
    """Give the calling thread what precedence it may have; return what it got."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
        return "fifo"
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        return "nice"
    return "none"
