"""The receiving half of `flyball bench ingest`, a process of its own: real intake and decoding behind one MQTT client.

It says `ready` on standard output when it is subscribed, and one JSON object when its standard input closes.
"""

import argparse
import asyncio
import json
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import Final

from flyball_aggregator.broker import BrokerSession
from flyball_aggregator.bulk_session import BulkSession
from flyball_aggregator.config import BrokerConfig
from flyball_aggregator.fleet import build_fleet
from flyball_aggregator.intake import Intake
from flyball_aggregator.site import Element, Site
from flyball_fast.columns import decode
from flyball_wire.messages import Telemetry

SITE: Final = "bench"
DRAIN_S: Final = 1.0  # a second without a message: the broker has no more
DRAIN_TIMES: Final = 60
CLIENTS: Final[dict[str, type[BulkSession] | type[BrokerSession]]] = {"bulk": BulkSession, "aiomqtt": BrokerSession}


@dataclass(slots=True)
class Counters:
    """What came, and the gaps in each host's numbers."""

    rows: int = 0
    lost: int = 0
    doubled: int = 0
    next_sequence: dict[str, int] = field(default_factory=dict)

    def take(self, telemetry: Telemetry) -> None:
        """Decode one batch and look for a gap."""
        for block in decode(telemetry.columns)[1]:
            self.rows += block.rows
        expected = self.next_sequence.get(telemetry.host, 0)
        if telemetry.seq < expected:
            self.doubled += 1
            return
        self.lost += telemetry.seq - expected
        self.next_sequence[telemetry.host] = telemetry.seq + 1


async def take_all(port: int, client: str) -> dict[str, object]:
    """Take messages until standard input closes; return what was found."""
    intake = Intake(build_fleet(Site(name=SITE, is_simulated=True, elements=(Element("site", kind="feed"),))))
    counters = Counters()
    intake.on_telemetry.append(counters.take)
    subscriptions = [(topic, 1) for topic, _ in intake.subscriptions() if topic.endswith("/telemetry")]
    session = CLIENTS[client](BrokerConfig(port=port), subscriptions, intake.take)
    task = asyncio.create_task(session.run())
    while not session.is_connected:
        await asyncio.sleep(0.02)
    print("ready", flush=True)
    began_s, cpu_s = time.monotonic(), time.process_time()
    await asyncio.to_thread(sys.stdin.read)
    late = await _drain(intake)
    found: dict[str, object] = {
        "messages": intake.received["telemetry"],
        "refused": sum(intake.refused.values()),
        "lost": counters.lost,
        "doubled": counters.doubled,
        "late": late,
        "rows": counters.rows,
        "hosts": len(counters.next_sequence),
        "cpu_s": time.process_time() - cpu_s,
        "seconds": time.monotonic() - began_s,
        "rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "pid": os.getpid(),
    }
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return found


async def _drain(intake: Intake) -> int:
    """Wait until the broker has nothing more; return how many messages came after the senders had ended."""
    at_end = before = intake.received["telemetry"]
    for _ in range(DRAIN_TIMES):
        await asyncio.sleep(DRAIN_S)
        if intake.received["telemetry"] == before:
            break
        before = intake.received["telemetry"]
    return before - at_end


def main() -> None:
    """Take messages of one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--client", choices=sorted(CLIENTS), required=True)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(take_all(options.port, options.client))))


if __name__ == "__main__":
    main()
