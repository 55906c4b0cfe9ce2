import base64
import json
import uuid
from pathlib import Path
from typing import Any

from tests.flyball_aggregator.exchange.grid_rig import AGENT_KEY, ISV_KEY, opened, trusted
from tests.flyball_aggregator.exchange.grid_samples import alert_data
from tests.flyball_aggregator.small_site import SmallSite, build_small_site

from flyball_aggregator.exchange.check_message import check_message
from flyball_aggregator.exchange.cloud_event import Outgoing, build_event
from flyball_aggregator.exchange.exchange_config import ExchangeBrokerConfig, ExchangeConfig
from flyball_aggregator.exchange.exchange_room import ExchangeRoom, build_room
from flyball_aggregator.exchange.grid_agent import GridSettings
from flyball_aggregator.exchange.infra_agent import InfraAgent

OTHER = "//grid/v1/dsx-flex-agent/other"
BREACH = "0b0c3c5e-6a0f-4a7e-9a34-5d8d2f6f1c11"


def _infra(room: ExchangeRoom) -> InfraAgent:
    keys = {ISV_KEY.key_id: trusted(ISV_KEY, OTHER)}
    return InfraAgent(GridSettings(agent_id="flyball", keys=keys, signer=AGENT_KEY), room)


def _hint(host: str, watts: float = 3000.0, action: str = "power_cap", kind: str = "node") -> dict[str, Any]:
    power = {"target_power": {"value": watts, "unit": "watt"}} if action == "power_cap" else {}
    return {"resource_id": host, "resource_type": kind, "action": action, "priority": 1, **power}


def _alert(now_s: float, hints: list[dict[str, Any]], **more: Any) -> Outgoing:
    data = alert_data(shed_hints=hints, **more)
    data["breach"]["breach_id"] = BREACH
    if data["status"] == "resolved":
        del data["shed_hints"]
        data["breach"]["resolved_at"] = "2027-01-15T08:00:09Z"
        data["infrastructure_actions"] = []
    return build_event(
        topic=f"{OTHER[2:]}/powerbreach", kind="grid.powerbreach.alert.v1", source=OTHER, subject="powerbreach",
        data=data, now_s=now_s, signer=ISV_KEY, correlation_id=str(uuid.uuid4()),
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    )  # fmt: skip


def _room(site: SmallSite, directory: Path) -> ExchangeRoom:
    return build_room(ExchangeConfig(enforces_hints=True), site.loop, directory, ExchangeBrokerConfig())


async def test_hints_become_caps_are_reported_per_resource_and_taken_back(tmp_path: Path) -> None:
    site = build_small_site(tmp_path, hosts=3, limit_w=60_000.0)
    infra = _infra(_room(site, tmp_path))
    await site.seconds(6)
    now_s = site.loop.parts.unix_s()
    hints = [
        _hint("host-0"),
        _hint("host-1", 1.0),
        _hint("host-9"),
        _hint("host-2", action="suspend"),
        _hint("x", kind="gpu"),
    ]
    message = _alert(now_s, hints)
    said = [opened(item) for item in infra.take(message.topic, message.payload, now_s)]
    assert [(item["resource_id"], item["code"]) for item in said[0].data["results"]] == [
        ("host-0", "applied"), ("host-1", "applied"), ("host-9", "failed"), ("host-2", "skipped"), ("x", "skipped"),
    ]  # fmt: skip
    assert said[0].data["results"][1]["applied_power"] == {"value": 1.6, "unit": "kilowatt"}
    assert (said[0].data["action"], said[0].data["code"], said[0].qos) == ("applied", "partial", 2)
    assert said[0].envelope["traceparent"].split("-")[1] == "4bf92f3577b34da6a3ce929d0e0e4736"
    await site.seconds(4)
    assert site.hosts["host-0"].cap_milliwatts <= 3_000_000
    assert site.hosts["host-1"].cap_milliwatts == 1_600_000
    assert site.hosts["host-2"].cap_milliwatts > 3_000_000

    assert infra.take(message.topic, message.payload, now_s) == []
    now_s = site.loop.parts.unix_s()
    over = _alert(now_s, [], status="resolved")
    back = infra.take(over.topic, over.payload, now_s)
    assert check_message(back[0].topic, json.loads(back[0].payload)) == []
    assert opened(back[0]).data["action"] == "reverted"
    await site.seconds(6)
    assert site.hosts["host-0"].cap_milliwatts > 3_000_000
    assert site.loop.ceilings_w == {}
    site.stop()


async def test_a_forged_alert_changes_nothing(tmp_path: Path) -> None:
    site = build_small_site(tmp_path)
    infra = _infra(_room(site, tmp_path))
    await site.seconds(3)
    now_s = site.loop.parts.unix_s()
    message = _alert(now_s, [_hint("host-0")])
    event = json.loads(message.payload)
    head, body, signature = event["data"].split(".")
    raw = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    raw["shed_hints"][0]["resource_id"] = "host-1"
    event["data"] = f"{head}.{base64.urlsafe_b64encode(json.dumps(raw).encode()).decode().rstrip('=')}.{signature}"
    assert infra.take(message.topic, json.dumps(event).encode(), now_s) == []
    assert (dict(infra.refused), site.loop.ceilings_w) == ({"signature": 1}, {})
    site.stop()
