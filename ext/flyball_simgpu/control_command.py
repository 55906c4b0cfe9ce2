"""The control client on a command line: one subcommand per fault, and `env` for what to export."""

import argparse
import shlex
import sys
from collections.abc import Callable

from flyball_simgpu import control
from flyball_simgpu.plant_layout import CALL_KINDS
from flyball_simgpu.plant_state import PlantFile

Action = Callable[[PlantFile, argparse.Namespace], None]

# name: (help, extra arguments, action)
_GPU = ("gpu",)
ACTIONS: dict[str, tuple[str, tuple[str, ...], Action]] = {
    "xid": ("push an XID", ("gpu", "xid"), lambda p, o: control.inject_xid(p, o.host, o.gpu, o.xid)),
    "lose": ("let a GPU fall off the bus", _GPU, lambda p, o: control.lose_gpu(p, o.host, o.gpu)),
    "restore": ("bring a lost GPU back", _GPU, lambda p, o: control.restore_gpu(p, o.host, o.gpu)),
    "require-reset": ("let a GPU ask for a reset", _GPU, lambda p, o: control.require_reset(p, o.host, o.gpu)),
    "reset": ("reset a GPU", _GPU, lambda p, o: control.reset_gpu(p, o.host, o.gpu, is_forced=o.force)),
    "deny": ("let set calls answer NO_PERMISSION", _GPU, lambda p, o: control.refuse_sets(p, o.host, o.gpu)),
    "allow": ("let set calls work again", _GPU, lambda p, o: control.refuse_sets(p, o.host, o.gpu, 0)),
    "ignore-sets": ("let set calls succeed without effect", _GPU, lambda p, o: control.ignore_sets(p, o.host, o.gpu)),
    "hang": ("let a kind of call hang", ("gpu", "kind"), lambda p, o: control.hang_call(p, o.host, o.gpu, o.kind)),
    "release": ("let hanging calls return", (), lambda p, o: control.release_calls(p, o.host)),
    "cost": ("microseconds of every call", ("us",), lambda p, o: control.set_call_cost(p, o.host, o.us)),
    "unload": ("unload the driver", (), lambda p, o: control.unload_driver(p, o.host, is_forced=o.force)),
    "load": ("load the driver", (), lambda p, o: control.load_driver(p, o.host)),
    "mig-on": ("switch MIG on", _GPU, lambda p, o: control.set_mig(p, o.host, o.gpu, is_on=True)),
    "mig-off": ("switch MIG off", _GPU, lambda p, o: control.set_mig(p, o.host, o.gpu, is_on=False)),
    "brake": ("pull the power brake", (), lambda p, o: control.brake_power(p, o.host)),
    "unbrake": ("release the power brake", (), lambda p, o: control.brake_power(p, o.host, is_braked=False)),
    "gate-open": ("let the workload run", (), lambda p, o: p.write_gate(o.host, is_open=True)),
    "gate-close": ("stop the workload", (), lambda p, o: p.write_gate(o.host, is_open=False)),
}


def main(arguments: list[str] | None = None) -> int:
    """Do one action; return 0, or 1 with the reason on stderr."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        if options.action == "env":
            _print_environment(options)
            return 0
        with PlantFile(options.plant) as plant:
            ACTIONS[options.action][2](plant, options)
    except (OSError, ValueError, control.DriverInUseError) as error:
        print(f"flyball-sim: {error}", file=sys.stderr)
        return 1
    return 0


def _print_environment(options: argparse.Namespace) -> None:
    with PlantFile(options.plant) as plant:
        plant.host(options.host)
    for name, value in control.sim_environment(options.plant, options.host).items():
        print(f"export {name}={shlex.quote(value)}")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="flyball-sim", description="Control simulated GPUs.")
    parser.add_argument("--plant", required=True, help="the plant file")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("env", help="print what to export to see a host's GPUs").add_argument("host")
    for name, (text, extra, _) in ACTIONS.items():
        action = actions.add_parser(name, help=text)
        action.add_argument("host")
        action.add_argument("--force", action="store_true", help="even while the driver is open elsewhere")
        for argument in extra:
            if argument == "kind":
                action.add_argument(argument, choices=CALL_KINDS)
            else:
                action.add_argument(argument, type=int)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
