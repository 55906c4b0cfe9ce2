"""Installs the .deb of a host in a machine with a real systemd, over simulated GPUs, and takes it through its life.

    python -m tests.system.check_packages ROOT NAME OLD.deb NEW.deb SIMULATED_LIBRARY

Prints one line a step with its measure. Exit code 0: all held; 1: the step named did not; 77: cannot be done here.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

from tests.system.machine import Machine, RefusedError, booted

from flyball_simgpu.plant_state import PlantFile

HOST, GPUS, LIMIT_W = "host-1", 2, 900.0
LEFT = ("/usr/lib/flyball", "/etc/flyball", "/var/lib/flyball", "/var/lib/flyball-agent", "/run/flyball",
        "/usr/bin/flyball-agent", "/var/lib/private/flyball-agent",
        "/usr/lib/systemd/system/flyball-governor.service")  # fmt: skip
DROP_IN = f"""\
[Service]
Environment=FLYBALL_SIM_PLANT=/plant/plant FLYBALL_SIM_HOST={HOST} FLYBALL_NVML_LIBRARY=/plant/libnvidia-ml.so.1
ReadWritePaths=/plant
"""


def main() -> int:
    """Run every step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("root", "name", "old", "new", "library"):
        parser.add_argument(name, type=str if name == "name" else Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="flyball-plant-"))
    shutil.copy(options.library, folder / "libnvidia-ml.so.1")
    for name in ("old", "new"):
        shutil.copy(getattr(options, name), folder / f"{name}.deb")
    plant = start_plant(folder)
    try:
        with booted(options.root, options.name, ((folder, "/plant"),)) as machine:
            life(machine, PlantFile(folder / "plant"))
    except RefusedError as error:
        print(f"SKIPPED: {error}")
        return 77
    except (AssertionError, subprocess.TimeoutExpired) as error:
        print(f"FAILED: {error}")
        return 1
    finally:
        plant.terminate()
        plant.wait(10)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def start_plant(folder: Path) -> "subprocess.Popen[bytes]":
    """Run the simulated GPUs on this side; the machine sees them through the shared file."""
    argv = [
        sys.executable,
        "-m",
        "flyball_twin.live_plant",
        "--plant",
        str(folder / "plant"),
        "--hosts",
        HOST,
        "--gpus",
        str(GPUS),
    ]
    process = subprocess.Popen([*argv, "--open-gates", "--release"])
    deadline = time.monotonic() + 30
    while not (folder / "plant").exists():
        assert time.monotonic() < deadline, "the plant did not start"
        time.sleep(0.05)
    return process


def life(machine: Machine, plant: PlantFile) -> None:
    """Install, enforce, kill, hang, upgrade, remove, purge."""
    said("systemd", machine.run("systemctl", "--version").stdout.split("\n", 1)[0])
    begin = time.monotonic()
    machine.run("dpkg", "-i", "/plant/old.deb")
    said("installed", f"{time.monotonic() - begin:.1f} s")
    for unit in ("flyball-governor", "flyball-agent"):
        assert machine.run("systemctl", "is-enabled", unit).stdout.strip() == "enabled", unit
        machine.wait(f"{unit} active", partial(_is_active, machine, unit), 20)
    assert machine.property("flyball-governor", "Type") == "notify"
    assert "waiting for a driver" in machine.property("flyball-governor", "StatusText")
    said("enabled, active, notified", machine.property("flyball-governor", "StatusText")[:80])
    hold(machine, plant)
    hardened(machine)
    killed(machine)
    hung(machine)
    upgraded(machine, plant)
    gone(machine)


def hold(machine: Machine, plant: PlantFile) -> None:
    """Give the governor its GPUs and a limit, and wait until caps stand."""
    drop_ins = "/etc/systemd/system/flyball-governor.service.d"
    put(machine, f"{drop_ins}/sim.conf", DROP_IN)
    edited = machine.run("cat", "/etc/flyball/governor.toml").stdout
    edited = edited.replace('mode = "observe"', 'mode = "enforce"').replace(
        "# host_limit_w = 4000.0", f"host_limit_w = {LIMIT_W}"
    )
    put(machine, "/etc/flyball/governor.toml", edited.replace("[driver]", f'host = "{HOST}"\n\n[driver]', 1))
    machine.run("systemctl", "daemon-reload")
    begin = time.monotonic()
    machine.run("systemctl", "restart", "flyball-governor")
    machine.wait("caps stand", lambda: caps_w(plant) <= LIMIT_W, 20)
    machine.wait("gate open", lambda: machine.run("flyball-governor", "gate", check=False).returncode == 0, 20)
    said("caps stand", f"{caps_w(plant):.0f} W of {LIMIT_W:.0f} W, {time.monotonic() - begin:.1f} s after the restart")
    machine.run("systemctl", "start", "flyball-capped.target")
    assert machine.property("flyball-capped.target", "ActiveState") == "active"


