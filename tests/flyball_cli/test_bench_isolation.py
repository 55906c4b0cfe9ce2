"""From a kernel line, and from a pushed XID, to refused work, with real processes."""

import asyncio
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from flyball_agent.check import run as run_check
from flyball_cli.api_client import ApiClient, ApiError
from flyball_cli.bench_isolation import measure
from flyball_cli.sim import PLANT_FOLDERS, PLANT_GLOB
from flyball_simgpu.control import inject_xid
from flyball_simgpu.plant_state import PlantFile

UP_S = 60.0
COMMAND = "up --json --hosts 1 --gpus 2 --simulated-only --limit-w 4000 --port 0 --broker-port 0 --broker nats --for 60"


def test_a_kernel_line_becomes_an_incident_and_refused_work_within_the_bounds() -> None:
    result = measure(3)

    assert result["refused_max_s"] <= 3.0
    assert result["drained_max_s"] <= 10.0


@pytest.mark.broker
async def test_a_pushed_xid_is_an_incident_of_the_fleet_and_the_gpu_is_refused(tmp_path: Path) -> None:
    before = plants()
    words = [sys.executable, "-m", "flyball_cli", *COMMAND.split(), "--state", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(
        *words, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(UP_S):
            client = ApiClient(await page_of(process))
            with PlantFile(next(iter(plants() - before))) as plant:
                inject_xid(plant, "host-1", 1, 48)
            incident = await first_incident(client)
            story = client.get(f"/v1/explain/incident/{incident['name']}")["sentences"]
            while (health := client.get("/v1/hosts/host-1")["gpus"][1]["health"]) == "ok":
                await asyncio.sleep(0.1)
    finally:
        process.terminate()
        await process.communicate()

    assert (incident["codes"], incident["gpu"], incident["is_injected"]) == (["xid.48"], 1, False)
    assert any("asks for reset_gpu" in sentence for sentence in story)
    assert health in {"quarantined", "draining"}
    assert checked(tmp_path / "hosts" / "host-1" / "health.json", "1") == 1
    assert checked(tmp_path / "hosts" / "host-1" / "health.json", "0") == 0


def plants() -> set[Path]:
    return {path for folder in PLANT_FOLDERS for path in Path(folder).glob(PLANT_GLOB)}


def checked(path: Path, gpu: str) -> int:
    return run_check(Namespace(gpu=[gpu], file=path, quiet=True))


async def page_of(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async for line in process.stderr:
        if line.startswith(b"every lease is acknowledged"):
            return line.decode().strip().rpartition(" ")[2]
    raise AssertionError("flyball up ended early")


async def first_incident(client: ApiClient) -> dict[str, Any]:
    while True:
        try:
            found = client.get("/v1/incidents")["incidents"]
        except ApiError:
            found = []
        if found:
            return dict(found[0])
        await asyncio.sleep(0.05)
