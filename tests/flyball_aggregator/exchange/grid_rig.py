"""A DSX Flex agent with two feeds in virtual time, and an ISV that signs."""

import base64
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from flyball_aggregator.exchange.breach import ShedHint
from flyball_aggregator.exchange.cloud_event import Outgoing, build_event, show_time
from flyball_aggregator.exchange.grid_agent import GridAgent, GridSettings
from flyball_aggregator.exchange.jws import JwsSigner, TrustedKey
from flyball_aggregator.exchange.seen_digests import SeenDigests
from flyball_aggregator.flex.engine import FlexEngine
from flyball_aggregator.flex.feeds import Feed, FeedReading

NOW_S = 1_800_000_000.0
TOP_W = 1e6
AGENT_KEY = JwsSigner("flyball-1", ec.generate_private_key(ec.SECP256R1()))
ISV_KEY = JwsSigner("acme-1", ec.generate_private_key(ec.SECP256R1()))
RSA_KEY = JwsSigner("grid-1", rsa.generate_private_key(65_537, 2048))
OTHER_KEY = JwsSigner("other-1", ec.generate_private_key(ec.SECP256R1()))
INFRA_KEY = JwsSigner("ima-1", ec.generate_private_key(ec.SECP256R1()))


def trusted(signer: JwsSigner, source: str) -> TrustedKey:
    """Return what verifies a signer."""
    return TrustedKey(signer.key_id, signer.algorithm, signer.private.public_key(), source)


KEYS = {
    key.key_id: key
    for key in (
        trusted(ISV_KEY, "//grid/v1/isv/acme-energy"),
        trusted(RSA_KEY, "//grid/v1/isv/grid-op"),
        trusted(OTHER_KEY, "//grid/v1/isv/other"),
        trusted(INFRA_KEY, "//grid/v1/infra/ima"),
    )
}


@dataclass
class Said:
    """One message of the agent, its data opened."""

    topic: str
    qos: int
    envelope: dict[str, Any]
    data: dict[str, Any]

    def feed(self, tag: str = "main-a") -> dict[str, Any]:
        """Return a feed of a status."""
        found: dict[str, Any] = self.data["feeds"][tag]
        return found


@dataclass
class GridRig:
    """Two feeds of 1 MW that follow their targets within `lag` seconds."""

    load_w: float = 8e5
    restart_w_per_s: float | None = None
    now_s: float = NOW_S
    seen: SeenDigests | None = None
    said: list[Said] = field(default_factory=list)
    sent: list[Outgoing] = field(default_factory=list)
    stuck_w: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        feeds = {
            tag: Feed(tag, f"row-{tag}", index, (tag,), 2e5, TOP_W) for index, tag in enumerate(("main-a", "main-b"))
        }
        self.engine = FlexEngine(feeds, self.restart_w_per_s)
        self.agent = GridAgent(GridSettings(keys=KEYS, signer=AGENT_KEY), self.engine, self.seen)
        self.drawn_w = dict.fromkeys(feeds, self.load_w)

    def signed_set(
        self, targets: object, *, isv: str = "acme-energy", signer: JwsSigner = ISV_KEY, **more: Any
    ) -> Outgoing:
        """Return a set as an ISV would publish it."""
        return build_event(
            topic=f"grid/v1/isv/{isv}/loadtarget/set",
            kind="grid.loadtarget.set.v1",
            source=f"//grid/v1/isv/{isv}",
            subject="loadtarget",
            data={"targets": targets},
            now_s=self.now_s,
            signer=signer,
            correlation_id=more.pop("correlation_id", str(uuid.uuid4())),
            **more,
        )

    def take(self, message: Outgoing) -> list[Said]:
        """Let the agent hear a message."""
        return self._note(self.agent.take(message.topic, message.payload, self.now_s))

    def set(self, watts: float | None, **more: Any) -> list[Said]:
        """Set one target that starts now, of an ISV."""
        options = {name: more.pop(name) for name in ("isv", "signer", "correlation_id", "trace_id") if name in more}
        return self.take(self.signed_set([target(watts, start_s=self.now_s, **more)], **options))

    def second(self, hints: Sequence[ShedHint] = ()) -> list[Said]:
        """Let a second pass; loads follow the limits at once unless they are stuck."""
        self.now_s += 1.0
        limits = self.engine.limits(self.now_s)
        readings = {}
        for tag, feed in self.engine.feeds.items():
            allowed_w = min([watts for (row, _source), watts in limits.items() if row == feed.row], default=TOP_W)
            self.drawn_w[tag] = self.stuck_w.get(tag, min(self.load_w, allowed_w))
            readings[tag] = FeedReading(self.drawn_w[tag], self.drawn_w[tag], is_metered=True)
        return self._note(self.agent.step(readings, dict.fromkeys(readings, hints), self.now_s))

    def seconds(self, count: int) -> list[Said]:
        """Let seconds pass and return all that was said."""
        return [said for _ in range(count) for said in self.second()]

    def state(self) -> tuple[object, object]:
        """Return everything that a refused message must not change."""
        return self.engine.book.all(), dict(self.engine.states)

    def _note(self, outgoing: list[Outgoing]) -> list[Said]:
        self.sent += outgoing
        said = [opened(item) for item in outgoing]
        self.said += said
        return said


def opened(item: Outgoing) -> Said:
    """Return an outgoing event with its data decoded (its signature is another test)."""
    envelope = json.loads(item.payload)
    body = envelope["data"].split(".")[1]
    return Said(item.topic, item.qos, envelope, json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))


def target(
    watts: float | None, *, start_s: float | None = None, end_s: float | None = None,
    feeds: Sequence[str] | None = None, unit: str = "watt", best_effort: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Return a target of a set."""
    interval = {}
    if start_s is not None:
        interval["start_time"] = show_time(start_s)
    if end_s is not None:
        interval["end_time"] = show_time(end_s)
    plain: dict[str, Any] = {
        "interval": interval,
        "load_constraint": None if watts is None else {"value": watts, "unit": unit},
    }
    if feeds is not None:
        plain["feed_tags"] = list(feeds)
    if best_effort:
        plain["strategy"] = {"best_effort": True}
    return plain
