"""What the causes of an entity amount to: in words, as a repair, for the host, and whether repair is any use."""

from dataclasses import replace
from typing import Final

from flyball_agent.facts import NODE, Fact, Level
from flyball_agent.health_record import DAY_S, Health, HealthSettings, count_within
from flyball_agent.incidents import Cause

REPAIRS: Final = ("reset_gpu", "drain_and_reset", "reset_all_gpus_on_node", "reboot_node", "power_cycle")  # mild first


def explain_causes(health: Health) -> str:
    """Return the open causes in one line, worst first."""
    causes = sorted(health.open_causes(), key=lambda cause: (-cause.level, cause.opened_s))
    return ", ".join(f"{cause.code} x{cause.count} -> {cause.action}" for cause in causes[:6])


def repair_of(health: Health) -> str | None:
    """Return the strongest repair that the causes ask for, or None where only people can help."""
    asked = {part for cause in health.open_causes() for part in cause.action.split("+")}
    return next((action for action in reversed(REPAIRS) if action in asked), None)


def fact_for_node(fact: Fact, code: str, action: str) -> Fact:
    """Return what a fact about a device means for its host."""
    return replace(
        fact,
        entity=NODE,
        code=code,
        level=Level.QUARANTINED,
        action=action,
        group=f"node.{fact.group}",
        is_hard=code != "gpus_isolated",
        is_over=False,
        recovery=None,
    )


def is_hopeless(health: Health, causes: list[Cause], now_s: float, settings: HealthSettings) -> bool:
    """Tell whether repair is no use: too many isolations, or the same code after two repairs in a week."""
    codes = {cause.code for cause in causes if cause.code != "xid.94"}
    failed = [code for at_s, code in health.repairs if code in codes and now_s - at_s < 7 * DAY_S]
    return (
        count_within(health.isolations, now_s, DAY_S) >= settings.isolations_per_day
        or count_within(health.isolations, now_s, 7 * DAY_S) >= settings.isolations_per_week
        or any(failed.count(code) >= settings.repairs_without_cure for code in codes)
        or any(cause.code == "remap_failed" for cause in causes)
    )


def is_program_fault(health: Health, cause: Cause, now_s: float, settings: HealthSettings) -> bool:
    """Tell whether this is XID 109 with a driver that asks for nothing: most often the program's own fault."""
    is_alone = cause.code == "xid.109" and len([other for other in health.open_causes() if other.is_hard]) == 1
    return is_alone and health.recovery == 0 and now_s - cause.last_s >= settings.settle_s
