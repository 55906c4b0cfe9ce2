"""The eighteen rules by number: which switch leaves each out, and what its absence breaks."""

from dataclasses import dataclass, replace
from typing import Final

from flyball_aggregator.power.ledger_rules import ALL_LEDGER_RULES, LedgerRules
from flyball_governor.bound import ALL_BOUND_RULES, BoundRules
from flyball_governor.lease_events import ALL_KEEPER_RULES, KeeperRules

RULE_NAMES: Final = {
    1: "a grant is logged before it is sent",
    2: "the report with the highest fence counts",
    3: "a governor applies only a strictly greater fence",
    4: "reports are authentic",
    5: "a lease names one governor incarnation",
    6: "the gate opens after boot only on a lease",
    7: "nothing frees a silent host's watts",
    8: "fallback only lowers",
    9: "the gate closes before a reset",
    10: "a write that has not returned counts",
    11: "the read-back is acked, never below the minimum",
    12: "two governors under one id count at maximum",
    13: "leaving a row takes proof",
    14: "a restored ledger counts every host at maximum",
    15: "a lease past its life is dead on arrival",
    16: "key generations only rise",
    17: "watts move after settling",
    18: "a lowering is always written",
}
_KEEPER: Final = {
    3: "strictly_greater", 5: "own_incarnation", 6: "gates_after_boot", 8: "only_lowers", 9: "gates_before_reset",
    11: "acks_read_back", 15: "dead_on_arrival", 16: "generations_rise",
}  # fmt: skip
_LEDGER: Final = {
    1: "logs_before_send", 2: "highest_fence_counts", 4: "needs_signature", 5: "probes_incarnations",
    7: "silent_keeps_watts", 11: "keeps_minimum", 12: "conflict_counts_maximum", 13: "removal_needs_proof",
    14: "restore_counts_maximum",
}  # fmt: skip
_BOUND: Final = {10: "counts_pending", 17: "counts_settling", 18: "lowers_always"}


@dataclass(frozen=True, slots=True)
class Rules:
    """The switches of both ends; `without` is the rule that is out, None when all hold."""

    keeper: KeeperRules = ALL_KEEPER_RULES
    ledger: LedgerRules = ALL_LEDGER_RULES
    bound: BoundRules = ALL_BOUND_RULES
    without: int | None = None


ALL_RULES: Final = Rules()


def rules_without(number: int | None) -> Rules:
    """Return the rules with one left out at both ends, or all of them.

    Raises:
        ValueError: there is no such rule.
    """
    if number is None:
        return ALL_RULES
    if number not in RULE_NAMES:
        raise ValueError(f"rule {number}: expected 1 to {len(RULE_NAMES)}")
    return Rules(
        keeper=replace(ALL_KEEPER_RULES, **_off(_KEEPER, number)),
        ledger=replace(ALL_LEDGER_RULES, **_off(_LEDGER, number)),
        bound=replace(ALL_BOUND_RULES, **_off(_BOUND, number)),
        without=number,
    )


def _off(switches: dict[int, str], number: int) -> dict[str, bool]:
    return {switches[number]: False} if number in switches else {}
