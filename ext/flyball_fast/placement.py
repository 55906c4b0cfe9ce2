"""The placement scorer: the compiled one where it was built, else its pure twin."""

from os import environ
from typing import TYPE_CHECKING

from flyball_fast import _placement_py as _pure

if TYPE_CHECKING or environ.get("FLYBALL_PURE"):
    from flyball_fast._placement_py import Scorer
else:
    try:
        from flyball_fast._placement_c import Scorer
    except ImportError:
        from flyball_fast._placement_py import Scorer

# The command line's names of the policies, and the numbers the scorer knows them by.
POLICIES = {
    "fgd": _pure.FGD,
    "qfgd-bestfit": _pure.QFGD,
    "qfgd-bestfit-power": _pure.QFGD_POWER,
    "bestfit": _pure.BEST_FIT,
    "packing": _pure.PACKING,
    "spread": _pure.SPREAD,
    "dotprod": _pure.DOT_PRODUCT,
    "random": _pure.RANDOM,
}

__all__ = ["POLICIES", "Scorer"]
