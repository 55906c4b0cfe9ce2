"""Ed25519 envelopes: leases and commands signed by the aggregator, reports by the governor.

An envelope is a msgpack array [payload, key_id, signature]; the signature covers a domain word, the key id and the
exact payload bytes, so that no message of one kind passes for another. Nothing is decoded before it verifies.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgpack
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from flyball_wire.codec import M, Message, decode, encode
from flyball_wire.errors import ConfigError, SignatureError, WireError

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
ENVELOPE_BYTES: Final = 192  # what the envelope may add to a payload
MAX_KEY_ID: Final = 64


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and the id that its signatures carry."""

    key_id: str
    private: Ed25519PrivateKey

    @property
    def public_bytes(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self.private.public_key().public_bytes_raw()


def sign(message: Message, key: SigningKey) -> bytes:
    """Return the signed envelope of a message."""
    payload = encode(message)
    signature = key.private.sign(_signed_bytes(message.KIND, key.key_id, payload))
    packed = msgpack.packb([payload, key.key_id, signature])
    return bytes(packed)


def open_signed(kind: type[M], envelope: bytes, trusted: Mapping[str, bytes]) -> M:
    """Return the message in an envelope after its signature verified.

    Args:
        kind: The message class expected.
        envelope: What was received.
        trusted: Raw public key (32 bytes) by key id.

    Raises:
        WireError: malformed or oversized.
        SignatureError: unknown key id or wrong signature.
    """
    payload, key_id, signature = _unpack(kind.KIND, envelope, kind.MAX_BYTES + ENVELOPE_BYTES)
    public = trusted.get(key_id)
    if public is None:
        raise SignatureError(f"{kind.KIND}: key id {key_id!r} is not trusted")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _signed_bytes(kind.KIND, key_id, payload))
    except InvalidSignature:
        raise SignatureError(f"{kind.KIND}: signature does not verify under key id {key_id!r}") from None
    return decode(kind, payload)


def create_key_file(path: Path, key_id: str) -> SigningKey:
    """Make a key and write it as a new 0600 file, on disk before this returns.

    Raises:
        FileExistsError: the file is there already; a key is never overwritten.
    """
    private = Ed25519PrivateKey.generate()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(private.private_bytes_raw())
        file.flush()
        os.fsync(file.fileno())
    return SigningKey(key_id, private)


def load_key_file(path: Path, key_id: str) -> SigningKey:
    """Read a private key file.

    Raises:
        ConfigError: missing, unreadable, of the wrong size, or readable by others.
    """
    try:
        raw = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"key file {path}: {error.strerror}") from None
    if len(raw) != KEY_BYTES:
        raise ConfigError(f"key file {path}: {len(raw)} bytes, expected {KEY_BYTES}")
    if mode & 0o077:
        raise ConfigError(f"key file {path}: mode {mode & 0o777:04o}, expected 0600")
    return SigningKey(key_id, Ed25519PrivateKey.from_private_bytes(raw))


def _unpack(what: str, envelope: bytes, max_bytes: int) -> tuple[bytes, str, bytes]:
    if len(envelope) > max_bytes:
        raise WireError(f"{what}: envelope of {len(envelope)} bytes, expected at most {max_bytes}")
    try:
        parts = msgpack.unpackb(envelope, max_ext_len=0)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"{what}: envelope is not msgpack: {str(error)[:120]}") from None
    if not isinstance(parts, list) or len(parts) != 3:
        raise WireError(f"{what}: envelope: expected [payload, key id, signature]")
    payload, key_id, signature = parts
    if not isinstance(payload, bytes) or not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
        raise WireError(f"{what}: envelope: expected payload bytes and a signature of {SIGNATURE_BYTES} bytes")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID:
        raise WireError(f"{what}: envelope: expected a key id of 1 to {MAX_KEY_ID} characters")
    return payload, key_id, signature


def _signed_bytes(kind: str, key_id: str, payload: bytes) -> bytes:
    return b"flyball/" + kind.encode() + b"\0" + key_id.encode() + b"\0" + payload
