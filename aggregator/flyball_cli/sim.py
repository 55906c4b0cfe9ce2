"""`flyball sim`: look at and disturb the simulated GPUs of a running `flyball up`."""

import argparse
from pathlib import Path
from typing import Final

from flyball_simgpu import control_command
from flyball_simgpu.plant_state import PlantFile
from flyball_wire.errors import ConfigError

PLANT_FOLDERS: Final = ("/dev/shm", "/tmp")  # noqa: S108 - where `flyball up` makes its private folder
PLANT_GLOB: Final = "flyball-plant-*/plant"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `sim`; `env` and the faults are those of the control client."""
    parser = subparsers.add_parser(
        "sim",
        help="simulated GPUs: what to export, and faults to inject",
        epilog="actions: env (print what to export), " + ", ".join(sorted(control_command.ACTIONS)),
    )
    parser.add_argument("--plant", type=Path, help="plant file (default: that of the one site running here)")
    parser.add_argument("--host", help="simulated host (default: the first)")
    parser.add_argument("action", choices=["env", *sorted(control_command.ACTIONS)], metavar="ACTION")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="such as the GPU's index; `flyball sim xid --help`")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do one action of the control client."""
    plant = arguments.plant or find_plant()
    host = arguments.host or first_host(plant)
    return control_command.main(["--plant", str(plant), arguments.action, host, *arguments.arguments])


def find_plant() -> Path:
    """Return the plant file of the site that runs here.

    Raises:
        ConfigError: none runs, or several do.
    """
    found = [path for folder in PLANT_FOLDERS for path in sorted(Path(folder).glob(PLANT_GLOB))]
    if len(found) != 1:
        listed = ", ".join(str(path) for path in found) or "none"
        raise ConfigError(f"plant files of running sites: {listed}; expected one: start `flyball up`, or name --plant")
    return found[0]


def first_host(plant: Path) -> str:
    """Return the id of the first simulated host of a plant file.

    Raises:
        ConfigError: no such file, or no plant file.
    """
    try:
        with PlantFile(plant) as file:
            return str(file.hosts[0].id.decode())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--plant {plant}: {error}") from None
