"""Fixtures that every package's tests may ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.brokers import broker, broker_kind, tls_broker

from flyball_simgpu.plant_state import PlantFile, create

__all__ = ["broker", "broker_kind", "plant_file", "tls_broker"]


@pytest.fixture
def plant_file(tmp_path: Path) -> Iterator[PlantFile]:
    """A plant file of two hosts (host-a, host-b) with two idle H100s each, gates closed, and no process behind it."""
    with create(tmp_path / "plant", hosts=["host-a", "host-b"], gpus=2) as plant:
        yield plant
