"""The shortest counterexample for each rule left out, as the exhaustive search found it; replayed on the real code."""

from dataclasses import dataclass
from typing import Final

from flyball_twin.lease_check_host import Bounds


@dataclass(frozen=True, slots=True)
class Counterexample:
    """Steps from a host at work to a broken property, within bounds in which all rules together hold."""

    bounds: Bounds
    breaks: str
    trace: tuple[str, ...]


COUNTEREXAMPLES: Final = {
    1: Counterexample(
        Bounds(faults=(("failover", 1),)),
        "the host draws 3, its commitment is 2",
        (
            "grant 0 3",
            "deliver 0: 3 at 1.3 to 0",
            "write 0 0",
            "failover 0 0",
        ),
    ),
    2: Counterexample(
        Bounds(grants=2, faults=()),
        "the host draws 2, its commitment is 1",
        ("hear: 1 at 0.0 of 0@1",),
    ),
    3: Counterexample(
        Bounds(grants=3, faults=()),
        "the host draws 2, its commitment is 1",
        (
            "run_out 0 1",
            "write 0 0",
            "hear: 1 at 1.2 of 0@4",
            "deliver 0: 2 at 1.2 to 0",
            "write 0 0",
        ),
    ),
    4: Counterexample(
        Bounds(grants=2, faults=(("forge", 1),)),
        "the host draws 2, its commitment is 1",
        ("forge: 1 at 1.2 of 0@3",),
    ),
    5: Counterexample(
        Bounds(grants=3, faults=(("rollback", 1), ("reboot", 1))),
        "the host draws 2, its commitment is 1",
        (
            "run_out 0 1",
            "write 0 0",
            "hear: 1 at 1.2 of 0@4",
            "lose_disk 0 0",
            "govern 0 1",
            "write 0 0",
            "deliver 0: probe at 1.1 to 0",
            "deliver 0: 2 at 1.2 to 0",
            "write 0 0",
        ),
    ),
    6: Counterexample(
        Bounds(grants=2, faults=(("reboot", 1),)),
        "the host draws 2, its commitment is 1",
        (
            "run_out 0 1",
            "write 0 0",
            "hear: 1 at 1.2 of 0@4",
            "reboot 0 0",
            "govern 0 1",
            "write 0 0",
        ),
    ),
    7: Counterexample(
        Bounds(grants=2, faults=(("silent", 1),)),
        "the host draws 3, its commitment is 2",
        (
            "grant 0 3",
            "deliver 0: 3 at 1.3 to 0",
            "silent 0 2",
            "write 0 0",
        ),
    ),
    8: Counterexample(
        Bounds(grants=2, safe=2, faults=(("stop", 1),)),
        "the host draws 3, its commitment is 2",
        ("stop 0 0",),
    ),
    9: Counterexample(
        Bounds(grants=1, faults=(("reset", 1),)),
        "the host draws 3, its commitment is 2",
        ("reset 0 0",),
    ),
    10: Counterexample(
        Bounds(grants=2, faults=(("hang", 1),)),
        "the host draws 3, its commitment is 2",
        (
            "grant 0 3",
            "grant 0 1",
            "deliver 0: 3 at 1.3 to 0",
            "hang 0 0",
            "deliver 0: 1 at 1.4 to 0",
            "hear: 2 at 1.4 of 0@5",
            "complete 0 0",
        ),
    ),
    11: Counterexample(
        Bounds(grants=2, minimum=2, faults=()),
        "the host draws 2, its commitment is 1",
        (
            "grant 0 1",
            "deliver 0: 1 at 1.3 to 0",
            "hear: 1 at 1.3 of 0@4",
        ),
    ),
    12: Counterexample(
        Bounds(grants=3, faults=(("clone", 1),)),
        "the host draws 2, its commitment is 1",
        (
            "clone 1 0",
            "write 1 0",
            "hear: 1 at 0.0 of 1@1",
            "grant 0 1",
            "deliver 1: probe at 1.3 to 1",
            "hear: 1 at 1.3 of 1@2",
        ),
    ),
    13: Counterexample(
        Bounds(grants=1, faults=(("move", 1),)),
        "the row carries 2, its sum of commitments is 0",
        ("move 0 0",),
    ),
    14: Counterexample(
        Bounds(grants=3, faults=(("restore", 1),)),
        "the host draws 3, its commitment is 2",
        (
            "backup 0 0",
            "grant 0 3",
            "deliver 0: 3 at 1.3 to 0",
            "write 0 0",
            "restore 0 0",
        ),
    ),
    15: Counterexample(
        Bounds(grants=1, faults=(("late", 1),)),
        "a lease past its life is in force",
        (
            "grant 0 1",
            "late 0: 1 at 1.3 to 0",
        ),
    ),
    16: Counterexample(
        Bounds(grants=1, faults=(("old_key", 1),)),
        "the host draws 3, its commitment is 2",
        (
            "old_key 0: probe at 1.1 to 0",
            "write 0 0",
        ),
    ),
    17: Counterexample(
        Bounds(grants=2, settles=True, faults=()),
        "the host draws 2, its commitment is 1",
        (
            "run_out 0 1",
            "write 0 0",
            "hear: 1 at 1.2 of 0@4",
        ),
    ),
    18: Counterexample(
        Bounds(grants=1, dead_band=1, faults=()),
        "a lowering was not written",
        (
            "grant 0 3",
            "deliver 0: 3 at 1.3 to 0",
            "write 0 0",
            "run_out 0 1",
            "write 0 0",
        ),
    ),
}