def hardened(machine: Machine) -> None:
    """The services have what their units say and no more."""
    agent = machine.property("flyball-agent", "MainPID")
    status = machine.run("cat", f"/proc/{agent}/status").stdout
    told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert told["CapEff"].strip() == "0" * 16, told["CapEff"]
    assert told["NoNewPrivs"].strip() == "1"
    assert told["Seccomp"].strip() == "2"
    assert told["Uid"].split()[0] != "0"
    answered = machine.run("flyball-governor", "status", "--json").stdout
    governor = machine.property("flyball-governor", "MainPID")
    held = int(machine.run("sed", "-n", "s/^CapEff:\\t//p", f"/proc/{governor}/status").stdout, 16)
    assert held == (1 << 21) | (1 << 34), f"{held:x}"  # CAP_SYS_ADMIN, CAP_SYSLOG
    links = machine.run("nsenter", "-t", governor, "-n", "ip", "-br", "link").stdout.split("\n")
    assert [line.split()[0] for line in links if line] == ["lo"], links
    said(
        "hardened",
        f"agent uid {told['Uid'].split()[0]} without capability, governor with two and no network; {answered[:60]}",
    )


def killed(machine: Machine) -> None:
    """A killed service is back within two seconds."""
    for unit, most_s in (("flyball-governor", 2.0), ("flyball-agent", 4.0)):
        before = machine.property(unit, "MainPID")
        machine.run("kill", "-9", before)
        took = machine.wait(f"{unit} back", partial(_is_back, machine, unit, before), 20)
        said(f"{unit} killed", f"back after {took:.1f} s")
        assert took <= most_s, f"{unit}: back after {took:.1f} s, expected {most_s} s"


def hung(machine: Machine) -> None:
    """A stopped governor is replaced by the watchdog."""
    before = machine.property("flyball-governor", "MainPID")
    machine.run("kill", f"-{signal.SIGSTOP.value}", before)
    took = machine.wait("watchdog", lambda: _is_back(machine, "flyball-governor", before), 40)
    said("governor stopped", f"watchdog replaced it after {took:.1f} s")
    journal = machine.run("journalctl", "--no-pager", "-u", "flyball-governor", "-n", "200").stdout
    assert "atchdog timeout" in journal, journal[-2000:]


def upgraded(machine: Machine, plant: PlantFile) -> None:
    """An upgrade keeps what was configured, and no moment of it lets the caps above the limit."""
    config = machine.run("cat", "/etc/flyball/governor.toml").stdout
    key = machine.run("sha256sum", "/var/lib/flyball/governor/report.key").stdout
    highest, stopping = [0.0], threading.Event()

    def watch() -> None:
        while not stopping.wait(0.005):
            highest[0] = max(highest[0], caps_w(plant))

    watcher = threading.Thread(target=watch)
    watcher.start()
    before, begin = machine.property("flyball-governor", "MainPID"), time.monotonic()
    try:
        machine.run("dpkg", "-i", "--force-confdef", "--force-confold", "/plant/new.deb")
        machine.wait("new governor", lambda: _is_back(machine, "flyball-governor", before), 20)
        machine.wait("gate", lambda: machine.run("flyball-governor", "gate", check=False).returncode == 0, 20)
    finally:
        stopping.set()
        watcher.join()
    assert machine.run("cat", "/etc/flyball/governor.toml").stdout == config
    assert machine.run("sha256sum", "/var/lib/flyball/governor/report.key").stdout == key
    assert highest[0] <= LIMIT_W, f"caps of {highest[0]} W during the upgrade, expected at most {LIMIT_W}"
    said("upgraded", f"{time.monotonic() - begin:.1f} s, highest sum of caps {highest[0]:.0f} W of {LIMIT_W:.0f} W")


def gone(machine: Machine) -> None:
    """Removal keeps configuration and state; purge leaves nothing."""
    machine.run("dpkg", "-r", "flyball-agent")
    assert machine.run("test", "-e", "/etc/flyball/governor.toml", check=False).returncode == 0
    assert machine.property("flyball-governor", "ActiveState") in {"inactive", "failed"}
    machine.run("rm", "-rf", "/etc/systemd/system/flyball-governor.service.d")
    machine.run("dpkg", "-P", "flyball-agent")
    left = [path for path in LEFT if machine.run("test", "-e", path, check=False).returncode == 0]
    left += machine.run("find", "/etc/systemd", "/var/lib/systemd", "-name", "*flyball*").stdout.split()
    left += machine.run("sh", "-c", "getent passwd flyball-agent || true").stdout.split()
    assert not left, f"purge left {left}"
    said("removed and purged", "nothing is left")


def caps_w(plant: PlantFile) -> float:
    """Return the sum of the caps that stand, in watts."""
    return sum(plant.gpu(HOST, index).applied_limit_mw for index in range(GPUS)) / 1000


def put(machine: Machine, path: str, text: str) -> None:
    """Write a file inside."""
    target = machine.root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def said(step: str, measure: str) -> None:
    """Tell a step that held."""
    print(f"ok: {step}: {measure}", flush=True)


def _is_active(machine: Machine, unit: str) -> bool:
    return machine.property(unit, "ActiveState") == "active"


def _is_back(machine: Machine, unit: str, before: str) -> bool:
    return machine.property(unit, "ActiveState") == "active" and machine.property(unit, "MainPID") not in {before, "0"}


if __name__ == "__main__":
    sys.exit(main())
