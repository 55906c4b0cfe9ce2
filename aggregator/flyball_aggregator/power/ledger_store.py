"""The durable side of the ledger: SQLite in WAL mode with synchronous=FULL, plain transactions, and a witness file.

One `commit` per tick, before anything is sent. A leader whose epoch is no longer the newest cannot commit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flyball_aggregator.power.ledger import HostLedger, LedgerEffect


class LedgerStoreError(Exception):
    """The store could not do it; says whether it may have been done."""


class Deposed(LedgerStoreError):
    """A later epoch is in the store: step down."""


class CommitInDoubt(LedgerStoreError):
    """It is unknown whether the transaction is durable: step down and start again from the store."""


class StoreFull(LedgerStoreError):
    """Nothing was written; raises must stop, lowers may go on."""


@dataclass(frozen=True, slots=True)
class StoredLedger:
    """What a start finds: the new epoch (already durable), earlier ones, hosts, and whether the witness agrees."""

    epoch: int
    epochs: tuple[tuple[int, int], ...]
    hosts: tuple[HostLedger, ...]
    is_restored: bool


class LedgerStore:
    """One leader's handle on the store; `open_epoch` takes leadership."""

    def __init__(self, path: Path, witness: Path) -> None:
        self._path = path
        self._witness = witness

    def open_epoch(self, above: int = 0) -> StoredLedger:
        """Take a new epoch above every one in store, witness and `above`, durably, and read everything back."""
        raise NotImplementedError

    def commit(self, effects: Iterable[LedgerEffect]) -> None:
        """Make the Log effects of a tick durable as one transaction; send only after this returns.

        Raises:
            Deposed: another leader has taken a later epoch.
            StoreFull: nothing was written.
            CommitInDoubt: step down.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close the database; leadership ends with the next epoch, not here."""
        raise NotImplementedError
