"""The searches that `flyball check host` makes: which faults meet which, and how far each goes."""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Final

from flyball_twin.lease_check_host import Bounds, HostModel, Searched, search

MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Scope:
    """One search: its bounds, and whether every state must also recover."""

    name: str
    bounds: Bounds
    checks_liveness: bool = False


def _faults(*names: str) -> tuple[tuple[str, int], ...]:
    return tuple((name, 1) for name in names)


QUICK: Final = (
    Scope("crash", Bounds(grants=1, faults=_faults("crash", "forge")), checks_liveness=True),
    Scope("reboot, hung write", Bounds(grants=1, faults=_faults("reboot", "hang")), checks_liveness=True),
    Scope("off and on", Bounds(grants=1, faults=_faults("outlet", "silent")), checks_liveness=True),
    Scope("restore", Bounds(grants=1, faults=_faults("restore")), checks_liveness=True),
    Scope("failover", Bounds(grants=1, faults=_faults("crash", "failover"))),
    Scope("minimum", Bounds(grants=2, minimum=2, safe=2, faults=_faults("crash", "reboot"))),
    Scope("clone, old key, late, move", Bounds(grants=1, faults=_faults("clone", "old_key", "late", "move"))),
)
FULL: Final = (
    *QUICK,
    Scope("failover", Bounds(grants=1, faults=_faults("crash", "failover", "forge")), checks_liveness=True),
    Scope("three grants", Bounds(grants=3, faults=())),
    Scope("crash and reboot", Bounds(grants=2, faults=_faults("crash", "reboot", "forge"))),
    Scope("crash and failover", Bounds(grants=2, faults=_faults("crash", "failover"))),
    Scope("crash and hung write", Bounds(grants=2, faults=_faults("crash", "hang"))),
    Scope("settling", Bounds(grants=2, settles=True, faults=_faults("crash"))),
    Scope("restore", Bounds(grants=2, faults=_faults("restore"))),
    Scope("stop, reset, rollback", Bounds(grants=1, faults=_faults("stop", "reset", "rollback"))),
)
DEEP: Final = (
    Scope("three grants, crash", Bounds(grants=3, faults=_faults("crash"), max_states=4 * MILLION)),
    Scope(
        "three grants, two leaders, two governors",
        Bounds(grants=3, faults=_faults("crash", "failover"), max_states=4 * MILLION),
    ),
    Scope("off and on, reset", Bounds(grants=2, faults=_faults("outlet", "reset"), max_states=4 * MILLION)),
    Scope("restore and crash", Bounds(grants=2, faults=_faults("restore", "crash"), max_states=4 * MILLION)),
    Scope(
        "three governors",
        Bounds(grants=2, incarnations=3, faults=(("crash", 2), ("reboot", 1)), max_states=4 * MILLION),
    ),
)
SIZES: Final = {"smoke": QUICK[:1], "quick": QUICK, "full": FULL, "deep": DEEP}


@dataclass(frozen=True, slots=True)
class HostCheck:
    """What the searches of one size found together."""

    searches: tuple[tuple[Scope, Searched], ...]

    def as_json(self) -> dict[str, object]:
        """Return plain values: the totals, and each search with its bounds."""
        found = [done for _, done in self.searches]
        return {
            "states": sum(done.states for done in found),
            "steps": sum(done.steps for done in found),
            "violations": sum(done.violation is not None for done in found),
            "recovered": sum(done.recovered for done in found),
            "complete": all(done.is_complete for done in found),
            "cpu_s": round(sum(done.cpu_s for done in found), 2),
            "bounds": [_described(scope, done) for scope, done in self.searches],
        }


def check_host(scopes: Iterable[Scope], jobs: int) -> HostCheck:
    """Make the searches, several at a time where there are cores for it."""
    scopes = tuple(scopes)
    if jobs <= 1:
        return HostCheck(tuple((scope, _run(scope)) for scope in scopes))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return HostCheck(tuple(zip(scopes, pool.map(_run, scopes), strict=True)))


def _run(scope: Scope) -> Searched:
    return search(HostModel(scope.bounds), checks_liveness=scope.checks_liveness)


def _described(scope: Scope, done: Searched) -> dict[str, object]:
    bounds = scope.bounds
    return {
        "search": scope.name,
        "states": done.states,
        "complete": done.is_complete,
        "grants": bounds.grants + 2,  # the probe and the lease of the set-up come first
        "epochs": bounds.epochs if any(name == "failover" for name, _ in bounds.faults) else 1,
        "incarnations": bounds.incarnations,
        "levels": 3,
        "minimum": bounds.minimum,
        "settles": bounds.settles,
        "faults": dict(bounds.faults),
        "liveness": scope.checks_liveness,
        "violation": done.violation,
        "trace": list(done.trace),
    }
