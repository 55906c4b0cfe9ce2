"""The tables [health] and [isolation] of agent.toml: what is watched, where health is shown, and what may be done."""

from dataclasses import dataclass
from typing import Annotated, Literal

from flyball_wire.codec import Length, Range

Words = Annotated[tuple[str, ...], Length(64)]
Means = Literal["systemd_gate", "slurm", "cdi"]


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """Faults: what is read of them, and where the health of this host is shown to others."""

    enabled: bool = True
    file: str = "/run/flyball/health.json"  # what prologs and load balancers read
    kernel_log: Literal["auto", "kmsg", "journal", "off"] = "auto"  # auto: the governor's descriptor, else journalctl
    drills: str = "/run/flyball/drills"  # where `flyball-agent inject` leaves its drills
    catalogue_overlay: str = ""  # TOML of the site on the shipped tables
    units: Words = ()  # systemd units that must run, such as nvidia-persistenced.service
    infiniband: bool = True  # ports under /sys/class/infiniband
    carriers: Words = ()  # network interfaces whose link must be up
    panics: str = "/sys/fs/pstore"  # dumps of kernel panics; empty: not read
    webhook: str = ""  # POST of JSON with each notice
    mail_server: str = ""  # HOST or HOST:PORT of SMTP
    mail_from: str = ""
    mail_to: Words = ()

    def __post_init__(self) -> None:
        """Refuse half of a mail account and a webhook that is none."""
        if self.webhook and not self.webhook.startswith(("http://", "https://")):
            raise ValueError(f"health.webhook {self.webhook[:80]!r}: expected an http or https address")
        if bool(self.mail_server) != bool(self.mail_to and self.mail_from):
            raise ValueError("health.mail_server: expected together with health.mail_from and health.mail_to")


@dataclass(frozen=True, slots=True)
class IsolationConfig:
    """What is done about faults. `mode` "observe" is a dry run: everything is said, nothing is done."""

    mode: Literal["observe", "enforce"] = "observe"
    may_repair: bool = False
    means: Annotated[tuple[Means, ...], Length(8)] = ("systemd_gate",)  # in this order
    gates: str = "/run/flyball/quarantine"  # one file per isolated entity, for ConditionPathExists of units
    opt_out_file: str = "/etc/flyball/no-isolation"  # while it is there nothing is isolated or repaired
    slurm_node: str = ""  # empty: the host id
    cdi_full: str = "/etc/cdi/nvidia-full.yaml"
    cdi_written: str = "/var/run/cdi/nvidia.json"
    hook: Words = ()  # a site's own means: a command, JSON on stdin
    drain_hook: Words = ()  # tells work to leave, and ends once it has; empty: Slurm, or nothing
    repair_hook: Words = ()  # carries out a repair and proves it on its output; empty: none is possible
    check_hook: Words = ()  # checks a GPU before release; empty: the driver's own answers are the check
    hook_limit_s: Annotated[float, Range(0.1, 3600.0)] = 30.0
    drain_limit_s: Annotated[float, Range(1.0, 86_400.0)] = 600.0
    repair_limit_s: Annotated[float, Range(1.0, 86_400.0)] = 900.0
    actions_per_day: Annotated[int, Range(0, 1000)] = 12
    repairs_per_day: Annotated[int, Range(0, 1000)] = 4
    repair_interval_s: Annotated[float, Range(0.0, 86_400.0)] = 600.0
    gpus_without_permit: Annotated[int, Range(0, 64)] = 4
    node_isolations_offline: Annotated[int, Range(0, 16)] = 1
    belongs_to: Words = ()  # names of rack and PDUs, for maintenance windows
    recheck_s: Annotated[float, Range(1.0, 86_400.0)] = 60.0
