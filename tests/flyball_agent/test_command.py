"""The command says what is wrong with a configuration and ends with 78; what it prints it reads again."""

import random
from pathlib import Path

import pytest

from flyball_agent.__main__ import main
from flyball_agent.backoff import Backoff
from flyball_agent.config import load_agent_config
from flyball_wire.errors import EXIT_CONFIG


def test_the_printed_configuration_is_the_one_in_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('site = "s"\nhost = "h"\n[broker]\nport = 1234\n')
    assert main(["--config", str(path), "--print-config"]) == 0
    again = tmp_path / "again.toml"
    again.write_text(capsys.readouterr().out)
    assert load_agent_config(again, {}) == load_agent_config(path, {})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 1", "unknown key 'colour'"),
        ("host = 'a.b'", "host 'a.b'"),
        ("[broker]\nport = 0", "broker.port: 0"),
        ("[broker]\naddress = ''", "broker.address"),
        ("[broker]\ncertificate_file = 'x'", "broker.certificate_file and broker.key_file"),
        ("[broker]\npassword_file = 'x'", "broker.username"),
        ("[broker]\nreconnect_max_s = 0.1", "broker.reconnect_max_s"),
        ("[broker]\ntopic_prefix = 'a/#'", "broker.topic_prefix"),
        ("[broker]\nca_file = '/none/ca.pem'", "broker.ca_file /none/ca.pem"),
        ("[spool]\nmax_bytes = 1", "spool.max_bytes: 1"),
        ("[exporter]\nport = 'x'", "exporter.port"),
    ],
)
def test_a_wrong_key_is_named_and_ends_with_78(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, named: str
) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    assert main(["--config", str(path)]) == EXIT_CONFIG
    said = capsys.readouterr().err
    assert said.startswith("flyball-agent: ")
    assert named in said


def test_the_wait_grows_with_each_failure_between_its_bounds_and_starts_again() -> None:
    backoff = Backoff(0.5, 10.0, random.Random(1))
    waits = [backoff.next_s() for _ in range(50)]
    assert all(0.5 <= wait <= 10.0 for wait in waits)
    assert max(waits[:2]) < 2.0 < max(waits)
    assert len(set(waits)) == 50
    backoff.succeeded()
    assert backoff.next_s() <= 1.0
