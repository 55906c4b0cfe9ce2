"""The writer child: does one write or read-back at a time, and answers each when it has returned."""

from __future__ import annotations

import time
from collections.abc import Callable

from flyball_fast.errors import DeviceError
from flyball_governor.child_process import Channel, Message
from flyball_governor.device import Devices, Limits
from flyball_governor.reader import failure


class Writer:
    """Carries out requests in the order they come; while a call hangs, so does this process."""

    def __init__(self, channel: Channel, devices: Devices) -> None:
        self._channel = channel
        self._devices = devices

    def run(self) -> None:
        """Serve requests until the channel ends, then detach."""
        try:
            self._devices.open()
        except DeviceError as error:
            self._channel.send(failure(error))
            return
        self._channel.send({"kind": "ready"})
        try:
            while (request := self._channel.receive()) is not None:
                self._channel.send(self._answer(request))
        finally:
            self._devices.close()

    def _answer(self, request: Message) -> Message:
        started = time.monotonic()
        gpus = request.get("gpus")
        if isinstance(gpus, list):
            return {"id": request["id"], "error": None, "all_limits": [self._read(gpu) for gpu in gpus]}
        error: str | None = None
        try:
            self._act(request)
        except (DeviceError, IndexError, OverflowError) as refused:
            error = str(refused)
        limits = self._read(_number(request, "gpu"))
        return {"id": request["id"], "error": error, "limits": limits, "took_s": time.monotonic() - started}

    def _act(self, request: Message) -> None:
        gpu = _number(request, "gpu")
        if request["act"] == "set_limit":
            self._devices.set_limit_mw(gpu, _number(request, "limit_mw"))
        elif request["act"] == "lock_clocks" and _number(request, "max_hz"):
            self._devices.lock_clocks(gpu, _number(request, "min_hz"), _number(request, "max_hz"))
        elif request["act"] == "lock_clocks":
            self._devices.unlock_clocks(gpu)

    def _read(self, gpu: int) -> list[int | None] | None:
        try:
            limits: Limits = self._devices.read_limits(gpu)
        except (DeviceError, IndexError):
            return None
        return [limits.enforced_mw, limits.requested_mw]


def writer_main(make_devices: Callable[[], Devices]) -> Callable[[Channel], None]:
    """Return what a writer child runs; the devices are made in the child."""

    def main(channel: Channel) -> None:
        Writer(channel, make_devices()).run()

    return main


def _number(request: Message, name: str) -> int:
    value = request.get(name)
    if not isinstance(value, int):
        raise TypeError(f"request {name} {value!r}, expected a whole number")
    return value
