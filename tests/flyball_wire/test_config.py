"""Configuration comes from defaults, file and environment, and every mistake is named by its key's path."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyball_wire.codec import Range
from flyball_wire.config import load_config, print_config
from flyball_wire.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    limit_w: Annotated[float, Range(0.0, 1e9)] = 1000.0


@dataclass(frozen=True, slots=True)
class Power:
    limit_w: Annotated[float, Range(1.0, 1e9)] = 20_000.0
    reserve_ratio: Annotated[float, Range(0.0, 0.5)] = 0.03
    rows: tuple[Row, ...] = ()

    def __post_init__(self) -> None:
        if any(row.limit_w > self.limit_w for row in self.rows):
            raise ValueError("power.rows: expected no row above power.limit_w")


@dataclass(frozen=True, slots=True)
class Program:
    name: str = "one"
    port: Annotated[int, Range(0, 65_535)] = 8480
    is_verbose: bool = False
    key_file: str | None = None
    power: Power = Power()


def load(path: Path, text: str | bytes, environment: dict[str, str] | None = None) -> Program:
    file = path / "program.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(Program, "program", file, environment or {})


def test_defaults_then_file_then_environment(tmp_path: Path) -> None:
    assert load_config(Program, "program", None, {}) == Program()
    found = load(
        tmp_path,
        'name = "two"\nport = 1\n[power]\nlimit_w = 5000\n',
        {"FLYBALL_PROGRAM__PORT": "2", "FLYBALL_PROGRAM__POWER__RESERVE_RATIO": "0.1", "OTHER": "x"},
    )
    assert found == Program("two", 2, power=Power(5000.0, 0.1))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 1", "unknown key 'colour'"),
        ("[power]\nlimit_kw = 20", "unknown key 'power.limit_kw'"),
        ("[[power.rows]]\nname = 'a'\nlimit = 3", r"unknown key 'power.rows\[0\].limit'"),
        ("port = 70000", "port: 70000"),
        ("port = 1.5", "port: 1.5"),
        ("port = true", "port: True"),
        ("port = '1'", "port: '1'"),
        ("power = 3", "power: 3"),
        ("[power]\nlimit_w = nan", "power.limit_w: nan"),
        ("[power]\nlimit_w = inf", "power.limit_w: inf"),
        ("[power]\nlimit_w = 0.1", "power.limit_w: 0.1"),
        ("[power]\nrows = 3", "power.rows: 3"),
        ("[power]\nlimit_w = 100\n[[power.rows]]\nname = 'a'", "no row above power.limit_w"),
        ("port = ", "not TOML"),
        ("port = 1\nport = 2", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        ("port = " + "1" * 5000, "not TOML"),
        ("name = " + "[" * 3000, "not TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_file_and_key(tmp_path: Path, text: str | bytes, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        load(tmp_path, text)
    assert "program.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("COLOUR", "1", "unknown key 'colour'"),
        ("", "1", "unknown key ''"),
        ("POWER__COLOUR", "1", "unknown key 'power.colour'"),
        ("PORT__X", "1", "'port' is not a table"),
        ("PORT", "many", "whole number"),
        ("PORT", "1" * 5000, "whole number"),
        ("PORT", "", "whole number"),
        ("IS_VERBOSE", "yes", "true or false"),
        ("PORT", "70000", "port: 70000"),
    ],
)
def test_a_mistake_in_the_environment_is_named(name: str, value: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_config(Program, "program", None, {f"FLYBALL_PROGRAM__{name}": value})


def test_the_environment_cannot_reach_into_a_value_that_should_be_a_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="power"):
        load(tmp_path, "power = 3", {"FLYBALL_PROGRAM__POWER__LIMIT_W": "5"})


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match=str(path)):
            load_config(Program, "program", path, {})


def test_what_is_printed_loads_again(tmp_path: Path) -> None:
    config = Program('quo"te\\ and\ttab\x01', 7, is_verbose=True, power=Power(5e6, rows=(Row("a", 1.5), Row("b"))))
    assert load(tmp_path, print_config(config)) == config


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=120) | st.text(max_size=120))
def test_any_file_gives_a_configuration_or_a_config_error(tmp_path: Path, text: str | bytes) -> None:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    with contextlib.suppress(ConfigError):
        load(tmp_path, raw)


@settings(max_examples=80)
@given(
    st.sampled_from(["NAME", "PORT", "IS_VERBOSE", "KEY_FILE", "POWER", "POWER__LIMIT_W", "POWER__ROWS"]),
    st.text(st.characters(exclude_characters="\x00"), max_size=40),
)
def test_any_environment_gives_a_configuration_or_a_config_error(name: str, value: str) -> None:
    with contextlib.suppress(ConfigError):
        load_config(Program, "program", None, {f"FLYBALL_PROGRAM__{name}": value})
