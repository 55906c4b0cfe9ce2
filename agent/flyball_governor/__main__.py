"""`flyball-governor`: config, parts, run; and the questions that people, units and prologs ask a running one.

Exit codes: 0 done; 1 gate shut or refused; 69 no library, driver or GPU; 75 another governor runs; 78 bad config.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from flyball_fast.errors import DeviceError
from flyball_governor import ask
from flyball_governor.config import GovernorConfig, load_governor_config
from flyball_governor.device_children import DeviceChildren
from flyball_governor.errors import EXIT_LOCKED, EXIT_UNAVAILABLE, AlreadyRunning, Unavailable
from flyball_governor.identity import load_identity, lock_state_folder, prepare_state_folder
from flyball_governor.nvidia import NvidiaDevices
from flyball_governor.service import serve
from flyball_wire.codec import to_plain
from flyball_wire.config import print_config
from flyball_wire.errors import EXIT_CONFIG, ConfigError, FlyballError
from flyball_wire.local_socket import GateReply, StatusReply


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; return its exit code."""
    options = parse_arguments(arguments)
    try:
        config = load_governor_config(options.config, os.environ)
        if options.print_config:
            sys.stdout.write(print_config(config))
            return 0
        return COMMANDS[options.command](config, options)
    except ConfigError as error:
        return _fail(error, EXIT_CONFIG)
    except Unavailable as error:
        return _fail(error, EXIT_UNAVAILABLE)
    except AlreadyRunning as error:
        return _fail(error, EXIT_LOCKED)
    except FlyballError as error:
        return _fail(error, 1)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog="flyball-governor", description=__doc__, allow_abbrev=False)
    parser.add_argument("command", nargs="?", default="run", choices=sorted(COMMANDS))
    parser.add_argument(
        "--config", type=Path, help="TOML file (default: /etc/flyball/governor.toml where there is one)"
    )
    parser.add_argument("--print-config", action="store_true", help="print the configuration in force and end")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    return parser.parse_args(arguments)


class _Version(argparse.Action):
    """Look the version up only when asked: the look-up costs 3 MB that a governor would carry for life."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415 - see above

        sys.stdout.write(f"{version('flyball')}\n")
        parser.exit()


def run(config: GovernorConfig, options: argparse.Namespace) -> int:  # noqa: ARG001 - one shape for all commands
    """Govern this host until told to stop."""
    logging.basicConfig(level=config.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    folder = Path(config.state_dir)
    prepare_state_folder(folder)
    lock = lock_state_folder(folder)
    try:
        identity = load_identity(config.host_id, folder)
        side = make_device_side(config)
        return asyncio.run(serve(config, identity, side, side))
    finally:
        os.close(lock)


def make_device_side(config: GovernorConfig) -> DeviceChildren:
    """Return the children that touch the devices."""
    library = config.driver.library or None
    return DeviceChildren(lambda: NvidiaDevices(library), state_dir=Path(config.state_dir), plan=config.sweep_plan)


def gate(config: GovernorConfig, options: argparse.Namespace) -> int:
    """Say whether new work may start: exit 0 open, 1 shut. Without a living governor an enforced host is shut."""
    try:
        reply = ask.ask(Path(config.socket.path), "gate", GateReply)
    except ask.NoAnswer as error:
        is_open = config.effective_mode == "observe"
        reply = GateReply(1, is_open, f"{error}{'; observe shuts nothing' if is_open else ''}"[:512])
    if options.json:
        _print_json({"is_open": reply.is_open, "reason": reply.reason})
    else:
        sys.stdout.write(f"{'open' if reply.is_open else 'shut'}: {reply.reason}\n")
    return 0 if reply.is_open else 1


def status(config: GovernorConfig, options: argparse.Namespace) -> int:
    """Say how the governor fares."""
    reply = ask.ask(Path(config.socket.path), "status", StatusReply)
    plain = {name: value for name, value in to_plain(reply).items() if name != "request_id"}
    if options.json:
        _print_json(plain)
    else:
        sys.stdout.write("".join(f"{name}: {_shown(value)}\n" for name, value in plain.items()))
    return 0


def quiesce(config: GovernorConfig, options: argparse.Namespace) -> int:  # noqa: ARG001
    """Have the governor let go of every device descriptor."""
    ask.ask(Path(config.socket.path), "quiesce", GateReply)
    sys.stdout.write("quiesced: the gate is shut and no device is held\n")
    return 0


def resume(config: GovernorConfig, options: argparse.Namespace) -> int:  # noqa: ARG001
    """Have the governor take the devices again."""
    ask.ask(Path(config.socket.path), "resume", GateReply)
    sys.stdout.write("resumed: the gate opens once caps are read back\n")
    return 0


def probe(config: GovernorConfig, options: argparse.Namespace) -> int:
    """Say of each GPU and field whether it is supported, how often it changes, what a read costs, the rate chosen."""
    from flyball_governor.probe_report import probe_devices, probe_lines  # noqa: PLC0415 - costs a governor memory

    try:
        record = probe_devices(config.driver.library or None, config.sweep_plan)
    except DeviceError as error:
        raise Unavailable(f"no device to probe: {error}") from None
    if options.json:
        _print_json(record)
    else:
        sys.stdout.write("\n".join(probe_lines(record)) + "\n")
    return 0


COMMANDS = {"run": run, "probe": probe, "gate": gate, "status": status, "quiesce": quiesce, "resume": resume}


def _shown(value: object) -> str:
    if isinstance(value, list):
        return " ".join(_shown(item) for item in value)
    return "unknown" if value is None else str(value)


def _print_json(plain: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(plain) + "\n")


def _fail(error: Exception, code: int) -> int:
    sys.stderr.write(f"flyball-governor: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
