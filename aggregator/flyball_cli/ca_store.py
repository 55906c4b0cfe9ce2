"""The authority's folder: its key, what it issued and revoked, and the tokens that let hosts in.

    ca.pem  ca.key (0600)  crl.pem  lease-1.key (0600)  issued/NAME.pem  pending/NAME.pem  book.json (0600)

`book.json` is replaced as a whole, on disk before anything that follows from it leaves this process.
"""

import contextlib
import datetime
import fcntl
import fnmatch
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from flyball_cli import ca_certificates as certificates
from flyball_cli.ca_certificates import IdentityError, KeyPair
from flyball_wire.errors import ConfigError
from flyball_wire.signing import create_key_file, load_key_file
from flyball_wire.topics import check_name

LEASE_KEY_ID: Final = "lease-1"
SECRET_BYTES: Final = 16


@dataclass(slots=True)
class Token:
    """A secret that lets hosts in: how many, which, until when; only its hash is kept."""

    secret_sha256: str
    uses_left: int
    names: str  # a pattern as in a shell
    until: float  # Unix seconds
    is_automatic: bool  # else somebody approves each host by hand


@dataclass(slots=True)
class Member:
    """One identity: the serial numbers it was given, and its governor's public report key."""

    serials: list[int] = field(default_factory=list)
    is_revoked: bool = False
    report_public_key: str | None = None


@dataclass(slots=True)
class Book:
    """Everything that changes."""

    site: str
    members: dict[str, Member] = field(default_factory=dict)
    revoked: dict[int, float] = field(default_factory=dict)  # serial number: Unix seconds
    tokens: list[Token] = field(default_factory=list)


