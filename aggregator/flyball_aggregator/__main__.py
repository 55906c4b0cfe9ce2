"""flyball-aggregator: reads its configuration and the site, takes leadership, runs until told to stop."""

import argparse
import asyncio
import logging
import os
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from flyball_aggregator.config import AggregatorConfig
from flyball_aggregator.power.ledger_store import LedgerStoreError
from flyball_aggregator.program import build_program, run_program
from flyball_aggregator.site import load_site
from flyball_wire.config import load_config, print_config
from flyball_wire.errors import EXIT_CONFIG, ConfigError
from flyball_wire.signing import load_key_file

DEFAULT_FILE: Final = Path("/etc/flyball/aggregator.toml")
EXIT_DEPOSED: Final = 75  # sysexits.h EX_TEMPFAIL: started again, it reads the ledger anew
LOG: Final = logging.getLogger("flyball_aggregator")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=options.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    try:
        config = _read_config(options)
        if options.print_config:
            sys.stdout.write(print_config(config))
            return 0
        site = load_site(Path(config.site_file))
        key = load_key_file(Path(config.lease_key_file), config.lease_key_id)
        program = build_program(config, site, key, version("flyball"))
        asyncio.run(run_program(program))
    except ConfigError as error:
        LOG.error("%s", error)
        return EXIT_CONFIG
    except LedgerStoreError as error:
        LOG.error("leadership is lost: %s", error)
        return EXIT_DEPOSED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flyball-aggregator", description=__doc__)
    parser.add_argument("--config", type=Path, help=f"TOML file (default {DEFAULT_FILE} where it is there)")
    parser.add_argument("--port", type=int, help="port of the API; 0 takes a free one")
    parser.add_argument("--print-config", action="store_true", help="print the configuration in force and end")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--version", action="version", version=f"flyball-aggregator {version('flyball')}")
    return parser


def _read_config(options: argparse.Namespace) -> AggregatorConfig:
    path: Path | None = options.config or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    config = load_config(AggregatorConfig, "aggregator", path, os.environ)
    if options.port is None:
        return config
    if not 0 <= options.port <= 65_535:
        raise ConfigError(f"--port {options.port}: expected 0 to 65535")
    return replace(config, api=replace(config.api, port=options.port))


if __name__ == "__main__":
    sys.exit(main())
