"""What a host's GPUs may draw by their caps: the figure that reports carry and leases limit.

Integer milliwatts throughout; bounds round up, what the split may use rounds down. Unknown counts at the maximum.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from flyball_wire.changed import changed

PPM: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class BoundRules:
    """Switches for the checkers only: what each leaves out is shown to break the protocol."""

    counts_pending: bool = True  # rule 10
    counts_settling: bool = True  # rule 17
    lowers_always: bool = True  # rule 18


ALL_BOUND_RULES: Final = BoundRules()


@dataclass(frozen=True, slots=True)
class GpuCap:
    """What is known of one GPU's cap.

    `limit_milliwatts` is the limit as read back, None while lost or unreadable. `pending_milliwatts` are writes that
    have not returned. `settling_milliwatts` is the cap before a lowering, which power may follow until `settled_at_ms`
    on the boot clock.
    """

    uuid: str
    minimum_milliwatts: int
    maximum_milliwatts: int
    default_milliwatts: int
    limit_milliwatts: int | None
    pending_milliwatts: tuple[int, ...] = ()
    settling_milliwatts: int | None = None
    settled_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What the devices of a host together allow, as the lease keeper needs it; milliwatts with the cap error in."""

    bound_milliwatts: int
    minimum_milliwatts: int
    maximum_milliwatts: int
    has_foreign_cap: bool = False
    can_write: bool = True  # our writes take effect, we hold the host's write lock
    is_persistent: bool = True  # persistence mode: caps outlive the last client


def gpu_bound_milliwatts(gpu: GpuCap, rules: BoundRules = ALL_BOUND_RULES) -> int:
    """Return the most one GPU may draw: the largest of its limit, minimum, pending writes and unsettled old cap."""
    if gpu.limit_milliwatts is None:
        return max(gpu.maximum_milliwatts, gpu.default_milliwatts)
    bound = max(gpu.limit_milliwatts, gpu.minimum_milliwatts)
    if rules.counts_pending and gpu.pending_milliwatts:
        bound = max(bound, *gpu.pending_milliwatts)
    if rules.counts_settling and gpu.settling_milliwatts is not None:
        bound = max(bound, gpu.settling_milliwatts)
    return bound


def bound_milliwatts(gpus: Iterable[GpuCap], error_ppm: int, rules: BoundRules = ALL_BOUND_RULES) -> int:
    """Return the bound of a host: the sum over its GPUs times (1 + cap error), rounded up."""
    return with_error(sum(gpu_bound_milliwatts(gpu, rules) for gpu in gpus), error_ppm)


def minimum_milliwatts(gpus: Iterable[GpuCap], error_ppm: int) -> int:
    """Return the least the bound can be brought to; a GPU whose limit is unknown cannot be lowered."""
    least = sum(
        gpu.minimum_milliwatts if gpu.limit_milliwatts is not None else gpu_bound_milliwatts(gpu) for gpu in gpus
    )
    return with_error(least, error_ppm)


def maximum_milliwatts(gpus: Iterable[GpuCap], error_ppm: int) -> int:
    """Return the hardware maximum of a host with the cap error in."""
    return with_error(sum(max(gpu.maximum_milliwatts, gpu.default_milliwatts) for gpu in gpus), error_ppm)


def device_facts(
    gpus: Iterable[GpuCap],
    error_ppm: int,
    *,
    has_foreign_cap: bool = False,
    can_write: bool = True,
    is_persistent: bool = True,
    rules: BoundRules = ALL_BOUND_RULES,
) -> DeviceFacts:
    """Return what the lease keeper is told after each change of a cap."""
    gpus = tuple(gpus)
    return DeviceFacts(
        bound_milliwatts=bound_milliwatts(gpus, error_ppm, rules),
        minimum_milliwatts=minimum_milliwatts(gpus, error_ppm),
        maximum_milliwatts=maximum_milliwatts(gpus, error_ppm),
        has_foreign_cap=has_foreign_cap,
        can_write=can_write,
        is_persistent=is_persistent,
    )


def with_error(caps_milliwatts: int, error_ppm: int) -> int:
    """Return what a sum of caps may draw, rounded up."""
    return -(-caps_milliwatts * (PPM + error_ppm) // PPM)


def cap_sum_within(allowed_milliwatts: int, error_ppm: int) -> int:
    """Return the largest sum of caps whose bound stays within what is allowed, rounded down."""
    return allowed_milliwatts * PPM // (PPM + error_ppm)


def caps_fit(caps_milliwatts: Iterable[int], allowed_milliwatts: int, error_ppm: int) -> bool:
    """Return whether caps with their error stay within a lease: what every split must pass before it is written."""
    return with_error(sum(caps_milliwatts), error_ppm) <= allowed_milliwatts


def with_write_started(gpu: GpuCap, cap_milliwatts: int) -> GpuCap:
    """Return the GPU with a write under way; it counts until it returns, however long the driver hangs."""
    return changed(gpu, pending_milliwatts=(*gpu.pending_milliwatts, cap_milliwatts))


def with_write_returned(
    gpu: GpuCap, cap_milliwatts: int, read_back_milliwatts: int | None, now_ms: int, settle_ms: int
) -> GpuCap:
    """Return the GPU after a write of this cap came back, done or refused, and the limit was read again."""
    pending = list(gpu.pending_milliwatts)
    if cap_milliwatts in pending:
        pending.remove(cap_milliwatts)
    return with_read_back(changed(gpu, pending_milliwatts=tuple(pending)), read_back_milliwatts, now_ms, settle_ms)


def with_read_back(gpu: GpuCap, read_back_milliwatts: int | None, now_ms: int, settle_ms: int) -> GpuCap:
    """Return the GPU with a limit as read; where it fell, the old one counts until power has settled."""
    old = gpu.limit_milliwatts if gpu.limit_milliwatts is not None else gpu.maximum_milliwatts
    if read_back_milliwatts is None or read_back_milliwatts >= old:
        return changed(gpu, limit_milliwatts=read_back_milliwatts)
    settling = max(old, gpu.settling_milliwatts or 0)
    return changed(
        gpu, limit_milliwatts=read_back_milliwatts, settling_milliwatts=settling, settled_at_ms=now_ms + settle_ms
    )


def with_power(gpu: GpuCap, now_ms: int, instant_milliwatts: int | None) -> GpuCap:
    """Return the GPU without its old cap once the settle time has passed or instant power is within the new one."""
    if gpu.settling_milliwatts is None or gpu.limit_milliwatts is None:
        return gpu
    is_below = instant_milliwatts is not None and instant_milliwatts <= gpu.limit_milliwatts
    if now_ms < gpu.settled_at_ms and not is_below:
        return gpu
    return changed(gpu, settling_milliwatts=None)


def needs_write(
    limit_milliwatts: int | None, wanted_milliwatts: int, dead_band_milliwatts: int, rules: BoundRules = ALL_BOUND_RULES
) -> bool:
    """Return whether a wanted cap is worth a write: a lowering always, a raise only beyond the dead-band."""
    if limit_milliwatts is None or (rules.lowers_always and wanted_milliwatts < limit_milliwatts):
        return True
    return abs(wanted_milliwatts - limit_milliwatts) > dead_band_milliwatts
