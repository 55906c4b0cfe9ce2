"""A small `bench ingest` through a real broker."""

import json

import pytest

from flyball_cli.__main__ import main

pytestmark = pytest.mark.broker


@pytest.mark.parametrize("client", ["bulk", "aiomqtt"])
def test_every_batch_of_every_host_comes_through(client: str, capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["bench", "ingest", "--hosts", "20", "--seconds", "2", "--client", client, "--json"])
    figures = json.loads(capfd.readouterr().out)

    assert code == 0
    assert (figures["messages"], figures["sent"], figures["lost"], figures["qos"]) == (40, 40, 0, 1)
    assert figures["rows"] == 40 * 10 * 8
