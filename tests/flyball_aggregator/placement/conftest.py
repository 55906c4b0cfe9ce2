"""Small fleets, and the folder of published traces where it is present."""

import os
from pathlib import Path

import pytest

from flyball_aggregator.placement.fleet import HostShape

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def openb() -> Path:
    """The published hosts and jobs; the test is skipped, with the reason, where they are absent."""
    root = Path(os.environ.get("FLYBALL_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / "openb").is_dir():
        pytest.skip(f"no published traces at {root / 'openb'}: set FLYBALL_SHARED_DATA")
    return root / "openb"


@pytest.fixture
def hosts() -> list[HostShape]:
    """Two leaves of two racks of two hosts with four GPUs each."""
    return [
        HostShape(
            name=f"h{number}",
            cpu_milli=64_000,
            memory_mib=512_000,
            gpus=4,
            model="H100",
            gpu_memory_mib=81_920,
            domains=(f"rack{number // 2}", f"leaf{number // 4}"),
            numa_of=(0, 0, 1, 1),
        )
        for number in range(8)
    ]
