"""A throwaway machine with a real systemd: systemd-nspawn over a Debian root that is never written to."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

BOOT_S = 60.0
POLL_S = 0.1
CGROUPS = Path("/sys/fs/cgroup")


class RefusedError(Exception):
    """This kernel or user may not boot machines; the text says what failed."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A booted machine: the pid of its init, its root as seen from here, and its console's log."""

    leader: int
    root: Path
    log: Path

    def run(self, *argv: str, check: bool = True, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a program inside and return what it said."""
        entered = [
            "nsenter",
            "-t",
            str(self.leader),
            "-a",
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND=noninteractive",
        ]
        done = subprocess.run([*entered, *argv], capture_output=True, text=True, check=False, timeout=timeout_s)
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            )
        return done

    def property(self, unit: str, name: str) -> str:
        """Return what systemd says of a unit."""
        return self.run("systemctl", "show", "-P", name, unit).stdout.strip()

    def wait(self, what: str, is_true: Callable[[], bool], timeout_s: float) -> float:
        """Wait until a condition holds; return the seconds it took."""
        begin = time.monotonic()
        while not is_true():
            if time.monotonic() - begin > timeout_s:
                journal = self.run("journalctl", "--no-pager", "-n", "60", check=False).stdout
                raise AssertionError(f"{what}: not within {timeout_s} s\n{journal}")
            time.sleep(POLL_S)
        return time.monotonic() - begin


@contextlib.contextmanager
def booted(base: Path, name: str, binds: tuple[tuple[Path, str], ...] = ()) -> Iterator[Machine]:
    """Boot a machine over a root tree for the length of the block; nothing of it is kept."""
    if os.geteuid() != 0 or shutil.which("systemd-nspawn") is None:
        raise RefusedError("expected root and systemd-nspawn")
    folder = Path(tempfile.mkdtemp(prefix=f"flyball-{name}-"))
    groups = [CGROUPS / part / f"flyball-{name}" for part in ("unified", "systemd") if (CGROUPS / part).is_dir()]
    try:
        for part in ("upper", "work", "root"):
            (folder / part).mkdir()
        layers = f"lowerdir={base},upperdir={folder / 'upper'},workdir={folder / 'work'}"
        script = _script(folder, layers, name, groups, binds)
        log = folder / "console"
        with log.open("wb") as console:
            argv = [
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "setpriv",
                "--pdeathsig",
                "TERM",
                "sh",
                "-ec",
                script,
            ]
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        try:
            leader = _wait_init(process, log)
            machine = Machine(leader, Path(f"/proc/{leader}/root"), log)
            machine.wait("boot", lambda: _is_up(machine), BOOT_S)
            yield machine
        finally:
            _end(process)
    finally:
        for group in groups:
            _remove_groups(group)
        shutil.rmtree(folder, ignore_errors=True)


def _script(folder: Path, layers: str, name: str, groups: list[Path], binds: tuple[tuple[Path, str], ...]) -> str:
    """Mounts of the machine's own, its cgroups (two machines would collide otherwise), then nspawn in our place."""
    lines = [
        "mount -t tmpfs tmpfs /run",
        f"mount -t tmpfs tmpfs {folder}/root",
        f"mkdir {folder}/root/upper {folder}/root/work {folder}/root/merged",
    ]
    inside = layers.replace(str(folder / "upper"), f"{folder}/root/upper").replace(
        str(folder / "work"), f"{folder}/root/work"
    )
    lines.append(f"mount -t overlay overlay -o {inside} {folder}/root/merged")
    lines += [f"mkdir -p {group} && echo $$ > {group}/cgroup.procs" for group in groups]
    bound = " ".join(f"--bind={source}:{target}" for source, target in binds)
    lines.append(
        "exec env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --boot --register=no --keep-unit "
        "--console=pipe "
        f"--machine={name} --directory={folder}/root/merged --private-network --resolv-conf=off --timezone=off "
        f"--capability=CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN,CAP_SYSLOG --system-call-filter=bpf {bound}"
    )
    return "\n".join(lines)


def _wait_init(process: subprocess.Popen[bytes], log: Path) -> int:
    """Return the pid of the machine's init."""
    deadline = time.monotonic() + BOOT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RefusedError(f"systemd-nspawn ended: {log.read_text(errors='replace')[-800:]}")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for child in children.read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
        time.sleep(POLL_S)
    raise RefusedError(f"no init after {BOOT_S} s: {log.read_text(errors='replace')[-800:]}")


def _is_up(machine: Machine) -> bool:
    done = machine.run("systemctl", "is-system-running", check=False)
    return done.stdout.strip() in {"running", "degraded"}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _remove_groups(group: Path) -> None:
    for path in sorted(group.rglob("*"), key=lambda found: -len(found.parts)):
        if path.is_dir():
            with contextlib.suppress(OSError):
                path.rmdir()
    with contextlib.suppress(OSError):
        group.rmdir()
