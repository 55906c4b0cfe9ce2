"""A host's side of enrolment: pins the site's authority by the token's fingerprint, asks, and keeps what it gets.

Files under the configuration folder: ca.pem, host.pem, keys/host.key (0600), keys/host.request. A key that was made for
a request that still waits for approval is used again, so that what was approved is what is asked for.
"""

import datetime
import json
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from flyball_cli import ca_certificates as certificates
from flyball_cli.ca_certificates import IdentityError
from flyball_cli.ca_store import write_private, write_public
from flyball_cli.enrol_wire import MAX_LINE_BYTES, read_line
from flyball_wire.errors import ConfigError

TIMEOUT_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class EnrolFiles:
    """Where a host keeps its identity."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The site's authority, pinned."""
        return self.folder / "ca.pem"

    @property
    def certificate(self) -> Path:
        """This host's certificate."""
        return self.folder / "host.pem"

    @property
    def key(self) -> Path:
        """This host's private key."""
        return self.folder / "keys/host.key"

    @property
    def request(self) -> Path:
        """The request that waits for approval, with its key beside it."""
        return self.folder / "keys/host.request"


def enrol(
    files: EnrolFiles, address: tuple[str, int], token: str, host: str, report_key: str | None
) -> dict[str, Any] | None:
    """Get the first certificate; return what the site told, or None while it waits for approval.

    Raises:
        IdentityError: the site is not the token's, or it refused.
        OSError: it cannot be reached.
    """
    pin, _, secret = token.partition(".")
    authority = pin_authority(address, pin)
    key_text, request = _waiting_request(files, host)
    question = {"want": "certificate", "secret": secret, "request": request, "report_key": report_key}
    told = ask(address, _context(authority), question)
    if told.get("waiting") is True:
        return None
    _keep(files, authority, key_text, _certificate_of(told))
    return told


def renew(files: EnrolFiles, address: tuple[str, int], now: datetime.datetime) -> bool:
    """Renew the certificate where two thirds of its life are over; return whether that was so.

    The old one stays good until its end, and the new one is in place before anything uses it: there is no gap.

    Raises:
        IdentityError: the site refused: revoked, for instance.
        ConfigError: this host is not enrolled.
    """
    try:
        present = certificates.load_certificate(files.certificate.read_bytes(), str(files.certificate))
        authority = files.authority.read_text(encoding="ascii")
    except OSError as error:
        raise ConfigError(f"{files.folder}: not enrolled: {error.strerror}") from None
    if not certificates.is_renewal_due(present, now):
        return False
    key, request = certificates.make_request(_name_of(present))
    context = _context(authority)
    context.load_cert_chain(files.certificate, files.key)
    told = ask(address, context, {"want": "renewal", "request": request.decode()})
    _keep(files, authority, certificates.key_pem(key).decode(), _certificate_of(told))
    return True


def pin_authority(address: tuple[str, int], fingerprint: str) -> str:
    """Return the authority (PEM) that answers there, if it is the one with this fingerprint.

    Raises:
        IdentityError: it is another.
    """
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # what it says is believed only once the fingerprint fits
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    pem = ask(address, unverified, {"want": "authority"}).get("authority")
    if not isinstance(pem, str):
        raise IdentityError("the site showed no authority")
    try:
        found = certificates.fingerprint(certificates.load_certificate(pem.encode(), "authority"))
    except (ConfigError, UnicodeEncodeError) as error:
        raise IdentityError(f"the site's authority: {error}") from None
    if found != fingerprint:
        raise IdentityError(f"the site's authority is {found}, expected {fingerprint[:64]}: another site, or an attack")
    return pem


def ask(address: tuple[str, int], context: ssl.SSLContext, question: dict[str, Any]) -> dict[str, Any]:
    """Send one line and return the answer.

    Raises:
        IdentityError: the answer is an error or none.
    """
    with socket.create_connection(address, timeout=TIMEOUT_S) as raw:
        try:
            session = context.wrap_socket(raw, server_hostname=address[0])
        except ssl.SSLCertVerificationError as error:
            raise IdentityError(f"{address[0]}: not the site that is pinned: {error.verify_message}") from None
        with session:
            session.sendall(json.dumps(question).encode() + b"\n")
            received = bytearray()
            while not received.endswith(b"\n") and len(received) <= MAX_LINE_BYTES and (chunk := session.recv(8192)):
                received += chunk
    told = read_line(bytes(received))
    if "error" in told:
        raise IdentityError(f"refused: {told['error']}")
    return told


def _context(authority: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _waiting_request(files: EnrolFiles, host: str) -> tuple[str, str]:
    with suppress(OSError, ValueError, KeyError):
        kept = json.loads(files.request.read_bytes())
        if certificates.read_request(kept["request"].encode())[0] == host:
            return str(kept["key"]), str(kept["request"])
    key, request = certificates.make_request(host)
    text = certificates.key_pem(key).decode()
    files.request.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(files.request, json.dumps({"key": text, "request": request.decode()}).encode())
    return text, request.decode()


def _keep(files: EnrolFiles, authority: str, key: str, certificate: str) -> None:
    """Replace authority, key and certificate; a crash between leaves files that do not fit, told at the next start."""
    files.key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_public(files.authority, authority.encode())
    write_private(files.key, key.encode())
    write_public(files.certificate, certificate.encode())
    files.request.unlink(missing_ok=True)


def _certificate_of(told: dict[str, Any]) -> str:
    pem = told.get("certificate")
    if not isinstance(pem, str):
        raise IdentityError("the site gave no certificate")
    return pem


def _name_of(certificate: x509.Certificate) -> str:
    return str(next(iter(certificate.subject)).value)
