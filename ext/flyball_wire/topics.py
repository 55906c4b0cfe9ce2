"""MQTT topics of flyball: one function builds each, one parses what a host wrote.

Layout: flyball/v1/{site}/host/{host}/{channel} and flyball/v1/{site}/fleet/{name}. Plain MQTT 3.1.1; nothing relies on
retained messages. Identifiers hold no '.', ' ', '+', '#' or '/', so that NATS brokers carry them too.
"""

import functools
import re
from typing import Final, Literal, get_args

from flyball_wire.errors import WireError

PREFIX: Final = "flyball/v1"
HostChannel = Literal["birth", "state", "telemetry", "event", "ack"]
OrderChannel = Literal["lease", "command"]
HOST_CHANNELS: Final[tuple[str, ...]] = get_args(HostChannel)
ORDER_CHANNELS: Final[tuple[str, ...]] = get_args(OrderChannel)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_name(what: str, name: str) -> str:
    """Return the name when it may stand in a topic.

    Raises:
        WireError: the name is empty, too long or has a character that topics cannot carry.
    """
    if not _NAME.fullmatch(name):
        raise WireError(f"{what} {name[:80]!r}: expected 1 to 64 letters, digits, '_' or '-'")
    return name


def host_topic(site: str, host: str, channel: HostChannel | OrderChannel) -> str:
    """Return the topic of one host's channel."""
    return f"{PREFIX}/{check_name('site', site)}/host/{check_name('host', host)}/{channel}"


def host_filter(site: str, channel: HostChannel) -> str:
    """Return the subscription that matches one channel of every host of a site."""
    return f"{PREFIX}/{check_name('site', site)}/host/+/{channel}"


def fleet_topic(site: str, name: str) -> str:
    """Return a topic of the site's JSON summaries, such as `power`; `name` may have several levels."""
    levels = name.split("/")
    return "/".join([f"{PREFIX}/{check_name('site', site)}/fleet", *(check_name("level", level) for level in levels)])


@functools.lru_cache(maxsize=65_536)  # each host's few topics come every second
def parse_host_topic(topic: str) -> tuple[str, str, str]:
    """Return (site, host, channel) of a host topic.

    Raises:
        WireError: not a host topic, or a name in it is not allowed.
    """
    parts = topic.split("/", 6)
    if len(parts) != 6 or "/".join(parts[:2]) != PREFIX or parts[3] != "host":
        raise WireError(f"topic {topic[:200]!r}: expected {PREFIX}/SITE/host/HOST/CHANNEL")
    site, host, channel = parts[2], parts[4], parts[5]
    if channel not in HOST_CHANNELS and channel not in ORDER_CHANNELS:
        raise WireError(f"topic {topic[:200]!r}: channel {channel[:40]!r} is none of {HOST_CHANNELS + ORDER_CHANNELS}")
    return check_name("site", site), check_name("host", host), channel
