"""JWS compact serialization (RFC 7515) with ES256 and RS256 alone, and the keys that may sign.

A key has one algorithm, fixed when it is loaded; the header's must be that one, so neither `none` nor a public key used
as an HMAC secret gets anywhere. A trusted key is bound to one source.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from flyball_aggregator.exchange.json_text import read_json, write_json
from flyball_wire.errors import ConfigError, SignatureError, WireError

Algorithm = Literal["ES256", "RS256"]
ES256_HALF_BYTES: Final = 32
LEAST_RSA_BITS: Final = 2048  # RFC 7518, 3.3
MAX_TOKEN_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key, its one algorithm, and the one source that may sign with it."""

    key_id: str
    algorithm: Algorithm
    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    source: str


@dataclass(frozen=True, slots=True)
class JwsSigner:
    """A private key to sign with."""

    key_id: str
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm of the key."""
        return "ES256" if isinstance(self.private, ec.EllipticCurvePrivateKey) else "RS256"

    def sign(self, payload: bytes) -> str:
        """Return the token of a payload."""
        header = write_json({"alg": self.algorithm, "kid": self.key_id, "typ": "JWT"})
        signed = f"{_encode(header)}.{_encode(payload)}"
        return f"{signed}.{_encode(self._signature(signed.encode()))}"

    def _signature(self, signed: bytes) -> bytes:
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        r, s = decode_dss_signature(self.private.sign(signed, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(ES256_HALF_BYTES, "big") + s.to_bytes(ES256_HALF_BYTES, "big")


def open_token(token: str, keys: Mapping[str, TrustedKey], source: str) -> bytes:
    """Return the payload of a token that this source signed.

    Raises:
        SignatureError: an unknown key, another's key, another algorithm, or the signature is wrong.
    """
    parts = token.split(".")
    if len(parts) != 3 or len(token) > MAX_TOKEN_BYTES:
        raise SignatureError("expected three parts, at most 1 MiB")
    key = _key_of(parts[0], keys)
    if key.source != source:
        raise SignatureError(f"key {key.key_id!r} is of {key.source}, not of {source[:100]}")
    _verify(key, f"{parts[0]}.{parts[1]}".encode(), _decode(parts[2]))
    return _decode(parts[1])


def read_keys(path: Path) -> dict[str, TrustedKey]:
    """Return the keys of a JWK set (RFC 7517); each has `kid`, `alg` and, our own member, `source`.

    Raises:
        ConfigError: naming the file, the key and the mistake.
    """
    try:
        plain = read_json(path.read_bytes())
        items = plain["keys"]
        keys = [_read_jwk(item) for item in items]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (WireError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not a set of keys with kid, alg and source: {error}") from None
    found = {key.key_id: key for key in keys}
    if len(found) != len(keys):
        raise ConfigError(f"{path}: two keys with one kid")
    return found


def read_signer(path: Path, key_id: str) -> JwsSigner:
    """Return the private key in a PEM file.

    Raises:
        ConfigError: no key on P-256, nor one of RSA with 2048 bits or more.
    """
    try:
        private = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path}: no private key in PEM without a password") from None
    if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1):
        return JwsSigner(key_id, private)
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size >= LEAST_RSA_BITS:
        return JwsSigner(key_id, private)
    raise ConfigError(f"{path}: expected a key on P-256, or RSA of {LEAST_RSA_BITS} bits or more")


def public_jwk(signer: JwsSigner, source: str) -> dict[str, str]:
    """Return the public half as a JWK, for those who verify."""
    plain = {"kid": signer.key_id, "alg": signer.algorithm, "use": "sig", "source": source}
    if isinstance(signer.private, rsa.RSAPrivateKey):
        numbers = signer.private.public_key().public_numbers()
        return {**plain, "kty": "RSA", "n": _encode_number(numbers.n), "e": _encode_number(numbers.e)}
    point = signer.private.public_key().public_numbers()
    x, y = (_encode(value.to_bytes(ES256_HALF_BYTES, "big")) for value in (point.x, point.y))
    return {**plain, "kty": "EC", "crv": "P-256", "x": x, "y": y}


def _key_of(head: str, keys: Mapping[str, TrustedKey]) -> TrustedKey:
    try:
        header = read_json(_decode(head), 4096)
    except WireError as error:
        raise SignatureError(f"header: {error}") from None
    if not isinstance(header, dict) or "crit" in header or not isinstance(header.get("kid"), str):
        raise SignatureError("header: expected alg and kid, and nothing critical")
    key = keys.get(header["kid"])
    if key is None:
        raise SignatureError(f"key {header['kid'][:64]!r} is not trusted")
    if header.get("alg") != key.algorithm:
        raise SignatureError(
            f"algorithm {str(header.get('alg'))[:20]!r}, expected {key.algorithm} of key {key.key_id!r}"
        )
    return key


def _verify(key: TrustedKey, signed: bytes, signature: bytes) -> None:
    try:
        if isinstance(key.public, rsa.RSAPublicKey):
            key.public.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
            return
        if len(signature) != 2 * ES256_HALF_BYTES:
            raise SignatureError(f"a signature of {len(signature)} bytes, expected 64")
        halves = signature[:ES256_HALF_BYTES], signature[ES256_HALF_BYTES:]
        pair = encode_dss_signature(*(int.from_bytes(half, "big") for half in halves))
        key.public.verify(pair, signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise SignatureError(f"not signed by key {key.key_id!r}") from None


def _read_jwk(item: dict[str, Any]) -> TrustedKey:
    algorithm: Algorithm
    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    if item["kty"] == "EC" and item["crv"] == "P-256":
        algorithm = "ES256"
        x, y = (int.from_bytes(_decode(item[name]), "big") for name in ("x", "y"))
        public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    elif item["kty"] == "RSA":
        algorithm = "RS256"
        n, e = (int.from_bytes(_decode(item[name]), "big") for name in ("n", "e"))
        public = rsa.RSAPublicNumbers(e, n).public_key()
        if public.key_size < LEAST_RSA_BITS:
            raise ValueError(f"key {item['kid']!r}: {public.key_size} bits, expected {LEAST_RSA_BITS} or more")
    else:
        raise ValueError(f"key {item['kid']!r}: expected EC on P-256, or RSA")
    if item.get("alg", algorithm) != algorithm or "d" in item:
        raise ValueError(f"key {item['kid']!r}: expected alg {algorithm} and no private part")
    if not isinstance(item["source"], str) or not isinstance(item["kid"], str):
        raise TypeError("kid and source are text")
    return TrustedKey(item["kid"], algorithm, public, item["source"])


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _encode_number(number: int) -> str:
    return _encode(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _decode(part: str) -> bytes:
    try:
        if "=" in part:
            raise SignatureError("base64url without padding is expected")
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise SignatureError("a part is not base64url") from None
