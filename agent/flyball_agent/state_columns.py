"""The per-GPU columns of a State message, joined from ring windows and the governor's status."""

from collections.abc import Callable
from typing import TypeVar

from flyball_agent.state_window import GpuWindow
from flyball_wire.local_socket import HelloReply, StatusReply
from flyball_wire.messages import GpuColumns

T = TypeVar("T")
_EMPTY = GpuWindow()


def columns_of(hello: HelloReply | None, status: StatusReply | None, windows: tuple[GpuWindow, ...]) -> GpuColumns:
    """Return columns as long as the inventory; what neither source knows is None.

    Args:
        hello: The inventory; None gives empty columns.
        status: The governor's own state; None while it does not answer.
        windows: One per GPU of the ring; fewer than GPUs leave the rest unknown.
    """
    gpus = range(len(hello.gpus) if hello is not None else 0)
    rows = [windows[gpu] if gpu < len(windows) else _EMPTY for gpu in gpus]

    def column(read: Callable[[GpuWindow], T]) -> tuple[T, ...]:
        return tuple(read(row) for row in rows)

    return GpuColumns(
        power_watts=column(lambda row: row.power_w),
        power_peak_watts=column(lambda row: row.power_peak_w),
        cap_watts=tuple(_cap_w(status, gpu, rows[gpu]) for gpu in gpus),
        energy_joules=column(lambda row: row.energy_j),
        throttled_ratio=column(lambda row: row.throttled_ratio),
        utilisation_ratio=column(lambda row: row.utilisation_ratio),
        temperature_celsius=column(lambda row: row.temperature_celsius),
        sm_clock_hz=column(lambda row: row.sm_clock_hz),
        health=tuple(_health(status, gpu, rows[gpu]) for gpu in gpus),
    )


def _cap_w(status: StatusReply | None, gpu: int, row: GpuWindow) -> float | None:
    """Return the cap as the governor read it back, else as the ring has it."""
    if status is not None and gpu < len(status.caps_milliwatts):
        cap_milliwatts = status.caps_milliwatts[gpu]
        if cap_milliwatts is not None:
            return cap_milliwatts / 1000.0
    return row.cap_w


def _health(status: StatusReply | None, gpu: int, row: GpuWindow) -> str:
    """Return the governor's word; where it has none the ring's, and ok only while rows come."""
    if status is not None and gpu < len(status.health):
        return status.health[gpu]
    if row.state in ("lost", "left_out"):
        return "lost" if row.state == "lost" else "stalled"
    return "ok" if row.is_sampled and row.state == "ok" else "unknown"
