"""Valid messages of each contract, to be changed by tests."""

import json
from typing import Any

SET_TOPIC = "grid/v1/isv/acme-energy/loadtarget/set"
STATUS_TOPIC = "grid/v1/dsx-flex-agent/flyball/powerstate/status"
BREACH_TOPIC = "grid/v1/dsx-flex-agent/flyball/powerbreach"
ENFORCEMENT_TOPIC = "grid/v1/infra/ima/powerbreach/enforcement"
STATE_TOPIC = "NICO/v1/machine/host-0/state"
METER_TOPIC = "BMS/v1/PUB/Value/PowerMeter/ActivePower/site/feed/value"
METER_METADATA_TOPIC = "BMS/v1/PUB/Metadata/PowerMeter/ActivePower/site/feed/value"
CORRELATION = "0b0c3c5e-6a0f-4a7e-9a34-5d8d2f6f1c11"
WATTS = {"value": 250.0, "unit": "kilowatt"}


def envelope(kind: str, source: str, data: object, **more: Any) -> dict[str, Any]:
    """Return a CloudEvent of the grid contract."""
    return {
        "specversion": "1.0.2",
        "id": "5f0c7a0e-93c6-4a55-8d2b-1f6c2a1b7e90",
        "source": source,
        "type": kind,
        "time": "2027-01-15T08:00:00Z",
        "datacontenttype": "application/json",
        "subject": "loadtarget",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "data": data,
        **more,
    }


def load_target(**more: Any) -> dict[str, Any]:
    """Return one target of a set."""
    return {"interval": {}, "load_constraint": dict(WATTS), **more}


def status_data(**more: Any) -> dict[str, Any]:
    """Return the data of a status with one feed."""
    metadata = {"power_minimum": WATTS, "power_maximum": WATTS, "default_constraint": WATTS}
    feed = {
        "metadata": metadata,
        "targets": [],
        "calculated_load": WATTS,
        "in_flight": False,
        "event": "periodic",
        "compliant": True,
    }
    return {"snapshot_time": "2027-01-15T08:00:00Z", "feeds": {"main-a": {**feed, **more}}}


def alert_data(**more: Any) -> dict[str, Any]:
    """Return the data of an active breach."""
    hint = {
        "resource_id": "host-0",
        "resource_type": "node",
        "action": "power_cap",
        "priority": 1,
        "target_power": WATTS,
    }
    return {
        "feed_tag": "main-a",
        "status": "active",
        "severity": "warning",
        "breach": {"breach_id": CORRELATION, "detected_at": "2027-01-15T08:00:00Z"},
        "target": {"correlation_id": CORRELATION, "load_constraint": WATTS},
        "measured_load": {"value": 260, "unit": "kilowatt"},
        "shed_hints": [hint],
        "infrastructure_actions": ["SHUTDOWN_NODES", "TRIP_BREAKERS"],
        **more,
    }


def samples() -> list[tuple[str, dict[str, Any]]]:
    """Return a valid message of each type."""
    enforcement = {
        "breach_id": CORRELATION, "feed_tag": "main-a", "action": "applied", "code": "success", "results": [],
        "timestamp": "2027-01-15T08:00:01Z",
    }  # fmt: skip
    agent = "//grid/v1/dsx-flex-agent/flyball"
    meter = {
        "objectType": "PowerMeter", "pointType": "ActivePower", "engUnit": "kW", "objectName": "feed",
        "objectId": "feed", "servesId": [],
    }  # fmt: skip
    state = {
        "machine_id": "host-0", "timestamp": "2027-01-15T08:00:00Z",
        "managed_host_state": {"state": "assigned", "instance_state": {"state": "ready"}},
    }  # fmt: skip
    targets = {"targets": [load_target()]}
    return [
        (SET_TOPIC, envelope("grid.loadtarget.set.v1", "//grid/v1/isv/acme-energy", targets)),
        (STATUS_TOPIC, envelope("grid.powerstate.status.v1", agent, status_data())),
        (BREACH_TOPIC, envelope("grid.powerbreach.alert.v1", agent, alert_data())),
        (ENFORCEMENT_TOPIC, envelope("grid.powerbreach.enforcement.v1", "//grid/v1/infra/ima", enforcement)),
        (METER_TOPIC, {"value": 28.7, "timestamp": 1743620423000, "quality": 1}),
        (METER_METADATA_TOPIC, meter),
        (STATE_TOPIC, state),
    ]


def capture(*messages: tuple[str, object]) -> str:
    """Return a capture of messages."""
    return "".join(json.dumps({"topic": topic, "payload": payload}) + "\n" for topic, payload in messages)
