"""Signed envelopes open under the key that made them and under nothing else."""

from pathlib import Path

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.flyball_wire.samples import LEASE, REPORT

from flyball_wire.errors import ConfigError, SignatureError, WireError
from flyball_wire.lease import Lease, Report
from flyball_wire.signing import SigningKey, create_key_file, load_key_file, open_signed, sign

KEY = SigningKey("lease-1", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
TRUSTED = {"lease-1": KEY.public_bytes}
LEASE_ENVELOPE = sign(LEASE, KEY)
REPORT_ENVELOPE = sign(REPORT, KEY)


def test_leases_and_reports_open_as_they_were_signed() -> None:
    assert open_signed(Lease, LEASE_ENVELOPE, TRUSTED) == LEASE
    assert open_signed(Report, REPORT_ENVELOPE, TRUSTED) == REPORT


def test_a_lease_never_passes_for_a_report_though_the_key_is_the_same() -> None:
    with pytest.raises(SignatureError):
        open_signed(Report, LEASE_ENVELOPE, TRUSTED)


def test_a_signature_under_another_key_id_is_refused() -> None:
    payload, _, signature = msgpack.unpackb(LEASE_ENVELOPE)
    renamed = msgpack.packb([payload, "lease-2", signature])
    with pytest.raises(SignatureError, match="not trusted"):
        open_signed(Lease, renamed, TRUSTED)
    with pytest.raises(SignatureError, match="does not verify"):
        open_signed(Lease, renamed, {"lease-2": KEY.public_bytes})


@given(st.integers(0, len(LEASE_ENVELOPE) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unseen(place: int, change: int) -> None:
    hostile = bytearray(LEASE_ENVELOPE)
    hostile[place] ^= change
    with pytest.raises(WireError):
        open_signed(Lease, bytes(hostile), TRUSTED)


def test_no_truncated_or_lengthened_envelope_opens() -> None:
    for length in range(len(LEASE_ENVELOPE)):
        with pytest.raises(WireError):
            open_signed(Lease, LEASE_ENVELOPE[:length], TRUSTED)
    with pytest.raises(WireError):
        open_signed(Lease, LEASE_ENVELOPE + b"\x00", TRUSTED)


@settings(max_examples=200)
@given(
    st.binary(max_size=300)
    | st.tuples(st.binary(max_size=40), st.text(max_size=70), st.binary(min_size=64, max_size=64)).map(msgpack.packb)
)
def test_any_bytes_are_refused_with_a_wire_error(envelope: bytes) -> None:
    with pytest.raises(WireError):
        open_signed(Lease, envelope, TRUSTED)


@pytest.mark.parametrize("envelope", [b"\x91" * 1000, b"\xdd\xff\xff\xff\xff", bytes(5000), b""])
def test_nested_promising_oversized_and_empty_envelopes_are_refused(envelope: bytes) -> None:
    with pytest.raises(WireError):
        open_signed(Lease, envelope, TRUSTED)


def test_what_is_signed_but_out_of_bounds_is_still_refused() -> None:
    payload = msgpack.packb({"kind": "lease", "v": 1})
    signature = KEY.private.sign(b"flyball/lease\0lease-1\0" + payload)
    with pytest.raises(WireError, match="missing"):
        open_signed(Lease, msgpack.packb([payload, "lease-1", signature]), TRUSTED)


def test_a_key_file_is_private_made_once_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made = create_key_file(path, "gov-host-a")
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key_file(path, "gov-host-a").public_bytes == made.public_bytes
    with pytest.raises(FileExistsError):
        create_key_file(path, "gov-host-a")


def test_a_key_file_that_others_may_read_or_of_a_wrong_size_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_key_file(path, "k")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="expected 0600"):
        load_key_file(path, "k")
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="5 bytes"):
        load_key_file(path, "k")
    with pytest.raises(ConfigError, match="No such file"):
        load_key_file(tmp_path / "none", "k")
