"""From every state that a search met: once faults end, the host can be brought to its minimum and to its maximum again.

All messages under way are lost first; then messages arrive, hung writes return, governors are started, and the ledger
wants one figure until the host has it.
"""

from typing import Final

from flyball_aggregator.power import ledger as ledgers
from flyball_aggregator.power.ledger import LedgerState
from flyball_twin import lease_check_machine as machines
from flyball_twin.lease_check_machine import HOST, MAXIMUM, Machine, MachineKind
from flyball_twin.lease_check_rules import Rules
from flyball_wire.lease import Lease

ROUNDS: Final = 16  # a round is one report, one decision and one delivery
LAST_INCARNATION: Final = "last"


def recovers(machine: Machine, ledger: LedgerState, kind: MachineKind, rules: Rules) -> bool:
    """Return whether the host comes to its minimum, and then to its maximum, within the rounds."""
    for wanted in (kind.minimum, MAXIMUM):
        for _ in range(ROUNDS):
            machine, ledger = _round(machine, ledger, kind, rules, wanted)
            keeper = machine.keeper
            is_there = keeper is not None and keeper.is_gate_open and machine.cap == wanted == machine.power
            if is_there and ledger.hosts[HOST].commitment_milliwatts == wanted:
                break
        else:
            return False
    return True


def _round(
    machine: Machine, ledger: LedgerState, kind: MachineKind, rules: Rules, wanted: int
) -> tuple[Machine, LedgerState]:
    machine, ledger = _repaired(machine, ledger, kind, rules)
    machine, report = machines.fresh_report(machine, kind)
    effects: tuple[ledgers.LedgerEffect, ...] = ()
    if report is not None:
        ledger, effects = ledgers.step(ledger, ledgers.ReportReceived(report, is_authenticated=True), rules.ledger)
    for effect in effects:
        if isinstance(effect, ledgers.TakeEpoch):
            event = ledgers.EpochStarted(effect.above + 1, ledger.epochs, is_restored=True)
            ledger, _ = ledgers.step(ledger, event, rules.ledger)
    ledger, effects = ledgers.step(ledger, ledgers.GrantWanted(HOST, wanted, kind.minimum, 0), rules.ledger)
    for effect in effects:
        if isinstance(effect, ledgers.SendLease):
            machine = _received(machine, kind, effect.lease)
    return machine, ledger


def _received(machine: Machine, kind: MachineKind, lease: Lease) -> Machine:
    done = machines.deliver(machine, kind, lease)
    machine = machine if done is None else done[0]
    for act in (machines.write, machines.settle):
        done = act(machine, kind)
        machine = machine if done is None else done[0]
    return machine


def _repaired(machine: Machine, ledger: LedgerState, kind: MachineKind, rules: Rules) -> tuple[Machine, LedgerState]:
    """End every fault: power on, hung writes done, a governor alive, its caps written."""
    if machine.is_off:
        ledger, _ = ledgers.step(ledger, ledgers.OutletUnlockWanted(HOST), rules.ledger)
        done = machines.switch_on(machine)
        machine = machine if done is None else done[0]
    for step in (machines.complete, _governed, machines.write, machines.settle):
        done = step(machine, kind)
        machine = machine if done is None else done[0]
    return machine, ledger


def _governed(machine: Machine, kind: MachineKind) -> machines.Step | None:
    return machines.govern(machine, kind, LAST_INCARNATION)
