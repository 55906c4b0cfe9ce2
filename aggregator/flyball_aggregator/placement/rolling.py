"""Update a set of gang replicas one by one, so that no replica ever mixes versions."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Replica:
    """One complete gang (all its roles) at one version."""

    name: str
    version: str
    is_ready: bool


@dataclass(frozen=True, slots=True)
class RollingStep:
    """Do one of: start a gang at the new version, or stop an old one. Both None: wait."""

    start: str | None = None
    stop: str | None = None


def next_step(replicas: Sequence[Replica], version: str, wanted: int, *, can_surge: bool) -> RollingStep | None:
    """Return what to do next, None where all replicas are at the version.

    A replica is replaced whole. With spare GPUs and watts the new one starts first, else an old one goes first;
    never more than one is missing.
    """
    old = [part for part in replicas if part.version != version]
    new = [part for part in replicas if part.version == version]
    if not old and len(new) >= wanted:
        return None
    if any(not part.is_ready for part in new):
        return RollingStep()
    if len(replicas) < wanted or (len(replicas) == wanted and can_surge and len(new) < wanted):
        return RollingStep(start=_free_name(replicas))
    unready = [part for part in old if not part.is_ready]
    return RollingStep(stop=(unready or old)[0].name)


def _free_name(replicas: Sequence[Replica]) -> str:
    taken = {part.name for part in replicas}
    return next(f"replica-{number}" for number in range(len(taken) + 1) if f"replica-{number}" not in taken)
