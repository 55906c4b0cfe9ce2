"""A table that shares what did not change."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_aggregator.power.frozen_table import FrozenTable


@given(st.lists(st.tuples(st.text(max_size=2), st.integers())))
@settings(max_examples=50)
def test_a_table_equals_the_dictionary_with_the_same_writes(writes: list[tuple[str, int]]) -> None:
    table: FrozenTable[int] = FrozenTable()
    for key, value in writes:
        table = table.with_item(key, value)

    assert dict(table) == dict(writes)
    assert len(table) == len(dict(writes))


def test_the_table_before_a_change_is_as_it_was() -> None:
    before = FrozenTable((str(at), at) for at in range(100))
    after = before.with_item("7", -7)

    assert (before["7"], after["7"]) == (7, -7)
    assert before.get("none") is None
