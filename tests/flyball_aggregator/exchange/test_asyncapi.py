import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
import yaml
from jsonschema import Draft202012Validator
from tests.flyball_aggregator.small_site import build_small_site

from flyball_aggregator.exchange.asyncapi import TOPICS, build_document
from flyball_cli.__main__ import main


def _validator(document: dict[str, Any], schema: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{schema}", "components": document["components"]})


async def test_what_a_real_site_sends_validates_against_the_generated_document(tmp_path: Path) -> None:
    document = build_document("0")
    site = build_small_site(tmp_path)
    await site.seconds(3)
    kinds = {"power": "FleetPower", "feed": "RowPower"}
    seen = {topic.rsplit("/", 1)[-1]: json.loads(payload) for topic, payload in site.broker.said.items()}
    for name, payload in seen.items():
        _validator(document, kinds[name]).validate(payload)
    assert seen.keys() == kinds.keys()
    state = msgpack.unpackb(site.hosts["host-0"].state(site.now_s))
    _validator(document, "State").validate(state)
    with pytest.raises(Exception, match="seq"):
        _validator(document, "State").validate({**state, "seq": "one"})
    site.stop()


def test_every_reference_of_the_document_is_there() -> None:
    document = build_document("1.2.3")
    text = json.dumps(document)
    for topic in TOPICS:
        assert document["channels"][topic.name]["address"] == topic.address
        Draft202012Validator.check_schema(document["components"]["schemas"][topic.message.__name__])
    for part in text.split('"$ref": "#/')[1:]:
        item: Any = document
        for key in part.split('"')[0].split("/"):
            item = item[key]


def test_the_command_prints_it_as_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exchange", "asyncapi"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["asyncapi"] == "3.0.0"
