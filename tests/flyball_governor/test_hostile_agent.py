"""An agent that an attacker owns: whatever it sends the governor, caps never rise above what was signed.

FLYBALL_FUZZ_MESSAGES says how many mutated messages each test sends (default 1,500).
"""

import os
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.flyball_governor.rig import LEASE_KEY, Rig, enforcing

from flyball_wire.codec import decode, encode
from flyball_wire.errors import WireError
from flyball_wire.local_socket import Action, Request
from flyball_wire.signing import SigningKey, sign

MESSAGES = int(os.environ.get("FLYBALL_FUZZ_MESSAGES", "1500"))
SIGNED_W = 900.0


async def leased(folder: Path) -> Rig:
    """Return a governor that holds a lease of SIGNED_W."""
    rig = await Rig(enforcing(folder)).begin()
    await rig.run(2)
    await rig.grant(SIGNED_W, ttl_s=1000)
    return await rig.run(1)


def mutated(source: random.Random, raw: bytes) -> bytes:
    """Return a message with bytes flipped, cut out, doubled or put in."""
    changed = bytearray(raw)
    for _ in range(source.randint(1, 6)):
        at = source.randrange(len(changed) + 1)
        match source.randrange(4):
            case 0 if at < len(changed):
                changed[at] ^= 1 << source.randrange(8)
            case 1:
                del changed[at : at + source.randint(1, 9)]
            case 2:
                changed[at:at] = source.randbytes(source.randint(1, 9))
            case _:
                changed[at:at] = changed[at : at + source.randint(1, 40)]
    return bytes(changed)


def seeds(rig: Rig) -> list[bytes]:
    """Return well-formed requests of every kind, the hostile agent's own forgeries among them."""
    forger = SigningKey("lease-1", Ed25519PrivateKey.generate())
    higher = sign(rig.lease(1400, ttl_s=1000), forger)
    replayed = sign(replace(rig.lease(1400), incarnation="0" * 32), LEASE_KEY)
    stale = sign(replace(rig.lease(1400), stamp_ms=0, ttl_ms=100), LEASE_KEY)
    foreign = sign(replace(rig.lease(1400), host="h2"), LEASE_KEY)
    actions: tuple[Action, ...] = ("hello", "report", "status", "gate", "lower", "command")
    requests = [Request(number, action) for number, action in enumerate(actions)]
    requests += [Request(9, "lease", body) for body in (higher, replayed, stale, foreign)]
    return [encode(request) for request in [*requests, Request(10, "lower", limit_milliwatts=10**9)]]


async def deliver(rig: Rig, raw: bytes) -> bool:
    """Give the governor one frame's payload as its socket would; say whether it was taken."""
    try:
        answer = await rig.requests.handle_request(decode(Request, raw))
    except WireError:
        return False
    for descriptor in answer.descriptors:
        os.close(descriptor)
    return True


@pytest.mark.parametrize("seed", [1, 2])
async def test_mutated_messages_never_raise_a_cap_and_never_break_the_governor(tmp_path: Path, seed: int) -> None:
    rig, source = await leased(tmp_path), random.Random(seed)
    before, kinds = rig.report.fence, seeds(rig)
    rig.side.largest_sum = 0
    tracemalloc.start()
    for number in range(MESSAGES):
        await deliver(rig, mutated(source, source.choice(kinds)))
        if number % 100 == 0:
            await rig.run(0.1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert rig.side.largest_sum <= SIGNED_W * 1000
    assert rig.report.bound_milliwatts <= SIGNED_W * 1000
    assert rig.report.fence == before
    assert peak < 64 << 20


async def test_forged_replayed_stale_and_foreign_leases_are_refused_unmutated_too(tmp_path: Path) -> None:
    rig = await leased(tmp_path)
    before = rig.report.fence
    for raw in seeds(rig):
        await deliver(rig, raw)
        await rig.run(0.5)

    assert rig.report.fence == before
    assert sum(rig.side.limits) <= SIGNED_W * 1000


async def test_a_hostile_agent_may_lower_and_the_next_signed_lease_stands_again(tmp_path: Path) -> None:
    rig = await leased(tmp_path)
    assert await deliver(rig, encode(Request(1, "lower", limit_milliwatts=600_000)))
    await rig.run(1)
    assert sum(rig.side.limits) <= 600_000


async def test_a_report_is_signed_by_a_key_that_no_answer_tells(tmp_path: Path) -> None:
    rig = await leased(tmp_path)
    secret = rig.governor.identity.key.private.private_bytes_raw()
    for action in ("hello", "report", "status", "gate"):
        answer = await rig.requests.handle_request(Request(1, action))
        assert secret not in encode(answer.reply)
        for descriptor in answer.descriptors:
            os.close(descriptor)
