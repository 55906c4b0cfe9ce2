"""The ledger's store: durable before sent, one leader, and an older copy is found out."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyball_aggregator.power.ledger import (
    EpochStarted,
    HostEnrolled,
    HostLedger,
    LedgerSettings,
    LogGrant,
    LogHost,
    LogMembers,
    commitment_milliwatts,
    step,
)
from flyball_aggregator.power.ledger_store import (
    CommitInDoubtError,
    DeposedError,
    LedgerStore,
    LedgerStoreError,
    StoreFullError,
    start_ledger,
)
from flyball_aggregator.power.ledger_witness import Witness, read_witness, write_witness
from flyball_wire.lease import Fence

HOST = HostLedger("a", 5_000, bound_milliwatts=2_000, incarnation="a1", fence=Fence(1, 1))


def grant(epoch: int, seq: int, milliwatts: int, kind: str = "lease") -> LogGrant:
    return LogGrant("a", "a1", Fence(epoch, seq), milliwatts, kind)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LedgerStore]:
    made = LedgerStore(tmp_path / "ledger.db", tmp_path / "witness")
    made.open_epoch()
    yield made
    made.close()


def reopened(tmp_path: Path, store: LedgerStore) -> LedgerStore:
    store.close()
    return LedgerStore(tmp_path / "ledger.db", tmp_path / "witness")


def fill(path: Path, store: LedgerStore) -> sqlite3.Connection:
    """Leave the store no page to grow by."""
    db = store._db
    assert db is not None
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")
    return db


def test_what_was_committed_is_there_at_the_next_start_under_a_higher_epoch(tmp_path: Path, store: LedgerStore) -> None:
    members = (("a", (("row", 1_270_000),)),)
    store.commit([LogMembers(members), LogHost(HOST), grant(1, 2, 4_000), grant(1, 3, 3_000)])

    found = reopened(tmp_path, store).open_epoch()
    assert (found.epoch, dict(found.epochs), found.is_restored, found.members) == (2, {1: 3}, False, members)
    state = start_ledger(LedgerSettings(), found)
    assert commitment_milliwatts(state, "a") == 4_000
    assert [one.milliwatts for one in state.hosts["a"].outstanding] == [4_000, 3_000]


def test_grants_that_a_logged_report_fenced_are_gone(tmp_path: Path, store: LedgerStore) -> None:
    store.commit([LogHost(HOST), grant(1, 2, 4_000)])
    store.commit([LogHost(HostLedger("a", 5_000, bound_milliwatts=1_000, fence=Fence(1, 2)))])

    (host,) = reopened(tmp_path, store).open_epoch().hosts
    assert (host.bound_milliwatts, host.outstanding) == (1_000, ())


def test_a_leader_with_an_older_epoch_cannot_commit(tmp_path: Path, store: LedgerStore) -> None:
    newer = LedgerStore(tmp_path / "ledger.db", tmp_path / "witness")
    newer.open_epoch()

    with pytest.raises(DeposedError, match="epoch 2"):
        store.commit([LogHost(HOST)])
    newer.close()


def test_a_sequence_number_is_never_used_twice(store: LedgerStore) -> None:
    store.commit([LogHost(HOST), grant(1, 2, 4_000)])

    with pytest.raises(LedgerStoreError, match=r"expected above 1\.2"):
        store.commit([grant(1, 2, 4_500)])


def test_an_older_copy_of_the_store_is_found_out_by_the_witness(tmp_path: Path, store: LedgerStore) -> None:
    store.commit([LogHost(HOST), grant(1, 2, 4_000)])
    store.close()
    backup = (tmp_path / "ledger.db").read_bytes()
    later = reopened(tmp_path, store)
    later.open_epoch()
    later.close()
    (tmp_path / "ledger.db").write_bytes(backup)

    found = reopened(tmp_path, store).open_epoch()
    assert (found.epoch, found.is_restored) == (3, True)
    assert commitment_milliwatts(start_ledger(LedgerSettings(), found), "a") == 5_000


@pytest.mark.parametrize("gone", ["witness", "ledger.db"])
def test_a_store_or_a_witness_that_is_missing_counts_as_restored(tmp_path: Path, store: LedgerStore, gone: str) -> None:
    store.commit([LogHost(HOST), grant(1, 2, 4_000)])
    store.close()
    for path in tmp_path.glob(f"{gone}*"):
        path.unlink()

    found = reopened(tmp_path, store).open_epoch()
    assert (found.is_restored, found.epoch) == (True, 2)


def test_a_full_disk_refuses_raises_and_keeps_lowers_in_the_witness(tmp_path: Path, store: LedgerStore) -> None:
    store.commit([LogHost(HOST), grant(1, 2, 4_000)])
    db = fill(tmp_path, store)
    padding = [LogHost(HostLedger(f"pad-{at}", 1, gpu_uuids=("x" * 900,))) for at in range(40)]
    with pytest.raises(StoreFullError):
        store.commit([*padding, grant(1, 3, 4_500)])

    store.commit([*padding, grant(1, 4, 3_000, kind="lower")])
    witness = read_witness(tmp_path / "witness")
    assert witness is not None
    assert (witness.seq, witness.unlogged_from) == (4, 3)
    db.execute("PRAGMA max_page_count = 1000000")
    store.commit([grant(1, 5, 2_000)])
    assert len(reopened(tmp_path, store).open_epoch().hosts) == 41


def test_a_start_after_lowers_on_a_full_disk_is_no_restore(tmp_path: Path, store: LedgerStore) -> None:
    store.commit([LogHost(HOST), grant(1, 2, 4_000)])
    write_witness(tmp_path / "witness", Witness(99, 1, 6, unlogged_from=3))

    found = reopened(tmp_path, store).open_epoch()
    assert (found.is_restored, dict(found.epochs)) == (False, {1: 6})


def test_a_witness_that_cannot_be_written_leaves_the_commit_in_doubt(tmp_path: Path, store: LedgerStore) -> None:
    (tmp_path / "witness").unlink()
    (tmp_path / "witness").mkdir()

    with pytest.raises(CommitInDoubtError, match="witness"):
        store.commit([LogHost(HOST)])


def test_a_torn_witness_slot_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "witness"
    assert read_witness(path) is None
    write_witness(path, Witness(1, 3, 4))
    write_witness(path, Witness(2, 3, 5))
    raw = bytearray(path.read_bytes())
    raw[20] ^= 1
    path.write_bytes(raw)

    assert read_witness(path) == Witness(1, 3, 4)


def test_a_store_that_cannot_be_opened_names_itself(tmp_path: Path) -> None:
    with pytest.raises(LedgerStoreError, match="ledger"):
        LedgerStore(tmp_path / "missing" / "ledger.db", tmp_path / "witness").open_epoch()


def test_effects_of_the_ledger_itself_go_through_the_store(tmp_path: Path, store: LedgerStore) -> None:
    state = start_ledger(LedgerSettings(), reopened(tmp_path, store).open_epoch())
    state, _ = step(state, EpochStarted(state.epoch))
    _, effects = step(state, HostEnrolled("b", 7_000))
    second = reopened(tmp_path, store)
    second.open_epoch()
    second.commit(effects)

    (host,) = reopened(tmp_path, second).open_epoch().hosts
    assert (host.host, host.bound_milliwatts, host.maximum_milliwatts) == ("b", None, 7_000)
