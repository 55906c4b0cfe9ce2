"""The aggregator's own metrics in Prometheus text form."""

from collections.abc import Iterable
from typing import Final

import numpy as np

from flyball_aggregator.broker import BrokerSession
from flyball_aggregator.intake import Intake
from flyball_aggregator.power.facility import fleet_power
from flyball_aggregator.power.loop import PowerLoop
from flyball_aggregator.power.snapshot import PowerSnapshot
from flyball_aggregator.power.view import row_view

Sample = tuple[dict[str, str], float | None]
MILLI: Final = 1000.0


def render_metrics(loop: PowerLoop, intake: Intake, session: BrokerSession) -> str:
    """Return all metrics; what is unknown is left out, never zero."""
    failures: list[Sample] = [({}, float(loop.certificate_failures))]
    lines = [
        *_metric("flyball_broker_connected", "gauge", "1 while subscribed", [({}, float(session.is_connected))]),
        *_metric("flyball_broker_connects_total", "counter", "sessions begun", [({}, float(session.connects))]),
        *_metric("flyball_messages_total", "counter", "messages taken", _by("channel", intake.received)),
        *_metric("flyball_messages_refused_total", "counter", "messages refused", _by("channel", intake.refused)),
        *_metric(
            "flyball_leases_sent_total", "counter", "leases handed to the broker", [({}, float(loop.leases_sent))]
        ),
        *_metric("flyball_grants_refused_total", "counter", "by the ledger", _by("reason", loop.parts.desk.refused)),
        *_metric("flyball_reports_forged_total", "counter", "bad signatures", [({}, float(loop.parts.desk.forged))]),
        *_metric("flyball_certificate_failures_total", "counter", "unsound decisions", failures),
    ]
    if loop.snapshot is not None:
        lines += _site_metrics(loop, loop.snapshot)
        lines += _row_metrics(loop.snapshot)
        lines += _row_seconds(loop)
        lines += _host_metrics(loop, loop.snapshot)
    return "\n".join(lines) + "\n"


def _site_metrics(loop: PowerLoop, snapshot: PowerSnapshot) -> list[str]:
    power = fleet_power(loop.parts.fleet, snapshot)
    labels = {"site": power.site}
    lines = []
    for name in ("limit", "draw", "headroom", "committed", "unmanaged", "reserve"):
        value: float | None = getattr(power, f"{name}_watts")
        lines += _metric(f"flyball_site_{name}_watts", "gauge", f"{name} of the site", [(labels, value)])
    lines += _metric("flyball_site_hosts_online", "gauge", "hosts heard lately", [(labels, float(power.hosts_online))])
    lines += _metric("flyball_epoch", "gauge", "of the ledger", [(labels, float(snapshot.epoch))])
    return lines + _metric("flyball_solve_seconds", "gauge", "last decision", [(labels, snapshot.solve_ms / MILLI)])


def _row_metrics(snapshot: PowerSnapshot) -> list[str]:
    views = [row_view(snapshot, index) for index in range(len(snapshot.rows))]
    lines = []
    for name in ("limit_watts", "committed_watts", "slack_watts", "draw_watts", "survivable_unreachable_fraction"):
        samples = [({"row": view["row"]}, view[name]) for view in views]
        lines += _metric(f"flyball_row_{name}", "gauge", f"{name} of each row", samples)
    for name in ("is_binding", "is_in_descent", "is_short"):
        samples = [({"row": view["row"]}, float(view[name])) for view in views]
        lines += _metric(f"flyball_row_{name}", "gauge", f"{name} of each row", samples)
    return lines


def _row_seconds(loop: PowerLoop) -> list[str]:
    lines = []
    for name, counts in (("over_limit", loop.seconds_over), ("in_descent", loop.seconds_in_descent)):
        samples = [({"row": row.name}, float(count)) for row, count in zip(loop.rows, counts, strict=True)]
        lines += _metric(f"flyball_row_{name}_seconds_total", "counter", f"ticks {name} since the start", samples)
    return lines


def _host_metrics(loop: PowerLoop, snapshot: PowerSnapshot) -> list[str]:
    hosts = snapshot.hosts
    named = [({"host": name}, record.index) for name, record in loop.parts.fleet.hosts.items()]
    leased = np.where(hosts.lease_milliwatts >= 0, hosts.lease_milliwatts / MILLI, np.nan)
    lease = [(label, float(leased[at])) for label, at in named]
    committed = [(label, float(hosts.committed_milliwatts[at]) / MILLI) for label, at in named]
    measured = [(label, float(snapshot.measured_w[at])) for label, at in named]
    return [
        *_metric("flyball_host_lease_watts", "gauge", "sum of GPU caps leased", lease),
        *_metric("flyball_host_committed_watts", "gauge", "what a host may draw, GPU watts", committed),
        *_metric("flyball_host_power_watts", "gauge", "measured GPU power", measured),
    ]


def _by(label: str, counts: dict[str, int]) -> list[Sample]:
    return [({label: name}, float(count)) for name, count in sorted(counts.items())]


def _metric(name: str, kind: str, text: str, samples: Iterable[Sample]) -> list[str]:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        if value is not None and value == value:  # noqa: PLR0124 (NaN is unknown)
            shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            lines.append(f"{name}{{{shown}}} {value:.10g}" if shown else f"{name} {value:.10g}")
    return lines


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
