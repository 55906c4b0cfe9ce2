"""What can go wrong in placement.

PlacementError
├── RequestError   the job, queue or trace cannot be understood: the caller corrects it
├── FleetError     a claim does not match the fleet: a bug or a lost message, nothing was changed
└── CommitError    the store refused: the caller tries again or steps down
"""


class PlacementError(Exception):
    """Base of the errors of this room."""


class RequestError(PlacementError):
    """A job, queue, graph or trace is not what was expected."""


class FleetError(PlacementError):
    """A claim asks for what a host does not have, or gives back what was never taken."""


class CommitError(PlacementError):
    """A commit step could not be made durable."""
