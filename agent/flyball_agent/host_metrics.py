"""Metrics of the host, its lease and the agent itself, in base units."""

from collections.abc import Iterator

from flyball_agent.agent import Agent
from flyball_agent.exposition import Family
from flyball_agent.gpu_metrics import gpu_families, xid_families
from flyball_agent.host_facts import read_hostname
from flyball_agent.state_columns import columns_of
from flyball_wire.local_socket import StatusReply


def agent_families(agent: Agent) -> Iterator[Family]:
    """Yield every family of this host from what is known now; costs the same at any sampling rate."""
    view = agent.view
    status = view.status if agent.is_governor_alive else None
    if view.hello is not None:
        columns = columns_of(view.hello, status, view.windows)
        yield from gpu_families(read_hostname(), view.hello.gpus, columns, view.windows)
        yield from xid_families(read_hostname(), view.hello.gpus, view.xids_total, view.last_xid)
    yield Family("flyball_governor_alive", "gauge", "1 while the governor answers.").add(agent.is_governor_alive)
    if status is not None:
        yield from _lease_families(status)
    yield from _host_families(agent)
    yield from _zone_families(agent)
    yield from _session_families(agent)


def _lease_families(status: StatusReply) -> Iterator[Family]:
    def watts(milliwatts: int | None) -> float | None:
        return None if milliwatts is None else milliwatts / 1000.0

    remaining_s = None if status.lease_remaining_ms is None else status.lease_remaining_ms / 1000.0
    yield Family("flyball_host_lease_watts", "gauge", "Sum of GPU caps that the lease allows.").add(
        watts(status.lease_milliwatts)
    )
    yield Family("flyball_host_lease_remaining_seconds", "gauge", "Until the lease runs out.").add(remaining_s)
    yield Family("flyball_host_bound_watts", "gauge", "What the GPUs may draw by caps read back.").add(
        watts(status.bound_milliwatts)
    )
    yield Family("flyball_host_phase", "gauge", "1 for the phase of the lease's life.").add(
        1.0, {"phase": status.phase}
    )
    yield Family("flyball_host_gated", "gauge", "1 while new work may not start.").add(status.is_gated)
    yield Family("flyball_host_enforcing", "gauge", "1 while caps are written, 0 in observe.").add(
        status.mode == "enforce"
    )
    yield Family("flyball_sampler_rows_total", "counter", "Rows of one GPU at one tick.").add(status.samples_total)
    yield Family("flyball_sampler_missed_ticks_total", "counter", "Ticks that came too late to be taken.").add(
        status.missed_ticks_total
    )
    yield Family("flyball_sampler_rate_hertz", "gauge", "Fast tier's rate in force.").add(status.rate_hz)


def _host_families(agent: Agent) -> Iterator[Family]:
    facts = agent.view.facts
    if facts is None:
        return
    yield Family("flyball_host_cpu_ratio", "gauge", "Share of all cores that was busy in the last second.").add(
        facts.cpu_ratio
    )
    yield Family("flyball_host_memory_used_bytes", "gauge", "Memory in use.").add(facts.memory_used_bytes)
    yield Family("flyball_host_memory_bytes", "gauge", "Memory installed.").add(facts.memory_total_bytes)
    yield Family("flyball_host_network_received_bytes_total", "counter", "Bytes received, all interfaces.").add(
        facts.network_received_bytes
    )
    yield Family("flyball_host_network_sent_bytes_total", "counter", "Bytes sent, all interfaces.").add(
        facts.network_sent_bytes
    )
    yield Family("flyball_agent_cpu_seconds_total", "counter", "CPU time of this agent.").add(facts.agent_cpu_seconds)
    yield Family("flyball_agent_memory_bytes", "gauge", "Resident memory of this agent.").add(facts.agent_memory_bytes)


def _zone_families(agent: Agent) -> Iterator[Family]:
    power = Family("flyball_host_zone_power_watts", "gauge", "Processor and memory power, mean of the last second.")
    energy = Family("flyball_host_zone_energy_joules_total", "counter", "The same as energy, since the agent began.")
    for zone in agent.view.zones:
        power.add(zone.power_w, {"zone": zone.zone})
        energy.add(zone.energy_j, {"zone": zone.zone})
    yield from (power, energy)


def _session_families(agent: Agent) -> Iterator[Family]:
    session, link = agent.session, agent.link
    if session is not None:
        counters = session.counters
        yield Family("flyball_broker_connected", "gauge", "1 while a session is up.").add(session.is_connected)
        yield Family("flyball_broker_connects_total", "counter", "Sessions begun.").add(counters.connects_total)
        yield Family("flyball_messages_published_total", "counter", "Acknowledged by the broker.").add(
            counters.published_total
        )
        yield Family("flyball_messages_waiting", "gauge", "Not yet acknowledged, in memory and on disk.").add(
            session.waiting()
        )
        yield Family("flyball_messages_lost_total", "counter", "Given up for want of room.").add(session.lost_total())
        yield Family("flyball_orders_total", "counter", "Leases and commands received.").add(counters.orders_total)
        yield Family("flyball_orders_refused_total", "counter", "Of them malformed and dropped.").add(
            counters.bad_orders_total
        )
    if link is not None:
        yield Family("flyball_governor_refusals_total", "counter", "Requests that the governor refused.").add(
            link.counters.refusals_total
        )
        yield Family("flyball_governor_dropped_total", "counter", "Requests that could not be sent.").add(
            link.counters.dropped_total
        )
    events = Family("flyball_events_total", "counter", "Events published, by severity.")
    for severity, count in agent.view.events_total.items():
        events.add(count, {"severity": severity})
    yield events
