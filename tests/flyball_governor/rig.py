"""A governor on a fake device side and a fake clock, and the ledger's hand that signs leases for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.flyball_governor.device_side_fake import FakeClock, FakeDeviceSide

from flyball_governor.config import CapsConfig, GovernorConfig, LeaseConfig, TrustedKey
from flyball_governor.governor import Governor
from flyball_governor.host_caps import Clock
from flyball_governor.identity import load_identity
from flyball_governor.requests import Requests
from flyball_wire.lease import Fence, Lease, Report
from flyball_wire.local_socket import DeviceEvent, Reply, ReportReply, Request
from flyball_wire.signing import SigningKey, open_signed, sign

LEASE_KEY = SigningKey("lease-1", Ed25519PrivateKey.generate())
TURN_S = 0.1
WATT = 1000


def enforcing(folder: Path, *, host_limit_w: float | None = None, needs_lease: bool = True) -> GovernorConfig:
    """Return a configuration that enforces."""
    trusted = (TrustedKey("lease-1", LEASE_KEY.public_bytes.hex()),) if needs_lease else ()
    return GovernorConfig(
        host="h1",
        mode="enforce",
        host_limit_w=host_limit_w,
        state_dir=str(folder),
        lease=LeaseConfig(trusted=trusted),
        caps=CapsConfig(settle_s=1.0),
    )


def busy(cap_mw: int) -> tuple[int, float]:
    """Draw all that the cap allows, held back by it."""
    return cap_mw, 1.0


def idle(cap_mw: int) -> tuple[int, float]:
    """Draw next to nothing."""
    return 80_000, 0.0


Load = Callable[[int], tuple[int, float]]  # cap -> power in milliwatts, share of time throttled


@dataclass
class Rig:
    """One host; `loads` says what each GPU does."""

    config: GovernorConfig
    side: FakeDeviceSide = field(default_factory=FakeDeviceSide)
    clock: FakeClock = field(default_factory=FakeClock)
    loads: dict[int, Load] = field(default_factory=dict)
    heard: list[Reply] = field(default_factory=list)
    seq: int = 0
    is_sampled: bool = True
    _throttled_ns: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        folder = Path(self.config.state_dir)
        folder.mkdir(parents=True, exist_ok=True)
        clock = Clock(lambda: int(self.clock.now_s * 1000), self.clock, lambda: 1.7e9 + self.clock.now_s)
        self.governor = Governor(self.config, load_identity("h1", folder), self.side, clock)
        self.governor.publish = self.heard.append
        self.requests = Requests(self.governor)

    async def begin(self) -> "Rig":
        await self.governor.begin()
        return self

    async def run(self, seconds: float) -> "Rig":
        """Let time pass, turn by turn, with every GPU drawing what its load says."""
        for _ in range(round(seconds / TURN_S)):
            self.clock.now_s += TURN_S
            if self.is_sampled:
                self._draw()
            await self.governor.turn()
        return self

    def _draw(self) -> None:
        for gpu, limit in enumerate(self.side.limits):
            power_mw, ratio = self.loads.get(gpu, busy)(limit)
            self._throttled_ns[gpu] = self._throttled_ns.get(gpu, 0) + int(ratio * TURN_S * 1e9)
            self.side.add_row(gpu, self.clock.now_s, power_mw, self._throttled_ns[gpu])

    def lease(self, watts: float | None, *, incarnation: str = "", ttl_s: float = 10.0, safe_w: float = 0.0) -> Lease:
        """Return the next lease, stamped now."""
        self.seq += 1
        return Lease(
            host="h1",
            incarnation=incarnation or self.governor.identity.incarnation,
            fence=Fence(1, self.seq),
            watts_milliwatts=None if watts is None else int(watts * WATT),
            safe_milliwatts=int(safe_w * WATT),
            stamp_ms=self.report.stamp_ms,
            ttl_ms=int(ttl_s * 1000),
            hold_ms=30_000,
            ramp_milliwatts_per_s=70_000,
        )

    async def grant(self, watts: float | None, **more: object) -> Report:
        """Send a signed lease and return the report that answers it."""
        return await self.send(self.lease(watts, **more))  # type: ignore[arg-type]  # as in lease()

    async def send(self, lease: Lease, key: SigningKey = LEASE_KEY) -> Report:
        answer = await self.requests.handle_request(Request(1, "lease", sign(lease, key)))
        assert isinstance(answer.reply, ReportReply)
        return self.open(answer.reply.envelope)

    def open(self, envelope: bytes) -> Report:
        key = self.governor.identity.key
        return open_signed(Report, envelope, {key.key_id: key.public_bytes})

    @property
    def report(self) -> Report:
        """The newest report."""
        envelope = self.governor.seat.envelope
        assert envelope is not None
        return self.open(envelope)

    @property
    def events(self) -> list[str]:
        """Names of the events told so far."""
        return [reply.name for reply in self.heard if isinstance(reply, DeviceEvent)]
