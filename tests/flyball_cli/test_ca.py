"""The authority: who gets a certificate, who does not, and what ends one."""

import argparse
import asyncio
import datetime
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_cli import ca_certificates as certificates
from flyball_cli.ca_certificates import IdentityError
from flyball_cli.ca_store import Store
from flyball_cli.enrol import trusting
from flyball_cli.enrol_client import EnrolFiles, enrol, renew
from flyball_cli.enrol_discovery import announced, find_site
from flyball_cli.enrol_server import EnrolServer
from flyball_cli.enrol_wire import BrokerAddress, answer
from flyball_governor.config import LeaseConfig, TrustedKey
from flyball_wire.errors import ConfigError

NOW = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
BROKER = BrokerAddress("broker.hall", 8883)
REPORT_KEY = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "ca", "hall", NOW)


def secret_of(store: Store, uses: int = 1, names: str = "*", *, is_automatic: bool = True) -> str:
    return store.new_token(uses, names, NOW + DAY, is_automatic=is_automatic).partition(".")[2]


def request(name: str) -> bytes:
    return certificates.make_request(name)[1]


def test_keys_of_an_authority_are_0600_and_never_overwritten(store: Store) -> None:
    assert {(store.folder / name).stat().st_mode & 0o777 for name in ("ca.key", "lease-1.key", "book.json")} == {0o600}
    with pytest.raises(ConfigError, match="already"):
        Store.create(store.folder, "hall", NOW)


def test_a_token_lets_in_as_many_hosts_as_it_says_and_no_more(store: Store) -> None:
    secret = secret_of(store, 2)
    for name in ("host-1", "host-2"):
        assert store.admit(secret, request(name), REPORT_KEY, NOW) is not None
    with pytest.raises(IdentityError, match="used up"):
        store.admit(secret, request("host-3"), None, NOW)
    assert store.hosts() == ["host-1", "host-2"]


@pytest.mark.parametrize(
    ("secret", "name", "now", "reason"),
    [("0" * 32, "gpu-1", NOW, "unknown"), (None, "cpu-1", NOW, "not for"), (None, "gpu-1", NOW + 2 * DAY, "over")],
)
def test_a_token_is_refused(store: Store, secret: str | None, name: str, now: datetime.datetime, reason: str) -> None:
    good = secret_of(store, names="gpu-*")
    with pytest.raises(IdentityError, match=reason):
        store.admit(secret or good, request(name), None, now)
    assert store.hosts() == []


@pytest.mark.parametrize("name", ["flyball.aggregator", "facility.grid"])
def test_a_token_never_makes_anything_but_a_host(store: Store, name: str) -> None:
    with pytest.raises(IdentityError, match="not for"):
        store.admit(secret_of(store), request(name), None, NOW)


def test_a_token_does_not_take_over_a_host_that_is_enrolled(store: Store) -> None:
    secret = secret_of(store, 5)
    store.admit(secret, request("host-1"), REPORT_KEY, NOW)
    with pytest.raises(IdentityError, match="enrolled already"):
        store.admit(secret, request("host-1"), "cd" * 32, NOW)
    assert store.book.members["host-1"].report_public_key == REPORT_KEY


def test_by_hand_a_host_waits_until_the_very_request_is_approved(store: Store) -> None:
    secret, first = secret_of(store, is_automatic=False), request("host-1")
    assert store.admit(secret, first, None, NOW) is None
    store.approve("host-1")
    assert store.admit(secret, request("host-1"), None, NOW) is None  # another key than the one approved
    assert store.admit(secret, first, None, NOW) is not None


def test_a_revoked_host_neither_renews_nor_stays_believed(store: Store) -> None:
    pem = store.admit(secret_of(store), request("host-1"), REPORT_KEY, NOW)
    assert pem is not None
    serial = certificates.load_certificate(pem, "host-1").serial_number
    assert store.revoke("host-1", NOW) == 1
    with pytest.raises(IdentityError, match="revoked"):
        store.renew("host-1", serial, request("host-1"), NOW)
    assert Store(store.folder).book.members["host-1"].report_public_key is None
    assert serial in Store(store.folder).book.revoked


def test_a_host_renews_for_itself_alone(store: Store) -> None:
    pem = store.admit(secret_of(store), request("host-1"), None, NOW)
    assert pem is not None
    serial = certificates.load_certificate(pem, "host-1").serial_number
    with pytest.raises(IdentityError, match="its own name"):
        store.renew("host-1", serial, request("host-2"), NOW)
    renewed = certificates.load_certificate(store.renew("host-1", serial, request("host-1"), NOW + 60 * DAY), "new")
    assert renewed.not_valid_before_utc < NOW + 90 * DAY < renewed.not_valid_after_utc  # they overlap


