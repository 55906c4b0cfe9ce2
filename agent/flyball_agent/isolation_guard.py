"""What may be done now: the limits of a host around every intent of the health machine. A release is never refused.

Observing is the default. Refused is not forgotten: the intent is explained as "would", and stands as long as the cause.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from flyball_agent.health_inputs import Intent

DAY_S: Final = 86_400.0
ACTING: Final = frozenset({"isolate", "drain", "repair", "ask_permit"})
SELF_DETECTED: Final = ("driver.hung", "xid.79", "xid.167", "lost")  # what a host alone may isolate itself for
FleetMode = Literal["normal", "careful", "observe"]


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """Limits of one host; `is_enforcing` False is a dry run."""

    is_enforcing: bool = False
    may_repair: bool = False  # resets and reboots are opted into
    actions_per_day: int = 12
    repairs_per_day: int = 4
    repair_interval_s: float = 600.0
    gpus_without_permit: int = 4  # hard evidence needs no permit, up to here
    node_isolations_offline: int = 1


@dataclass(frozen=True, slots=True)
class Window:
    """A maintenance window: isolation and repair rest, notices are silent, until it expires on its own."""

    begins_s: float
    ends_s: float
    covers: str  # a host, or the name of a rack or PDU it belongs to
    by: str = ""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the guard is told from outside at each decision."""

    now_s: float
    is_opted_out: bool = False  # the operator's file is there
    mode: FleetMode = "normal"
    windows: Sequence[Window] = ()
    belongs_to: frozenset[str] = frozenset()  # the host, its rack, its PDUs
    isolated_gpus: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """May it be done, and the rule that says so."""

    is_allowed: bool
    rule: str


@dataclass(slots=True)
class IsolationGuard:
    """Counts what was done and judges what is asked."""

    limits: GuardLimits = field(default_factory=GuardLimits)
    actions: list[float] = field(default_factory=list)
    repairs: list[tuple[float, str]] = field(default_factory=list)
    offline_nodes: int = 0
    save: Callable[[], None] = lambda: None  # called with each count, before the act

    def judge(self, intent: Intent, around: Surroundings) -> Verdict:
        """Return whether an intent may be carried out now."""
        if intent.kind not in ACTING:
            return Verdict(True, "notices, checks and releases are always allowed")
        for is_refused, rule in self._refusals(intent, around):
            if is_refused:
                return Verdict(False, rule)
        return Verdict(True, "within all limits")

    def count(self, intent: Intent, now_s: float) -> None:
        """Count an intent that is being carried out."""
        if intent.kind in {"isolate", "repair"}:
            self.actions = [at_s for at_s in self.actions if now_s - at_s < DAY_S] + [now_s]
        if intent.kind == "repair":
            self.repairs = [entry for entry in self.repairs if now_s - entry[0] < DAY_S] + [(now_s, str(intent.entity))]
        self.save()

    def to_plain(self) -> dict[str, Any]:
        """Return the counts as plain values: a restart gives no new allowance."""
        return {"actions": self.actions, "repairs": self.repairs, "offline_nodes": self.offline_nodes}

    def restore(self, plain: dict[str, Any]) -> None:
        """Take over what `to_plain` gave."""
        self.actions = [float(at_s) for at_s in plain["actions"]]
        self.repairs = [(float(at_s), str(entity)) for at_s, entity in plain["repairs"]]
        self.offline_nodes = int(plain["offline_nodes"])

    def answer_offline(self, intent: Intent, codes: Sequence[str]) -> bool:
        """Answer a permit request that nobody answered: one isolation of this host, for what it alone can see."""
        is_sure = any(code.endswith(SELF_DETECTED) for code in codes)
        if intent.entity.kind != "node" or not is_sure or self.offline_nodes >= self.limits.node_isolations_offline:
            return False
        self.offline_nodes += 1
        self.save()
        return True

    def back_online(self) -> None:
        """The aggregator answers again: permits are its matter."""
        self.offline_nodes = 0

    def _refusals(self, intent: Intent, around: Surroundings) -> list[tuple[bool, str]]:
        now_s, limits = around.now_s, self.limits
        is_repair = intent.kind == "repair"
        node = intent.entity.kind in {"node", "fabric"}
        last_s = max((at_s for at_s, entity in self.repairs if entity == str(intent.entity)), default=float("-inf"))
        repaired = [at_s for at_s, _ in self.repairs]
        return [
            (around.is_opted_out, "the operator's opt-out file is there"),
            (not limits.is_enforcing, "observing: this host does not enforce"),
            (around.mode == "observe", "the fleet observes"),
            (in_window(around), "a maintenance window is open"),
            (around.mode == "careful" and node, "the fleet is careful: a host needs an operator"),
            (_recent(self.actions, now_s) >= limits.actions_per_day, f"{limits.actions_per_day} actions today"),
            (is_repair and not limits.may_repair, "repairs are not opted into"),
            (is_repair and _recent(repaired, now_s) >= limits.repairs_per_day, "repairs of today"),
            (is_repair and now_s - last_s < limits.repair_interval_s, "too soon after the last repair"),
            (_is_capped(intent, around, limits), f"{limits.gpus_without_permit} GPUs are isolated without a permit"),
        ]


def in_window(around: Surroundings) -> bool:
    """Tell whether a maintenance window covers the host now; also what silences notices."""
    return any(w.begins_s <= around.now_s < w.ends_s and w.covers in around.belongs_to for w in around.windows)


def _is_capped(intent: Intent, around: Surroundings, limits: GuardLimits) -> bool:
    is_gpu = intent.kind == "isolate" and intent.entity.kind in {"gpu", "mig"}
    return is_gpu and around.isolated_gpus > limits.gpus_without_permit


def _recent(times: Sequence[float], now_s: float) -> int:
    return sum(1 for at_s in times if now_s - at_s < DAY_S)
