"""Check the lease protocol: many random fleets, or one rule left out; over the programs' own step functions."""

import dataclasses
import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from flyball_twin.lease_check_fleet import HOSTS, FleetRun, RunResult
from flyball_twin.lease_check_host import HostModel, replay
from flyball_twin.lease_check_rules import ALL_RULES, RULE_NAMES, rules_without
from flyball_twin.lease_counterexamples import COUNTEREXAMPLES

DEFAULT_SECONDS = 1500  # of fleet time a run


@dataclass(frozen=True, slots=True)
class LeaseCheck:
    """What the random runs saw together."""

    runs: int
    seed: int
    seconds_per_run: int
    hosts: int
    runs_over_limit: int
    seconds_over_limit: int
    late_seconds: int
    worst_ratio: float
    host_seconds_over_commitment: int
    leases_applied_after_their_life: int
    lowerings_not_written: int
    mean_use_of_limit: float
    use_of_zero_delay: float
    faults: dict[str, int]
    cpu_s: float

    def as_json(self) -> dict[str, object]:
        """Return plain values, the fault counts beside the rest."""
        plain = dataclasses.asdict(self)
        faults: dict[str, int] = plain.pop("faults")
        return {**plain, **faults}


@dataclass(frozen=True, slots=True)
class RuleCheck:
    """What happens with one rule out: its stored counterexample on the real code, and random runs beside it."""

    rule: int
    name: str
    counterexample: tuple[str, ...]
    breaks: str | None  # the property that the replay broke with the rule out
    breaks_with_rule: str | None  # and with all rules in: None
    random: LeaseCheck

    @property
    def property_broken(self) -> str | None:
        """Return the broken property, None if leaving the rule out did no harm that was seen."""
        if self.random.runs_over_limit:
            return "a row's true power is within its limit"
        return self.breaks

    def as_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            **self.random.as_json(),
            "rule": self.rule,
            "rule_name": self.name,
            "property_broken": self.property_broken,
            "counterexample": list(self.counterexample),
            "counterexample_breaks": self.breaks,
            "counterexample_breaks_with_rule": self.breaks_with_rule,
        }


def check_leases(
    runs: int, seed: int = 0, *, without: int | None = None, seconds: int = DEFAULT_SECONDS, jobs: int | None = None
) -> LeaseCheck:
    """Play random fleets with consecutive seeds and return what they saw together.

    Raises:
        ValueError: `without` is not the number of a rule.
    """
    rules_without(without)  # refuse a wrong number before any process starts
    begun_s = _cpu_s()
    play = partial(_play, without=without, seconds=seconds)
    seeds = range(seed, seed + runs)
    workers = min(jobs if jobs is not None else os.cpu_count() or 1, runs)
    if workers <= 1:
        return _summed([play(one) for one in seeds], seed, seconds, _cpu_s() - begun_s)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(play, seeds, chunksize=max(1, runs // (workers * 8))))
    return _summed(results, seed, seconds, _cpu_s() - begun_s)


def check_rule(rule: int, runs: int, seed: int = 0, *, jobs: int | None = None) -> RuleCheck:
    """Replay a rule's stored counterexample with the rule out and in, and play random fleets with it out.

    Raises:
        ValueError: there is no such rule.
    """
    rules = rules_without(rule)
    stored = COUNTEREXAMPLES[rule]
    return RuleCheck(
        rule=rule,
        name=RULE_NAMES[rule],
        counterexample=stored.trace,
        breaks=replay(HostModel(stored.bounds, rules), stored.trace),
        breaks_with_rule=replay(HostModel(stored.bounds, ALL_RULES), stored.trace),
        random=check_leases(runs, seed, without=rule, jobs=jobs),
    )


def _play(seed: int, without: int | None, seconds: int) -> RunResult:
    return FleetRun(seed, rules_without(without)).run(seconds)


def _summed(results: Iterable[RunResult], seed: int, seconds: int, cpu_s: float) -> LeaseCheck:
    results = list(results)
    used_seconds = max(1, sum(result.used_seconds for result in results))
    faults: dict[str, int] = {}
    for result in results:
        for name, count in dataclasses.asdict(result.counts).items():
            faults[name] = faults.get(name, 0) + count
    return LeaseCheck(
        runs=len(results),
        seed=seed,
        seconds_per_run=seconds,
        hosts=HOSTS,
        runs_over_limit=sum(result.seconds_over > 0 for result in results),
        seconds_over_limit=sum(result.seconds_over for result in results),
        late_seconds=sum(result.late_seconds for result in results),
        worst_ratio=max((result.worst_ratio for result in results), default=0.0),
        host_seconds_over_commitment=sum(result.hosts_over_commitment for result in results),
        leases_applied_after_their_life=sum(result.life_broken for result in results),
        lowerings_not_written=sum(result.lowerings_unwritten for result in results),
        mean_use_of_limit=sum(result.used for result in results) / used_seconds,
        use_of_zero_delay=sum(result.used_zero_delay for result in results) / used_seconds,
        faults=faults,
        cpu_s=cpu_s,
    )


def _cpu_s() -> float:
    times = os.times()
    return time.process_time() + times.children_user + times.children_system
