"""The governor as a process of its own, on the simulated NVML; no plant process is needed for limits."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.flyball_governor.rig import LEASE_KEY

from flyball_governor.ask import NoAnswer, ask
from flyball_simgpu.control import is_driver_open, sim_environment, unload_driver
from flyball_simgpu.plant_state import PlantFile
from flyball_wire.codec import M
from flyball_wire.lease import Fence, Lease, Report
from flyball_wire.local_socket import Action, GateReply, HelloReply, ReportReply, StatusReply
from flyball_wire.signing import open_signed, sign

DEADLINE_S = 20.0
PROGRAM = [sys.executable, "-m", "flyball_governor"]


@dataclass
class Place:
    """Where one governor lives, and the plant file under it."""

    folder: Path
    plant: PlantFile
    environment: dict[str, str]
    mode: str = "enforce"
    extra: str = ""

    @property
    def socket(self) -> Path:
        return self.folder / "gov.sock"

    @property
    def config(self) -> Path:
        path = self.folder / "governor.toml"
        path.write_text(
            f'host = "host-a"\nmode = "{self.mode}"\nstate_dir = "{self.folder}/state"\n{self.extra}\n'
            f'[socket]\npath = "{self.socket}"\n'
            f'[lease]\ntrusted = [{{ key_id = "lease-1", public_key = "{LEASE_KEY.public_bytes.hex()}" }}]\n'
        )
        return path

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*PROGRAM, "--config", str(self.config)], env=self.environment, text=True, stderr=subprocess.PIPE
        )

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, *arguments, "--config", str(self.config)],
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def ask(self, action: Action, kind: type[M]) -> M:
        return ask(self.socket, action, kind)

    def limits(self) -> list[int]:
        return [gpu.requested_limit_mw for gpu in self.plant.gpus_of("host-a")]

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        process = self.start()
        try:
            wait_until(lambda: answers(self), "the governor answers")
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=DEADLINE_S)


def answers(place: Place) -> bool:
    try:
        place.ask("report", ReportReply)
    except (NoAnswer, Exception):  # noqa: BLE001 - not there yet, in whatever way
        return False
    return True


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_true():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def place(tmp_path: Path, plant_file: PlantFile) -> Place:
    simulated = sim_environment(tmp_path / "plant", "host-a")
    return Place(tmp_path, plant_file, {**os.environ, **simulated})


def grant(place: Place, seq: int, watts: float) -> Report:
    """Send a lease over the socket and return the verified report that answers it."""
    hello = place.ask("hello", HelloReply)
    keys = {hello.key_id: hello.public_key}
    report = open_signed(Report, place.ask("report", ReportReply).envelope, keys)
    lease = Lease(
        host="host-a",
        incarnation=hello.incarnation,
        fence=Fence(1, seq),
        watts_milliwatts=int(watts * 1000),
        safe_milliwatts=400_000,
        stamp_ms=report.stamp_ms,
        ttl_ms=30_000,
        hold_ms=30_000,
        ramp_milliwatts_per_s=70_000,
    )
    answer = ask(place.socket, "lease", ReportReply, body=sign(lease, LEASE_KEY))
    return open_signed(Report, answer.envelope, keys)


def test_a_lease_over_the_socket_becomes_caps_in_the_device_and_a_signed_report(place: Place) -> None:
    with place.running():
        report = grant(place, 1, 900)
        wait_until(lambda: place.limits() == [450_000, 450_000], "caps stand in the device")
        wait_until(lambda: place.call("gate").returncode == 0, "the gate is open")
        status = place.ask("status", StatusReply)

    assert (report.fence, report.bound_milliwatts) == (Fence(1, 1), 900_000)
    assert (status.phase, status.health, status.rate_hz) == ("leased", ("ok", "ok"), 20.0)
    assert place.limits() == [450_000, 450_000]
    assert place.call("gate").returncode == 1


def test_killed_outright_its_children_go_caps_stay_and_a_new_one_goes_on(place: Place) -> None:
    with place.running() as first:
        before = place.ask("hello", HelloReply).incarnation
        grant(place, 1, 900)
        wait_until(lambda: place.limits() == [450_000, 450_000], "caps stand in the device")
        first.send_signal(signal.SIGKILL)
        first.wait(DEADLINE_S)
        wait_until(lambda: not is_driver_open(place.plant, "host-a"), "no child holds the driver")
        left = place.limits()
        with place.running():
            after = place.ask("hello", HelloReply).incarnation
            kept = place.limits()
            report = grant(place, 2, 1000)
            wait_until(lambda: place.limits() == [500_000, 500_000], "the new lease stands")

    assert before != after
    assert left == kept == [450_000, 450_000]
    assert report.fence == Fence(1, 2)


def test_quiesced_it_holds_no_device_and_resumed_it_governs_on(place: Place) -> None:
    with place.running():
        grant(place, 1, 900)
        wait_until(lambda: place.limits() == [450_000, 450_000], "caps stand in the device")
        quiesced = place.call("quiesce")
        is_open, gate = is_driver_open(place.plant, "host-a"), place.ask("gate", GateReply)
        resumed = place.call("resume")
        wait_until(lambda: place.ask("gate", GateReply).is_open, "the gate is open again")

    assert (quiesced.returncode, resumed.returncode) == (0, 0)
    assert not is_open
    assert not gate.is_open


def test_a_second_governor_on_the_same_state_is_told_who_runs(place: Place) -> None:
    with place.running() as first:
        second = place.call("run")

    assert second.returncode == 75
    assert f"pid {first.pid}" in second.stderr


def test_without_a_library_it_says_what_it_tried(place: Place) -> None:
    place.environment["FLYBALL_NVML_LIBRARY"] = "/nowhere/libnvidia-ml.so.1"
    done = place.call("run")

    assert done.returncode == 69
    assert "/nowhere/libnvidia-ml.so.1" in done.stderr


def test_a_library_without_driver_is_named_as_error_9(place: Place) -> None:
    unload_driver(place.plant, "host-a")
    done = place.call("run")

    assert done.returncode == 69
    assert "9 DRIVER_NOT_LOADED" in done.stderr
