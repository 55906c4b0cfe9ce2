"""The `flyball` command: one module a subcommand, each with `add_parser` and `run`."""

import argparse
import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

from flyball_wire.errors import EXIT_CONFIG, ConfigError, FlyballError

COMMANDS = (
    "up",
    "status",
    "hosts",
    "rows",
    "incidents",
    "explain",
    "what-if",
    "power",
    "replay",
    "init",
    "diff",
    "apply",
    "place",
    "exchange",
    "twin",
    "check",
    "ca",
    "enrol",
    "backup",
    "restore",
    "sim",
    "bench",
)
EXIT_FAILED = 1
EPILOG = """\
exit codes: 0 done; 1 the command failed or a check did not hold; 2 wrong use; 78 wrong configuration; 130 interrupted
"""


def build_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of these subcommands; each one's module is loaded here."""
    parser = argparse.ArgumentParser(
        prog="flyball",
        description="Hold a fleet of GPU hosts under its power limit.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flyball {importlib.metadata.version('flyball')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in commands:
        importlib.import_module(f"flyball_cli.{command.replace('-', '_')}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    named = [command for command in COMMANDS if given[:1] == [command]]  # the others need not be loaded
    arguments = build_parser(named or COMMANDS).parse_args(given)
    try:
        code: int = arguments.run(arguments)
    except ConfigError as error:
        print(f"flyball: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except FlyballError as error:
        print(f"flyball: {error}", file=sys.stderr)
        return EXIT_FAILED
    except BrokenPipeError:
        return 0  # the reader of our output has had enough
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    raise SystemExit(main())
