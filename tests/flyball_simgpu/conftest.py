import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flyball_simgpu.control import sim_environment
from flyball_simgpu.plant_state import PlantFile

WORKER = Path(__file__).with_name("nvml_worker.py")


class NvmlProcess:
    """nvidia-ml-py, unchanged, in a process of its own whose loader finds the simulated library."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, expression: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def __call__(self, expression: str) -> Any:
        """Return the value of an expression that must not fail."""
        self.send(expression)
        return self.receive()["value"]

    def code(self, expression: str) -> int:
        """Return the NVML error code of an expression, 0 when it worked."""
        self.send(expression)
        return int(self.receive().get("error", 0))

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture
def start_nvml(plant_file: PlantFile) -> Iterator[Callable[..., NvmlProcess]]:
    """Hand out a function that starts nvidia-ml-py on a host of the plant file, with more environment if given."""
    started: list[NvmlProcess] = []

    def start(host_id: str = "host-a", **environment: str) -> NvmlProcess:
        started.append(NvmlProcess({**sim_environment(plant_file.path, host_id), **environment}))
        return started[-1]

    yield start
    for process in started:
        process.close()


@pytest.fixture
def nvml(start_nvml: Callable[..., NvmlProcess]) -> NvmlProcess:
    """nvidia-ml-py, initialised on host-a."""
    process = start_nvml()
    process("nvmlInit()")
    return process
