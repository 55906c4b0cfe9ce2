import os
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from flyball_governor import journal
from flyball_governor.journal import JournalError, PriorLimits, StateFile


def test_a_record_reads_back_as_written(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state")
    file.write({"watts": 5, "name": "x"})

    assert file.read() == {"watts": 5, "name": "x"}


def test_no_file_is_no_record(tmp_path: Path) -> None:
    assert StateFile(tmp_path / "none").read() is None


@pytest.mark.parametrize("damage", [b"", b"{}\n", b'{"a": 1}\nffff\n', b"\xff\xff\n\n\n", b"[1]\n00\n"])
def test_a_damaged_file_is_no_record(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "state").write_bytes(damage)

    assert StateFile(tmp_path / "state").read() is None


def _die_at_line(number: int, write: Any) -> int:
    """Run `write` in a child that ends at its number-th line; return the child's exit status."""
    child = os.fork()
    if child == 0:
        lines = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal lines
            if frame.f_code.co_filename != journal.__file__:
                return None
            lines += event == "line"
            if lines == number:
                os._exit(9)
            return trace

        sys.settrace(trace)
        write()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_kill_at_any_line_leaves_the_old_record_or_the_new_one(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state")
    file.write({"version": 0})
    seen, number = set(), 1
    while _die_at_line(number, partial(file.write, {"version": number})) == 9:
        record = file.read()
        assert record is not None
        seen.add("new" if record["version"] == number else "old")
        file.write({"version": 0})
        number += 1

    assert seen == {"old", "new"}
    assert number > 8


def test_a_known_prior_limit_is_never_overwritten(tmp_path: Path) -> None:
    prior = PriorLimits(StateFile(tmp_path / "prior"))
    prior.remember({"a": 700})
    prior.remember({"a": 300, "b": 600})
    again = PriorLimits(StateFile(tmp_path / "prior"))
    again.load()

    assert again.known == {"a": 700, "b": 600}


def test_a_disk_that_refuses_is_said_and_changes_nothing(tmp_path: Path) -> None:
    prior = PriorLimits(StateFile(tmp_path / "missing" / "prior"))

    with pytest.raises(JournalError, match="cannot write"):
        prior.remember({"a": 700})
    assert prior.known == {}


def test_a_forgotten_prior_limit_is_gone_from_disk(tmp_path: Path) -> None:
    prior = PriorLimits(StateFile(tmp_path / "prior"))
    prior.remember({"a": 700, "b": 600})
    prior.forget({"a"})

    assert StateFile(tmp_path / "prior").read() == {"b": 600}
