"""The host side of a simulated site: every host's lease keeper and split, the real ones, around the plant's caps.

Messages arrive a second or more later; a host that is silent neither hears nor says anything but goes on by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flyball_aggregator.site import Host
from flyball_governor import lease_keeper
from flyball_governor.bound import DeviceFacts
from flyball_governor.lease_events import (
    BoundChanged,
    KeeperEffect,
    KeeperEvent,
    KeeperSettings,
    LeaseReceived,
    SendReport,
    SetBudget,
    Started,
    Tick,
)
from flyball_governor.lease_keeper import KeeperState
from flyball_governor.split import Want, split
from flyball_twin.power_curves import Floats
from flyball_wire.lease import Lease, Report

MILLI = 1000
SETTLE_S = 1  # after a lowering the old cap counts this long


@dataclass(slots=True)
class HostAgent:
    """One host's keeper and its devices' caps, milliwatts."""

    keeper: KeeperState
    caps: tuple[int, ...]
    wants: tuple[Want, ...]
    settles_at_s: int = -1
    can_write: bool = True
    is_silent: bool = False


class HostAgents:
    """All hosts of a site.

    Attributes:
        limit_w: (gpus,) caps in force, to be posted to the plant. bound_w: (hosts,) what each host's report says.
    """

    def __init__(self, hosts: Sequence[Host], starts: np.ndarray, report_ms: int) -> None:
        """Start every governor at its device maxima, as after boot."""
        self._starts = starts
        self.limit_w: Floats = np.concatenate([np.full(host.gpus, host.gpu_maximum_w) for host in hosts])
        self.bound_w: Floats = np.array([host.maximum_w for host in hosts])
        self.agents: list[HostAgent] = []
        self._index = {host.name: index for index, host in enumerate(hosts)}
        self._due_ms = np.zeros(len(hosts), dtype=np.int64)
        self.reports: list[Report] = []
        for index, host in enumerate(hosts):
            self.agents.append(self._start(index, host, report_ms))

    def _start(self, index: int, host: Host, report_ms: int) -> HostAgent:
        want = Want(round(host.gpu_minimum_w * MILLI), round(host.gpu_maximum_w * MILLI), None)
        settings = KeeperSettings(
            host=host.name,
            gpu_uuids=tuple(f"GPU-{host.name}-{gpu}" for gpu in range(host.gpus)),
            mode="enforce",
            report_ms=report_ms,
            boot_share_milliwatts=round(host.boot_share_w * MILLI) or None,
        )
        caps = (want.maximum_milliwatts,) * host.gpus
        facts = DeviceFacts(sum(caps), want.minimum_milliwatts * host.gpus, want.maximum_milliwatts * host.gpus)
        started = Started(settings, f"{index:032x}", "boot", 0, None, facts)
        keeper, effects = lease_keeper.start(started)
        keeper = replace(keeper, next_report_ms=index * 997 % report_ms)  # hosts do not report all at once
        agent = HostAgent(keeper, caps, (want,) * host.gpus)
        self._carry_out(index, agent, effects, 0)
        return agent

    def deliver(self, lease: Lease, second: int) -> None:
        """Hand a lease to its host; a silent host does not hear it."""
        index = self._index[lease.host]
        agent = self.agents[index]
        if not agent.is_silent:
            self._tell(index, agent, LeaseReceived(lease, second * MILLI), second)

    def tick(self, second: int) -> list[Report]:
        """Let time pass on every host that has something to do; return the reports sent."""
        now_ms = second * MILLI
        for index in np.flatnonzero(self._due_ms <= now_ms).tolist():
            agent = self.agents[index]
            if agent.settles_at_s == second:
                agent.settles_at_s = -1
                self._tell(index, agent, BoundChanged(self._facts(agent, sum(agent.caps)), now_ms), second)
            self._tell(index, agent, Tick(now_ms), second)
        sent, self.reports = self.reports, []
        return sent

    def set_writing(self, index: int, *, can_write: bool, second: int) -> None:
        """Let caps of a host be written or not."""
        agent = self.agents[index]
        agent.can_write = can_write
        facts = replace(agent.keeper.facts, can_write=can_write)
        self._tell(index, agent, BoundChanged(facts, second * MILLI), second)

    def set_silent(self, index: int, *, is_silent: bool) -> None:
        """Cut a host off, or connect it again."""
        self.agents[index].is_silent = is_silent

    def _tell(self, index: int, agent: HostAgent, event: KeeperEvent, second: int) -> None:
        agent.keeper, effects = lease_keeper.step(agent.keeper, event)
        self._carry_out(index, agent, effects, second)

    def _carry_out(self, index: int, agent: HostAgent, effects: tuple[KeeperEffect, ...], second: int) -> None:
        budget = None
        for effect in effects:
            if isinstance(effect, SetBudget):
                budget = effect.milliwatts
            elif isinstance(effect, SendReport) and not agent.is_silent:
                self.reports.append(effect.report)
        if budget is not None and agent.can_write:
            self._write(index, agent, budget, second)
        keeper = agent.keeper
        due_ms = keeper.next_report_ms if keeper.is_reporting else second * MILLI
        if agent.settles_at_s >= 0:
            due_ms = min(due_ms, agent.settles_at_s * MILLI)
        if keeper.phase in {"holding", "ramping"}:
            due_ms = second * MILLI
        elif keeper.phase == "leased":
            due_ms = min(due_ms, keeper.expires_ms + 1)
        self._due_ms[index] = due_ms
        self.bound_w[index] = lease_keeper.reported_bound_milliwatts(keeper) / MILLI

    def _write(self, index: int, agent: HostAgent, budget: int, second: int) -> None:
        """Split a budget over the GPUs and write the caps; a lowered host counts as before until it has settled."""
        before = sum(agent.caps)
        agent.caps = split(budget, agent.wants)
        start = int(self._starts[index])
        self.limit_w[start : start + len(agent.caps)] = np.array(agent.caps) / MILLI
        after = sum(agent.caps)
        facts = self._facts(agent, max(before, after))
        if after < before:
            agent.settles_at_s = second + SETTLE_S
        agent.keeper, effects = lease_keeper.step(agent.keeper, BoundChanged(facts, second * MILLI))
        self.reports += [effect.report for effect in effects if isinstance(effect, SendReport) and not agent.is_silent]

    def _facts(self, agent: HostAgent, bound: int) -> DeviceFacts:
        return replace(agent.keeper.facts, bound_milliwatts=bound, can_write=agent.can_write)
