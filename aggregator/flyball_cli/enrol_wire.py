"""What an enrolling host and its site say: one JSON line each way over TLS, bounded, then the connection ends.

{"want": "authority"}                                      -> {"authority": PEM}
{"want": "certificate", "secret", "request", "report_key"} -> {"certificate", "site", "lease_keys", "broker"} or
                                                              {"waiting": true} or {"error": text}
{"want": "renewal", "request"}  (with a client certificate) -> {"certificate"} or {"error": text}
"""

import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from flyball_cli.ca_certificates import IdentityError, certificate_pem
from flyball_cli.ca_store import LEASE_KEY_ID, Store

MAX_LINE_BYTES: Final = 32_768
_REPORT_KEY = re.compile(r"[0-9a-f]{64}")
Plain = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where hosts find the site's broker."""

    address: str
    port: int


def read_line(raw: bytes) -> Plain:
    """Return a line's object.

    Raises:
        IdentityError: oversized or no JSON object.
    """
    if len(raw) > MAX_LINE_BYTES:
        raise IdentityError(f"{len(raw)} bytes, expected at most {MAX_LINE_BYTES}")
    try:
        plain = json.loads(raw)
    except (ValueError, RecursionError):
        raise IdentityError("not JSON") from None
    if not isinstance(plain, dict):
        raise IdentityError("expected a JSON object")
    return plain


def answer(store: Store, broker: BrokerAddress, raw: bytes, peer: bytes | None, now: datetime.datetime) -> Plain:
    """Return the answer to one line; `peer` is the client's verified certificate (DER), where it showed one.

    Nothing changes in the store unless the answer is a certificate or "waiting".
    """
    try:
        plain = read_line(raw)
        want = plain.get("want")
        if want == "authority":
            return {"authority": certificate_pem(store.authority.certificate).decode()}
        if want == "certificate":
            return _first(store, broker, plain, now)
        if want == "renewal":
            return _renewal(store, plain, peer, now)
    except IdentityError as error:
        return {"error": str(error)[:300]}
    return {"error": "want: expected authority, certificate or renewal"}


def _first(store: Store, broker: BrokerAddress, plain: Mapping[str, Any], now: datetime.datetime) -> Plain:
    report_key = plain.get("report_key")
    if report_key is not None and (not isinstance(report_key, str) or not _REPORT_KEY.fullmatch(report_key)):
        raise IdentityError("report_key: expected 64 hex digits")
    pem = store.admit(_text(plain, "secret"), _text(plain, "request").encode(), report_key, now)
    if pem is None:
        return {"waiting": True}
    return {
        "certificate": pem.decode(),
        "site": store.book.site,
        "lease_keys": {LEASE_KEY_ID: store.lease_public_key},
        "broker": {"address": broker.address, "port": broker.port},
    }


def _renewal(store: Store, plain: Mapping[str, Any], peer: bytes | None, now: datetime.datetime) -> Plain:
    if peer is None:
        raise IdentityError("renewal: expected a client certificate")
    certificate = x509.load_der_x509_certificate(peer)
    name = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    pem = store.renew(name, certificate.serial_number, _text(plain, "request").encode(), now)
    return {"certificate": pem.decode()}


def _text(plain: Mapping[str, Any], key: str) -> str:
    value = plain.get(key)
    if not isinstance(value, str) or not value.isascii():
        raise IdentityError(f"{key}: expected ASCII text")
    return value
