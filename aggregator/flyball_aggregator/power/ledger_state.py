"""All that the ledger knows, and the one way to change a host in it: row sums follow its commitment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flyball_aggregator.power.frozen_table import FrozenTable
from flyball_aggregator.power.ledger_events import LedgerEffect, LedgerSettings
from flyball_aggregator.power.ledger_host import HostLedger, counted_milliwatts
from flyball_aggregator.power.ledger_rows import Coefficients, RowState, with_change
from flyball_wire.changed import changed


@dataclass(frozen=True, slots=True)
class LedgerState:
    """All that the ledger knows. Each step shares all it does not change with the state before it."""

    settings: LedgerSettings = field(default_factory=LedgerSettings)
    epoch: int = 0  # 0: no epoch yet, nothing may be granted
    seq: int = 0
    epochs: Mapping[int, int] = field(default_factory=dict)  # earlier epochs and their last logged seq
    forgiven_below_epoch: int = 0
    can_log: bool = True
    hosts: FrozenTable[HostLedger] = field(default_factory=FrozenTable)
    rows: FrozenTable[RowState] = field(default_factory=FrozenTable)
    coefficients: Coefficients = field(default_factory=FrozenTable)
    carried: tuple[tuple[str, str], ...] = ()  # (row, host) that the site file no longer has but nothing released
    stored_members: Coefficients = field(default_factory=FrozenTable)  # as the store had them, until rows are declared


Outcome = tuple[LedgerState, tuple[LedgerEffect, ...]]


def recounted(host: HostLedger) -> HostLedger:
    """Return the host with the commitment that follows from the rest of it."""
    counted = counted_milliwatts(host)
    return host if counted == host.commitment_milliwatts else changed(host, commitment_milliwatts=counted)


def with_host(state: LedgerState, host: HostLedger) -> tuple[LedgerState, HostLedger]:
    """Return the state with a changed host in it, row sums included, and the host as it stands there."""
    host = recounted(host)
    known = state.hosts.get(host.host)
    delta = host.commitment_milliwatts - (known.commitment_milliwatts if known is not None else 0)
    hosts, shares = state.hosts.with_item(host.host, host), state.coefficients.get(host.host, ())
    if not delta or not shares:
        return changed(state, hosts=hosts), host
    return changed(state, hosts=hosts, rows=with_change(state.rows, shares, delta)), host
