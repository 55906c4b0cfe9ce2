"""The units: what systemd itself says of them, offline."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
# What each unit may be exposed at most (0 best, 10 worst). The governor is root with CAP_SYS_ADMIN, for the driver
# tests that before it writes a limit; it reads the kernel log; PrivateDevices would take the GPUs away.
EXPOSURES = {
    "flyball-agent": 1.8,
    "flyball-aggregator": 1.8,
    "flyball-governor": 3.0,
    "flyball-gate": 3.0,
    "flyball-renew": 3.0,
}
PROGRAMS = ("flyball-enrol", "flyball-governor", "flyball-agent", "flyball-aggregator")


@pytest.fixture(scope="module")
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed")
    return found


@pytest.fixture
def staged_root(tmp_path: Path) -> Path:
    """A tree with the units in it and empty programs where they look for them."""
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for unit in [path for path in UNITS.iterdir() if path.suffix in {".service", ".target", ".timer"}]:
        shutil.copy(unit, units)
    for name in ("basic", "sysinit", "shutdown", "network-online", "multi-user", "timers", "time-set", "time-sync"):
        (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n", encoding="utf-8")
    for program in [*(f"usr/bin/{name}" for name in PROGRAMS), "bin/sh"]:
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        path.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    "unit", sorted(path.name for path in UNITS.glob("*.*") if path.suffix in {".service", ".target", ".timer"})
)
def test_systemd_finds_nothing_wrong_with_a_unit(analyze: str, staged_root: Path, unit: str) -> None:
    argv = [analyze, "verify", "--man=no", "--recursive-errors=no", f"--root={staged_root}", unit]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    if "unrecognized option" in done.stderr:
        pytest.skip(f"this systemd-analyze cannot verify offline: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("unit", "most"), sorted(EXPOSURES.items()))
def test_a_unit_is_exposed_no_more_than_allowed(analyze: str, unit: str, most: float) -> None:
    argv = [analyze, "security", "--offline=true", f"--threshold={most * 10:.0f}", "--no-pager"]
    done = subprocess.run(
        [*argv, str(UNITS / f"{unit}.service")], capture_output=True, text=True, check=False, timeout=30
    )
    if "unrecognized option" in done.stderr:
        pytest.skip(f"this systemd-analyze knows no --offline: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


def test_the_governor_has_no_network_and_the_agent_no_device() -> None:
    governor = (UNITS / "flyball-governor.service").read_text(encoding="utf-8")
    agent = (UNITS / "flyball-agent.service").read_text(encoding="utf-8")
    assert "PrivateNetwork=yes" in governor
    assert "RestrictAddressFamilies=AF_UNIX\n" in governor
    assert "PrivateDevices=yes" in agent
    assert "CapabilityBoundingSet=\n" in agent
