"""The plant against measured boards; the residuals are printed (pytest -s)."""

from pathlib import Path

import pytest

from flyball_twin.calibration import Residual, emerald_residuals, zeus_residual

ZEUS = Path(__file__).parents[3] / "shared" / "data" / "power"


def show(residual: Residual) -> None:
    speeds = " ".join(f"{cap:.0f}W:{value:+.3f}" for cap, value in zip(residual.caps_w, residual.speed, strict=True))
    print(f"{residual.board} {residual.workload}: speed rms {residual.speed_rms:.3f}, ", end="")
    print(f"power rms {residual.power_rms_w:.1f} W; {speeds}")


@pytest.mark.parametrize("residual", emerald_residuals(), ids=lambda residual: residual.workload)
def test_an_a100_is_as_fast_and_as_hungry_under_caps_as_measured(residual: Residual) -> None:
    show(residual)

    assert residual.speed_rms <= 0.05
    assert residual.power_rms_w <= 16.0


@pytest.mark.parametrize(("board", "dataset"), [("v100", "squad"), ("a40", "squad")])
def test_training_under_caps_is_as_fast_as_measured(board: str, dataset: str) -> None:
    path = ZEUS / f"zeus_power_{board}.csv"
    if not path.is_file():
        pytest.skip(f"no {path.name} beside the project: see the data's README")
    residual = zeus_residual(path, board, dataset)
    show(residual)

    assert residual.speed_rms <= 0.06
