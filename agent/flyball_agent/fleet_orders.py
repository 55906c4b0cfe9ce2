"""What the fleet told this host about its health: mode, maintenance windows, and orders about one entity.

The governor checked the signature before it handed an order on; what does not make sense is refused here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from flyball_agent.facts import parse_entity
from flyball_agent.health_inputs import Order
from flyball_agent.isolation_guard import FleetMode, Window

ENTITY_ACTS: Final = ("resume", "hold", "unhold", "isolate", "clear")
KINDS: Final = ("gpu", "mig", "nic", "fabric", "node")
MODES: Final[Mapping[str, FleetMode]] = {"normal": "normal", "careful": "careful", "observe": "observe"}
MAX_WINDOWS: Final = 64


@dataclass(slots=True)
class FleetOrders:
    """The newest mode and the windows that have not ended."""

    mode: FleetMode = "normal"
    windows: list[Window] = field(default_factory=list)

    def take_mode(self, fields: Mapping[str, str]) -> None:
        """Follow a mode.

        Raises:
            ValueError: there is no such mode.
        """
        if fields.get("mode") not in MODES:
            raise ValueError(f"mode {fields.get('mode', '')[:40]!r}, expected one of {', '.join(MODES)}")
        self.mode = MODES[fields["mode"]]

    def take_window(self, fields: Mapping[str, str]) -> None:
        """Take a maintenance window; the same name and begin again changes its end.

        Raises:
            ValueError: not two times in order.
        """
        begins_s, ends_s = float(fields.get("begins_s", "nan")), float(fields.get("ends_s", "nan"))
        if not begins_s <= ends_s:
            raise ValueError(f"window from {begins_s} to {ends_s}: expected two times in order")
        window = Window(begins_s, ends_s, fields.get("covers", ""), fields.get("by", ""))
        kept = [w for w in self.windows if (w.covers, w.begins_s) != (window.covers, window.begins_s)]
        self.windows = [*kept[-(MAX_WINDOWS - 1) :], window]

    def forget_ended(self, now_s: float) -> None:
        """Drop windows that are over."""
        if any(window.ends_s <= now_s for window in self.windows):
            self.windows = [window for window in self.windows if window.ends_s > now_s]

    def to_plain(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"mode": self.mode, "windows": [asdict(window) for window in self.windows]}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Take over what `to_plain` gave."""
        self.mode = MODES[plain["mode"]]
        self.windows = [Window(**window) for window in plain["windows"]]


def entity_order(act: str, fields: Mapping[str, str], at_s: float) -> Order:
    """Return an order about one entity.

    Raises:
        ValueError: an act, entity or span that does not exist.
    """
    entity = parse_entity(fields.get("entity", ""))
    if act not in ENTITY_ACTS or entity.kind not in KINDS:
        raise ValueError(f"order {act[:40]!r} on {str(entity)[:80]!r}: expected one of {', '.join(ENTITY_ACTS)}")
    hours = fields.get("hours")
    return Order(at_s, entity, act, fields.get("by", ""), None if hours is None else float(hours))
