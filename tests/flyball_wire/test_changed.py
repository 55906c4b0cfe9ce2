"""`changed` does what dataclasses.replace does, faster."""

from dataclasses import dataclass, replace

import pytest

from flyball_wire.changed import changed


@dataclass(frozen=True, slots=True)
class Pair:
    first: int
    second: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    first: int
    second: int

    def __post_init__(self) -> None:
        raise AssertionError


def test_a_changed_copy_equals_the_replaced_one_and_leaves_the_first_alone() -> None:
    pair = Pair(1, ("a",))

    assert changed(pair, first=2) == replace(pair, first=2)
    assert hash(changed(pair)) == hash(pair)
    assert pair == Pair(1, ("a",))


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(KeyError):
        changed(Pair(1), third=3)  # type: ignore[call-arg]


def test_a_class_that_checks_itself_is_refused() -> None:
    checked = object.__new__(Checked)
    with pytest.raises(TypeError, match="__post_init__"):
        changed(checked, first=1)
