"""The sending half of `flyball bench ingest`: thousands of MQTT connections, each a host that sends a batch a second.

Real batches at QoS 1 over real connections, with as little of our own around them as possible. It says `ready` when all
are connected, begins when a line comes on standard input, and prints one JSON object at the end.
"""

import argparse
import asyncio
import json
import resource
import sys
import time
from dataclasses import dataclass
from typing import Final

from flyball_aggregator.mqtt_stream import CONNACK, PacketStream, connect_packet, publish_packet
from flyball_cli.ingest_taker import SITE
from flyball_fast.columns import encode_spans
from flyball_fast.ring import Ring, Row, Span
from flyball_wire.codec import encode
from flyball_wire.messages import Telemetry
from flyball_wire.topics import host_topic

CONNECT_AT_ONCE: Final = 64
DESCRIPTORS: Final = 200  # besides the connections
LAST_ACKS_S: Final = 5.0
SESSION: Final = "0" * 32
PUBACK: Final = 0x40
BATCH_KINDS: Final = 16


class HostConnection(asyncio.Protocol):
    """One host: CONNECT, then a PUBLISH a second; counts acknowledgements."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.sent = self.acknowledged = 0
        self.is_accepted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._topic = host_topic(SITE, host, "telemetry")
        self._stream = PacketStream(lambda _topic, _payload: None, self._take)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio.Protocol
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what create_connection makes
        self._transport = transport
        transport.write(connect_packet(f"bench-{self.host}", 600, None, None))

    def data_received(self, data: bytes) -> None:  # noqa: D102 - asyncio.Protocol
        self._stream.feed(data)

    def send(self, columns: bytes) -> None:
        """Publish the next batch."""
        assert self._transport is not None  # noqa: S101 - sent only when connected
        message = Telemetry(self.host, SESSION, self.sent, "steady", columns)
        self._transport.write(publish_packet(self._topic, encode(message), self.sent % 65_535 + 1))
        self.sent += 1

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.close()

    def _take(self, kind: int, body: bytes) -> None:
        if kind == PUBACK:
            self.acknowledged += 1
        elif kind == CONNACK and not self.is_accepted.done():
            self.is_accepted.set_result(body[1:2] == b"\x00")


@dataclass(frozen=True, slots=True)
class Load:
    """What to send."""

    port: int
    hosts: int
    seconds: int
    rows: int
    gpus: int


def make_batches(load: Load) -> list[bytes]:
    """Return batches as an agent packs them: power that wanders, counters that climb, clocks that flicker."""
    batches = []
    for kind in range(BATCH_KINDS):
        with Ring.create(load.gpus) as ring:
            for gpu in range(load.gpus):
                for number in range(load.rows):
                    ring.append(gpu, _row(kind, gpu, number, 1_000_000_000 // load.rows))
            batches.append(encode_spans(ring, {gpu: Span(0, load.rows, 0) for gpu in range(load.gpus)}))
    return batches


def _row(kind: int, gpu: int, number: int, period_ns: int) -> Row:
    power_mw = 500_000 + (kind * 7919 + gpu * 104_729 + number * number * 31) % 150_000
    return Row(
        t_mono_ns=10**12 + number * period_ns + (number * 7919) % 40_000,
        energy_mj=10**9 + number * (power_mw * period_ns // 1_000_000_000),
        power_cap_ns=10**10 + number * period_ns // 3,
        thermal_sw_ns=0,
        thermal_hw_ns=0,
        power_brake_ns=0,
        power_instant_mw=power_mw,
        power_average_mw=power_mw - 3_000,
        reasons=4,
        sm_clock_mhz=1_700 + (number * 15 + kind) % 90,
        memory_clock_mhz=2_619,
        temperature_c=60 + gpu,
        utilization_percent=99,
    )


async def send_all(load: Load) -> dict[str, object]:
    """Connect every host, wait for the word, send for the time, wait for the last acknowledgements."""
    batches = make_batches(load)
    hosts = await _connect(load)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    loop = asyncio.get_running_loop()
    began_s = time.monotonic()
    for index, host in enumerate(hosts):
        due_s = loop.time() + index / load.hosts
        loop.call_at(due_s, _send_every_second, host, batches, due_s, load.seconds)
    await asyncio.sleep(load.seconds)
    deadline_s = time.monotonic() + LAST_ACKS_S
    while any(host.acknowledged < host.sent for host in hosts) and time.monotonic() < deadline_s:
        await asyncio.sleep(0.05)
    found: dict[str, object] = {
        "sent": sum(host.sent for host in hosts),
        "acknowledged": sum(host.acknowledged for host in hosts),
        "batch_bytes": round(sum(map(len, batches)) / len(batches)),
        "seconds": time.monotonic() - began_s,
        "cpu_s": time.process_time(),
    }
    for host in hosts:
        host.close()
    return found


def _send_every_second(host: HostConnection, batches: list[bytes], due_s: float, left: int) -> None:
    """Send one batch and plan the next a second after this one was due."""
    host.send(batches[(host.sent * 7 + left) % len(batches)])
    if left > 1:
        asyncio.get_running_loop().call_at(due_s + 1.0, _send_every_second, host, batches, due_s + 1.0, left - 1)


async def _connect(load: Load) -> list[HostConnection]:
    turn = asyncio.Semaphore(CONNECT_AT_ONCE)

    async def connect(index: int) -> HostConnection:
        async with turn:
            loop = asyncio.get_running_loop()
            make = lambda: HostConnection(f"host-{index}")  # noqa: E731 - a factory
            _, host = await loop.create_connection(make, "127.0.0.1", load.port)
            if not await host.is_accepted:
                raise SystemExit(f"the broker refused connection {index}")
            return host

    return list(await asyncio.gather(*(connect(index) for index in range(load.hosts))))


def raise_descriptor_limit(wanted: int) -> int:
    """Allow this process and its children so many descriptors, as far as permitted; return what it got."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (ValueError, OSError):  # only root may raise the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    elif soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def main() -> None:
    """Send the load of one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("port", "hosts", "seconds", "rows", "gpus"):
        parser.add_argument(f"--{name}", type=int, required=True)
    load = Load(**vars(parser.parse_args()))
    raise_descriptor_limit(load.hosts + DESCRIPTORS)
    print(json.dumps(asyncio.run(send_all(load))))


if __name__ == "__main__":
    main()
