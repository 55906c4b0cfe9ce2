"""Say whether the newest rows begin an excursion: the readable twin.

Watched are each GPU's instant power against its cap and their sum against the host's lease, both for longer than
`hold_ns`, and the counters of power brake and hardware slowdown, which must not move. An excursion counts once when it
begins. A GPU whose power is unknown counts at its cap in the sum.
"""

from __future__ import annotations

from flyball_fast.ring import Ring, Row

OVER_CAP, BRAKE, THERMAL = 1, 2, 4
_UNSEEN = 0  # a counter is kept plus one, so that 0 says not seen yet


def judge(ring: Ring, now_ns: int) -> int:
    """Judge the newest row of each GPU; call it once per fast tick, from the ring's writer.

    Returns:
        How many excursions began. Which: the words `excursions`, `excursion_kinds` and `host_excursions` tell.
    """
    hold_ns = ring.word("hold_ns")
    began = total_mw = 0
    for gpu in range(ring.gpu_count):
        row = ring.latest(gpu)
        if row is not None:
            began += _judge_gpu(ring, gpu, row, now_ns, hold_ns)
            power = row.power_instant_mw
            total_mw += ring.gpu_word(gpu, "cap_mw") if power is None else power
    return began + _judge_host(ring, total_mw, now_ns, hold_ns)


def _judge_gpu(ring: Ring, gpu: int, row: Row, now_ns: int, hold_ns: int) -> int:
    cap_mw = ring.gpu_word(gpu, "cap_mw")
    is_over = bool(cap_mw) and row.power_instant_mw is not None and row.power_instant_mw > cap_mw
    since_ns = (ring.gpu_word(gpu, "over_since_ns") or now_ns) if is_over else 0
    ring.set_gpu_word(gpu, "over_since_ns", since_ns)
    active = OVER_CAP if is_over and now_ns - since_ns >= hold_ns else 0
    active |= _moved(ring, gpu, "brake_seen_ns", row.power_brake_ns) and BRAKE
    active |= _moved(ring, gpu, "thermal_seen_ns", row.thermal_hw_ns) and THERMAL
    began = active & ~ring.gpu_word(gpu, "active")
    ring.set_gpu_word(gpu, "active", active)
    if began:
        ring.set_gpu_word(gpu, "excursion_kinds", began)
        ring.set_gpu_word(gpu, "excursions", ring.gpu_word(gpu, "excursions") + 1)
    return int(bool(began))


def _moved(ring: Ring, gpu: int, word: str, counter: int | None) -> bool:
    seen = ring.gpu_word(gpu, word)
    if counter is None:
        return False
    ring.set_gpu_word(gpu, word, counter + 1)
    return seen != _UNSEEN and counter + 1 > seen


def _judge_host(ring: Ring, total_mw: int, now_ns: int, hold_ns: int) -> int:
    lease_mw = ring.word("lease_mw")
    is_over = bool(lease_mw) and total_mw > lease_mw
    since_ns = (ring.word("host_over_since_ns") or now_ns) if is_over else 0
    ring.set_word("host_over_since_ns", since_ns)
    is_active = is_over and now_ns - since_ns >= hold_ns
    began = is_active and not ring.word("host_active")
    ring.set_word("host_active", int(is_active))
    if began:
        ring.set_word("host_excursions", ring.word("host_excursions") + 1)
    return int(began)
