"""The state folder of `flyball up`: keys and configuration files of every program, as an operator would write them."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flyball_agent.config import AgentConfig, ExporterConfig
from flyball_agent.config import BrokerConfig as AgentBroker
from flyball_agent.health_config import HealthConfig, IsolationConfig
from flyball_aggregator.config import AggregatorConfig, ApiConfig
from flyball_aggregator.config import BrokerConfig as AggregatorBroker
from flyball_aggregator.site import Element, Host, Parent, Policy, Site
from flyball_cli.local_gpus import LocalGpus
from flyball_cli.up_options import OWN_POWER_W_PER_GPU, WALL_WATTS_PER_GPU_WATT, UpOptions
from flyball_cli.up_ports import UpPorts
from flyball_governor.config import EventsConfig, GovernorConfig, LeaseConfig, SocketConfig, TrustedKey
from flyball_governor.identity import KEY_NAME
from flyball_simgpu.models import find_model
from flyball_wire.config import print_config
from flyball_wire.signing import SigningKey, create_key_file, load_key_file

SITE_NAME = "local"
LEASE_KEY_ID = "lease-1"
SITE_ROW = "site"
LOCAL_HOST = "this-machine"
HOSTS_PER_RACK = 2
RACK_SHARE = 1.25  # a rack may take this much more than its even share of the site, so that both limits are at work


@dataclass(frozen=True, slots=True)
class HostFiles:
    """One host's folder under the state root."""

    host: str
    folder: Path

    @property
    def governor_toml(self) -> Path:
        """Configuration of the governor."""
        return self.folder / "governor.toml"

    @property
    def agent_toml(self) -> Path:
        """Configuration of the agent."""
        return self.folder / "agent.toml"

    @property
    def socket(self) -> Path:
        """The governor's unix socket."""
        return self.folder / "governor.sock"

    @property
    def governor_state(self) -> Path:
        """The governor's state: key, journal, gate."""
        return self.folder / "governor"

    @property
    def report_key(self) -> Path:
        """The governor's private report key."""
        return self.governor_state / KEY_NAME

    @property
    def report_key_id(self) -> str:
        """The id that its reports carry."""
        return f"gov-{self.host}"[:64]

    @property
    def kernel_log(self) -> Path:
        """A socket that stands in for a simulated host's kernel log, where somebody makes one."""
        return self.folder / "kernel.sock"

    @property
    def health(self) -> Path:
        """The agent's file of health."""
        return self.folder / "health.json"

    @property
    def gates(self) -> Path:
        """One file per isolated entity."""
        return self.folder / "quarantine"

    @property
    def drills(self) -> Path:
        """Where `flyball-agent inject` leaves drills."""
        return self.folder / "drills"

    @property
    def gate(self) -> Path:
        """One word: open or shut."""
        return self.governor_state / "gate"


@dataclass(frozen=True, slots=True)
class UpFiles:
    """Where everything lies."""

    root: Path
    plant: Path
    hosts: tuple[HostFiles, ...]

    @property
    def aggregator(self) -> Path:
        """Configuration, keys and databases of the aggregator."""
        return self.root / "aggregator"

    @property
    def token(self) -> Path:
        """What one must hold to write through the API."""
        return self.aggregator / "token"

    @property
    def broker(self) -> Path:
        """Configuration and persistence of the broker."""
        return self.root / "broker"

    @property
    def logs(self) -> Path:
        """One log a program."""
        return self.root / "log"

    @property
    def meter(self) -> Path:
        """True wall power, a JSON line a second."""
        return self.root / "meter.jsonl"


def lay_out(root: Path, plant: Path, hosts: Sequence[str]) -> UpFiles:
    """Make the folders, 0700, and return where everything lies."""
    files = UpFiles(root, plant, tuple(HostFiles(host, root / "hosts" / host) for host in hosts))
    folders = [files.aggregator, files.broker, files.logs, *(host.governor_state for host in files.hosts)]
    for folder in [root, *folders]:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return files


def host_names(options: UpOptions) -> tuple[str, ...]:
    """Return the ids of the simulated hosts."""
    return tuple(f"host-{number}" for number in range(1, options.hosts + 1))


def key_of(path: Path, key_id: str) -> SigningKey:
    """Return the key in a file, made when it is not there yet."""
    return load_key_file(path, key_id) if path.exists() else create_key_file(path, key_id)


def write_configs(files: UpFiles, options: UpOptions, ports: UpPorts, local: LocalGpus | None) -> Site:
    """Write every program's configuration and return the site that the aggregator will see."""
    lease_key = key_of(files.aggregator / f"{LEASE_KEY_ID}.key", LEASE_KEY_ID)
    for index, host in enumerate(files.hosts):
        is_local = host.host == LOCAL_HOST
        host.governor_toml.write_text(print_config(governor_config(host, options, lease_key, is_local=is_local)))
        host.agent_toml.write_text(print_config(agent_config(host, ports, index)))
    site = site_of(files, options, local)
    (files.aggregator / "site.toml").write_text(print_config(site))
    write_token(files.token)
    (files.aggregator / "aggregator.toml").write_text(print_config(aggregator_config(files, ports)))
    return site


