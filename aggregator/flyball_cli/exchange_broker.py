"""Record from a broker and play to it."""

import argparse
import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import aiomqtt

from flyball_aggregator.exchange.capture import captured_line, read_capture
from flyball_aggregator.exchange.recording import read_recording
from flyball_wire.errors import BrokerError, WireError

ALL_CONTRACTS: Final = ("BMS/v1/#", "grid/v1/#", "NICO/v1/#", "cpc/#")
REFUSED: Final = 0x80
MILLI: Final = 1000


def add_broker(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which broker."""
    parser.add_argument("--broker-host", default="127.0.0.1", help="default 127.0.0.1")
    parser.add_argument("--broker-port", type=int, default=1883, help="default 1883")


async def record_to(arguments: argparse.Namespace) -> int:
    """Write what is heard to a capture; returns how many messages.

    Raises:
        BrokerError: no broker, or it refused a subscription.
    """
    filters = arguments.topic or list(ALL_CONTRACTS)
    count, started_s = 0, time.monotonic()
    try:
        async with asyncio.timeout(arguments.seconds), _client(arguments) as client:
            granted = await client.subscribe([(name, 1) for name in filters])
            codes = [code if isinstance(code, int) else code.value for code in granted]
            if max(codes) >= REFUSED:
                raise BrokerError(f"the broker refused one of {', '.join(filters)}: it granted {codes}")
            with Path(arguments.file).open("w", encoding="utf-8") as out:  # noqa: ASYNC230 - one line at a time
                async for message in client.messages:
                    out.write(captured_line(str(message.topic), message.payload, time.monotonic() - started_s))
                    out.flush()
                    count += 1
                    if arguments.count is not None and count >= arguments.count:
                        break
    except TimeoutError:
        return count
    except aiomqtt.MqttError as error:
        raise BrokerError(f"broker {arguments.broker_host}:{arguments.broker_port}: {error}") from None
    return count


async def play_file(arguments: argparse.Namespace) -> int:
    """Publish a file's messages at their offsets; returns how many.

    Raises:
        BrokerError: no broker. WireError: the file cannot be read.
    """
    count = 0
    try:
        messages = list(_read_offsets(arguments.file))
        async with _client(arguments) as client:
            loop = 0
            while arguments.loops == 0 or loop < arguments.loops:
                count += await _play_once(client, messages, arguments.speed)
                loop += 1
    except OSError as error:
        raise WireError(f"{arguments.file}: {error.strerror}") from None
    except aiomqtt.MqttError as error:
        raise BrokerError(f"broker {arguments.broker_host}:{arguments.broker_port}: {error}") from None
    return count


async def _play_once(client: aiomqtt.Client, messages: list[tuple[float, str, str]], speed: float) -> int:
    started_s = time.monotonic()
    for offset_s, topic, template in messages:
        if speed > 0:
            await asyncio.sleep(max(0.0, offset_s / speed - (time.monotonic() - started_s)))
        payload = template.replace("{{timestamp_ms}}", str(int(time.time() * MILLI)))
        is_slow = "/Metadata/" in topic  # metadata alone is retained (BMS contract)
        await client.publish(topic, payload.encode(), qos=1 if is_slow else 0, retain=is_slow)
    return len(messages)


def _read_offsets(path: Path) -> Iterator[tuple[float, str, str]]:
    if path.suffix == ".csv":
        yield from read_recording(path)
        return
    with path.open("rb") as lines:
        for message in read_capture(lines):
            yield message.offset_s or 0.0, message.topic, message.payload.decode(errors="replace")


def _client(arguments: argparse.Namespace) -> aiomqtt.Client:
    return aiomqtt.Client(arguments.broker_host, arguments.broker_port, max_queued_incoming_messages=100_000)
