"""`flyball exchange record|play` against real brokers."""

import argparse
import asyncio
import json
from pathlib import Path

import aiomqtt
import pytest
from tests.brokers import RunningBroker

from flyball_aggregator.exchange.contracts import SCHEMAS
from flyball_cli.__main__ import build_parser, main
from flyball_cli.exchange_broker import play_file, record_to
from flyball_wire.errors import BrokerError

COUNT = 4711  # rows of the published recording


def _arguments(*words: str) -> argparse.Namespace:
    return build_parser(["exchange"]).parse_args(["exchange", *words])


async def test_what_is_played_is_recorded_and_valid(broker: RunningBroker, tmp_path: Path) -> None:
    capture = tmp_path / "capture.jsonl"
    port = ("--broker-port", str(broker.port))
    recorded = asyncio.create_task(
        record_to(_arguments("record", str(capture), "--count", str(COUNT), "--seconds", "30", *port))
    )
    while not capture.exists():
        await asyncio.sleep(0.01)
    recording = str(SCHEMAS / "bms_exemplar.csv")
    assert await play_file(_arguments("play", recording, "--speed", "0", *port)) == COUNT
    assert await recorded == COUNT
    assert await asyncio.to_thread(main, ["exchange", "validate", str(capture), "--quiet", "--strict"]) == 0


async def test_metadata_alone_is_retained(broker: RunningBroker, tmp_path: Path) -> None:
    capture = tmp_path / "some.jsonl"
    rows = [
        {"topic": f"BMS/v1/PUB/{kind}/PowerMeter/ActivePower/m", "payload": {"kind": kind}} for kind in ("Metadata", "Value")
    ]  # fmt: skip
    capture.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert await play_file(_arguments("play", str(capture), "--broker-port", str(broker.port))) == 2
    async with asyncio.timeout(10), aiomqtt.Client("127.0.0.1", broker.port) as client:
        await client.subscribe("BMS/#", qos=1)
        async for message in client.messages:
            assert json.loads(message.payload) == {"kind": "Metadata"}
            assert message.retain
            break


async def test_no_broker_is_said(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="127.0.0.1:1"):
        await record_to(_arguments("record", str(tmp_path / "x"), "--broker-port", "1"))
