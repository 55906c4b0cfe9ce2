"""An OpenADR 3 VEN: polls programs and events over REST with OAuth2, puts targets, and reports metered use.

Blocking calls run in a thread. An event that changed (its modification time) is put again, one that is gone is lifted.
"""

import asyncio
import json
import logging
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flyball_aggregator.exchange.cloud_event import show_time
from flyball_aggregator.exchange.exchange_config import OpenAdrConfig
from flyball_aggregator.exchange.json_text import read_json, write_json
from flyball_aggregator.exchange.openadr_events import in_order, named_id, read_event
from flyball_aggregator.flex.flex_api import TargetPort
from flyball_aggregator.flex.targets import LoadTarget
from flyball_wire.errors import BrokerError, ConfigError, FlyballError, WireError

LOG: Final = logging.getLogger(__name__)
TIMEOUT_S: Final = 10.0
MAX_BYTES: Final = 4 << 20
SOURCE: Final = "openadr"
WATTS_PER_KW: Final = 1000.0


@dataclass(frozen=True, slots=True)
class VenConfig:
    """Where the VTN is and who we are there; a target is known at most `poll_s` after it was made."""

    url: str
    client_id: str
    client_secret: str
    ven_name: str = "flyball"
    program: str | None = None  # by name; None: every program
    poll_s: float = 10.0


class OpenAdrVen:
    """One VEN."""

    def __init__(self, config: VenConfig, port: TargetPort, unix_s: Callable[[], float]) -> None:
        self.known: dict[str, str] = {}  # event -> modification time
        self.failures = 0
        self._config = config
        self._port = port
        self._unix_s = unix_s
        self._token: str | None = None
        self._targets: dict[str, list[LoadTarget]] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Poll until told to stop; a VTN that does not answer is asked again at the next turn."""
        while not stop.is_set():
            try:
                await self.poll()
            except FlyballError as error:
                self.failures += 1
                self._token = None
                LOG.warning("OpenADR: %s", error)
            try:
                await asyncio.wait_for(stop.wait(), self._config.poll_s)
            except TimeoutError:
                continue

    async def poll(self) -> None:
        """Ask once: put what is new or changed, lift what is gone, report what was drawn.

        Raises:
            BrokerError: the VTN refused or cannot be reached. WireError: an answer is not to be read.
        """
        events = await asyncio.to_thread(self._fetch)
        present = {str(event.get("id")): event for event in events}
        changed = [event for name, event in present.items() if self.known.get(name) != _version(event)]
        self._lift([name for name in self.known if name not in present])
        for event in in_order(changed):
            self._put(event)
        if events:
            await asyncio.to_thread(self._report, list(present.values()))

    def _put(self, event: Mapping[str, Any]) -> None:
        name = str(event.get("id"))
        try:
            targets = read_event(event, self._port.engine.feeds, f"{SOURCE}-{name}"[:64])
            self._lift([name] if name in self._targets else [])
            if targets:
                self._port.set_targets(targets)
            self._targets[name] = targets
        except (WireError, ValueError) as error:
            self.failures += 1
            LOG.warning("OpenADR event %s: %s", name[:64], error)
        self.known[name] = _version(event)

    def _lift(self, names: Sequence[str]) -> None:
        now_s = self._unix_s()
        for name in names:
            targets = self._targets.pop(name, [])
            self.known.pop(name, None)
            for source, feeds in {(target.source, target.feeds) for target in targets}:
                self._port.set_targets([LoadTarget(source, feeds, now_s, None, None, named_id(f"{name}/lifted"))])

    def _fetch(self) -> list[dict[str, Any]]:
        programs = self._ask("GET", "/programs", None)
        wanted = [item["id"] for item in programs if self._config.program in {None, item.get("programName")}]
        events: list[dict[str, Any]] = []
        for program in wanted:
            events += self._ask("GET", f"/events?{urllib.parse.urlencode({'programID': program})}", None)
        return events

    def _report(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Report the present draw of each feed for every event."""
        readings = self._port.engine.readings
        resources = [
            {
                "resourceName": tag,
                "intervals": [{"id": 0, "payloads": [{"type": "DEMAND", "values": [reading.drawn_w / WATTS_PER_KW]}]}],
            }
            for tag, reading in readings.items()
            if reading.drawn_w is not None and reading.is_metered
        ]
        for event in events if resources else ():
            self._ask("POST", "/reports", {
                "programID": event.get("programID"), "eventID": event.get("id"), "clientName": self._config.ven_name,
                "reportName": f"demand {show_time(self._unix_s())}",
                "payloadDescriptors": [{"payloadType": "DEMAND", "units": "KW"}], "resources": resources,
            })  # fmt: skip

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        if self._token is None:
            self._token = self._fetch_token()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        return self._send(method, path, None if body is None else write_json(body), headers)

    def _fetch_token(self) -> str:
        config = self._config
        form = {
            "grant_type": "client_credentials",
            "client_id": config.client_id,
            "client_secret": config.client_secret,
        }
        answer = self._send("POST", "/auth/token", urllib.parse.urlencode(form).encode(), {})
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str):
            raise BrokerError(f"VTN {config.url}: no access_token in the answer")
        return token

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Any:
        url = self._config.url.rstrip("/") + path
        if not url.startswith(("https://", "http://")):
            raise BrokerError(f"VTN {url[:100]!r}: expected an http or https address")
        request = urllib.request.Request(url, body, dict(headers), method=method)  # noqa: S310 - checked above
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - checked above
                return read_json(answer.read(MAX_BYTES))
        except (urllib.error.URLError, OSError, json.JSONDecodeError) as error:
            raise BrokerError(f"VTN {url}: {error}") from None


def build_ven(config: OpenAdrConfig, port: TargetPort, unix_s: Callable[[], float]) -> OpenAdrVen:
    """Return the VEN of a configuration.

    Raises:
        ConfigError: the secret cannot be read.
    """
    try:
        secret = Path(config.client_secret_file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(
            f"exchange.openadr.client_secret_file {config.client_secret_file}: {error.strerror}"
        ) from None
    told = VenConfig(config.url, config.client_id, secret, config.ven_name, config.program, config.poll_s)
    return OpenAdrVen(told, port, unix_s)


def _version(event: Mapping[str, Any]) -> str:
    """Return what changes whenever an event does, also where a VTN keeps no modification time."""
    return str(event.get("modificationDateTime") or json.dumps(event, sort_keys=True, default=str))
