"""A restored ledger begins a new epoch above every earlier one, and counts every host at its maximum."""

import argparse
import tarfile
from pathlib import Path

import pytest

from flyball_aggregator.power.ledger_store import LedgerStore
from flyball_cli import backup, restore
from flyball_wire.errors import ConfigError


@pytest.fixture
def site(tmp_path: Path) -> argparse.Namespace:
    """A site's folders: configuration, authority, and a ledger that has seen two leaders."""
    state, authority = tmp_path / "state", tmp_path / "ca"
    state.mkdir()
    authority.mkdir()
    (authority / "ca.key").write_bytes(b"secret")
    config = tmp_path / "aggregator.toml"
    config.write_text(
        f'state_dir = "{state}"\nsite_file = "{tmp_path}/site.toml"\nlease_key_file = "{tmp_path}/lease.key"\n'
    )
    (tmp_path / "site.toml").write_text('name = "hall"\n')
    (tmp_path / "lease.key").write_bytes(b"k" * 32)
    for _ in range(2):
        store = LedgerStore(state / "ledger.db", state / "ledger.witness")
        store.open_epoch()
        store.close()
    return argparse.Namespace(file=tmp_path / "site.backup", config=config, authority=authority, state=state)


def next_leader(site: argparse.Namespace) -> tuple[int, bool]:
    store = LedgerStore(site.state / "ledger.db", site.state / "ledger.witness")
    stored = store.open_epoch()
    store.close()
    return stored.epoch, stored.is_restored


@pytest.mark.parametrize("is_witness_left", [True, False])
def test_after_a_restore_the_leader_knows_it_and_begins_above_every_epoch(
    site: argparse.Namespace, *, is_witness_left: bool
) -> None:
    assert backup.run(site) == 0
    later = [next_leader(site) for _ in range(3)]
    assert later == [(3, False), (4, False), (5, False)]
    if not is_witness_left:
        (site.state / "ledger.witness").unlink()
    assert restore.run(site) == 0
    epoch, is_restored = next_leader(site)
    assert is_restored
    assert epoch > 5


def test_a_backup_restored_at_once_is_told_as_well(site: argparse.Namespace) -> None:
    backup.run(site)
    restore.run(site)
    assert next_leader(site)[1]


def test_a_backup_brings_keys_and_configuration_back_0600(site: argparse.Namespace) -> None:
    backup.run(site)
    key, authority = site.config.parent / "lease.key", site.authority / "ca.key"
    key.unlink()
    authority.unlink()
    restore.run(site)
    assert (key.read_bytes(), authority.read_bytes()) == (b"k" * 32, b"secret")
    assert {path.stat().st_mode & 0o777 for path in (key, authority, site.file)} == {0o600}


def test_a_backup_is_never_overwritten(site: argparse.Namespace) -> None:
    site.file.write_bytes(b"older")
    with pytest.raises(ConfigError, match="exists"):
        backup.run(site)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "authority/../../evil"])
def test_an_archive_that_would_leave_its_folders_is_refused(site: argparse.Namespace, name: str) -> None:
    with tarfile.open(site.file, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(ConfigError, match="does not belong"):
        restore.run(site)
