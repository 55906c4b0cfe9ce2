import logging
import random

import pytest
from tests.flyball_aggregator.exchange.grid_samples import samples
from tests.flyball_aggregator.exchange.hostile_bench import run_type


@pytest.mark.parametrize(("topic", "payload"), samples())
def test_hostile_messages_of_each_type_are_counted_with_their_reason_and_change_nothing(
    topic: str, payload: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    outcome = run_type(random.Random(7), topic, payload, 300)
    assert sum(outcome.values()) == 300
    assert sum(count for reason, count in outcome.items() if reason != "taken") > 150
