"""The simulated site's meter gateway: publishes the plant's metered seconds over MQTT, as a facility gateway would.

It follows the plant's JSON lines and publishes {"power_watts": x, "time": RFC 3339} on flyball/v1/SITE/meter/ROW once
a second.
"""

import argparse
import asyncio
import datetime
import json
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from flyball_wire import mqtt
from flyball_wire.errors import BrokerError
from flyball_wire.topics import PREFIX, check_name

log = logging.getLogger(__name__)

POLL_S: Final = 0.05  # how late a metered second may be published
RETRY_S: Final = 1.0


async def follow_lines(path: Path) -> AsyncIterator[str]:
    """Yield complete lines as they are appended, beginning with the newest end of the file."""
    while not path.exists():
        await asyncio.sleep(POLL_S)
    with path.open() as file:
        file.seek(0, 2)
        pending = ""
        while True:
            pending += file.readline()
            if pending.endswith("\n"):
                yield pending
                pending = ""
            else:
                await asyncio.sleep(POLL_S)


def reading_of(line: str) -> bytes:
    """Return the published reading of one meter line.

    Raises:
        ValueError: the line is not one that the plant writes.
    """
    second = json.loads(line)
    ended_at = datetime.datetime.fromtimestamp(float(second["ended_at"]), datetime.UTC)
    return json.dumps({"power_watts": float(second["site_w"]), "time": ended_at.isoformat()}).encode()


async def publish_readings(path: Path, topic: str, port: int) -> None:
    """Publish for as long as the broker is there."""
    config = mqtt.BrokerConfig(port=port)
    async with mqtt.open_client(config, "flyball-meter-gateway", mqtt.Secrets(config)) as client:
        async for line in follow_lines(path):
            await client.publish(topic, reading_of(line), qos=0)


async def run_gateway(path: Path, topic: str, port: int) -> None:
    """Publish for ever; a broker that is away only delays."""
    while True:
        try:
            await publish_readings(path, topic, port)
        except BrokerError as error:
            log.warning("%s", error)
            await asyncio.sleep(RETRY_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the gateway until it is ended."""
    parser = argparse.ArgumentParser(prog="flyball-meter-gateway", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--meter", type=Path, required=True, help="the plant's JSON lines")
    parser.add_argument("--site", required=True)
    parser.add_argument("--row", required=True, help="which row of the power network the meter stands for")
    parser.add_argument("--broker-port", type=int, required=True)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    topic = f"{PREFIX}/{check_name('site', options.site)}/meter/{check_name('row', options.row)}"
    asyncio.run(run_gateway(options.meter, topic, options.broker_port))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
