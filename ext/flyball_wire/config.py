"""Load a program's configuration: defaults, then a TOML file, then the environment, into frozen dataclasses.

Every key has its unit in its name. Unknown keys, wrong types and impossible values are errors that name the key's path.
The environment variable of key `power.limit_w` of the agent is FLYBALL_AGENT__POWER__LIMIT_W.
"""

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from flyball_wire.codec import from_plain, to_plain
from flyball_wire.errors import ConfigError, WireError

C = TypeVar("C")
MAX_FILE_BYTES = 4 << 20


def load_config(kind: type[C], program: str, path: Path | None, environment: Mapping[str, str]) -> C:
    """Return the configuration of one program.

    Args:
        kind: Frozen dataclass tree; its defaults are the defaults. A `__post_init__` may raise ValueError.
        program: Name as in the environment variables, such as "agent".
        path: TOML file, or None for defaults and environment alone.
        environment: As os.environ.

    Raises:
        ConfigError: naming the file or variable, the key's path and what was expected.
    """
    plain = read_toml(path) if path is not None else {}
    source = str(path) if path is not None else "defaults"
    _refuse_unknown(kind, plain, source, "")
    for name, value in _environment_values(program, environment):
        _place(kind, plain, name, value)
    try:
        return cast("C", from_plain(kind, plain))
    except WireError as error:
        raise ConfigError(f"{source}: {error}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Return a TOML file as plain values.

    Raises:
        ConfigError: missing, unreadable, too large or not TOML (with the line).
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes, expected at most {MAX_FILE_BYTES}")
    try:
        return tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:  # tomllib's own, not UTF-8, a number too long, nested too deep
        raise ConfigError(f"{path}: not TOML: {error}") from None


def print_config(config: object) -> str:
    """Return a configuration as TOML text, for --print-config; unset keys stand as comments."""
    return "\n".join(_toml_lines(to_plain(config), "")) + "\n"


def _environment_values(program: str, environment: Mapping[str, str]) -> list[tuple[str, str]]:
    prefix = f"FLYBALL_{program.upper()}__"
    return [(name, value) for name, value in sorted(environment.items()) if name.startswith(prefix)]


def _place(kind: type[Any], plain: dict[str, Any], name: str, text: str) -> None:
    """Put one environment variable at its place, read as the type that the key has."""
    keys = [part.lower() for part in name.split("__")[1:]]
    table = plain
    for depth, key in enumerate(keys):
        hints = typing.get_type_hints(kind, include_extras=True)
        if key not in hints:
            raise ConfigError(f"environment variable {name}: unknown key {'.'.join(keys[: depth + 1])!r}")
        inner = _plain_type(hints[key])
        if depth == len(keys) - 1:
            table[key] = _read_text(name, inner, text)
        elif dataclasses.is_dataclass(inner):
            kind = cast("type[Any]", inner)
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigError(f"environment variable {name}: {'.'.join(keys[: depth + 1])} is no table in the file")
        else:
            raise ConfigError(f"environment variable {name}: key {'.'.join(keys[: depth + 1])!r} is not a table")


def _read_text(name: str, hint: Any, text: str) -> object:
    if hint is str:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        raise ConfigError(
            f"environment variable {name}: {text[:80]!r}, expected a {_type_name(hint)} as in TOML"
        ) from None


def _refuse_unknown(kind: type[Any], plain: Mapping[str, Any], source: str, where: str) -> None:
    hints = typing.get_type_hints(kind, include_extras=True)
    for key, value in plain.items():
        path = f"{where}.{key}" if where else key
        if key not in hints:
            raise ConfigError(f"{source}: unknown key {path!r}, expected one of: {', '.join(sorted(hints))}")
        inner = _plain_type(hints[key])
        if dataclasses.is_dataclass(inner) and isinstance(value, dict):
            _refuse_unknown(cast("type[Any]", inner), value, source, path)
        elif typing.get_origin(inner) is tuple and isinstance(value, list):
            _refuse_unknown_items(inner, value, source, path)


def _refuse_unknown_items(hint: Any, values: list[Any], source: str, where: str) -> None:
    item = _plain_type(typing.get_args(hint)[0])
    if dataclasses.is_dataclass(item):
        for index, value in enumerate(values):
            if isinstance(value, dict):
                _refuse_unknown(cast("type[Any]", item), value, source, f"{where}[{index}]")


def _plain_type(hint: Any) -> Any:
    """Strip Annotated and `| None`."""
    if typing.get_origin(hint) is typing.Annotated:
        return _plain_type(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not types.NoneType]
        return _plain_type(options[0])
    return hint


def _type_name(hint: Any) -> str:
    return {int: "whole number", float: "number", bool: "true or false"}.get(hint, "value")


def _toml_lines(plain: Mapping[str, Any], where: str) -> list[str]:
    lines = [
        f"# {key} is not set" if value is None else f"{key} = {_toml_value(value)}"
        for key, value in plain.items()
        if not isinstance(value, dict)
    ]
    for key, value in plain.items():
        if isinstance(value, dict):
            path = f"{where}.{key}" if where else key
            lines += ["", f"[{path}]", *_toml_lines(value, path)]
    return lines


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{key} = {_toml_value(item)}" for key, item in value.items() if item is not None) + " }"
        )
    # A JSON string is a TOML basic string, but for DEL.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
