"""The threat model names its tests; each of them is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def named_tests() -> list[tuple[str, str]]:
    """Return (file, test) of every test that the document names; `::test` goes on from the file before it."""
    found, file = [], ""
    for name in re.findall(r"`((?:test_\w+\.py)?::test_\w+)`", (ROOT / "docs/security.md").read_text(encoding="utf-8")):
        before, _, test = name.partition("::")
        file = before or file
        found.append((file, test))
    return found


@pytest.mark.parametrize(("file", "test"), named_tests())
def test_a_test_that_the_threat_model_names_is_there(file: str, test: str) -> None:
    (path,) = (ROOT / "tests").rglob(file)
    assert f"def {test}(" in path.read_text(encoding="utf-8")


def test_the_threat_model_names_tests_at_all() -> None:
    assert len(named_tests()) >= 15
