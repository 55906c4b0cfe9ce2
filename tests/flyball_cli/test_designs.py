"""Reference designs: valid sites that round-trip as TOML, whose floors fit every row, loss of a feed included."""

from pathlib import Path

import numpy as np
import pytest

from flyball_aggregator.power.policy import build_policy
from flyball_aggregator.power.rows import build_matrix, build_rows
from flyball_aggregator.site import Site, load_site
from flyball_cli.__main__ import main
from flyball_cli.designs import DESIGNS


@pytest.fixture(params=sorted(DESIGNS))
def design(request: pytest.FixtureRequest) -> Site:
    return DESIGNS[request.param](3)


def test_floors_fit_every_row_to_the_admission_ratio(design: Site) -> None:
    rows = build_rows(design)
    load_w = build_matrix(rows, len(design.hosts)).load_w(build_policy(design).floor_w)
    used_w = load_w + np.array([row.unmanaged_w + row.reserve_w for row in rows])

    assert (used_w <= design.policy.admission_ratio * np.array([row.limit_w for row in rows])).all()


def test_a_design_is_oversubscribed_somewhere_and_starts_in_observe(design: Site) -> None:
    rows = build_rows(design)
    most_w = build_matrix(rows, len(design.hosts)).load_w(np.array([host.maximum_w for host in design.hosts]))

    assert (most_w + np.array([row.unmanaged_w for row in rows]) > np.array([row.limit_w for row in rows])).any()
    assert design.policy.mode == "observe"


def test_what_init_writes_is_the_design(tmp_path: Path, design: Site) -> None:
    path = tmp_path / "site.toml"

    assert main(["init", "--design", design.name, "--racks", "3", "--output", str(path)]) == 0

    assert load_site(path) == design


def test_init_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "site.toml"
    path.write_text("mine")

    assert main(["init", "--design", "homelab-8", "--output", str(path)]) == 78

    assert path.read_text() == "mine"
    assert "File exists" in capsys.readouterr().err