def write_token(path: Path) -> None:
    """Write a fresh token, readable by its owner alone, unless there is one."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(16) + "\n", encoding="utf-8")


def governor_config(host: HostFiles, options: UpOptions, lease_key: SigningKey, *, is_local: bool) -> GovernorConfig:
    """Return a governor's configuration: simulated hosts enforce, this machine's own GPUs only where asked."""
    is_enforcing = options.is_enforcing_local if is_local else True
    kernel_log = "/dev/kmsg" if is_local else str(host.kernel_log)  # that of this machine tells of no simulated GPU
    return GovernorConfig(
        host=host.host,
        mode="enforce" if is_enforcing else "observe",
        state_dir=str(host.governor_state),
        socket=SocketConfig(path=str(host.socket)),
        lease=LeaseConfig(trusted=(TrustedKey(lease_key.key_id, lease_key.public_bytes.hex()),)),
        events=EventsConfig(kernel_log_path=kernel_log),
    )


def agent_config(host: HostFiles, ports: UpPorts, index: int) -> AgentConfig:
    """Return an agent's configuration; exporters count up from the usual port, simulated hosts isolate for real."""
    is_local = host.host == LOCAL_HOST
    return AgentConfig(
        site=SITE_NAME,
        host=host.host,
        governor_socket=str(host.socket),
        state_dir=str(host.folder / "agent"),
        broker=AgentBroker(port=ports.broker),
        exporter=ExporterConfig(port=ports.exporters[index]),
        health=HealthConfig(file=str(host.health), drills=str(host.drills), kernel_log="auto" if is_local else "kmsg"),
        isolation=IsolationConfig(mode="observe" if is_local else "enforce", gates=str(host.gates)),
    )


def aggregator_config(files: UpFiles, ports: UpPorts) -> AggregatorConfig:
    """Return the aggregator's configuration."""
    return AggregatorConfig(
        site_file=str(files.aggregator / "site.toml"),
        state_dir=str(files.aggregator),
        lease_key_file=str(files.aggregator / f"{LEASE_KEY_ID}.key"),
        lease_key_id=LEASE_KEY_ID,
        broker=AggregatorBroker(port=ports.broker),
        api=ApiConfig(port=ports.api, token_file=str(files.token)),
    )


def site_of(files: UpFiles, options: UpOptions, local: LocalGpus | None) -> Site:
    """Return the site: one metered limit over racks of two hosts; this machine's GPUs hang beside it, unmetered."""
    racks = [files.hosts[start : start + HOSTS_PER_RACK] for start in range(0, options.hosts, HOSTS_PER_RACK)]
    rack_limit_w = options.site_limit_w / len(racks) * (RACK_SHARE if len(racks) > 1 else 1.0)
    elements = [Element(SITE_ROW, kind="feed", rating_w=options.site_limit_w, has_meter=True)]
    hosts = []
    for number, members in enumerate(racks, start=1):
        rack = f"rack-{number}"
        elements.append(Element(rack, kind="rack", parents=(Parent(SITE_ROW),), rating_w=rack_limit_w))
        hosts += [_simulated_host(host, rack, options) for host in members]
    if local is not None:
        elements.append(Element(LOCAL_HOST, kind="feed"))
        hosts.append(_local_host(files.hosts[-1], local))
    return Site(
        name=SITE_NAME, is_simulated=True, policy=Policy(mode="enforce"), elements=tuple(elements), hosts=tuple(hosts)
    )


def _simulated_host(host: HostFiles, rack: str, options: UpOptions) -> Host:
    board = find_model(options.model)
    key = key_of(host.report_key, host.report_key_id)
    return Host(
        name=host.host,
        element=rack,
        gpus=options.gpus,
        gpu_model=board.name,
        gpu_minimum_w=board.min_limit_w,
        gpu_maximum_w=board.max_limit_w,
        own_power_w=OWN_POWER_W_PER_GPU * options.gpus,
        wall_watts_per_gpu_watt=WALL_WATTS_PER_GPU_WATT,
        report_key_id=key.key_id,
        report_public_key=key.public_bytes.hex(),
    )


def _local_host(host: HostFiles, local: LocalGpus) -> Host:
    key = key_of(host.report_key, host.report_key_id)
    return Host(
        name=host.host,
        element=LOCAL_HOST,
        gpus=local.count,
        gpu_model=local.model,
        gpu_minimum_w=local.minimum_w,
        gpu_maximum_w=local.maximum_w,
        report_key_id=key.key_id,
        report_public_key=key.public_bytes.hex(),
    )
