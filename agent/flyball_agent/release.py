"""When an isolated entity may work again: five proofs, all of them. A permit, breaker or mode is none of them."""

from flyball_agent.facts import Level
from flyball_agent.health_record import Health, HealthSettings, State, hold_down_s


def missing_proofs(health: Health, now_s: float, settings: HealthSettings) -> list[str]:
    """Return which proofs are missing, in words; empty means release."""
    checks = (
        (_is_cleared(health), "the cause is not cleared, or the driver still asks for a repair"),
        (_is_repair_proven(health), "the repair is not proven"),
        (_is_validated(health, now_s, settings), "the check has not passed, or the quiet time is not over"),
        (_is_held_down(health, now_s, settings), "the hold-down after relapses is not over, or it is FAILED"),
        (not health.is_held, f"held by {health.held_by or 'an operator'}"),
    )
    return [missing for holds, missing in checks if not holds]


def _is_cleared(health: Health) -> bool:
    return health.level < Level.QUARANTINED and health.recovery in (None, 0)


def _is_repair_proven(health: Health) -> bool:
    """A hard cause that was closed needs the proof that closed it."""
    needed = any(cause.needs_repair for incident in health.incidents for cause in incident.causes.values())
    return not needed or bool(health.repair_proof)


def _is_validated(health: Health, now_s: float, settings: HealthSettings) -> bool:
    if health.validated_s is None or health.validated_s < health.since_s:
        return False
    if not health.repair_proof:
        quiet_s = settings.quiet_after_gauge_s
    elif "boot" in health.repair_proof:
        quiet_s = settings.quiet_after_reboot_s
    else:
        quiet_s = settings.quiet_after_reset_s
    return now_s - max(health.since_s, health.last_fact_s) >= quiet_s


def _is_held_down(health: Health, now_s: float, settings: HealthSettings) -> bool:
    quiet_since_s = max([*health.flaps[-1:], health.last_fact_s])
    return health.state is not State.FAILED and now_s - quiet_since_s >= hold_down_s(health.flaps, now_s, settings)
