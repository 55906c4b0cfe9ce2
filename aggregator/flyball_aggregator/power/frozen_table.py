"""A mapping whose `with_item` is cheap: the old one stays as it was, so that pure functions can return a new one.

Items lie in dictionaries chosen by hash, about sqrt(n) of them; one change copies one of them and the tuple of all.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import isqrt
from typing import Generic, TypeVar

V = TypeVar("V")


class FrozenTable(Mapping[str, V], Generic[V]):
    """An immutable mapping from names to values."""

    __slots__ = ("_count", "_shards")

    def __init__(self, items: Iterable[tuple[str, V]] = ()) -> None:
        flat = dict(items)
        shards: list[dict[str, V]] = [{} for _ in range(max(1, isqrt(len(flat))))]
        for key, value in flat.items():
            shards[hash(key) % len(shards)][key] = value
        self._shards = tuple(shards)
        self._count = len(flat)

    def with_item(self, key: str, value: V) -> "FrozenTable[V]":
        """Return the table with one item set; O(sqrt(n))."""
        if self._count > 4 * len(self._shards) ** 2:
            return FrozenTable([*self.items(), (key, value)])
        at = hash(key) % len(self._shards)
        shard = self._shards[at]
        made: FrozenTable[V] = FrozenTable.__new__(FrozenTable)
        made._shards = (*self._shards[:at], {**shard, key: value}, *self._shards[at + 1 :])
        made._count = self._count + (key not in shard)
        return made

    def __getitem__(self, key: str) -> V:
        return self._shards[hash(key) % len(self._shards)][key]

    def __iter__(self) -> Iterator[str]:
        for shard in self._shards:
            yield from shard

    def __len__(self) -> int:
        return self._count
