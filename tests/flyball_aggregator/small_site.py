"""A whole site in virtual time for tests: real loop, ledger and store; hosts and broker faked at their protocols."""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flyball_aggregator.config import StoreConfig
from flyball_aggregator.fleet import build_fleet
from flyball_aggregator.intake import Intake
from flyball_aggregator.power.facility import FacilityPublisher
from flyball_aggregator.power.holds import HoldBook
from flyball_aggregator.power.lease_desk import LeaseDesk
from flyball_aggregator.power.ledger import Alarm
from flyball_aggregator.power.ledger_store import LedgerStore
from flyball_aggregator.power.loop import LoopParts, PowerLoop
from flyball_aggregator.power.snapshot import PowerSnapshot
from flyball_aggregator.site import Element, Host, Policy, Site
from flyball_aggregator.store import SqliteStore
from flyball_wire.codec import encode
from flyball_wire.lease import NO_FENCE, Fence, HostMode, Lease, Report
from flyball_wire.messages import Command, GpuColumns, State
from flyball_wire.signing import SigningKey, open_signed, sign

GPUS = 8
GPU_MAXIMUM_W = 700.0
GPU_MINIMUM_W = 200.0
WALL_PER_GPU_WATT = 1.27
OWN_W = 180.0 * GPUS


@dataclass
class FakeHost:
    """A host whose governor follows leases at once: eight GPUs, each drawing what it wants up to its cap."""

    name: str
    key: SigningKey
    lease_public_key: bytes
    want_w: float = GPU_MAXIMUM_W
    mode: HostMode = "enforce"
    incarnation: str = field(default_factory=lambda: secrets.token_hex(16))
    session: str = field(default_factory=lambda: secrets.token_hex(16))
    cap_milliwatts: int = int(GPU_MINIMUM_W * GPUS * 1000)
    fence: Fence = NO_FENCE
    is_gated: bool = True
    is_reachable: bool = True
    seq: int = 0
    leases: int = 0

    @property
    def gpu_w(self) -> float:
        """What each GPU draws."""
        wanted = 80.0 if self.is_gated else self.want_w
        return min(wanted, self.cap_milliwatts / 1000 / GPUS)

    @property
    def wall_w(self) -> float:
        """What the host draws at the wall."""
        return OWN_W + WALL_PER_GPU_WATT * GPUS * self.gpu_w

    def take_lease(self, envelope: bytes, now_s: float) -> bytes:
        """Apply a lease if it is newer and for this incarnation; return the signed report."""
        lease = open_signed(Lease, envelope, {"lease-1": self.lease_public_key})
        if lease.incarnation == self.incarnation and lease.fence > self.fence:
            self.fence = lease.fence
            if lease.watts_milliwatts is not None:
                self.leases += 1
                self.cap_milliwatts = max(lease.watts_milliwatts, int(GPU_MINIMUM_W * GPUS * 1000))
                self.is_gated = False
        return self.report(now_s)

    def take_command(self, envelope: bytes, now_s: float) -> bytes:
        """Hand the devices back under a signed release; return the signed report."""
        command = open_signed(Command, envelope, {"lease-1": self.lease_public_key})
        fence = Fence(command.epoch, command.seq)
        if command.action == "release" and command.incarnation == self.incarnation and fence > self.fence:
            self.fence = fence
            self.cap_milliwatts = int(GPU_MAXIMUM_W * GPUS * 1000)
        return self.report(now_s)

    def report(self, now_s: float) -> bytes:
        """Return the signed report of now."""
        report = Report(
            host=self.name,
            incarnation=self.incarnation,
            boot_id="boot",
            gpu_uuids=tuple(f"GPU-{self.name}-{index}" for index in range(GPUS)),
            fence=self.fence,
            bound_milliwatts=self.cap_milliwatts,
            minimum_milliwatts=int(GPU_MINIMUM_W * GPUS * 1000),
            maximum_milliwatts=int(GPU_MAXIMUM_W * GPUS * 1000),
            stamp_ms=int(now_s * 1000),
            mode=self.mode,
            is_gated=self.is_gated,
            has_foreign_cap=False,
            can_write=True,
            lease_watts_milliwatts=None,
        )
        return sign(report, self.key)

    def state(self, now_s: float) -> bytes:
        """Return the state of this second."""
        self.seq += 1
        cap_w = self.cap_milliwatts / 1000 / GPUS
        is_biting = not self.is_gated and self.want_w > cap_w
        same = (self.gpu_w,) * GPUS
        columns = GpuColumns(
            power_watts=same,
            power_peak_watts=same,
            cap_watts=(cap_w,) * GPUS,
            energy_joules=(None,) * GPUS,
            throttled_ratio=(1.0 if is_biting else 0.0,) * GPUS,
            utilisation_ratio=(1.0,) * GPUS,
            temperature_celsius=(50.0,) * GPUS,
            sm_clock_hz=(1.5e9,) * GPUS,
            health=("ok",) * GPUS,
        )
        return encode(
            State(
                host=self.name,
                session=self.session,
                seq=self.seq,
                is_online=True,
                sampled_at_s=now_s,
                mode=self.mode,
                is_gated=self.is_gated,
                governor_alive=True,
                samples_total=0,
                missed_ticks_total=0,
                rate_hz=100.0,
                cpu_ratio=None,
                memory_used_bytes=None,
                spooled=0,
                gpus=columns,
            )
        )

    def restart(self) -> None:
        """Begin a new governor incarnation; caps stay in the hardware."""
        self.incarnation = secrets.token_hex(16)
        self.fence = NO_FENCE


