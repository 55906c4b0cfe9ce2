"""How a limit moves: down at a rate the feed allows, up over a time that does not shake it."""


def falling_limit(from_w: float, to_w: float, gone_s: float, ramp_w_per_s: float | None) -> float:
    """Return the limit `gone_s` seconds into a fall; without a ramp it is there at once."""
    if ramp_w_per_s is None:
        return to_w
    return max(to_w, from_w - ramp_w_per_s * gone_s)


def rising_limit(from_w: float, to_w: float, gone_s: float, over_s: float) -> float:
    """Return the limit `gone_s` seconds into a rise that takes `over_s`."""
    if over_s <= 0.0 or gone_s >= over_s:
        return to_w
    return from_w + (to_w - from_w) * gone_s / over_s


def start_early_s(fall_w: float, ramp_w_per_s: float | None, within_s: float) -> float:
    """Return how long before the event a fall must begin to meet its deadline; 0 where there is time enough.

    A fall of 3 MW within 30 s is 100 kW/s: a feed that allows less has to begin earlier.
    """
    if ramp_w_per_s is None:
        return 0.0
    return max(0.0, fall_w / ramp_w_per_s - within_s)
