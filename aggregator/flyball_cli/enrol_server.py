"""The site's side of enrolment: a TLS port where hosts with a token, or with a certificate to renew, get one."""

import asyncio
import datetime
import json
import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from flyball_cli import ca_certificates as certificates
from flyball_cli.ca_store import Store, write_private, write_public
from flyball_cli.enrol_wire import MAX_LINE_BYTES, BrokerAddress, answer
from flyball_wire.errors import ConfigError

TIMEOUT_S: Final = 10.0
MAX_OPEN: Final = 64
NAME: Final = "flyball.enrol"
log = logging.getLogger(__name__)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class EnrolServer:
    """Answers one line a connection; wrong tokens slow everybody down a little, never the store."""

    def __init__(self, store: Store, broker: BrokerAddress, now: Callable[[], datetime.datetime] = _now) -> None:
        self.store, self.broker, self.now = store, broker, now
        self._open = 0

    async def listen(self, address: str, port: int, names: tuple[str, ...]) -> asyncio.Server:
        """Listen with a certificate of our own for these names."""
        context = server_context(self.store, names, self.now())
        return await asyncio.start_server(self._attend, address, port, ssl=context, limit=MAX_LINE_BYTES)

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MAX_OPEN:
                async with asyncio.timeout(TIMEOUT_S):
                    raw = await reader.readline()
                    writer.write(json.dumps(self.answer(raw, writer)).encode() + b"\n")
                    await writer.drain()
        except (OSError, ValueError, TimeoutError, ssl.SSLError) as error:
            log.debug("enrolment: a client left: %s", error)
        finally:
            self._open -= 1
            writer.close()
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    def answer(self, raw: bytes, writer: asyncio.StreamWriter) -> dict[str, object]:
        """Return the answer to a line from a peer."""
        session: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        peer = session.getpeercert(binary_form=True) if session is not None else None
        told = answer(self.store, self.broker, raw, peer, self.now())
        if "error" in told:
            log.warning("enrolment of %s refused: %s", writer.get_extra_info("peername"), told["error"])
        return told


def server_context(store: Store, names: tuple[str, ...], now: datetime.datetime) -> ssl.SSLContext:
    """Return a server's TLS context; a client certificate is verified where one is shown."""
    certificate, key = own_certificate(store, NAME, names, now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(str(store.folder / "ca.pem"))
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def own_certificate(store: Store, name: str, addresses: tuple[str, ...], now: datetime.datetime) -> tuple[Path, Path]:
    """Return files of a fresh certificate for one of the site's own services, made in the authority's folder."""
    if not addresses:
        raise ConfigError(f"{name}: expected at least one name or address that hosts find it under")
    key, request = certificates.make_request(name)
    _, public = certificates.read_request(request)
    pem = store.sign(name, public, now, addresses=addresses)
    certificate_file, key_file = store.folder / f"{name}.pem", store.folder / f"{name}.key"
    write_private(key_file, certificates.key_pem(key))
    write_public(certificate_file, pem)
    return certificate_file, key_file
