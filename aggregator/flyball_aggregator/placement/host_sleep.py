"""Decide which empty hosts may sleep and which must wake, early enough that jobs need not wait for them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flyball_aggregator.placement.fleet import WHOLE, Fleet

ASLEEP = "asleep"


@dataclass(frozen=True, slots=True)
class SleepSettings:
    """Seconds a host stays empty before it sleeps, how long it takes to wake, GPUs always kept awake and free."""

    empty_s: float = 1_800.0
    wake_lead_s: float = 300.0
    spare_gpus: int = 8


@dataclass(frozen=True, slots=True)
class SleepPlan:
    """Hosts to put to sleep and to wake now, the whole racks first and last."""

    sleep: tuple[int, ...]
    wake: tuple[int, ...]


def plan_sleep(
    fleet: Fleet, empty_since_s: Mapping[int, float], wanted_gpus: float, now_s: float, settings: SleepSettings
) -> SleepPlan:
    """Return what to change, given the GPUs that waiting and planned jobs want within the wake lead.

    Args:
        fleet: Sleeping hosts are blocked with the reason `asleep`.
        empty_since_s: Since when each host holds nothing; hosts in use are absent.
        wanted_gpus: Waiting jobs, and planned starts due within `wake_lead_s`.
        now_s: Engine time.
        settings: Of the site.
    """
    free = int((fleet.gpu_left[fleet.ready != 0] >= WHOLE).sum())
    asleep = sorted(host for host, reason in fleet.blocked_by.items() if reason == ASLEEP)
    missing = wanted_gpus + settings.spare_gpus - free
    if missing > 0:
        return SleepPlan((), _until(fleet, asleep, missing))
    ripe = [
        host for host, since_s in empty_since_s.items() if fleet.ready[host] and now_s - since_s >= settings.empty_s
    ]
    rack = _empty_racks(fleet, ripe)
    chosen: list[int] = []
    for host in sorted(ripe, key=lambda host: (host not in rack, host)):
        if missing + int(fleet.gpu_count[host]) <= 0:
            chosen.append(host)
            missing += int(fleet.gpu_count[host])
    return SleepPlan(tuple(chosen), ())


def _until(fleet: Fleet, hosts: list[int], missing: float) -> tuple[int, ...]:
    chosen: list[int] = []
    for host in hosts:
        if missing <= 0:
            break
        chosen.append(host)
        missing -= int(fleet.gpu_count[host])
    return tuple(chosen)


def _empty_racks(fleet: Fleet, ripe: list[int]) -> set[int]:
    """Return the hosts whose whole narrowest domain may sleep: its switches and fans can go too."""
    if not len(fleet.domains):
        return set()
    level = fleet.domains[0]
    used = set(np.unique(level[np.setdiff1d(np.arange(len(fleet)), ripe)]).tolist())
    return {host for host in ripe if int(level[host]) not in used}
