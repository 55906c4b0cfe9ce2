"""How a board's speed follows its clock and its power: the measured curves, by model, and their lookups."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Relative clock and relative voltage measured on a B300 (steep last 5 %: -5 % clock = -15 % power).
_CLOCK_RATIO = np.array([0.0, 0.456, 0.567, 0.717, 0.952, 1.0])
_VOLTAGE_RATIO = np.array([0.824, 0.824, 0.866, 0.911, 0.929, 1.0])  # flat below the lowest measured point (assumption)
_DYNAMIC_RATIO = _CLOCK_RATIO * _VOLTAGE_RATIO**2  # switching power ~ f V^2


def dynamic_power_ratio(clock_ratio: Floats) -> Floats:
    """Return the switching power at a clock, both relative to the highest clock."""
    return np.asarray(np.interp(clock_ratio, _CLOCK_RATIO, _DYNAMIC_RATIO))


def clock_ratio_of(dynamic_ratio: Floats) -> Floats:
    """Return the clock that draws a switching power, both relative to the highest clock."""
    return np.asarray(np.interp(dynamic_ratio, _DYNAMIC_RATIO, _CLOCK_RATIO))


@dataclass(frozen=True, slots=True)
class SpeedCurves:
    """Speed against power, both relative to what the phase has without a cap; arrays rise."""

    power_ratio: Floats
    compute: Floats  # prefill, training, matrix kernels
    decode: Floats  # token generation, bound by memory

    def compute_speed(self, power_ratio: Floats) -> Floats:
        """Return the relative speed of a compute-bound phase."""
        return np.asarray(np.interp(power_ratio, self.power_ratio, self.compute))

    def decode_speed(self, power_ratio: Floats) -> Floats:
        """Return the relative speed of a decode phase."""
        return np.asarray(np.interp(power_ratio, self.power_ratio, self.decode))


_GRID = np.array([0.17, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
# Modelled for H100/H200 from an A100 pre-training sweep, V100 BERT and B300 GEMM, which agree within 0.04.
_HOPPER_COMPUTE = np.array([0.03, 0.18, 0.29, 0.49, 0.62, 0.74, 0.83, 0.905, 0.955, 1.0])
# Relative decode curve; Emerald's mixed inference measured .931@.785, .871@.657, .781@.528.
_DECODE = np.array([0.05, 0.24, 0.33, 0.60, 0.76, 0.84, 0.90, 0.945, 0.98, 1.0])


def _on_grid(power_w: list[float], speed: list[float], own_w: float) -> Floats:
    """Put a measured sweep (watts, relative speed; own_w = draw without a cap) on the common grid."""
    return np.asarray(np.interp(_GRID, np.array(power_w) / own_w, np.array(speed)))


_HOPPER = SpeedCurves(_GRID, _HOPPER_COMPUTE, _DECODE)
# Emerald sweep, A100 400 W: pre-training draws 95 % of TDP, inference 92 %; the 0 W / 0 point is assumed.
_AMPERE = SpeedCurves(
    _GRID,
    _on_grid([0, 100, 200, 250, 300, 350, 380], [0, 0.19, 0.63, 0.785, 0.87, 0.93, 1.0], 380.0),
    _on_grid([0, 100, 200, 250, 300, 350, 368], [0, 0.225, 0.781, 0.871, 0.931, 0.976, 1.0], 368.0),
)
# B300 1100 W bf16 GEMM, draws 94 % of TDP: .947@900, .770@700, .613@550, .496@450 W.
_BLACKWELL = SpeedCurves(
    _GRID, _on_grid([0, 450, 550, 700, 900, 1034], [0, 0.496, 0.613, 0.770, 0.947, 1.0], 1034.0), _DECODE
)
# Zeus sweeps of BERT training (squad), medians over batch sizes: average watts and speed at each limit.
_VOLTA = SpeedCurves(
    _GRID,
    _on_grid(
        [0, 99.8, 121.8, 146.4, 169.7, 189.6, 212.2, 226.8], [0, 0.499, 0.653, 0.804, 0.894, 0.937, 0.976, 1], 226.8
    ),
    _DECODE,
)
_GA102 = SpeedCurves(
    _GRID,
    _on_grid(
        [0, 106.5, 122.8, 145.4, 167, 188.5, 210.1, 231.5, 251.1, 266.7],
        [0, 0.25, 0.382, 0.574, 0.768, 0.903, 0.947, 0.975, 0.995, 1],
        266.7,
    ),
    _DECODE,
)

CURVES = {
    "a100": _AMPERE,
    "h100": _HOPPER,
    "h200": _HOPPER,
    "b200": _BLACKWELL,
    "b300": _BLACKWELL,
    "l40s": _GA102,  # assumption: the nearest measured board
    "v100": _VOLTA,
    "a40": _GA102,
}
