"""Real brokers for tests: mosquitto and NATS, each on a private port, plain or TLS; a test runs on both."""

import asyncio
import contextlib
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from tests.certificates import Authority

from flyball_cli.broker import BrokerKind, BrokerPlan, BrokerTls, find_program, prepare_broker, wait_ready

READY_S = 15.0
STOP_S = 10.0


@dataclass(slots=True)
class RunningBroker:
    """One broker process that a test may stop, kill, freeze and start again on the same port and state."""

    plan: BrokerPlan
    directory: Path
    authority: Authority | None = None
    process: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = None

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return self.plan.port

    async def start(self) -> None:
        """Run it and wait until it answers."""
        self.log = (self.directory / "broker.log").open("ab")
        process = subprocess.Popen(self.plan.argv, stdout=self.log, stderr=self.log)  # noqa: ASYNC220 - does not wait
        self.process = process
        await wait_ready(self.plan, READY_S, lambda: process.poll() is None)

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """End it with a signal and wait until it is gone."""
        process, log = self.process, self.log
        self.process = self.log = None
        if process is not None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            try:
                await asyncio.to_thread(process.wait, STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)
        if log is not None:
            log.close()

    def send_signal(self, number: int) -> None:
        """Freeze it (SIGSTOP) or let it go on (SIGCONT)."""
        if self.process is not None:
            self.process.send_signal(number)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def skip_without(kind: BrokerKind) -> None:
    """Skip aloud when the broker is not installed."""
    if find_program(kind) is None:
        name = "mosquitto" if kind == "mosquitto" else "nats-server"
        pytest.skip(f"{name} is not installed")


@contextlib.asynccontextmanager
async def running_broker(kind: BrokerKind, directory: Path, *, with_tls: bool = False) -> AsyncIterator[RunningBroker]:
    """Run a broker for the length of the block."""
    skip_without(kind)
    running = _prepared(kind, directory, with_tls=with_tls)
    try:
        await running.start()
        yield running
    finally:
        await running.stop()


def _prepared(kind: BrokerKind, directory: Path, *, with_tls: bool) -> RunningBroker:
    directory.mkdir(parents=True, exist_ok=True)
    authority, tls = None, None
    if with_tls:
        authority = Authority(directory / "certificates")
        files = authority.issue("broker")
        tls = BrokerTls(authority.ca_file, files.certificate, files.key)
    return RunningBroker(prepare_broker(kind, directory / "state", free_port(), tls=tls), directory, authority)


@pytest.fixture(
    params=[pytest.param("mosquitto", marks=pytest.mark.broker), pytest.param("nats", marks=pytest.mark.broker)]
)
def broker_kind(request: pytest.FixtureRequest) -> BrokerKind:
    """Each broker in turn."""
    kind: BrokerKind = request.param
    skip_without(kind)
    return kind


@pytest.fixture
async def broker(broker_kind: BrokerKind, tmp_path: Path) -> AsyncIterator[RunningBroker]:
    """A plain broker of each kind."""
    async with running_broker(broker_kind, tmp_path / "broker") as running:
        yield running


@pytest.fixture
async def tls_broker(broker_kind: BrokerKind, tmp_path: Path) -> AsyncIterator[RunningBroker]:
    """A broker of each kind that asks for client certificates; its `authority` issues them."""
    async with running_broker(broker_kind, tmp_path / "broker", with_tls=True) as running:
        yield running