VALUES = st.none() | st.integers() | st.text(max_size=20) | st.sampled_from(["certificate", "renewal", "authority"])
KEYS = st.sampled_from(["want", "secret", "request", "report_key", "x"])
LINES = st.binary(max_size=200) | st.builds(lambda plain: json.dumps(plain).encode(), st.dictionaries(KEYS, VALUES))


@settings(max_examples=100, deadline=None)
@given(line=LINES)
def test_no_line_breaks_enrolment_or_changes_the_book(tmp_path_factory: pytest.TempPathFactory, line: bytes) -> None:
    store = shared_store(tmp_path_factory)
    before = (store.folder / "book.json").read_bytes()
    told = answer(store, BROKER, line, None, NOW)
    assert set(told) & {"error", "authority"}
    assert (store.folder / "book.json").read_bytes() == before


_SHARED: list[Store] = []


def shared_store(factory: pytest.TempPathFactory) -> Store:
    if not _SHARED:
        _SHARED.append(Store.create(factory.mktemp("shared") / "ca", "hall", NOW))
    return _SHARED[0]


def test_what_another_process_revoked_stays_revoked(store: Store) -> None:
    secret = secret_of(store, 5)
    store.admit(secret, request("host-1"), None, NOW)
    Store(store.folder).revoke("host-1", NOW)
    store.admit(secret, request("host-2"), None, NOW)
    assert Store(store.folder).hosts() == ["host-2"]


async def test_a_host_enrols_over_tls_and_renews_with_its_certificate_before_it_ends(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    store = Store.create(tmp_path / "ca", "hall", now)
    token = store.new_token(1, "*", now + DAY, is_automatic=True)
    listener = await EnrolServer(store, BROKER).listen("127.0.0.1", 0, ("127.0.0.1",))
    address = ("127.0.0.1", listener.sockets[0].getsockname()[1])
    files = EnrolFiles(tmp_path / "etc")
    async with listener:
        told = await asyncio.to_thread(enrol, files, address, token, "host-1", REPORT_KEY)
        first = files.certificate.read_bytes()
        early = await asyncio.to_thread(renew, files, address, now)
        late = await asyncio.to_thread(renew, files, address, now + 61 * DAY)
        store.revoke("host-1", now)
        with pytest.raises(IdentityError, match="revoked"):
            await asyncio.to_thread(renew, files, address, now + 80 * DAY)
    assert told is not None
    assert (told["site"], told["lease_keys"]) == ("hall", {"lease-1": store.lease_public_key})
    assert (early, late) == (False, True)
    assert files.certificate.read_bytes() != first
    assert files.key.stat().st_mode & 0o777 == 0o600


async def test_a_host_refuses_a_site_that_is_not_its_tokens(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    store = Store.create(tmp_path / "ca", "hall", now)
    listener = await EnrolServer(store, BROKER).listen("127.0.0.1", 0, ("127.0.0.1",))
    address = ("127.0.0.1", listener.sockets[0].getsockname()[1])
    async with listener:
        with pytest.raises(IdentityError, match="another site"):
            await asyncio.to_thread(
                enrol, EnrolFiles(tmp_path / "etc"), address, f"{'0' * 64}.{'1' * 32}", "host-1", None
            )
    assert not (tmp_path / "etc/ca.pem").exists()


async def test_discovery_finds_the_pinned_site_and_passes_over_an_impostor() -> None:
    mine, other = "a" * 64, "b" * 64
    async with (
        announced("hall", mine, 8489, interfaces=["127.0.0.1"]),
        announced("hall2", other, 1, interfaces=["127.0.0.1"]),
    ):
        found = await find_site(mine, 10.0, interfaces=["127.0.0.1"])
        missing = await find_site("c" * 64, 0.5, interfaces=["127.0.0.1"])
    assert found is not None
    assert (found.site, found.port, found.fingerprint) == ("hall", 8489, mine)
    assert missing is None


async def test_discovery_switched_off_announces_nothing() -> None:
    async with announced("hall", "d" * 64, 8489, is_on=False, interfaces=["127.0.0.1"]):
        assert await find_site("d" * 64, 0.5, interfaces=["127.0.0.1"]) is None


def test_a_new_lease_key_is_trusted_beside_the_old_one() -> None:
    old = LeaseConfig(trusted=(TrustedKey("lease-1", "11" * 32, 0),))
    both = trusting(old, {"lease-2": "22" * 32})
    assert [(key.key_id, key.generation) for key in both.trusted] == [("lease-1", 0), ("lease-2", 1)]


def test_options_parse() -> None:
    from flyball_cli.__main__ import build_parser

    parsed = build_parser(["ca"]).parse_args(["ca", "token", "--hosts", "10", "--names", "gpu-*"])
    assert isinstance(parsed, argparse.Namespace)
    assert (parsed.hosts, parsed.names) == (10, "gpu-*")
