"""Whether NVML finds GPUs of this machine: asked in a process of its own, because a driver call may never return."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Final

import pynvml

QUERY_LIMIT_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class LocalGpus:
    """What the site file must know of this machine's GPUs; limits are the least and the most of any of them."""

    count: int
    model: str
    minimum_w: float
    maximum_w: float


def find_local_gpus() -> LocalGpus | None:
    """Return this machine's GPUs; None where there is no library, no driver, no GPU or no answer in time."""
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "flyball_cli.local_gpus"], capture_output=True, timeout=QUERY_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    if answer.returncode != 0:
        return None
    return LocalGpus(**json.loads(answer.stdout))


def read_local_gpus() -> LocalGpus | None:
    """Ask NVML in this process.

    Raises:
        pynvml.NVMLError: no library, no driver, or a GPU that does not answer.
    """
    pynvml.nvmlInit()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        limits_milliwatts = [pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle) for handle in handles]
        if not handles:
            return None
        return LocalGpus(
            count=len(handles),
            model=pynvml.nvmlDeviceGetName(handles[0]),
            minimum_w=min(low for low, _ in limits_milliwatts) / 1000,
            maximum_w=max(high for _, high in limits_milliwatts) / 1000,
        )
    finally:
        pynvml.nvmlShutdown()


def main() -> int:
    """Print what was found as JSON; exit 1 where there is nothing."""
    try:
        found = read_local_gpus()
    except pynvml.NVMLError as error:
        print(f"no GPU of this machine: {error}", file=sys.stderr)
        return 1
    if found is None:
        return 1
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
