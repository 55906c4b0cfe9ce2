"""The catalogue: versioned, dated, overlaid by the site, and compared."""

import argparse
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from flyball_agent import catalogue_command, classify
from flyball_agent.catalogue import diff_catalogues, load_catalogue, load_with_overlay, read_catalogue
from flyball_wire.errors import ConfigError

LINE = "NVRM: Xid (PCI:0000:01:00): 13, x\n"


def parse(module: object, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    catalogue_command.add_parser(subparsers)
    classify.add_parser(subparsers)
    return parser.parse_args(list(words))


def test_the_catalogue_says_its_version_date_and_sources() -> None:
    catalogue = load_catalogue()
    assert (catalogue.version, len(catalogue.xids), len(catalogue.nvlink_rules)) == (1, 176, 94)
    assert catalogue.dated.year >= 2026
    assert max(catalogue.xids) == catalogue.newest_xid


def test_every_policy_has_known_words() -> None:
    catalogue = load_catalogue()
    policies = [*catalogue.xids.values(), *catalogue.sxids.values(), *catalogue.events.values()]
    assert {policy.severity for policy in policies} == {"info", "warn", "fatal"}
    assert all(policy.action and policy.scope and policy.group and policy.meaning for policy in policies)


def test_an_overlay_changes_only_what_it_names(tmp_path: Path) -> None:
    overlay = tmp_path / "site.toml"
    overlay.write_text('[xid.13]\nclass = "info"\naction = "none"\n[xid.500]\nclass = "fatal"\naction = "reset_gpu"\n')
    lines = list(diff_catalogues(load_catalogue(), load_with_overlay(overlay)))
    assert lines == ["xid 13: class warn -> info", "xid 13: action restart_app -> none", "xid 500: added"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[xyz.1]\n", "unknown table 'xyz'"),
        ("[xid.abc]\n", "xid.abc: expected a number"),
        ("[event.nonsense]\n", "event.nonsense: unknown event"),
        ('[xid.13]\nclass = "bad"\n', "'bad', expected one of info, warn, fatal"),
        ('[xid.13]\ncolour = "red"\n', "xid.13.colour: expected text under one of class"),
        ("xid = 3\n", "expected a table"),
        ("[xid]\n13 = 4\n", "expected a table with any of"),
        ("[[", "not TOML"),
    ],
)
def test_a_wrong_overlay_is_an_error_that_names_its_place(tmp_path: Path, text: str, message: str) -> None:
    overlay = tmp_path / "site.toml"
    overlay.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_with_overlay(overlay)


def test_another_version_is_compared_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tables"
    shutil.copytree(str(files("flyball_agent") / "catalogue_tables"), folder)
    table = folder / "xid.tsv"
    table.write_text(
        table.read_text().replace("\nwarn\t", "\nwarn\t").replace("PSHC_REENGAGED\tinfo", "PSHC_REENGAGED\twarn")
    )
    assert catalogue_command.run(parse(catalogue_command, "catalogue", "diff", str(folder))) == 1
    assert capsys.readouterr().out == "xid 162: class info -> warn\n"
    (folder / "sxid.tsv").unlink()
    with pytest.raises(ConfigError, match="five tables"):
        read_catalogue(folder)


def test_the_command_shows_the_head_and_finds_no_difference_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert catalogue_command.run(parse(catalogue_command, "catalogue", "show")) == 0
    assert "176 XIDs up to 176" in capsys.readouterr().out
    assert catalogue_command.run(parse(catalogue_command, "catalogue", "diff")) == 0
    assert catalogue_command.run(parse(catalogue_command, "catalogue", "diff", "/nonexistent.toml")) == 78


def test_classify_reads_a_file_and_an_overlay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, overlay = tmp_path / "lines", tmp_path / "site.toml"
    lines.write_bytes(LINE.encode() + b"\xff\xfe broken\r\n" + b"x" * 200_000 + b"\n" + LINE.encode()[:-1])
    overlay.write_text('[xid.13]\naction = "none"\n')
    assert classify.run(parse(classify, "classify", str(lines), "--json", "--overlay", str(overlay))) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 4
    assert '"action": "none"' in out[0]
    assert '"xid": null' in out[1]
    assert '"xid": 13' in out[3]


def test_classify_prints_text_and_refuses_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "lines"
    lines.write_text(LINE + "nothing\n")
    assert classify.run(parse(classify, "classify", str(lines))) == 0
    assert capsys.readouterr().out == "xid 13 PCI:0000:01:00 warn/restart_app scope=app rule=xid.13\n-\n"
    assert classify.run(parse(classify, "classify", str(tmp_path / "none"))) == 78
