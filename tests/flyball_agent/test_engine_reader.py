"""Engines asked over HTTP and by file, joined with the energy of their GPUs."""

import asyncio
from pathlib import Path

import pytest

from flyball_agent.config import EngineConfig
from flyball_agent.engine_reader import EngineReader
from flyball_agent.exposition import exposition_text
from flyball_agent.state_window import GpuWindow


class Energies:
    """What is known of two GPUs now."""

    def __init__(self, *energies: float | None) -> None:
        self.now = list(energies)

    def __call__(self) -> list[GpuWindow]:
        return [GpuWindow(energy_j=energy) for energy in self.now]


async def test_steps_in_a_file_become_steps_per_joule_of_its_gpus(tmp_path: Path) -> None:
    counter, energies = tmp_path / "steps", Energies(1000.0, 5000.0)
    engine = EngineConfig(name="train", file=str(counter), gpus=(1,))
    reader = EngineReader([engine], energies)
    counter.write_text("training_steps_total 10\n")
    await reader.read(engine, 0.0)
    counter.write_text("training_steps_total 30\n")
    energies.now = [9000.0, 5040.0]
    await reader.read(engine, 10.0)

    text = exposition_text(reader.families())
    assert 'flyball_work_total{engine="train",work="steps"} 30\n' in text
    assert 'flyball_work_per_joule{engine="train",work="steps"} 0.5\n' in text


async def test_a_page_is_read_over_http() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nvllm:generation_tokens_total 7\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        engine = EngineConfig(name="serve", url=f"http://127.0.0.1:{port}/metrics")
        reader = EngineReader([engine], Energies(1.0))
        await reader.read(engine, 0.0)

    assert 'work="generated_tokens"} 7' in exposition_text(reader.families())


async def test_an_engine_that_is_away_or_a_gpu_that_is_unknown_leaves_no_figure(tmp_path: Path) -> None:
    away = EngineConfig(name="away", file=str(tmp_path / "none"))
    counted = EngineConfig(name="here", file=str(tmp_path / "steps"))
    (tmp_path / "steps").write_text("training_steps_total 1\n")
    reader = EngineReader([away, counted], Energies(1.0, None))
    for now_s in (0.0, 10.0):
        await reader.read(away, now_s)
        await reader.read(counted, now_s)

    text = exposition_text(reader.families())
    assert "per_joule" not in text
    assert "away" not in text


@pytest.mark.parametrize(("name", "url"), [("", "http://x"), ("a", ""), ("a", "ftp://x")])
def test_an_engine_that_cannot_be_asked_is_refused(name: str, url: str) -> None:
    with pytest.raises(ValueError, match="engine"):
        EngineConfig(name=name, url=url)
