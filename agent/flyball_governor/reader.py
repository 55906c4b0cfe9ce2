"""The reader child: attaches to the devices, fills the ring it is given, tells events; ends when its channel does."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable

from flyball_fast.errors import DeviceError
from flyball_fast.nvml_records import SweepPlan
from flyball_fast.ring import Ring
from flyball_governor.child_process import Channel, Message
from flyball_governor.device import GpuInfo, undescribed
from flyball_governor.sampler import SampledDevices, prefer_this_thread

EVENT_WAIT_S = 0.5  # how long the events thread stays in the driver at a time, and so in a quiesce
JOIN_S = 1.5  # a thread that does not end within this hangs in the driver: the process ends without detaching


class Reader:
    """What the child does, in three threads: this one hears the parent, one samples, one waits for events."""

    def __init__(
        self, channel: Channel, devices: SampledDevices, plan: SweepPlan, undescribed_gpus: frozenset[int]
    ) -> None:
        self._channel = channel
        self._devices = devices
        self._plan = plan
        self._undescribed = undescribed_gpus
        self._stop = bytearray(1)
        self._sending = threading.Lock()

    def run(self) -> None:
        """Announce the inventory, sample until the parent ends it, detach."""
        try:
            self._devices.open()
            gpus = [self._describe(gpu) for gpu in range(self._devices.gpu_count())]
        except DeviceError as error:
            self._send(failure(error))
            return
        self._send({"kind": "ready", "gpus": [pack_gpu(gpu) for gpu in gpus], "versions": self._devices.versions()})
        fds = self._channel.receive_fds(2)
        if fds is not None:
            self._sample_into(Ring.attach(fds[0]), fds[1])

    def _describe(self, gpu: int) -> GpuInfo:
        if gpu in self._undescribed:
            return undescribed(gpu, "it did not answer before")
        self._send({"kind": "asking", "gpu": gpu})
        return self._devices.describe(gpu)

    def _sample_into(self, ring: Ring, alarm_fd: int) -> None:
        threads = [
            threading.Thread(target=target, args=arguments, daemon=True)
            for target, arguments in ((self._sample, (ring, alarm_fd)), (self._wait_events, ()))
        ]
        for thread in threads:
            thread.start()
        try:
            while self._channel.receive() is not None:
                pass
        finally:
            self._stop[0] = 1
            deadline = time.monotonic() + JOIN_S
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            if not any(thread.is_alive() for thread in threads):
                self._devices.close()

    def _sample(self, ring: Ring, alarm_fd: int) -> None:
        precedence = prefer_this_thread()
        plan = self._devices.tune(self._plan, ring, self._stop) if self._plan.probe_s else self._plan
        self._send({"kind": "sampling", "precedence": precedence, "rates_hz": list(plan.rates_hz)})
        self._devices.sample(ring, plan, self._stop, alarm_fd)

    def _wait_events(self) -> None:
        try:
            self._devices.open_events()
        except DeviceError as error:
            self._send({"kind": "no_events", "message": str(error)})
            return
        while not self._stop[0]:
            try:
                event = self._devices.wait_event(EVENT_WAIT_S)
            except DeviceError as error:
                self._send({"kind": "no_events", "message": str(error)})
                return
            if event is not None:
                at = time.monotonic_ns()
                self._send({"kind": "event", "event": event.kind, "gpu": event.gpu, "code": event.code, "at_ns": at})

    def _send(self, message: Message) -> None:
        with self._sending:
            self._channel.send(message)


def reader_main(
    make_devices: Callable[[], SampledDevices], plan: SweepPlan, undescribed_gpus: frozenset[int]
) -> Callable[[Channel], None]:
    """Return what a reader child runs; the devices are made in the child. Some GPUs are not asked who they are."""

    def main(channel: Channel) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            Reader(channel, make_devices(), plan, undescribed_gpus).run()

    return main


def failure(error: DeviceError) -> Message:
    """Return the message that carries a device error."""
    return {"kind": "failed", "error": type(error).__name__, "message": str(error), "code": error.code}


def pack_gpu(gpu: GpuInfo) -> Message:
    """Return a GPU's record as a message."""
    return {**dataclasses.asdict(gpu), "capabilities": sorted(gpu.capabilities)}
