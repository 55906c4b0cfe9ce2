"""The flyball-agent command: configuration, parts, run."""

import argparse
import asyncio
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from flyball_agent import host_facts
from flyball_agent.agent import Agent, spool_directory
from flyball_agent.backoff import Backoff
from flyball_agent.config import DEFAULT_PATH, AgentConfig, load_agent_config
from flyball_agent.exporter import Exporter
from flyball_agent.governor_link import GovernorLink
from flyball_agent.host_health import HostHealth
from flyball_agent.host_metrics import agent_families
from flyball_agent.session import Session, SessionParts
from flyball_agent.spool import Spool
from flyball_wire.config import print_config
from flyball_wire.errors import EXIT_CONFIG, ConfigError
from flyball_wire.mqtt import Secrets

# Modules with `add_parser` and `run`, loaded only when asked for: the running agent stays lean.
COMMANDS: Final = ("classify", "check", "catalogue", "inject")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 78 the configuration is wrong."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser(given).parse_args(given)
    if options.run is not None:
        return int(options.run(options))
    try:
        config = load_agent_config(options.config, os.environ)
        if options.print_config:
            sys.stdout.write(print_config(config))
            return 0
        Secrets(config.broker)  # a wrong file is told at the start, not at the first connection
        logging.basicConfig(level=config.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
        asyncio.run(run(config))
    except ConfigError as error:
        sys.stderr.write(f"flyball-agent: {error}\n")
        return EXIT_CONFIG
    return 0


async def run(config: AgentConfig) -> None:
    """Run every part until SIGTERM or SIGINT; each part outlives the loss of any other."""
    spool = _open_spool(config)
    agent = Agent(config)
    agent.link = GovernorLink(config.governor_socket, agent, Backoff(0.1, 2.0))
    agent.session = _session(config, agent, spool)
    agent.health = _open_health(config, agent)
    exporter = Exporter(config.exporter, [lambda: agent_families(agent)])
    parts = [agent.link.run(), agent.run_ticks()]
    parts += [agent.run_telemetry()] if config.telemetry.enabled and config.broker.enabled else []
    parts += [agent.session.run()] if config.broker.enabled else []
    parts += [exporter.run()] if config.exporter.enabled else []
    parts += [agent.health.run()] if agent.health is not None else []
    tasks = asyncio.gather(*parts)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tasks.cancel)
    try:
        await tasks
    except asyncio.CancelledError:
        pass  # asked to end
    finally:
        if agent.health is not None:
            agent.health.close()
        if spool is not None:
            spool.close()


def _open_health(config: AgentConfig, agent: Agent) -> HostHealth | None:
    if not config.health.enabled:
        return None
    health = HostHealth(config, agent.publish_event, host_facts.read_boot_id())
    health.open()
    return health


def _session(config: AgentConfig, agent: Agent, spool: Spool | None) -> Session:
    broker = config.broker
    parts = SessionParts(agent.make_birth, agent.make_will, agent.handle_order, agent.handle_connected)
    backoff = Backoff(broker.reconnect_min_s, broker.reconnect_max_s)
    drain_per_s = config.spool.drain_per_s
    return Session(config.site, config.host_id, broker, parts, spool, backoff=backoff, drain_per_s=drain_per_s)


def _open_spool(config: AgentConfig) -> Spool | None:
    if not (config.spool.enabled and config.broker.enabled):
        return None
    directory = spool_directory(config)
    spool = Spool(directory, config.spool.max_bytes)
    try:
        spool.open()
    except OSError as error:
        raise ConfigError(f"state_dir {config.state_dir}: {error}") from None
    return spool


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("flyball-agent", description="The network side of a flyball GPU host.")
    parser.add_argument("--version", action="version", version=f"flyball-agent {metadata.version('flyball')}")
    _add_run_options(parser, None)
    parser.set_defaults(run=None)
    subparsers = parser.add_subparsers(metavar="COMMAND")
    run_parser = subparsers.add_parser("run", help="run the agent (the default)")
    _add_run_options(run_parser, argparse.SUPPRESS)
    for name in COMMANDS:
        if name in given or {"-h", "--help"} & set(given):
            _add_command(subparsers, name)
    return parser


def _add_run_options(parser: argparse.ArgumentParser, default: str | None) -> None:
    shown = f"TOML file (default: {DEFAULT_PATH} where it is there)"
    parser.add_argument("--config", type=Path, default=default, help=shown)
    off = False if default is None else default
    parser.add_argument("--print-config", action="store_true", default=off, help="print the configuration and end")


def _add_command(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
    """Register a command's module, if this installation has it."""
    if importlib.util.find_spec(f"flyball_agent.{name}") is not None:
        add_parser = getattr(importlib.import_module(f"flyball_agent.{name}"), "add_parser", None)
        if add_parser is not None:
            add_parser(subparsers)


if __name__ == "__main__":
    sys.exit(main())
