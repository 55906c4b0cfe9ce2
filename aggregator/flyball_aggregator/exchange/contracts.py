"""The published contracts (DSX Flex, BMS, NICo; Apache-2.0, unaltered in schemas/): topics, and what each may carry.

A topic belongs to a channel when it fits the channel's address and its parameters are in their enumerations; `tagPath`
takes any number of levels. Validators are built once; building all of them takes about half a second.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

SCHEMAS: Final = Path(__file__).parent / "schemas"
NAMES: Final = ("dsx-flex", "bms", "nico")
MULTI_LEVEL: Final = "tagPath"
MAX_TOPIC_BYTES: Final = 65_535  # MQTT 3.1.1, 1.5.3


@dataclass(frozen=True, slots=True)
class Channel:
    """One topic template of a contract and the messages it may carry, by the name the contract gives them."""

    contract: str
    name: str
    address: str
    pattern: re.Pattern[str]
    enums: Mapping[str, frozenset[str]]
    validators: Mapping[str, Validator]
    point_types: Mapping[str, frozenset[str]]  # of BMS metadata: message -> pointTypes it describes

    @property
    def is_metadata(self) -> bool:
        """Whether it carries BMS metadata."""
        return "/Metadata/" in self.address


@dataclass(frozen=True, slots=True)
class Match:
    """A topic's channel and the parameters in it."""

    channel: Channel
    parameters: Mapping[str, str]


def match_topic(topic: str) -> Match | None:
    """Return the channel of a topic; None when no contract has it."""
    if len(topic.encode(errors="replace")) > MAX_TOPIC_BYTES:
        return None
    for channel in channels():
        found = channel.pattern.fullmatch(topic)
        if found is None:
            continue
        values = found.groupdict()
        if all(values[name] in allowed for name, allowed in channel.enums.items()):
            return Match(channel, values)
    return None


def load_contracts() -> None:
    """Build what the first message would otherwise wait more than a second for."""
    for channel in channels():
        if channel.contract == "dsx-flex":
            for validator in channel.validators.values():
                validator.is_valid({"data": {"targets": [{"interval": {}, "load_constraint": None}]}})
    schema_validator("dsx-flex", "SetLoadTargetData").is_valid({"targets": []})
    schema_validator("dsx-flex", "PowerBreachEnforcementData").is_valid({})


@cache
def channels() -> tuple[Channel, ...]:
    """Return every channel; where a topic fits several, the one with fewer free parameters comes first."""
    found = [channel for name in NAMES for channel in _channels_of(name)]
    return tuple(sorted(found, key=lambda channel: channel.address.count("{")))


@cache
def schema_validator(contract: str, schema: str) -> Validator:
    """Return the validator of a named schema of a contract, such as SetLoadTargetData of dsx-flex."""
    return _validator(contract, f"/components/schemas/{schema}")


@cache
def document(contract: str) -> dict[str, Any]:
    """Return a contract as published."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = (SCHEMAS / f"{contract}.yaml").read_text(encoding="utf-8")
    plain: dict[str, Any] = yaml.load(text, Loader=loader)  # noqa: S506 - both loaders are the safe ones
    return plain


def _channels_of(contract: str) -> Iterator[Channel]:
    plain = document(contract)
    for name, item in plain["channels"].items():
        parameters = item.get("parameters", {})
        messages = {key: value["$ref"].rsplit("/", 1)[-1] for key, value in item["messages"].items()}
        yield Channel(
            contract=contract,
            name=name,
            address=item["address"],
            pattern=_pattern(item["address"]),
            enums={key: frozenset(value["enum"]) for key, value in parameters.items() if "enum" in value},
            validators={
                message: _validator(contract, f"/components/messages/{message}/payload")
                for message in messages.values()
            },
            point_types={message: _point_types(plain, message) for message in messages.values()},
        )


def _pattern(address: str) -> re.Pattern[str]:
    """Return the template as an expression: a level for each parameter, one or more levels for the tag path."""
    parts = []
    for level in address.split("/"):
        if not level.startswith("{"):
            parts.append(re.escape(level))
        elif level[1:-1] == MULTI_LEVEL:
            parts.append(rf"(?P<{MULTI_LEVEL}>[^/+#\x00]+(?:/[^/+#\x00]+)*)")
        else:
            parts.append(rf"(?P<{level[1:-1]}>[^/+#\x00]+)")
    return re.compile("/".join(parts))


def _validator(contract: str, pointer: str) -> Validator:
    schema = {"$ref": f"{_uri(contract)}#{pointer}"}
    return Draft202012Validator(schema, registry=_registry(), format_checker=Draft202012Validator.FORMAT_CHECKER)


@cache
def _registry() -> Registry[Any]:
    resources = [(_uri(name), Resource.from_contents(document(name), DRAFT202012)) for name in NAMES]
    registry: Registry[Any] = Registry().with_resources(resources)
    return registry


def _uri(contract: str) -> str:
    return f"urn:flyball:contract:{contract}"


def _point_types(plain: dict[str, Any], message: str) -> frozenset[str]:
    return frozenset(_constants(plain, plain["components"]["messages"][message]["payload"], "pointType", 0))


def _constants(plain: dict[str, Any], schema: dict[str, Any], key: str, depth: int) -> Iterator[str]:
    """Yield the values that a schema fixes a property to, through references and allOf."""
    if depth > 8:
        return
    if "$ref" in schema:
        yield from _constants(plain, plain["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]], key, depth + 1)
    for part in schema.get("allOf", ()):
        yield from _constants(plain, part, key, depth + 1)
    fixed = schema.get("properties", {}).get(key, {})
    if "const" in fixed:
        yield fixed["const"]
    yield from fixed.get("enum", ())
