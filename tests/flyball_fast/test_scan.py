"""Splitting kernel log records: the compiled twin and the readable one agree on every input."""

import importlib
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flyball_fast import _scan_py

_scan_c = importlib.import_module("flyball_fast._scan_c")

Scan = Callable[[bytes, tuple[bytes, ...]], tuple[int, int, int, int, bytes, bool] | None]
WORDS = (b"NVRM", b"SXid", b"oom-kill")


@pytest.fixture(params=[_scan_c.scan_record, _scan_py.scan_record], ids=["compiled", "readable"])
def scan(request: pytest.FixtureRequest) -> Scan:
    chosen: Scan = request.param
    return chosen


def test_a_record_is_split_into_its_parts(scan: Scan) -> None:
    raw = b"12,98012,5566778899,-,caller=T1;NVRM: a;b\n SUBSYSTEM=pci\n"
    assert scan(raw, WORDS) == (12, 98012, 5566778899, ord("-"), b"NVRM: a;b", True)


def test_a_message_without_the_words_is_of_no_interest(scan: Scan) -> None:
    assert scan(b"6,1,2,c;usb 1-1\n NVRM=1\n", WORDS) == (6, 1, 2, ord("c"), b"usb 1-1", False)


@pytest.mark.parametrize("raw", [b"", b";", b"4;x", b"4,1,2;x", b"4,1,2,;x", b"4,,2,-;x", b"4,-1,2,-;x", b" 4,1,2,-;x"])
def test_a_record_without_header_is_none(scan: Scan, raw: bytes) -> None:
    assert scan(raw, WORDS) is None


@given(
    st.binary(max_size=80)
    | st.from_regex(rb"\d{1,20},\d{1,20},\d{1,20},[c+-]?(,\w*)?;[a-zNVRM\n\x00]*", fullmatch=True)
)
@example(b"4,9223372036854775807,1,-;x")
@example(b"4,9223372036854775808,1,-;x")
@example(b"4,1,2,,x;y")
def test_the_twins_agree(raw: bytes) -> None:
    assert _scan_c.scan_record(raw, WORDS) == _scan_py.scan_record(raw, WORDS)
