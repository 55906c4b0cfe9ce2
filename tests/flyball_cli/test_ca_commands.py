"""`flyball ca` and `flyball enrol` as people type them, from an empty folder to a host that is in and out again."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyball_agent.config import load_agent_config
from flyball_cli.__main__ import main
from flyball_governor.config import load_governor_config


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, object]]:
    """Run a command that must succeed; return the JSON lines it printed."""
    assert main(argv) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


@pytest.fixture
def authority(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (made,) = told(capsys, "ca", "--folder", str(tmp_path / "ca"), "init", "--site", "hall")
    assert len(str(made["fingerprint"])) == 64
    return tmp_path / "ca"


@pytest.fixture
def site_address(authority: Path) -> Iterator[str]:
    argv = [sys.executable, "-m", "flyball_cli", "ca", "--folder", str(authority), "serve", "--address", "127.0.0.1"]
    argv += ["--port", "0", "--no-discovery", "--name", "127.0.0.1", "--broker", "broker.hall:8883"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield str(json.loads(server.stdout.readline())["enrolment"])
        server.terminate()


def test_a_host_is_let_in_by_hand_configured_and_revoked(
    authority: Path, site_address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca, etc = ("ca", "--folder", str(authority)), tmp_path / "etc"
    assert main((*ca, "token", "--names", "gpu-*", "--by-hand")) == 0
    token = tmp_path / "token"
    token.write_text(capsys.readouterr().out, encoding="ascii")
    etc.mkdir()
    (etc / "agent.toml").write_text('host = "gpu-7"\n', encoding="utf-8")
    (etc / "governor.toml").write_text(f'host = "gpu-7"\nstate_dir = "{tmp_path}"\n', encoding="utf-8")
    enrol = ("enrol", "--folder", str(etc), "--site-address", site_address, "--token-file", str(token))

    assert main(enrol) == 75
    assert main((*ca, "approve", "gpu-7")) == 0
    assert main(enrol) == 0
    agent, governor = load_agent_config(etc / "agent.toml", {}), load_governor_config(etc / "governor.toml", {})
    assert (agent.site, agent.broker.address, agent.broker.port) == ("hall", "broker.hall", 8883)
    assert agent.broker.key_file == str(etc / "keys/host.key")
    assert [key.key_id for key in governor.lease.trusted] == ["lease-1"]
    assert main(("enrol", "--folder", str(etc), "--renew")) == 0  # not due: nothing changes

    capsys.readouterr()
    told(capsys, *ca, "revoke", "gpu-7")
    states = {str(line["name"]): line["state"] for line in told(capsys, *ca, "list")}
    assert states["gpu-7"] == "revoked"


@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_the_brokers_files_are_written_with_a_private_key(authority: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "broker"
    argv = ("ca", "--folder", str(authority), "broker", "--kind", kind, "--out", str(out), "--address", "broker.hall")
    assert main(argv) == 0
    assert (out / "broker.key").stat().st_mode & 0o777 == 0o600
    assert (out / ("mosquitto.conf" if kind == "mosquitto" else "nats.conf")).exists()


def test_a_second_authority_in_the_same_folder_is_refused(authority: Path) -> None:
    assert main(("ca", "--folder", str(authority), "init", "--site", "hall")) == 78
