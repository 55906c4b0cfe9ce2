"""`flyball init`: write a SITE.toml to start from, from a reference design."""

import argparse
import sys
from pathlib import Path

from flyball_cli.designs import DESIGNS
from flyball_wire.config import print_config
from flyball_wire.errors import ConfigError

MAX_RACKS = 99


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `init`."""
    parser = subparsers.add_parser(
        "init",
        help="write a SITE.toml from a reference design",
        description="Write a complete, valid site: feeds, racks, hosts, floors and tiers; in observe, without keys.",
    )
    parser.add_argument("--design", choices=sorted(DESIGNS), required=True)
    parser.add_argument("--racks", type=int, default=2, help="racks (default 2; homelab-8 has none)")
    parser.add_argument("--output", type=Path, help="file to write; it must not be there yet (default: stdout)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the design.

    Raises:
        ConfigError: the file is there already or cannot be written, or the number of racks is out of range.
    """
    if not 1 <= arguments.racks <= MAX_RACKS:
        raise ConfigError(f"--racks {arguments.racks}: expected 1 to {MAX_RACKS}")
    text = print_config(DESIGNS[arguments.design](arguments.racks))
    if arguments.output is None:
        sys.stdout.write(text)
        return 0
    try:
        with arguments.output.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"--output {arguments.output}: {error.strerror}") from None
    return 0