class Store:
    """One authority on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = self._load_authority()
        self.book = _read_book(folder / "book.json")
        self._depth = 0

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the folder's lock and work on the book as it is on disk: the server and people's commands share it."""
        if self._depth:
            yield
            return
        with (self.folder / "lock").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.book = _read_book(self.folder / "book.json")
            self._depth = 1
            try:
                yield
            finally:
                self._depth = 0

    @classmethod
    def create(cls, folder: Path, site: str, now: datetime.datetime) -> "Store":
        """Make a new authority.

        Raises:
            ConfigError: there is one already; it is never overwritten.
        """
        check_name("site", site)
        if (folder / "ca.key").exists():
            raise ConfigError(f"{folder}: an authority is there already")
        for name in (folder, folder / "issued", folder / "pending"):
            name.mkdir(mode=0o700, parents=True, exist_ok=True)
        pair = certificates.make_authority(site, now)
        write_private(folder / "ca.key", certificates.key_pem(pair.key))
        write_public(folder / "ca.pem", certificates.certificate_pem(pair.certificate))
        write_private(folder / "book.json", json.dumps(asdict(Book(site))).encode())
        create_key_file(folder / f"{LEASE_KEY_ID}.key", LEASE_KEY_ID)
        store = cls(folder)
        store.write_crl(now)
        return store

    @property
    def lease_public_key(self) -> str:
        """The public key that hosts trust for leases, in hex."""
        return load_key_file(self.folder / f"{LEASE_KEY_ID}.key", LEASE_KEY_ID).public_bytes.hex()

    @property
    def fingerprint(self) -> str:
        """The authority's fingerprint."""
        return certificates.fingerprint(self.authority.certificate)

    def new_token(self, uses: int, names: str, until: datetime.datetime, *, is_automatic: bool) -> str:
        """Return a token as a host is told it: FINGERPRINT.SECRET."""
        with self.changing():
            secret = secrets.token_hex(SECRET_BYTES)
            self.book.tokens.append(Token(_hash(secret), uses, names, until.timestamp(), is_automatic))
            self.save()
            return f"{self.fingerprint}.{secret}"

    def admit(self, secret: str, pem: bytes, report_key: str | None, now: datetime.datetime) -> bytes | None:
        """Return a host's first certificate (PEM) for its token; None while somebody has yet to approve it.

        Raises:
            IdentityError: token unknown, used up, over or not for this name; the name is taken; the request is bad.
        """
        with self.changing():
            name, key = certificates.read_request(pem)
            token = self._token(secret, name, now)
            member = self.book.members.get(name)
            if member is not None and member.serials:
                raise IdentityError(f"{name!r}: enrolled already; revoke it first, or renew with its certificate")
            if not token.is_automatic and not self._is_approved(name, pem):
                write_private(self.folder / "pending" / f"{name}.pem", pem)
                return None
            token.uses_left -= 1
            return self.sign(name, key, now, report_key=report_key)

    def renew(self, peer: str, serial: int, pem: bytes, now: datetime.datetime) -> bytes:
        """Return a new certificate for whoever proved by a present one to be `peer`; the old one lives on to its end.

        Raises:
            IdentityError: revoked, unknown, or the request bears another name.
        """
        with self.changing():
            name, key = certificates.read_request(pem)
            member = self.book.members.get(peer)
            if name != peer:
                raise IdentityError(f"request for {name!r} by {peer!r}: expected its own name")
            if member is None or member.is_revoked or serial not in member.serials or serial in self.book.revoked:
                raise IdentityError(f"{peer!r}: its certificate is revoked or was not issued here")
            return self.sign(name, key, now)

    def sign(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        now: datetime.datetime,
        *,
        addresses: Iterable[str] = (),
        report_key: str | None = None,
    ) -> bytes:
        """Issue and note a certificate; return it as PEM."""
        with self.changing():
            certificate = certificates.issue(self.authority, name, key, now, addresses)
            member = self.book.members.setdefault(name, Member())
            member.serials.append(certificate.serial_number)
            member.is_revoked = False
            member.report_public_key = report_key or member.report_public_key
            self.save()
            pem = certificates.certificate_pem(certificate)
            write_public(self.folder / "issued" / f"{name}.pem", pem)
            return pem

    def revoke(self, name: str, now: datetime.datetime) -> int:
        """Revoke everything a name was given; return how many certificates. Its report key is no longer believed.

        Raises:
            IdentityError: nobody of that name was enrolled.
        """
        with self.changing():
            member = self.book.members.get(name)
            if member is None:
                raise IdentityError(f"{name!r}: not enrolled")
            self.book.revoked |= {serial: now.timestamp() for serial in member.serials}
            count = len(member.serials)
            member.serials.clear()
            member.is_revoked, member.report_public_key = True, None
            self.save()
            self.write_crl(now)
            return count

    def approve(self, name: str) -> None:
        """Let a waiting host in at its next try.

        Raises:
            IdentityError: nobody of that name waits.
        """
        certificates.check_identity(name)
        pending = self.folder / "pending" / f"{name}.pem"
        if not pending.exists():
            raise IdentityError(f"{name!r}: does not wait for approval")
        pending.replace(self.folder / "pending" / f"{name}.approved")

    def hosts(self) -> list[str]:
        """Return the names that may speak now, in order."""
        return sorted(name for name, member in self.book.members.items() if member.serials and not member.is_revoked)

    def write_crl(self, now: datetime.datetime) -> None:
        """Write the list of revoked certificates anew."""
        revoked = {int(serial): datetime.datetime.fromtimestamp(at, datetime.UTC)
                   for serial, at in self.book.revoked.items()}  # fmt: skip
        write_public(self.folder / "crl.pem", certificates.make_crl(self.authority, revoked, now))

    def save(self) -> None:
        """Put the book on disk."""
        write_private(self.folder / "book.json", json.dumps(asdict(self.book)).encode())

    def _load_authority(self) -> KeyPair:
        try:
            certificate, key = (self.folder / "ca.pem").read_bytes(), (self.folder / "ca.key").read_bytes()
            mode = (self.folder / "ca.key").stat().st_mode
        except OSError as error:
            raise ConfigError(f"{self.folder}: no authority: {error.strerror}; make one with flyball ca init") from None
        if mode & 0o077:
            raise ConfigError(f"{self.folder / 'ca.key'}: mode {mode & 0o777:04o}, expected 0600")
        return KeyPair(certificates.load_certificate(certificate, "ca.pem"), certificates.load_key(key, "ca.key"))

    def _token(self, secret: str, name: str, now: datetime.datetime) -> Token:
        hashed = _hash(secret)
        found = [token for token in self.book.tokens if hmac.compare_digest(token.secret_sha256, hashed)]
        if not found:
            raise IdentityError("token: unknown")
        token = found[0]
        if token.uses_left <= 0 or now.timestamp() > token.until:
            raise IdentityError("token: used up or over")
        if "." in name or not fnmatch.fnmatchcase(name, token.names):
            raise IdentityError(f"token: not for {name!r}, expected a host id like {token.names!r}")
        return token

    def _is_approved(self, name: str, pem: bytes) -> bool:
        approved = self.folder / "pending" / f"{name}.approved"
        if not approved.exists() or approved.read_bytes() != pem:
            return False
        approved.unlink()
        return True


def write_private(path: Path, content: bytes) -> None:
    """Replace a file as a whole, 0600, on disk when this returns."""
    _write(path, content, 0o600)


def write_public(path: Path, content: bytes) -> None:
    """Replace a file as a whole, readable by all."""
    _write(path, content, 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _read_book(path: Path) -> Book:
    try:
        plain = json.loads(path.read_bytes())
        members = {name: Member(**member) for name, member in plain["members"].items()}
        revoked = {int(serial): float(at) for serial, at in plain["revoked"].items()}
        return Book(plain["site"], members, revoked, [Token(**token) for token in plain["tokens"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not an authority's book: {error}") from None
