"""Switches of the ledger's rules, numbered as in docs/lease-protocol.md; programs never pass any."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class LedgerRules:
    """Switches for the checkers only: what each leaves out is shown to break the protocol."""

    logs_before_send: bool = True  # rule 1
    highest_fence_counts: bool = True  # rule 2
    needs_signature: bool = True  # rule 4
    probes_incarnations: bool = True  # rule 5
    silent_keeps_watts: bool = True  # rule 7
    keeps_minimum: bool = True  # rule 11
    conflict_counts_maximum: bool = True  # rule 12
    removal_needs_proof: bool = True  # rule 13
    restore_counts_maximum: bool = True  # rule 14


ALL_LEDGER_RULES: Final = LedgerRules()
