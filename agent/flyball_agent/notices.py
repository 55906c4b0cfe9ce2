"""Tell people of a change by webhook and e-mail, without waiting for either: bounded, newest kept, retried a little."""

import asyncio
import json
import logging
import smtplib
import urllib.request
from collections import deque
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any, Final

from flyball_agent.health_config import HealthConfig

MAX_WAITING: Final = 256
TRIES: Final = 3
LIMIT_S: Final = 10.0
_log = logging.getLogger(__name__)

Notice = dict[str, Any]


class Notices:
    """Sends in a task of its own; `senders` stand in for the network in tests."""

    def __init__(self, config: HealthConfig, senders: tuple[Callable[[Notice], None], ...] | None = None) -> None:
        self.sent_total = 0
        self.lost_total = 0
        self._waiting: deque[Notice] = deque()
        self._has_some = asyncio.Event()
        self._senders = senders if senders is not None else senders_of(config)
        self._retry_s = 1.0

    def put(self, notice: Notice) -> None:
        """Queue a notice; the oldest gives way."""
        if not self._senders:
            return
        self._waiting.append(notice)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self.lost_total += 1
        self._has_some.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._has_some.wait()
            self._has_some.clear()
            while self._waiting:
                notice = self._waiting.popleft()
                await asyncio.gather(*(self._send(sender, notice) for sender in self._senders))

    async def _send(self, sender: Callable[[Notice], None], notice: Notice) -> None:
        for attempt in range(TRIES):
            try:
                await asyncio.to_thread(sender, notice)
            except (OSError, smtplib.SMTPException) as error:
                _log.warning("notice not sent: %s", error)
                await asyncio.sleep(self._retry_s * 2**attempt)
            else:
                self.sent_total += 1
                return
        self.lost_total += 1


def senders_of(config: HealthConfig) -> tuple[Callable[[Notice], None], ...]:
    """Return what the configuration names."""
    found: list[Callable[[Notice], None]] = []
    if config.webhook:
        found.append(lambda notice: post(config.webhook, notice))
    if config.mail_server:
        found.append(lambda notice: mail(config, notice))
    return tuple(found)


def post(url: str, notice: Notice) -> None:
    """Send a notice as JSON.

    Raises:
        OSError: no answer, or an error.
    """
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(notice).encode(), headers, method="POST")  # noqa: S310 - checked
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:  # noqa: S310 - http or https by the configuration
        answer.read(1024)


def mail(config: HealthConfig, notice: Notice) -> None:
    """Send a notice by SMTP.

    Raises:
        OSError: no server.
        SMTPException: the server refused.
    """
    host, _, port = config.mail_server.partition(":")
    message = EmailMessage()
    drill = "drill: " if notice.get("injected") else ""
    subject = f"flyball {notice.get('host')}: {drill}{notice.get('entity')} {notice.get('detail')}"
    message["Subject"] = " ".join(subject.split())[:200]
    message["From"], message["To"] = config.mail_from, ", ".join(config.mail_to)
    message.set_content(json.dumps(notice, indent=2))
    with smtplib.SMTP(host, int(port or "25"), timeout=LIMIT_S) as server:
        server.send_message(message)
