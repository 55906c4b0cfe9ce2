"""AsyncAPI 3.0 documents of our own topics, generated from the message types: what others need to plug in.

Host topics carry msgpack maps of these fields; everything under `fleet/` and the meters are JSON. The schema of
a field comes from its type and the bounds that the codec checks, so that document and code cannot differ.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Final, Literal

from flyball_wire.codec import Length, Range
from flyball_wire.facility import FleetPower, RowPower
from flyball_wire.lease import Lease, Report
from flyball_wire.messages import Birth, Command, Event, State, Telemetry
from flyball_wire.topics import PREFIX

ASYNCAPI: Final = "3.0.0"
Writer = Literal["host", "aggregator", "facility"]


@dataclasses.dataclass(frozen=True, slots=True)
class MeterReading:
    """A facility meter's newest value, on meter/{element} once a second."""

    power_watts: float
    time: str


@dataclasses.dataclass(frozen=True, slots=True)
class Topic:
    """One of our topics."""

    name: str
    address: str
    message: type[Any]
    writer: Writer
    qos: int
    is_json: bool
    is_signed: bool = False


HOST: Final = f"{PREFIX}/{{site}}/host/{{host}}"
TOPICS: Final = (
    Topic("birth", f"{HOST}/birth", Birth, "host", 1, is_json=False),
    Topic("state", f"{HOST}/state", State, "host", 1, is_json=False),
    Topic("telemetry", f"{HOST}/telemetry", Telemetry, "host", 0, is_json=False),
    Topic("event", f"{HOST}/event", Event, "host", 1, is_json=False),
    Topic("ack", f"{HOST}/ack", Report, "host", 1, is_json=False, is_signed=True),
    Topic("lease", f"{HOST}/lease", Lease, "aggregator", 1, is_json=False, is_signed=True),
    Topic("command", f"{HOST}/command", Command, "aggregator", 1, is_json=False, is_signed=True),
    Topic("fleetPower", f"{PREFIX}/{{site}}/fleet/power", FleetPower, "aggregator", 0, is_json=True),
    Topic("rowPower", f"{PREFIX}/{{site}}/fleet/rows/{{row}}", RowPower, "aggregator", 0, is_json=True),
    Topic("meter", f"{PREFIX}/{{site}}/meter/{{element}}", MeterReading, "facility", 0, is_json=True),
)


def build_document(version: str) -> dict[str, Any]:
    """Return the document of every topic under flyball/v1."""
    schemas: dict[str, Any] = {}
    for topic in TOPICS:
        add_schema(topic.message, schemas)
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "flyball",
            "version": version,
            "description": "Topics of flyball: MQTT 3.1.1, nothing retained, times in Unix seconds unless named else.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/msgpack",
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": {f"{_action(topic)}{_capital(topic.name)}": _operation(topic) for topic in TOPICS},
        "components": {"messages": {topic.name: _message(topic) for topic in TOPICS}, "schemas": schemas},
    }


def add_schema(kind: type[Any], schemas: dict[str, Any]) -> dict[str, str]:
    """Add the schema of a message type, and of those in it; return the reference to it."""
    reference = {"$ref": f"#/components/schemas/{kind.__name__}"}
    if kind.__name__ in schemas:
        return reference
    schemas[kind.__name__] = {}  # a type may hold itself
    hints = typing.get_type_hints(kind, include_extras=True)
    items = [(item, hints[item.name]) for item in dataclasses.fields(kind)]
    wire = {name: {"const": getattr(kind, attribute)} for name, attribute in (("kind", "KIND"), ("v", "VERSION"))
            if hasattr(kind, attribute)}  # fmt: skip
    required = [item.name for item, _hint in items if item.default is dataclasses.MISSING]
    schemas[kind.__name__] = {
        "type": "object",
        "description": (kind.__doc__ or "").split("\n\n", maxsplit=1)[0].replace("\n", " ").strip(),
        "properties": {**wire, **{item.name: schema_of(hint, schemas) for item, hint in items}},
        "required": [*wire, *required],
    }
    return reference


def schema_of(hint: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a type as the codec reads it.

    Raises:
        TypeError: a type that no message has.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return {**schema_of(arguments[0], schemas), **_bounds(arguments[0], arguments[1:])}
    if origin in {typing.Union, types.UnionType}:
        return {"oneOf": [schema_of(item, schemas) for item in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": schema_of(arguments[0], schemas)}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": schema_of(arguments[1], schemas)}
    if dataclasses.is_dataclass(hint):
        return dict(add_schema(typing.cast("type[Any]", hint), schemas))
    return dict(_plain(hint))


def _plain(hint: Any) -> Mapping[str, Any]:
    hint = getattr(hint, "__supertype__", hint)
    known: dict[Any, dict[str, Any]] = {
        bool: {"type": "boolean"},
        int: {"type": "integer"},
        float: {"type": "number"},
        str: {"type": "string"},
        bytes: {"type": "string", "format": "binary"},
        type(None): {"type": "null"},
        Any: {},
        object: {},
    }
    if hint not in known:
        raise TypeError(f"{hint}: no message has such a field")
    return known[hint]


def _bounds(hint: Any, marks: tuple[Any, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    is_many = typing.get_origin(hint) is tuple
    for mark in marks:
        if isinstance(mark, Range):
            found |= {"minimum": mark.low, "maximum": mark.high}
        elif isinstance(mark, Length):
            most, least = ("maxItems", "minItems") if is_many else ("maxLength", "minLength")
            found |= {most: mark.most, **({least: mark.least} if mark.least else {})}
    return found


def _channel(topic: Topic) -> dict[str, Any]:
    parameters = [level[1:-1] for level in topic.address.split("/") if level.startswith("{")]
    return {
        "address": topic.address,
        "parameters": {name: {"description": "A name of letters, digits, '_' and '-'."} for name in parameters},
        "messages": {topic.name: {"$ref": f"#/components/messages/{topic.name}"}},
    }


def _operation(topic: Topic) -> dict[str, Any]:
    return {
        "action": _action(topic),
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "summary": f"Written by the {topic.writer}.",
        "bindings": {"mqtt": {"qos": topic.qos, "retain": False}},
    }


def _message(topic: Topic) -> dict[str, Any]:
    signed = "The payload is an envelope signed with Ed25519; these are the fields inside. " if topic.is_signed else ""
    return {
        "name": topic.name,
        "contentType": "application/json" if topic.is_json else "application/msgpack",
        "summary": f"{signed}{(topic.message.__doc__ or '').splitlines()[0]}",
        "payload": {"$ref": f"#/components/schemas/{topic.message.__name__}"},
    }


def _action(topic: Topic) -> str:
    return "send" if topic.writer == "aggregator" else "receive"


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]
