import os
import tomllib
from pathlib import Path

import pytest

from flyball_governor.__main__ import main
from flyball_governor.config import GovernorConfig, load_governor_config
from flyball_wire.config import print_config
from flyball_wire.errors import ConfigError

KEY = "ab" * 32


def load(tmp_path: Path, text: str, **environment: str) -> GovernorConfig:
    """Return what a file with this text gives."""
    path = tmp_path / "governor.toml"
    path.write_text(text)
    return load_governor_config(path, environment)


def test_a_fresh_install_observes(tmp_path: Path) -> None:
    assert load(tmp_path, "").effective_mode == "observe"


def test_each_function_can_be_switched_off(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "mode = 'enforce'\nhost_limit_w = 900.0\n"
        "[sampling]\nenabled = false\n[caps]\nenabled = false\n[events]\nenabled = false\n"
        "[split]\nenabled = false\n[lease]\nenabled = false\n",
    )

    assert config.effective_mode == "observe"
    assert config.sweep_plan.rates_hz[0] < 0.01
    assert not config.is_lease_needed


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = load(tmp_path, "host_limit_w = 900.0", FLYBALL_GOVERNOR__SAMPLING__RATE_HZ="100")

    assert config.sweep_plan.rates_hz == (100.0, 10.0, 1.0, 0.1)


def test_without_a_host_the_machines_name_is_made_to_fit(tmp_path: Path) -> None:
    assert load(tmp_path, "").host_id


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("host_limit_kw = 5", "host_limit_kw"),
        ("host_limit_w = -5.0", "host_limit_w"),
        ("log_level = 'loud'", "log_level"),
        ("host = 'a/b'", "a/b"),
        ("[sampling]\nrate_hz = 0", "sampling.rate_hz"),
        ("[socket]\nallowed_uids = [-1]", "socket.allowed_uids"),
        ("[lease]\ntrusted = [{ key_id = 'k', public_key = 'xyz' }]", "public_key"),
        (f"[lease]\ntrusted = [{{ key_id = 'k', public_key = '{KEY}', until = 5 }}]", "until"),
        ("mode = 'enforce'", "expected host_limit_w or a key"),
        ("mode = ", "not TOML"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load(tmp_path, text)


def test_key_ids_must_differ(tmp_path: Path) -> None:
    key = f"{{ key_id = 'k', public_key = '{KEY}' }}"

    with pytest.raises(ConfigError, match="each once"):
        load(tmp_path, f"[lease]\ntrusted = [{key}, {key}]")


def test_a_bad_configuration_ends_with_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "governor.toml"
    path.write_text("watts = 5")

    assert main(["--config", str(path)]) == 78
    assert "watts" in capsys.readouterr().err


def test_a_printed_configuration_reads_back_the_same(tmp_path: Path) -> None:
    config = load(tmp_path, f"mode = 'enforce'\n[lease]\ntrusted = [{{ key_id = 'k', public_key = '{KEY}' }}]")

    assert load(tmp_path, print_config(config)) == config
    assert tomllib.loads(print_config(config))["caps"]["enabled"] is True


def test_a_state_folder_that_cannot_be_made_is_a_configuration_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "governor.toml"
    path.write_text(f"state_dir = '{tmp_path}/file/state'")

    assert main(["run", "--config", str(path)]) == 78
    assert "state_dir" in capsys.readouterr().err
    assert os.path.lexists(tmp_path / "file")


def test_with_no_governor_an_enforced_gate_is_shut_and_an_observed_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "governor.toml"
    socket = f"[socket]\npath = '{tmp_path}/none.sock'\n"
    path.write_text(f"mode = 'enforce'\nhost_limit_w = 900.0\n{socket}")
    enforced = main(["gate", "--config", str(path)])
    path.write_text(socket)
    observed = main(["gate", "--config", str(path), "--json"])

    assert (enforced, observed) == (1, 0)
    assert "no governor answers" in capsys.readouterr().out
