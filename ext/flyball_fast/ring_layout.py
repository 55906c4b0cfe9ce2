"""Where everything lies in the sample ring's memory; `layout.pxd` says the same to the compiled twins.

    header    4096 bytes: 64-bit words, the index of each is in `WORDS`
    per GPU   1024 bytes of 64-bit words (`GPU_WORDS`, slow values from `SLOW_WORD` on), then one array per column of
              `COLUMNS`, `capacity` long: 64 bytes a row in all

A row is one tick of one GPU. Row i of a GPU lies in place i % capacity of each array. The writer counts a row in
`begin`, fills it, then counts it in `end`; a reader takes rows below `end` and afterwards asks `begin` whether they
were overwritten meanwhile. A value nobody knows holds its column's mark (the largest; for signed ones the smallest).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

IntegerFormat = Literal["q", "Q", "I", "H", "b", "B"]

MAGIC = 0x474E4952594C46  # "FLYRING" read as a little-endian word
VERSION = 2
HEADER_BYTES = 4096
GPU_HEADER_BYTES = 1024
ROW_BYTES = 64
WORD_BYTES = 8
MAX_GPUS = 64
UNKNOWN_WORD = 2**64 - 1


class Column(NamedTuple):
    """One value of a row: its name with unit, `struct` format, and the mark for unknown."""

    name: str
    format: IntegerFormat
    bytes: int
    unknown: int


COLUMNS = (
    Column("t_mono_ns", "q", 8, -(2**63)),
    Column("energy_mj", "Q", 8, UNKNOWN_WORD),
    Column("power_cap_ns", "Q", 8, UNKNOWN_WORD),
    Column("thermal_sw_ns", "Q", 8, UNKNOWN_WORD),
    Column("thermal_hw_ns", "Q", 8, UNKNOWN_WORD),
    Column("power_brake_ns", "Q", 8, UNKNOWN_WORD),
    Column("power_instant_mw", "I", 4, 2**32 - 1),
    Column("power_average_mw", "I", 4, 2**32 - 1),
    Column("reasons", "H", 2, 2**16 - 1),
    Column("sm_clock_mhz", "H", 2, 2**16 - 1),
    Column("memory_clock_mhz", "H", 2, 2**16 - 1),
    Column("temperature_c", "b", 1, -128),
    Column("utilization_percent", "B", 1, 2**8 - 1),
)
COLUMN_INDEX = {column.name: index for index, column in enumerate(COLUMNS)}

LATENESS_BUCKETS = 32
WORDS = {
    "magic": 0,
    "version": 1,
    "gpu_count": 2,
    "capacity": 3,
    "row_bytes": 4,
    "created_ns": 5,
    "real_minus_mono_ns": 6,
    "generation": 7,
    "call_started_ns": 8,  # CLOCK_MONOTONIC; 0 while no driver call is in progress
    "call": 9,  # gpu << 32 | number of the call in `CALLS`
    "tick_ns": 10,  # when the sampler last woke
    "calls": 11,
    "latency_us": 12,  # what the driver says its field reads cost
    "other_call_ns": 13,  # wall time of the calls that tell no latency
    "cpu_ns": 14,  # the sampler thread's own CPU time
    "lateness_max_ns": 15,
    "budget_steps": 16,  # how often the fast tiers gave way, net of recoveries
    "events_lost": 17,
    "ticks": 20,  # one word per tier
    "missed": 24,
    "call_ns": 28,  # wall time in driver calls, by tier
    "period_ns": 32,  # in force now, by tier
    # What counts as an excursion, set by the parent (0: not watched), and how many began: `_excursions_py`.
    "lease_mw": 40,
    "hold_ns": 41,
    "host_over_since_ns": 42,
    "host_active": 43,
    "host_excursions": 44,
    "lateness": 64,  # 32 buckets: bucket k counts ticks that came 2**(k-1) .. 2**k µs late
}
TIERS = 4

# What the heartbeat can name: the driver call in progress.
CALLS = (
    "none",
    "open",
    "inventory",
    "field_values",
    "clocks",
    "utilization",
    "temperature",
    "event_reasons",
    "memory",
    "limits",
    "set_limit",
    "lock_clocks",
    "events",
    "close",
)
NO_GPU = 2**32 - 1

GPU_WORDS = {"begin": 0, "end": 1, "state": 2, "last_code": 3, "errors": 4, "slow_seq": 5, "uuid": 8}
# Of the excursion watch, behind the slow values.
GPU_WORDS |= {"cap_mw": 64, "over_since_ns": 65, "brake_seen_ns": 66, "thermal_seen_ns": 67, "active": 68}
GPU_WORDS |= {"excursions": 69, "excursion_kinds": 70}
UUID_BYTES = 64
STATES = ("unseen", "ok", "lost", "left_out")
SLOW_WORD = 16
# Slow values (tiers 2 and 3), in the device's own units; `slow_ns` is when tier 2 last wrote.
SLOW = (
    "slow_ns",
    "limit_enforced_mw",
    "limit_requested_mw",
    "memory_temperature_c",
    "pcie_tx_bytes",
    "pcie_rx_bytes",
    "memory_used_bytes",
    "memory_total_bytes",
    "ecc_corrected",
    "ecc_uncorrected",
    "remapped_corrected",
    "remapped_uncorrected",
    "remap_pending",
    "remap_failed",
    "pcie_replays",
    "recovery_action",
    "nvlink_tx_bytes",
    "nvlink_rx_bytes",
    "nvlink_crc_errors",
    "nvlink_replays",
    "nvlink_recoveries",
)
SLOW_INDEX = {name: index for index, name in enumerate(SLOW)}


def gpu_bytes(capacity: int) -> int:
    """Return the bytes of one GPU's part of the ring."""
    return GPU_HEADER_BYTES + ROW_BYTES * capacity


def ring_bytes(gpu_count: int, capacity: int) -> int:
    """Return the bytes of a whole ring."""
    return HEADER_BYTES + gpu_count * gpu_bytes(capacity)


def column_offset(column: int, capacity: int) -> int:
    """Return where a column's array begins, counted from the start of its GPU's part."""
    return GPU_HEADER_BYTES + capacity * sum(entry.bytes for entry in COLUMNS[:column])