@dataclass
class FakeBroker:
    """An outlet that hands leases to the hosts at once and keeps what else was said."""

    deliver: Callable[[str, bytes], None]
    is_connected: bool = True
    said: dict[str, bytes] = field(default_factory=dict)
    published: int = 0

    async def publish(self, topic: str, payload: bytes, qos: int = 0) -> bool:
        """Take one message."""
        if not self.is_connected:
            return False
        self.published += 1
        if topic.endswith(("/lease", "/command")):
            self.deliver(topic, payload)
        else:
            self.said[topic] = payload
        return True


class SmallSite:
    """A site of fake hosts under a real budget, second by second."""

    def __init__(self, directory: Path, site: Site, keys: dict[str, SigningKey]) -> None:
        self.site = site
        self.directory = directory
        self.now_s = 1000.0
        self.lease_key = SigningKey("lease-1", Ed25519PrivateKey.generate())
        self.hosts = {
            host.name: FakeHost(host.name, keys[host.name], self.lease_key.public_bytes) for host in site.hosts
        }
        self.unmanaged_extra_w = 0.0
        self.has_meter = True
        self.alarms: list[Alarm] = []
        self.seconds_over = 0
        self.start()

    def start(self) -> None:
        """Start an aggregator on the state directory, as after a crash of the one before."""
        self.store = SqliteStore(self.directory / "history.db", StoreConfig())
        self.ledger_store = LedgerStore(self.directory / "ledger.db", self.directory / "witness")
        self.broker = FakeBroker(self._deliver)
        fleet = build_fleet(self.site)
        desk = LeaseDesk(self.site, self.ledger_store, self.lease_key, self.alarms.append)
        parts = LoopParts(
            fleet, desk, self.broker, self.store, "test", self._holds(), lambda: self.now_s, lambda: 1.8e9 + self.now_s
        )
        self.loop = PowerLoop(parts)
        self.intake = Intake(fleet)
        self.intake.on_ack.append(self.loop.take_ack)
        self.loop.on_tick.append(FacilityPublisher(self.loop, self.broker).handle)
        self.loop.open()

    def _holds(self) -> HoldBook:
        holds = HoldBook(self.directory / "holds.json")
        holds.load()
        return holds

    def stop(self) -> None:
        """Close the files."""
        self.ledger_store.close()
        self.store.close()

    @property
    def wall_w(self) -> float:
        """True draw of the whole site."""
        return sum(host.wall_w for host in self.hosts.values()) + self.unmanaged_extra_w

    @property
    def limit_w(self) -> float:
        """Limit in force on the first row."""
        return self.loop.limits.in_force(self.loop.rows[0].name, self.now_s)[0]

    def hear(self) -> None:
        """Let every reachable host send its state and report, and the meter its reading."""
        for host in self.hosts.values():
            if host.is_reachable:
                self._take(host.name, "state", host.state(self.now_s))
                self._take(host.name, "ack", host.report(self.now_s))
        if self.has_meter:
            row = self.loop.rows[0].meter or self.loop.rows[0].name
            payload = json.dumps({"power_watts": self.wall_w, "time": "2027-01-15T08:00:00Z"}).encode()
            self.intake.take(f"flyball/v1/{self.site.name}/meter/{row}", payload, self.now_s)

    async def second(self) -> PowerSnapshot:
        """Run one second: hosts speak, the budget decides, leases arrive."""
        self.now_s += 1.0
        self.hear()
        snapshot = await self.loop.tick()
        await self.loop.wait_sent()
        self.seconds_over += self.wall_w > self.limit_w
        return snapshot

    async def seconds(self, count: int) -> PowerSnapshot:
        """Run some seconds and return the last snapshot."""
        snapshot = await self.second()
        for _ in range(count - 1):
            snapshot = await self.second()
        return snapshot

    def _take(self, host: str, channel: str, payload: bytes) -> None:
        topic = f"flyball/v1/{self.site.name}/host/{host}/{channel}"
        self.intake.take(topic, payload, self.now_s)

    def _deliver(self, topic: str, envelope: bytes) -> None:
        host = self.hosts[topic.split("/")[4]]
        if host.is_reachable:
            take = host.take_command if topic.endswith("/command") else host.take_lease
            answer = take(envelope, self.now_s)
            self._take(host.name, "ack", answer)


def build_small_site(
    directory: Path, hosts: int = 4, limit_w: float = 20_000.0, policy: Policy | None = None
) -> SmallSite:
    """Return a site of one feed, metered, with hosts that enforce."""
    policy = policy if policy is not None else Policy(mode="enforce")
    feed = Element("feed", "feed", rating_w=limit_w, has_meter=True)
    return build_site(directory, Site("demo", policy=policy, elements=(feed,)), ["feed"] * hosts)


def build_site(directory: Path, site: Site, elements: list[str]) -> SmallSite:
    """Return a site with one host on each element named, each with its own report key."""
    names = [f"host-{index}" for index in range(len(elements))]
    keys = {name: SigningKey(f"gov-{name}", Ed25519PrivateKey.generate()) for name in names}
    hosts = tuple(plain_host(name, element, keys[name]) for name, element in zip(names, elements, strict=True))
    return SmallSite(directory, replace(site, hosts=hosts), keys)


def plain_host(name: str, element: str, key: SigningKey) -> Host:
    """Return a host of eight H100 as the site file has it."""
    return Host(
        name=name,
        element=element,
        gpus=GPUS,
        gpu_minimum_w=GPU_MINIMUM_W,
        gpu_maximum_w=GPU_MAXIMUM_W,
        own_power_w=OWN_W,
        wall_watts_per_gpu_watt=WALL_PER_GPU_WATT,
        report_key_id=key.key_id,
        report_public_key=key.public_bytes.hex(),
    )
