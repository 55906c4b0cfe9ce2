"""The means of isolation that a host's configuration names, in their order, for any entity."""

from pathlib import Path

from flyball_agent.health_config import IsolationConfig
from flyball_agent.isolation import Actuator, Profile
from flyball_agent.isolation_gates import CdiSpec, Hook, SystemdGate
from flyball_agent.isolation_guard import GuardLimits
from flyball_agent.isolation_slurm import SlurmDrain


def profile_of(config: IsolationConfig) -> Profile:
    """Return the profile; the health file itself is no means of it, since it is written before any of them."""
    known: dict[str, Actuator] = {
        "systemd_gate": SystemdGate(Path(config.gates)),
        "slurm": SlurmDrain(),
        "cdi": CdiSpec(Path(config.cdi_full), Path(config.cdi_written)),
    }
    steps = [known[name] for name in config.means]
    if config.hook:
        steps.append(Hook(Path(config.hook[0]).name, config.hook, limit_s=config.hook_limit_s))
    return Profile(tuple(steps))


def limits_of(config: IsolationConfig) -> GuardLimits:
    """Return the guard's limits."""
    return GuardLimits(
        is_enforcing=config.mode == "enforce",
        may_repair=config.may_repair,
        actions_per_day=config.actions_per_day,
        repairs_per_day=config.repairs_per_day,
        repair_interval_s=config.repair_interval_s,
        gpus_without_permit=config.gpus_without_permit,
        node_isolations_offline=config.node_isolations_offline,
    )
