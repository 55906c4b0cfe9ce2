"""Certificates of a site: its authority, what it signs, whom it has revoked. Pure: bytes in, bytes out.

A host's common name is its host id. Every other identity has a '.' in its name ("flyball.aggregator", "facility.grid"),
which no host id can have, so that no host passes for another role.
"""

import datetime
import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flyball_wire.errors import ConfigError, WireError
from flyball_wire.topics import check_name

AUTHORITY_LIFE: Final = datetime.timedelta(days=3650)
LEAF_LIFE: Final = datetime.timedelta(days=90)
CRL_LIFE: Final = datetime.timedelta(days=30)  # brokers refuse everybody once it is over: renew it sooner
SKEW: Final = datetime.timedelta(minutes=10)  # clocks of hosts may be behind
RENEW_RATIO: Final = 2 / 3  # of its life; then a third is left to try again
MAX_REQUEST_BYTES: Final = 16_384
ROLES: Final = ("aggregator", "broker", "enrol")
_NAMED_ROLE = re.compile(r"(facility|meter)\.[A-Za-z0-9_-]{1,48}")


class IdentityError(WireError):
    """A request, certificate or token is not acceptable; the text says why."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def check_identity(name: str) -> str:
    """Return a name that a certificate may bear: a host id, flyball.ROLE, facility.NAME or meter.NAME.

    Raises:
        IdentityError: it is none of these.
    """
    if name.startswith("flyball.") and name.removeprefix("flyball.") in ROLES:
        return name
    if "." not in name:
        try:
            return check_name("host", name)
        except WireError as error:
            raise IdentityError(str(error)) from None
    if not _NAMED_ROLE.fullmatch(name):
        raise IdentityError(f"identity {name[:80]!r}: expected a host id, facility.NAME, meter.NAME or flyball.ROLE")
    return name


def make_authority(site: str, now: datetime.datetime) -> KeyPair:
    """Return a new authority for a site."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "flyball"), x509.NameAttribute(NameOID.COMMON_NAME, site)]
    )
    builder = _builder(name, name, key.public_key(), now, AUTHORITY_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(is_authority=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return KeyPair(builder.sign(key, hashes.SHA256()), key)


def make_request(name: str) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """Return a new private key and the PEM request that asks for a certificate over it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_identity(name))])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return key, request.public_bytes(serialization.Encoding.PEM)


def read_request(pem: bytes) -> tuple[str, ec.EllipticCurvePublicKey]:
    """Return the name and public key of a request; nothing else of it is ever taken over.

    Raises:
        IdentityError: malformed, oversized, badly signed, another curve, or a name that nobody may bear.
    """
    if len(pem) > MAX_REQUEST_BYTES:
        raise IdentityError(f"request: {len(pem)} bytes, expected at most {MAX_REQUEST_BYTES}")
    try:
        request = x509.load_pem_x509_csr(pem)
        names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        is_signed = request.is_signature_valid
        key = request.public_key()
    except (ValueError, TypeError, InvalidSignature, x509.InvalidVersion) as error:
        raise IdentityError(f"request: not a signing request: {str(error)[:120]}") from None
    except Exception as error:  # noqa: BLE001 - the parser's own kinds of refusal have no common base
        raise IdentityError(f"request: refused by the parser: {type(error).__name__}") from None
    if not is_signed or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError("request: expected one signed by its own P-256 key")
    if len(names) != 1:
        raise IdentityError(f"request: {len(names)} common names, expected one")
    return check_identity(str(names[0].value)), key


def issue(
    authority: KeyPair,
    name: str,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    addresses: Iterable[str] = (),
) -> x509.Certificate:
    """Return a certificate for a name; with addresses it serves TLS under them too."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_identity(name))])
    builder = _builder(subject, authority.certificate.subject, key, now, LEAF_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(is_authority=False), critical=True)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    listed = [_general_name(address) for address in addresses]
    if listed:
        uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.add_extension(x509.SubjectAlternativeName(listed), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def make_crl(authority: KeyPair, revoked: Mapping[int, datetime.datetime], now: datetime.datetime) -> bytes:
    """Return the PEM list of revoked serial numbers."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
    builder = builder.last_update(now - SKEW).next_update(now + CRL_LIFE)
    for serial, at in sorted(revoked.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate in hex: what people compare and tokens carry."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def is_renewal_due(certificate: x509.Certificate, now: datetime.datetime) -> bool:
    """Return whether two thirds of a certificate's life are over."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= begin + (end - begin) * RENEW_RATIO


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PEM, for a 0600 file."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_certificate(pem: bytes, what: str) -> x509.Certificate:
    """Read one certificate.

    Raises:
        ConfigError: it is none.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise ConfigError(f"{what}: not a certificate: {str(error)[:120]}") from None


def load_key(pem: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    """Read one private key.

    Raises:
        ConfigError: it is none, or of another kind.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{what}: not a private key: {str(error)[:120]}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{what}: expected an elliptic curve key")
    return key


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    life: datetime.timedelta,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - SKEW).not_valid_after(now + life)
