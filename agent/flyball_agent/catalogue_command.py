"""`flyball-agent catalogue show|diff`: which catalogue holds, and what an overlay or another version changes."""

import argparse
import sys
from pathlib import Path

from flyball_agent.catalogue import Catalogue, diff_catalogues, load_catalogue, load_with_overlay, read_catalogue
from flyball_wire.errors import EXIT_CONFIG, ConfigError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = subparsers.add_parser("catalogue", help="which fault catalogue holds, and what another would change")
    parser.add_argument("act", choices=("show", "diff"))
    parser.add_argument("other", type=Path, nargs="?", help="overlay (TOML file) or folder with another catalogue")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show or compare; exit 0, 1 when a comparison finds differences, 78 when a catalogue cannot be read."""
    try:
        other = _read(arguments.other)
    except ConfigError as error:
        sys.stderr.write(f"flyball-agent catalogue: {error}\n")
        return EXIT_CONFIG
    if arguments.act == "show":
        sys.stdout.write("\n".join(_head(other)) + "\n")
        return 0
    lines = list(diff_catalogues(load_catalogue(), other))
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 1 if lines else 0


def _read(path: Path | None) -> Catalogue:
    if path is None:
        return load_catalogue()
    return read_catalogue(path) if path.is_dir() else load_with_overlay(path)


def _head(catalogue: Catalogue) -> list[str]:
    sizes = (
        f"{len(catalogue.xids)} XIDs up to {catalogue.newest_xid}, {len(catalogue.sxids)} SXids, "
        f"{len(catalogue.nvlink_rules)} NVLink5 rules, {len(catalogue.events)} other events"
    )
    return [
        f"version {catalogue.version} of {catalogue.dated}, overlay: {catalogue.overlay or 'none'}",
        sizes,
        *(f"source: {source}" for source in catalogue.sources),
    ]
