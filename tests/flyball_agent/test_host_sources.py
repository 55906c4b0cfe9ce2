"""Ports, links, units and panics of a host, from folders and commands of their real shape; and notices about them."""

import asyncio
import http.server
import json
import socketserver
import threading
from collections.abc import Sequence
from pathlib import Path

from flyball_agent.catalogue import load_catalogue
from flyball_agent.device_facts import DeviceFacts
from flyball_agent.health_config import HealthConfig
from flyball_agent.host_sources import Folders, HostSources, inactive_units, kept_of, restore_kept
from flyball_agent.notices import Notice, Notices

SHOWN = "Id=nvidia-persistenced.service\nActiveState={}\n\nActiveState=active\nId=sshd.service\n"


def sources(folder: Path, config: HealthConfig, shown: str = "active") -> HostSources:
    async def run(command: Sequence[str], stdin: bytes = b"") -> tuple[int, str]:
        assert command[:2] == ["systemctl", "show"]
        return 0, SHOWN.format(shown)

    folders = Folders(folder / "infiniband", folder / "net")
    return HostSources(config, DeviceFacts("boot"), load_catalogue(), folders, run)


def port(folder: Path, state: str) -> Path:
    path = folder / "infiniband" / "mlx5_0" / "ports" / "1" / "state"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{state}\n")
    return path


async def codes_over(source: HostSources, rounds: int) -> list[tuple[str, str, bool]]:
    found = []
    for second in range(rounds):
        facts = await source.read(2e9 + 10 * second)
        found += [(str(fact.entity), fact.code, fact.is_over) for fact in facts]
    return [entry for entry in found if not entry[1].startswith("gauge.")]


async def test_a_port_that_was_active_and_is_not_counts_after_its_polls(tmp_path: Path) -> None:
    source = sources(tmp_path, HealthConfig(panics=""))
    port(tmp_path, "4: ACTIVE")
    assert await codes_over(source, 3) == []
    port(tmp_path, "1: DOWN")
    assert await codes_over(source, 9) == []
    assert await codes_over(source, 1) == [("nic:mlx5_0", "absence.port", False)]


async def test_a_port_that_never_was_active_is_not_missed_but_a_kept_one_is(tmp_path: Path) -> None:
    port(tmp_path, "1: DOWN")
    source = sources(tmp_path, HealthConfig(panics=""))
    assert await codes_over(source, 12) == []

    restarted = sources(tmp_path, HealthConfig(panics=""))
    restore_kept(restarted, {**kept_of(source), "ports": ["mlx5_0/1"]})
    assert len(await codes_over(restarted, 12)) == 1


async def test_a_link_down_and_a_unit_down_are_told(tmp_path: Path) -> None:
    config = HealthConfig(panics="", carriers=("eth9",), units=("nvidia-persistenced.service",))
    found = await codes_over(sources(tmp_path, config, "failed"), 10)
    assert sorted(found) == [("nic:eth9", "absence.port", False), ("node", "absence.unit", False)]
    assert inactive_units(SHOWN.format("failed")) == ["nvidia-persistenced.service failed"]
    assert inactive_units(SHOWN.format("activating")) == []


async def test_a_panic_of_the_last_boot_is_told_once(tmp_path: Path) -> None:
    folder = tmp_path / "pstore"
    folder.mkdir()
    (folder / "dmesg-efi-170000000001001").write_bytes(b"Panic#1")
    source = sources(tmp_path, HealthConfig(panics=str(folder)))
    assert await codes_over(source, 3) == [("node", "event.kernel_panic", False)]


async def test_a_webhook_gets_each_notice_and_a_dead_one_holds_nothing_up() -> None:
    got: list[Notice] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with socketserver.TCPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        notices = Notices(HealthConfig(webhook=f"http://127.0.0.1:{server.server_address[1]}/hook"))
        task = asyncio.create_task(notices.run())
        notices.put({"host": "h", "detail": "HEALTHY -> QUARANTINED"})
        async with asyncio.timeout(10):
            while not notices.sent_total:
                await asyncio.sleep(0.005)
        task.cancel()
        server.shutdown()
        thread.join()
    assert got == [{"host": "h", "detail": "HEALTHY -> QUARANTINED"}]

    for _ in range(1000):
        notices.put({})
    assert notices.lost_total == 1000 - 256
