"""What stands between an agent and the site: scopes, rate, watts, blast radius, a second pair of eyes, and the audit.

A write is proposed by one call and carried out by another that names it; the second needs a scope of its own, so that
whoever proposes need not be able to confirm. One file makes everything read-only at once, without a restart.
"""

import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from flyball_wire.errors import FlyballError

LOG: Final = logging.getLogger(__name__)
Scope = Literal["read", "propose", "confirm"]
SCOPES: Final[tuple[Scope, ...]] = ("read", "propose", "confirm")
MINUTE_S: Final = 60.0
MAX_TEXT: Final = 500  # characters of any text that goes to an agent
MAX_ITEMS: Final = 200
MAX_DEPTH: Final = 8
MAX_PROPOSALS: Final = 100


class RefusedCallError(FlyballError):
    """An agent may not do that; the message says why and what would be allowed."""


@dataclass(frozen=True, slots=True)
class McpLimits:
    """What agents may do at most.

    Attributes:
        calls_per_minute: Of one caller. writes_per_hour: Of all.
        most_cut_ratio: Of a feed's present draw that one target may take away.
        most_hosts: Held by agents at once. proposal_s: After that a proposal is void.
    """

    calls_per_minute: int = 60
    writes_per_hour: int = 12
    most_cut_ratio: float = 0.2
    most_hosts: int = 2
    proposal_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Proposal:
    """A write that waits for its confirmation."""

    number: str
    caller: str
    what: str
    method: Literal["PUT", "DELETE"]
    path: str
    body: Mapping[str, Any]
    made_s: float


class McpGuard:
    """Judges every call and writes it down.

    Args:
        limits: What agents may do at most.
        audit_file: One JSON object a line for each call; None keeps no audit (for tests).
        read_only_file: While it exists nothing is written.
    """

    def __init__(
        self,
        limits: McpLimits,
        audit_file: Path | None,
        read_only_file: Path | None = None,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self.limits = limits
        self.proposals: dict[str, Proposal] = {}
        self.held: set[str] = set()
        self._audit_file = audit_file
        self._read_only_file = read_only_file
        self._unix_s = unix_s
        self._calls: dict[str, deque[float]] = {}
        self._writes: deque[float] = deque()

    @property
    def is_read_only(self) -> bool:
        """Whether nothing may be written now."""
        return self._read_only_file is not None and self._read_only_file.exists()

    def admit(self, caller: str, scopes: frozenset[str], needed: Scope) -> None:
        """Let a call through.

        Raises:
            RefusedCallError: no such scope, too many calls, or everything is read-only.
        """
        now_s = self._unix_s()
        times = self._calls.setdefault(caller, deque())
        while times and now_s - times[0] >= MINUTE_S:
            times.popleft()
        if len(times) >= self.limits.calls_per_minute:
            raise RefusedCallError(f"more than {self.limits.calls_per_minute} calls in a minute")
        times.append(now_s)
        if needed not in scopes:
            raise RefusedCallError(
                f"this needs the scope {needed!r}; the caller has {', '.join(sorted(scopes)) or 'none'}"
            )
        if needed != "read" and self.is_read_only:
            raise RefusedCallError("everything is read-only at present, by an operator's switch")

    def propose(
        self, caller: str, what: str, method: Literal["PUT", "DELETE"], path: str, body: Mapping[str, Any]
    ) -> Proposal:
        """Keep a write until it is confirmed.

        Raises:
            RefusedCallError: too many wait.
        """
        self._forget_old()
        if len(self.proposals) >= MAX_PROPOSALS:
            raise RefusedCallError(f"{len(self.proposals)} proposals wait, expected at most {MAX_PROPOSALS}")
        proposal = Proposal(secrets.token_hex(4), caller, what, method, path, dict(body), self._unix_s())
        self.proposals[proposal.number] = proposal
        return proposal

    def take(self, number: str) -> Proposal:
        """Return a proposal that is confirmed now; it can be confirmed once.

        Raises:
            RefusedCallError: none such waits, or too much was written lately.
        """
        self._forget_old()
        now_s = self._unix_s()
        while self._writes and now_s - self._writes[0] >= 60 * MINUTE_S:
            self._writes.popleft()
        if len(self._writes) >= self.limits.writes_per_hour:
            raise RefusedCallError(f"more than {self.limits.writes_per_hour} writes in an hour")
        proposal = self.proposals.pop(number, None)
        if proposal is None:
            raise RefusedCallError(f"no proposal {number[:16]!r} waits; it may have been confirmed, or be too old")
        self._writes.append(now_s)
        return proposal

    def check_cut(self, drawn_w: float | None, limit_w: float, minimum_w: float) -> None:
        """Refuse a target that takes away too much.

        Raises:
            RefusedCallError: naming the least that is allowed.
        """
        if drawn_w is None:
            raise RefusedCallError("the feed's draw is unknown; no target can be judged against it")
        least_w = max(minimum_w, drawn_w * (1.0 - self.limits.most_cut_ratio))
        if limit_w < least_w:
            raise RefusedCallError(f"{limit_w:.0f} W is below what an agent may ask for now: {least_w:.0f} W")

    def check_hold(self, host: str) -> None:
        """Refuse to hold one more host than agents may.

        Raises:
            RefusedCallError: naming the limit.
        """
        if host not in self.held and len(self.held) >= self.limits.most_hosts:
            raise RefusedCallError(f"agents hold {len(self.held)} hosts, expected at most {self.limits.most_hosts}")

    def note(self, caller: str, tool: str, arguments: Mapping[str, Any], outcome: str) -> None:
        """Write a call down; a call that cannot be written down is not made.

        Raises:
            RefusedCallError: the audit cannot be written.
        """
        if self._audit_file is None:
            return
        entry = {"time": self._unix_s(), "caller": caller, "tool": tool, "arguments": bounded(dict(arguments)),
                 "outcome": outcome[:MAX_TEXT]}  # fmt: skip
        try:
            with self._audit_file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise RefusedCallError(f"the audit cannot be written: {error.strerror}") from None

    def _forget_old(self) -> None:
        now_s = self._unix_s()
        for number, proposal in list(self.proposals.items()):
            if now_s - proposal.made_s > self.limits.proposal_s:
                del self.proposals[number]


def bounded(value: Any, depth: int = 0) -> Any:
    """Return a value small enough for an agent: texts without control characters and cut, lists cut, depth bounded."""
    if isinstance(value, str):
        plain = "".join(char if char.isprintable() else " " for char in value[: MAX_TEXT + 1])
        return plain if len(plain) <= MAX_TEXT else f"{plain[:MAX_TEXT]}…"
    if isinstance(value, Mapping):
        if depth >= MAX_DEPTH:
            return "…"
        items = list(value.items())[:MAX_ITEMS]
        return {str(key)[:100]: bounded(inner, depth + 1) for key, inner in items}
    if isinstance(value, list | tuple):
        if depth >= MAX_DEPTH:
            return "…"
        kept = [bounded(inner, depth + 1) for inner in value[:MAX_ITEMS]]
        return kept if len(value) <= MAX_ITEMS else [*kept, f"… {len(value) - MAX_ITEMS} more"]
    return value
