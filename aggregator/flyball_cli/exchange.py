"""`flyball exchange validate|record|play`: traffic of the DSX Exchange checked, captured and played again."""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import yaml

from flyball_aggregator.exchange.asyncapi import build_document
from flyball_aggregator.exchange.capture import CapturedMessage, CaptureError, read_capture
from flyball_aggregator.exchange.check_message import Finding, check_message
from flyball_aggregator.exchange.json_text import read_json
from flyball_cli import exchange_mcp
from flyball_cli.exchange_broker import add_broker, play_file, record_to
from flyball_wire.errors import WireError

EXIT_VALID: Final = 0
EXIT_INVALID: Final = 1
EXIT_UNREADABLE: Final = 2
SHOWN_FINDINGS: Final = 1000


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("exchange", help="check, record and play DSX Exchange traffic")
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    _add_validate(parts)
    record = parts.add_parser("record", help="write what a broker says to a capture, until stopped")
    record.add_argument("file", type=Path, help="capture to write, one message a line")
    record.add_argument("--topic", action="append", help="topic filter; may be given again (default: all contracts)")
    record.add_argument("--seconds", type=float, help="stop after this long")
    record.add_argument("--count", type=int, help="stop after this many messages")
    add_broker(record)
    record.set_defaults(run=_record)
    play = parts.add_parser("play", help="publish a capture, or a recording with offset,topic,payload columns")
    play.add_argument("file", type=Path, help="capture (.jsonl) or recording (.csv)")
    play.add_argument("--speed", type=float, default=1.0, help="times real time; 0 is as fast as the broker takes it")
    play.add_argument("--loops", type=int, default=1, help="how often; 0 is without end")
    add_broker(play)
    play.set_defaults(run=_play)
    exchange_mcp.add_parser(parts)
    document = parts.add_parser("asyncapi", help="print the AsyncAPI document of our own topics")
    document.set_defaults(run=_asyncapi)


def _add_validate(parts: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    validate = parts.add_parser(
        "validate",
        help="check a capture against the published contracts",
        epilog="exit codes: 0 all messages are valid; 1 some are not; 2 the capture cannot be read",
    )
    validate.add_argument("file", help="capture, one {topic, payload} a line; - for standard input")
    validate.add_argument("--strict", action="store_true", help="what only prose or the older layout says is an error")
    validate.add_argument("--legacy", action="store_true", help="accept what only prose or the older layout speaks of")
    validate.add_argument("--quiet", action="store_true", help="print the summary alone")
    validate.set_defaults(run=_validate)


def _validate(arguments: argparse.Namespace) -> int:
    """Print line, field and rule of each finding, then a summary."""
    counts = {"messages": 0, "error": 0, "warning": 0, "invalid": 0}
    try:
        for message in _read(arguments.file):
            found = [_judged(finding, arguments) for finding in findings_of(message)]
            kept = [finding for finding in found if finding is not None]
            counts["messages"] += 1
            counts["invalid"] += any(finding.severity == "error" for finding in kept)
            for finding in kept:
                counts[finding.severity] += 1
                if not arguments.quiet and counts["error"] + counts["warning"] <= SHOWN_FINDINGS:
                    print(f"line {message.line}: {finding.severity}: {finding.field}: {finding.rule}: {finding.text}")
    except (CaptureError, OSError) as error:
        print(f"flyball: {arguments.file}: {error}", file=sys.stderr)
        return EXIT_UNREADABLE
    print(f"{counts['messages']} messages, {counts['invalid']} invalid, {counts['warning']} warnings")
    return EXIT_INVALID if counts["invalid"] else EXIT_VALID


def findings_of(message: CapturedMessage) -> list[Finding]:
    """Return what is wrong with a captured message; one that is no JSON is invalid."""
    try:
        payload = read_json(message.payload)
    except WireError as error:
        return [Finding("error", "/", "json", str(error))]
    return check_message(message.topic, payload)


def _judged(finding: Finding, arguments: argparse.Namespace) -> Finding | None:
    """Return a finding as the options have it; None when they accept it."""
    if finding.severity == "error":
        return finding
    if arguments.strict and not (arguments.legacy and finding.is_legacy):
        return Finding("error", finding.field, finding.rule, finding.text, finding.is_legacy)
    return None if arguments.legacy else finding


def _read(name: str) -> Iterator[CapturedMessage]:
    if name == "-":
        yield from read_capture(sys.stdin.buffer)
        return
    with Path(name).open("rb") as lines:
        yield from read_capture(lines)


def _record(arguments: argparse.Namespace) -> int:
    count = asyncio.run(record_to(arguments))
    print(f"{count} messages recorded in {arguments.file}")
    return 0


def _asyncapi(_arguments: argparse.Namespace) -> int:
    yaml.safe_dump(build_document(version("flyball")), sys.stdout, sort_keys=False, allow_unicode=True, width=120)
    return 0


def _play(arguments: argparse.Namespace) -> int:
    count = asyncio.run(play_file(arguments))
    print(f"{count} messages played")
    return 0
