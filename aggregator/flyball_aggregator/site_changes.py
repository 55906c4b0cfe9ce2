"""What differs between two sites, as lines a person can read; and which changes a running site cannot take."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Final

from flyball_aggregator.site import Site

UNSET: Final = "unset"


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs; `before` or `after` is None where the thing itself is new or gone."""

    where: str  # such as elements.feed.rating_w
    before: str | None
    after: str | None

    def __str__(self) -> str:
        """Return the change as one line."""
        if self.before is None:
            return f"+ {self.where}: {self.after}"
        return (
            f"- {self.where}: {self.before}" if self.after is None else f"~ {self.where}: {self.before} -> {self.after}"
        )


def changes_of(before: Site, after: Site) -> tuple[Change, ...]:
    """Return all differences, in the order of the site file."""
    return tuple(_differences("", before, after))


def check_live(before: Site, after: Site) -> None:
    """Refuse what cannot be changed while the site runs.

    Raises:
        ValueError: naming what it is, and what to do.
    """
    if before.name != after.name:
        raise ValueError(f"site {after.name!r}: the running site is {before.name!r} and keeps its name")
    gone = {host.name for host in before.hosts} - {host.name for host in after.hosts}
    if gone:
        raise ValueError(
            f"host {min(gone)!r} is missing: its watts stay counted until it is released or written off; "
            "release it, then restart the aggregator on the new file"
        )
    for field in ("lease_ttl_s", "lease_hold_s", "lease_ramp_ratio_per_s"):
        if getattr(before.policy, field) != getattr(after.policy, field):
            raise ValueError(f"policy.{field}: leases on the wire live by the present one; it takes a restart")


def _differences(where: str, before: object, after: object) -> Iterator[Change]:
    if before == after:
        return
    if is_dataclass(before) and is_dataclass(after) and not isinstance(before, type):
        for field in fields(before):
            inner = f"{where}.{field.name}" if where else field.name
            yield from _differences(inner, getattr(before, field.name), getattr(after, field.name))
    elif isinstance(before, tuple) and isinstance(after, tuple) and _are_named(before + after):
        yield from _of_named(where, _by_name(before), _by_name(after))
    else:
        yield Change(where, _shown(before), _shown(after))


def _of_named(where: str, before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[Change]:
    for name in [*before, *(name for name in after if name not in before)]:
        place = f"{where}.{name}"
        if name not in after:
            yield Change(place, _summary(before[name]), None)
        elif name not in before:
            yield Change(place, None, _summary(after[name]))
        else:
            yield from _differences(place, before[name], after[name])


def _are_named(items: Sequence[object]) -> bool:
    return bool(items) and all(hasattr(item, "name") for item in items)


def _by_name(items: Sequence[object]) -> dict[str, object]:
    return {str(getattr(item, "name", "")): item for item in items}


def _summary(item: object) -> str:
    """Return what of a new or gone thing is not the default."""
    if not is_dataclass(item) or isinstance(item, type):
        return _shown(item)
    said = [(field.name, getattr(item, field.name)) for field in fields(item) if field.name != "name"]
    defaults = {field.name: field.default for field in fields(item)}
    return ", ".join(f"{name} {_shown(value)}" for name, value in said if value != defaults[name]) or "as the defaults"


def _shown(value: object) -> str:
    if value is None:
        return UNSET
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    name = getattr(value, "name", None)
    share = getattr(value, "share", None)
    return str(value) if name is None else f"{name}:{share:g}" if share is not None else str(name)
