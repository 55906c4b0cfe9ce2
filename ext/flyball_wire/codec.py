"""Encode and decode typed messages as msgpack, bounds first: nothing but WireError comes out of a hostile payload.

A message is a frozen dataclass with the class variables KIND, VERSION and MAX_BYTES. Its payload is a msgpack map of
the field names plus `kind` and `v`. Unknown fields are ignored, so that a newer peer of the same version may add some.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, TypeVar, cast

import msgpack

from flyball_wire.errors import WireError

MAX_TEXT_BYTES: Final = 1024
MAX_ITEMS: Final = 4096
INT_LOW: Final = -(2**63)
INT_HIGH: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Range:
    """Inclusive bounds of a number, for `Annotated[int, Range(0, 10)]`."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Length:
    """Most characters of a text, bytes of a blob or items of a tuple, for `Annotated[bytes, Length(32)]`."""

    most: int
    least: int = 0


class Message(Protocol):
    """What the codec needs of a message class (a dataclass)."""

    KIND: ClassVar[str]
    VERSION: ClassVar[int]
    MAX_BYTES: ClassVar[int]
    __dataclass_fields__: ClassVar[dict[str, Any]]


M = TypeVar("M", bound=Message)
_Reader = Callable[[str, Any], Any]
_READERS: Final[dict[type[Any], _Reader]] = {}  # built once per class
_FIELDS: Final[dict[type[Any], tuple[str, ...]]] = {}  # names of a dataclass's fields, empty of another class
_TEXT: Final = {str}
_PLAIN: Final = frozenset({int, float, bool, str, bytes, type(None)})


def encode(message: Message) -> bytes:
    """Return the payload of a message.

    Raises:
        WireError: a value is out of the bounds that the reader would refuse, or the payload is too large.
    """
    plain = to_plain(message)
    _reader_of(type(message))("", plain)
    payload = cast("bytes", msgpack.packb({"kind": message.KIND, "v": message.VERSION, **plain}))
    if len(payload) > message.MAX_BYTES:
        raise WireError(f"{message.KIND}: {len(payload)} bytes, expected at most {message.MAX_BYTES}")
    return payload


def decode(kind: type[M], payload: bytes) -> M:
    """Return the message in a payload.

    Raises:
        WireError: naming the message kind, the field and what was expected.
    """
    fields = unpack_map(kind.KIND, payload, kind.MAX_BYTES)
    if fields.get("kind") != kind.KIND:
        raise WireError(f"{kind.KIND}: kind is {_shown(fields.get('kind'))}")
    return cast("M", _from_fields(kind, fields, len(payload)))


def decode_any(what: str, kinds: Mapping[str, type[Any]], payload: bytes, max_bytes: int) -> Any:
    """Return the message in a payload that may be any of several kinds, by its `kind`.

    Raises:
        WireError: as `decode`, or of a kind that is none of these.
    """
    fields = unpack_map(what, payload, max_bytes)
    name = fields.get("kind")
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise WireError(f"{what}: kind is {_shown(name)}, expected one of {tuple(kinds)}")
    return _from_fields(kind, fields, len(payload))


def unpack_map(what: str, payload: bytes, max_bytes: int) -> dict[str, Any]:
    """Return the msgpack map in a payload of bounded size.

    Raises:
        WireError: oversized, truncated, not msgpack or not a map with text keys.
    """
    if len(payload) > max_bytes:
        raise WireError(f"{what}: {len(payload)} bytes, expected at most {max_bytes}")
    try:
        plain = msgpack.unpackb(payload, strict_map_key=True, max_ext_len=0)
    except (ValueError, TypeError, RecursionError, UnicodeDecodeError, msgpack.UnpackException) as error:
        raise WireError(f"{what}: not msgpack: {str(error)[:120]}") from None
    if not isinstance(plain, dict) or not set(map(type, plain)) <= _TEXT:
        raise WireError(f"{what}: expected a map with text keys")
    return plain


def _from_fields(kind: type[Any], fields: dict[str, Any], size: int) -> Any:
    version = fields.get("v")
    if type(version) is not int or version != kind.VERSION:
        raise WireError(f"{kind.KIND}: version is {_shown(version)}, expected {kind.VERSION}")
    if size > kind.MAX_BYTES:
        raise WireError(f"{kind.KIND}: {size} bytes, expected at most {kind.MAX_BYTES}")
    return _reader_of(kind)(kind.KIND, fields)


