"""The MQTT connection settings refuse what cannot work, and less than was asked is noticed."""

import pytest

from flyball_wire.errors import BrokerError
from flyball_wire.mqtt import BrokerConfig, check_granted


@pytest.mark.parametrize(("level", "said"), [(0, "granted QoS 0"), (0x80, "refused")])
def test_a_subscription_granted_less_than_asked_is_refused(level: int, said: str) -> None:
    with pytest.raises(BrokerError, match=f"'a/b': {said}"):
        check_granted([("a/a", 0), ("a/b", 1)], [0, level])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"certificate_file": "c", "ca_file": "a"}, "expected both or neither"),
        ({"certificate_file": "c", "key_file": "k"}, "broker.ca_file"),
        ({"password_file": "p"}, "broker.username"),
        ({"topic_prefix": "a b"}, "broker.topic_prefix 'a b'"),
    ],
)
def test_half_an_identity_is_refused_by_the_key_that_is_missing(settings: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        BrokerConfig(**settings)  # type: ignore[arg-type]  # a table of texts


def test_a_prefix_carries_its_slash() -> None:
    assert BrokerConfig(topic_prefix="dc1/power").prefix == "dc1/power/"
    assert BrokerConfig().prefix == ""
