"""Classify a stream of kernel messages at bounded cost: repeats from memory, floods sampled by kind.

A message seen before costs one look-up and is told again once a second, with its count. Each second at most
`NEW_PER_SECOND` new messages are read in full; of the rest one of each head: a flood of one kind hides no other.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from flyball_agent.catalogue import Catalogue
from flyball_agent.kernel_lines import NOTHING, Classification, classify_text, parse_uuid_line
from flyball_agent.kernel_prefix import PrefixedText
from flyball_agent.kernel_record import unescape_message

NEW_PER_SECOND: Final = 2000
HEAD_BYTES: Final = 48  # `NVRM: Xid (PCI:0000:01:00): 154, ` and a little
KNOWN_MESSAGES: Final = 4096
REPEAT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class KernelMessage:
    """A record that says something, or a loss of records (`lost` > 0, nothing else).

    Args:
        at_s: Time since boot, seconds.
        sequence: Number in the kernel's ring; 0 from a journal.
        repeats: Sightings of the very same message since it was told last, this one not counted.
        mapping: (PCI address, GPU UUID) of the driver's own line.
    """

    at_s: float
    sequence: int
    found: Classification = NOTHING
    text: str = ""
    lost: int = 0
    repeats: int = 0
    mapping: tuple[str, str] | None = None


@dataclass(slots=True)
class _Known:
    found: Classification
    text: str
    mapping: tuple[str, str] | None
    repeats: int = 0
    told_s: float = float("-inf")

    @property
    def is_telling(self) -> bool:
        return self.found.is_interesting or self.mapping is not None


@dataclass(slots=True)
class _Second:
    began_s: float = float("-inf")
    new: int = 0
    heads: set[bytes] = field(default_factory=set)


class MessageClassifier:
    """Says what messages mean; `now_s` is a monotonic clock in seconds."""

    def __init__(self, catalogue: Catalogue, *, now_s: Callable[[], float], allow_injected: bool = False) -> None:
        self.allow_injected = allow_injected
        self.sampled_out = 0
        self._catalogue = catalogue
        self._now_s = now_s
        self._known: OrderedDict[tuple[bytes, int], _Known] = OrderedDict()
        self._second = _Second()

    def classify(self, message: bytes, facility: int, at_s: float, sequence: int) -> KernelMessage | None:
        """Return what one message says, or None: of no interest, told within this second, or beyond the budget."""
        key, now_s = (message, facility), self._now_s()
        known = self._known.get(key)
        if known is None:
            if not self._take_budget(message, now_s):
                return None
            known = self._remember(key)
        elif now_s - known.told_s < REPEAT_S:
            known.repeats += 1
            return None
        if not known.is_telling:
            return None
        told = KernelMessage(at_s, sequence, known.found, known.text, 0, known.repeats, known.mapping)
        known.repeats, known.told_s = 0, now_s
        return told

    def _remember(self, key: tuple[bytes, int]) -> _Known:
        known = self._known[key] = self._read(*key)
        if len(self._known) > KNOWN_MESSAGES:
            self._known.popitem(last=False)
        return known

    def _read(self, message: bytes, facility: int) -> _Known:
        text = unescape_message(message).lstrip()
        prefixed = PrefixedText(text, facility)
        found = classify_text(prefixed, self._catalogue, allow_injected=self.allow_injected)
        return _Known(found, text, None if found.is_interesting else parse_uuid_line(text))

    def _take_budget(self, message: bytes, now_s: float) -> bool:
        if now_s - self._second.began_s >= 1.0:
            self._second = _Second(began_s=now_s)
        second, head = self._second, message[:HEAD_BYTES]
        second.new += 1
        if second.new <= NEW_PER_SECOND:
            return True
        if head not in second.heads and len(second.heads) < KNOWN_MESSAGES:
            second.heads.add(head)
            return True
        self.sampled_out += 1
        return False
