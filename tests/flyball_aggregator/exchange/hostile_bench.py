"""10,000 hostile messages of each type: `python -m tests.flyball_aggregator.exchange.hostile_bench [COUNT]`.

Each is a valid message with random parts replaced, bytes flipped, or cut; none may raise, and none that is refused may
change anything. Prints what each type was refused for.
"""

import copy
import json
import logging
import random
import sys
import time
import uuid
from typing import Any, Final

from tests.flyball_aggregator.exchange.grid_rig import INFRA_KEY, ISV_KEY, GridRig
from tests.flyball_aggregator.exchange.grid_samples import samples

from flyball_aggregator.exchange.bms_points import BmsRefusedError, PointBook
from flyball_aggregator.exchange.check_message import check_message
from flyball_aggregator.exchange.cloud_event import show_time
from flyball_aggregator.exchange.host_states import verdict_of

ATOMS: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    -1,
    0,
    1e308,
    2**70,
    "",
    "\x00",
    "a" * 3000,
    [],
    {},
    [[]],
    {"value": None},
    "2027-13-01",
)


def main() -> None:
    """Run every type."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    logging.disable(logging.CRITICAL)
    rng = random.Random(1)
    for topic, payload in samples():
        started_s = time.process_time()
        outcome = run_type(rng, topic, payload, count)
        print(f"{topic}: {count} messages, {time.process_time() - started_s:.1f} s CPU, {outcome}")


def run_type(rng: random.Random, topic: str, payload: dict[str, Any], count: int) -> dict[str, int]:
    """Send hostile messages of one type; returns how many were taken, and refused for each reason."""
    rig, book = GridRig(), PointBook()
    rig.second()
    outcome: dict[str, int] = {}
    for _ in range(count):
        raw = hostile(rng, rig, topic, payload)
        reason = _send_grid(rig, topic, raw) if topic.startswith("grid") else _send_plain(book, topic, raw)
        outcome[reason] = outcome.get(reason, 0) + 1
    return dict(sorted(outcome.items()))


def hostile(rng: random.Random, rig: GridRig, topic: str, payload: dict[str, Any]) -> bytes:
    """Return one hostile message; half of the grid's carry a good signature over changed data."""
    plain = copy.deepcopy(payload)
    if topic.startswith("grid"):
        plain["time"] = show_time(rig.now_s)
        if rng.random() < 0.5:
            key = INFRA_KEY if "/infra/" in topic else ISV_KEY
            plain["data"] = key.sign(json.dumps(replaced(rng, plain["data"])).encode())
            return json.dumps(plain | {"id": str(uuid.UUID(int=rng.getrandbits(128), version=4))}).encode()
    raw = json.dumps(replaced(rng, plain)).encode()
    if rng.random() < 0.3:
        place = rng.randrange(len(raw))
        raw = raw[:place] if rng.random() < 0.5 else raw[:place] + bytes([rng.randrange(256)]) + raw[place + 1 :]
    return raw


def replaced(rng: random.Random, value: Any) -> Any:
    """Return a JSON value with one part replaced, left out or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        inner = {**value, key: replaced(rng, value[key])}
        if rng.random() < 0.1:
            del inner[key]
        return inner
    if isinstance(value, list) and value and rng.random() < 0.8:
        return [replaced(rng, value[0]), *value[1:]]
    return rng.choice(ATOMS)


def _send_grid(rig: GridRig, topic: str, raw: bytes) -> str:
    rig.now_s += 2.0  # no flood: that is refused before anything else
    before, refused = rig.state(), rig.agent.refused.copy()
    rig.agent.take(topic, raw, rig.now_s)
    reasons = list(rig.agent.refused - refused)
    if reasons and rig.state() != before:
        raise AssertionError(f"refused for {reasons[0]}, yet something changed: {raw[:500]!r}")
    return reasons[0] if reasons else "taken"


def _send_plain(book: PointBook, topic: str, raw: bytes) -> str:
    try:
        plain = json.loads(raw)
    except (ValueError, RecursionError):
        plain = None
    check_message(topic, plain)
    if isinstance(plain, dict) and isinstance(plain.get("managed_host_state"), dict):
        return str(verdict_of(plain["managed_host_state"]))
    before = dict(book.values), dict(book.metadata)
    try:
        book.take(topic, raw, 1.9e9)
    except BmsRefusedError as error:
        if (book.values, book.metadata) != before:
            raise AssertionError(f"refused, yet something changed: {raw[:500]!r}") from error
        return error.reason
    return "taken"


if __name__ == "__main__":
    main()