def to_plain(value: object) -> Any:
    """Return dataclasses as dicts and tuples as lists, all the way down."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is tuple or kind is list:
        return [item if type(item) in _PLAIN else to_plain(item) for item in cast("list[object]", value)]
    names = _FIELDS.get(kind)
    if names is None:
        names = _FIELDS[kind] = _field_names(kind)
    if names:
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def _field_names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()


def from_plain(kind: type[Any], plain: object, where: str = "") -> Any:
    """Return an instance of a dataclass from plain values (msgpack or JSON) under the same checks.

    Raises:
        WireError: naming the field and what was expected.
    """
    return _reader_of(kind)(where, plain)


def _reader_of(kind: type[Any]) -> _Reader:
    if kind not in _READERS:
        _READERS[kind] = _build_reader(kind)
    return _READERS[kind]


def _build_reader(kind: type[Any]) -> _Reader:
    """Return the function that checks a map of plain values and makes an instance of a dataclass."""
    hints = typing.get_type_hints(kind, include_extras=True)
    readers = [
        (field.name, _reader_for(hints[field.name]), field.default is not dataclasses.MISSING)
        for field in dataclasses.fields(kind)
    ]

    def read(where: str, plain: Any) -> Any:
        if not isinstance(plain, dict):
            raise WireError(f"{where}: {_shown(plain)}, expected a map")
        values = {}
        for name, reader, has_default in readers:
            if name in plain:
                values[name] = reader(f"{where}.{name}" if where else name, plain[name])
            elif not has_default:
                raise WireError(f"{where}: field {name!r} is missing" if where else f"field {name!r} is missing")
        try:
            return kind(**values)
        except ValueError as error:
            raise WireError(f"{where}: {error}" if where else str(error)) from None

    return read


def _reader_for(hint: Any) -> _Reader:
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        inner, *marks = typing.get_args(hint)
        return functools.reduce(_bounded, marks, _reader_for(inner))
    if origin in (typing.Union, types.UnionType):
        return _optional(hint)
    if origin is tuple:
        return _tuple(hint)
    if origin is typing.Literal:
        return _literal(typing.get_args(hint))
    if dataclasses.is_dataclass(hint):
        return _reader_of(cast("type[Any]", hint))
    base = getattr(hint, "__supertype__", hint)
    return _SCALARS[base]


def _optional(hint: Any) -> _Reader:
    inner = [_reader_for(option) for option in typing.get_args(hint) if option is not types.NoneType]
    if len(inner) != 1:
        raise TypeError(f"{hint}: expected exactly one type and None")
    reader = inner[0]
    return lambda where, plain: None if plain is None else reader(where, plain)


def _tuple(hint: Any) -> _Reader:
    options = typing.get_args(hint)
    if len(options) == 2 and options[1] is Ellipsis:
        item = _reader_for(options[0])

        def read_many(where: str, plain: Any) -> tuple[Any, ...]:
            items = _sequence(where, plain)
            try:
                return tuple([item(where, value) for value in items])
            except WireError:  # said again, with the place of the culprit
                return tuple([item(f"{where}[{index}]", value) for index, value in enumerate(items)])

        return read_many
    readers = [_reader_for(option) for option in options]

    def read_exact(where: str, plain: Any) -> tuple[Any, ...]:
        items = _sequence(where, plain)
        if len(items) != len(readers):
            raise WireError(f"{where}: {len(items)} items, expected {len(readers)}")
        return tuple(reader(where, value) for reader, value in zip(readers, items, strict=True))

    return read_exact


def _sequence(where: str, plain: Any) -> list[Any]:
    if not isinstance(plain, list | tuple):
        raise WireError(f"{where}: {_shown(plain)}, expected a list")
    if len(plain) > MAX_ITEMS:
        raise WireError(f"{where}: {len(plain)} items, expected at most {MAX_ITEMS}")
    return list(plain)


def _literal(allowed: tuple[Any, ...]) -> _Reader:
    def read(where: str, plain: Any) -> Any:
        if not isinstance(plain, str | int) or plain not in allowed:
            raise WireError(f"{where}: {_shown(plain)}, expected one of {allowed}")
        return plain

    return read


def _bounded(reader: _Reader, mark: Any) -> _Reader:
    def read(where: str, plain: Any) -> Any:
        value = reader(where, plain)
        if isinstance(mark, Range) and not mark.low <= value <= mark.high:
            raise WireError(f"{where}: {value}, expected {mark.low} to {mark.high}")
        if isinstance(mark, Length) and not mark.least <= len(value) <= mark.most:
            raise WireError(f"{where}: length {len(value)}, expected {mark.least} to {mark.most}")
        return value

    return read


def _read_int(where: str, plain: Any) -> int:
    if not isinstance(plain, int) or isinstance(plain, bool):
        raise WireError(f"{where}: {_shown(plain)}, expected a whole number")
    if not INT_LOW <= plain <= INT_HIGH:
        raise WireError(f"{where}: {plain}, expected a 64-bit number")
    return plain


def _read_float(where: str, plain: Any) -> float:
    try:
        if isinstance(plain, int | float) and not isinstance(plain, bool) and math.isfinite(plain):
            return float(plain)
    except OverflowError:  # JSON and TOML carry whole numbers of any size
        pass
    raise WireError(f"{where}: {_shown(plain)}, expected a finite number")


def _read_bool(where: str, plain: Any) -> bool:
    if not isinstance(plain, bool):
        raise WireError(f"{where}: {_shown(plain)}, expected true or false")
    return plain


def _read_text(where: str, plain: Any) -> str:
    if not isinstance(plain, str) or len(plain) > MAX_TEXT_BYTES:
        raise WireError(f"{where}: {_shown(plain)}, expected text of at most {MAX_TEXT_BYTES} characters")
    if not plain.isascii() and any("\ud800" <= letter <= "\udfff" for letter in plain):
        raise WireError(f"{where}: {ascii(plain)[:60]}, expected text that UTF-8 can carry")
    return plain


def _read_bytes(where: str, plain: Any) -> bytes:
    if not isinstance(plain, bytes):
        raise WireError(f"{where}: {_shown(plain)}, expected bytes")
    return plain


def _shown(plain: object) -> str:
    """Return a short, safe picture of a hostile value for an error message."""
    text = repr(plain) if isinstance(plain, str | int | float | bool | None) else type(plain).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."


_SCALARS: Final[dict[Any, _Reader]] = {
    int: _read_int,
    float: _read_float,
    bool: _read_bool,
    str: _read_text,
    bytes: _read_bytes,
}
