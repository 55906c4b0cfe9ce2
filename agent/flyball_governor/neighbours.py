"""Name what on this host works against caps that hold: each with the command that mends it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from flyball_governor.device import GpuInfo

HOST_ENGINE: Final = "nv-hostengine"
LIMIT_SETTERS: Final = ("nvidia-smi -pl", "nvidia-smi --power-limit", "rocm-smi --setpoweroverdrive")
BOOT_SCRIPTS: Final = ("etc/rc.local", "etc/systemd/system", "etc/cron.d", "etc/init.d")
MAX_SCRIPT_BYTES: Final = 65_536


def neighbour_notes(inventory: Sequence[GpuInfo], root: Path = Path("/")) -> dict[str, str]:
    """Return what to tell, by subject; empty on a host where nothing fights us.

    Args:
        inventory: The GPUs as described.
        root: Where `proc` and `etc` are.
    """
    notes = {}
    loose = [info.index for info in inventory if info.persistence is False]
    if loose:
        notes["persistence"] = (
            f"GPUs {loose}: persistence mode is off, so caps are lost when the last client ends; "
            "start nvidia-persistenced, or: nvidia-smi -pm 1"
        )
    engines = find_processes(HOST_ENGINE, root / "proc")
    if len(engines) > 1:
        notes["host engines"] = (
            f"{len(engines)} {HOST_ENGINE} run (pids {engines}), which may deadlock the driver; "
            "keep one, and have the others connect to it"
        )
    scripts = find_limit_scripts(root)
    if scripts:
        names = ", ".join(str(script) for script in scripts)
        notes["boot script"] = f"{names} sets power limits and will fight the governor; take that line out"
    return notes


def find_processes(name: str, proc: Path) -> list[int]:
    """Return the processes of this name, ascending."""
    found = []
    for entry in proc.glob("[0-9]*/comm"):
        try:
            if entry.read_text(errors="replace").strip() == name[:15]:  # the kernel keeps 15 characters
                found.append(int(entry.parent.name))
        except OSError:  # it ended meanwhile
            continue
    return sorted(found)


def find_limit_scripts(root: Path) -> list[Path]:
    """Return the boot scripts, units and cron files that set power limits."""
    found = []
    for place in BOOT_SCRIPTS:
        path = root / place
        files: Iterable[Path] = sorted(path.glob("*")) if path.is_dir() else [path]
        found += [file for file in files if _sets_limits(file)]
    return found


def _sets_limits(file: Path) -> bool:
    try:
        with file.open("rb") as script:
            text = script.read(MAX_SCRIPT_BYTES).decode(errors="replace")
    except OSError:
        return False
    lines = (" ".join(line.split()) for line in text.splitlines() if not line.lstrip().startswith("#"))
    return any(setter in line for line in lines for setter in LIMIT_SETTERS)
