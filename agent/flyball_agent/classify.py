"""`flyball-agent classify FILE|-`: say for each kernel line what it means, one JSON object per line."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from flyball_agent.catalogue import Catalogue, load_catalogue, load_with_overlay
from flyball_agent.kernel_lines import Classification, LineJoiner
from flyball_agent.kernel_record import unescape_record
from flyball_wire.errors import EXIT_CONFIG, ConfigError

_MAX_LINE_BYTES = 65_536  # the rest of a longer line is skipped


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = subparsers.add_parser("classify", help="say what kernel lines mean, one JSON object for each line")
    parser.add_argument("file", help="file with one line per message ('\\n' inside one is a newline), or - for stdin")
    parser.add_argument("--json", action="store_true", help="one JSON object per line (otherwise a short text)")
    parser.add_argument("--overlay", type=Path, help="site's catalogue overlay (TOML)")
    parser.add_argument(
        "--allow-injected", action="store_true", help="believe lines that user space wrote, and mark them"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Classify a file; 0, or 78 when the overlay or the file cannot be read."""
    try:
        catalogue = load_with_overlay(arguments.overlay) if arguments.overlay else load_catalogue()
        with _open(arguments.file) as source:
            for found in classify_lines(_lines(source), catalogue, allow_injected=arguments.allow_injected):
                sys.stdout.write((json.dumps(to_json(found)) if arguments.json else to_text(found)) + "\n")
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"flyball-agent classify: {error}\n")
        return EXIT_CONFIG
    return 0


def classify_lines(
    lines: Iterable[str], catalogue: Catalogue, *, allow_injected: bool = False
) -> Iterator[Classification]:
    """Yield what each line says, in order; a backslash with an n inside a line is a newline."""
    joiner = LineJoiner(catalogue)
    for line in lines:
        yield joiner.classify(unescape_record(line.replace("\\n", "\n")), allow_injected=allow_injected)


def to_json(found: Classification) -> dict[str, object]:
    """Return the command's output for one line; keys that do not apply are null."""
    return {
        "xid": found.xid,
        "sxid": found.sxid,
        "event": found.event,
        "device": found.device,
        "class": found.severity,
        "action": found.action,
        "scope": found.scope,
        "rule": found.rule,
        "pci": found.pci,
        "injected": found.is_injected,
    }


def to_text(found: Classification) -> str:
    """Return one short line for people."""
    if not found.is_interesting:
        return "-"
    what = found.event or (f"sxid {found.sxid}" if found.sxid is not None else f"xid {found.xid}")
    where = found.device or found.pci or "-"
    return f"{what} {where} {found.severity}/{found.action} scope={found.scope} rule={found.rule}"


def _open(name: str) -> IO[bytes]:
    return sys.stdin.buffer if name == "-" else Path(name).open("rb")


def _lines(source: IO[bytes]) -> Iterator[str]:
    """Yield each line as text; bytes that are no UTF-8 are replaced, over-long lines are cut."""
    while piece := source.readline(_MAX_LINE_BYTES):
        line = piece
        while not piece.endswith(b"\n"):
            piece = source.readline(_MAX_LINE_BYTES)
            if not piece:
                break
        yield line.rstrip(b"\r\n").decode("utf-8", "replace")
