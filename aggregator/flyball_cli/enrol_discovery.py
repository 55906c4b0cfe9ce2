"""Finding a site in the local network: `_flyball._tcp` by zeroconf, with the authority's fingerprint beside it.

What is announced is a hint and nothing more: a host goes on only with the site whose fingerprint its token carries, or
the one it pinned at its first contact.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from zeroconf import ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

SERVICE: Final = "_flyball._tcp.local."


@dataclass(frozen=True, slots=True)
class FoundSite:
    """An announced site."""

    site: str
    address: str
    port: int
    fingerprint: str


@contextlib.asynccontextmanager
async def announced(
    site: str, fingerprint: str, port: int, *, is_on: bool = True, interfaces: Sequence[str] = ()
) -> AsyncIterator[None]:
    """Announce a site for the length of the block; switched off, nothing is sent."""
    if not is_on:
        yield
        return
    zeroconf = AsyncZeroconf(interfaces=list(interfaces)) if interfaces else AsyncZeroconf()
    own = [socket.inet_aton(address) for address in interfaces] or [socket.inet_aton(_own_address())]
    properties = {"site": site, "fingerprint": fingerprint}
    info = AsyncServiceInfo(SERVICE, f"{site}.{SERVICE}", port=port, addresses=own, properties=properties)
    try:
        await zeroconf.async_register_service(info)
        yield
        await (await zeroconf.async_unregister_service(info))
    finally:
        await zeroconf.async_close()


async def find_site(fingerprint: str, timeout_s: float, interfaces: Sequence[str] = ()) -> FoundSite | None:
    """Return the announced site with this fingerprint; None when none shows up in time. Others are passed over."""
    zeroconf = AsyncZeroconf(interfaces=list(interfaces)) if interfaces else AsyncZeroconf()
    found: asyncio.Queue[str] = asyncio.Queue()

    def hear(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:  # noqa: ARG001
        if state_change is ServiceStateChange.Added:
            found.put_nowait(name)

    browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[hear])
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                site = await _resolve(zeroconf, await found.get())
                if site is not None and site.fingerprint == fingerprint:
                    return site
    except TimeoutError:
        return None
    finally:
        await browser.async_cancel()
        await zeroconf.async_close()


async def _resolve(zeroconf: AsyncZeroconf, name: str) -> FoundSite | None:
    info = AsyncServiceInfo(SERVICE, name)
    if not await info.async_request(zeroconf.zeroconf, 3000) or not info.addresses or info.port is None:
        return None
    told = {key: value or b"" for key, value in info.properties.items()}
    try:
        site, fingerprint = told[b"site"].decode("ascii"), told[b"fingerprint"].decode("ascii")
    except (KeyError, UnicodeDecodeError):
        return None
    return FoundSite(site, str(ipaddress.ip_address(info.addresses[0])), info.port, fingerprint)


def _own_address() -> str:
    """Return the address that this machine has towards others; nothing is sent."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # a documentation address (RFC 5737): only the route is looked up
        return str(probe.getsockname()[0])
    return "127.0.0.1"
