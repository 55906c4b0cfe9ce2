"""Journalled decisions made again: the same, or told to differ."""

import json
from pathlib import Path
from typing import Any

from tests.flyball_aggregator.small_site import build_small_site

from flyball_cli.replay import line_of, replay_record


async def journalled(directory: Path) -> dict[str, Any]:
    small = build_small_site(directory)
    await small.seconds(5)
    newest = small.store.decisions_before(1e11, 1)[0]
    record = small.store.decision(newest["id"])
    assert record is not None
    return {**record, "input": bytes(record["input"]).hex()}


async def test_a_journalled_decision_comes_out_the_same(tmp_path: Path) -> None:
    found = replay_record(await journalled(tmp_path))

    assert (found.is_same, found.is_input_intact) == (True, True)
    assert found.orders > 0


async def test_an_altered_order_or_input_is_told(tmp_path: Path) -> None:
    record = await journalled(tmp_path)
    orders = {host: watts + 1.0 for host, watts in json.loads(record["orders"]).items()}

    altered = replay_record({**record, "orders": json.dumps(orders), "input_hash": "0" * 64})

    assert (altered.is_same, altered.is_input_intact) == (False, False)
    assert "DIFFERS" in line_of(altered)
    assert "altered" in line_of(altered)
