"""What a replica of a large language model draws and delivers on each kind of board: tables with their sources.

The H100 table is the one behind the published ratios of this project; A100 and B200 are scaled from fewer measurements.
"""

from dataclasses import dataclass

import numpy as np

from flyball_twin.power_curves import CURVES, Floats, SpeedCurves


@dataclass(frozen=True, slots=True)
class ServingPlant:
    """One replica of four boards; watts are per board.

    Attributes:
        batch: (n,) sequences in flight. batch_w: (n,) draw while decoding them. batch_ms: (n,) time between tokens.
        prefill_tokens_per_s: Prompt tokens of a replica at full speed.
        host_own_w: Share of the host's own power per board, drawn at `host_from_w`. host_slope: more per board watt.
        nameplate_w: Rated host power per board.
    """

    name: str
    board_w: float
    idle_w: float
    minimum_cap_w: float
    prefill_w: float
    batch: Floats
    batch_w: Floats
    batch_ms: Floats
    curves: SpeedCurves
    prefill_tokens_per_s: float
    host_own_w: float
    host_slope: float
    host_from_w: float
    nameplate_w: float
    batch_max: float = 256.0
    boards_per_replica: int = 4

    def wall_w(self, board_w: float, boards: float) -> float:
        """Return the wall power of hosts from the watts of all their boards."""
        return board_w * (1.0 + self.host_slope) + boards * (self.host_own_w - self.host_slope * self.host_from_w)

    def boards_w(self, wall_w: float, boards: float) -> float:
        """Return the watts that boards may draw inside a wall power."""
        return (wall_w - boards * (self.host_own_w - self.host_slope * self.host_from_w)) / (1.0 + self.host_slope)


# Llama-3.1-70B, four H100 (ML.ENERGY v3: watts and time between tokens by batch; one sequence: powertrace-sim).
_BATCH = np.array([0, 1, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768.0])
_H100_W = np.array([120, 400, 441, 451, 449, 500, 525, 546, 573, 589, 586, 623, 634.0])
_H100_MS = np.array([15.5, 15.6, 16.6, 17.7, 20.0, 22.4, 25.4, 27.9, 33.7, 39.8, 55.1, 73.9, 103.6])

H100 = ServingPlant(
    name="h100",
    board_w=700.0,
    idle_w=120.0,  # model loaded: 118-122 W measured
    minimum_cap_w=200.0,
    prefill_w=700.0,  # at the cap (B300: 98 % of TDP; POLCA: at or above)
    batch=_BATCH,
    batch_w=_H100_W,
    batch_ms=_H100_MS,
    curves=CURVES["h100"],
    prefill_tokens_per_s=10_000.0,  # Splitwise: 2,048 tokens in 201 ms, 4,096 in 466 ms
    host_own_w=180.0,  # DGX H100 at idle about 1.4 kW (assumption)
    host_slope=0.27,  # meets the measured 8.4 kW maximum (arXiv 2412.08602)
    host_from_w=70.0,
    nameplate_w=10_200.0 / 8.0,
)
A100 = ServingPlant(
    name="a100",
    board_w=400.0,
    idle_w=72.0,  # model loaded: 70-73 W measured
    minimum_cap_w=100.0,
    prefill_w=400.0,  # 1.0-1.09 of TDP (Splitwise)
    batch=_BATCH,
    batch_w=72.0 + (_H100_W - 120.0) * (320.0 - 72.0) / (589.0 - 120.0),  # 245-320 W over the batch range, 70B
    batch_ms=_H100_MS * 1.65,  # memory bandwidth 2.0 against 3.35 TB/s
    curves=CURVES["a100"],
    prefill_tokens_per_s=4_200.0,  # Splitwise A100 against H100: about 2.4 times slower
    host_own_w=140.0,  # assumption: DGX A100 at idle about 1.1 kW
    host_slope=0.27,  # assumption: as on the H100 node
    host_from_w=57.0,
    nameplate_w=6_500.0 / 8.0,
)
B200 = ServingPlant(
    name="b200",
    board_w=1000.0,
    idle_w=184.0,  # B300: 182-184 W measured
    minimum_cap_w=300.0,
    prefill_w=980.0,  # 98 % of TDP
    batch=_BATCH,
    batch_w=184.0 + (_H100_W - 120.0) * (950.0 - 184.0) / (589.0 - 120.0),  # ML.ENERGY 70B: 849-971 W
    batch_ms=_H100_MS * 0.45,  # memory bandwidth 8.0 against 3.35 TB/s
    curves=CURVES["b200"],
    prefill_tokens_per_s=22_000.0,  # dense bf16 rate 2.25 times the H100's
    host_own_w=260.0,  # assumption
    host_slope=0.20,  # assumption; with it 8 boards at 1 kW draw 11.4 of the rated 14.3 kW
    host_from_w=180.0,
    nameplate_w=14_300.0 / 8.0,
)
SERVING_PLANTS = {plant.name: plant for plant in (H100, A100, B200)}


@dataclass(frozen=True, slots=True)
class TokenMix:
    """Mean tokens of a request."""

    name: str
    prompt_tokens: float
    generated_tokens: float


# Azure 2023 traces (conversation, code), and two made up at the ends of what is served (assumption).
TOKEN_MIXES = {
    mix.name: mix
    for mix in (
        TokenMix("chat", 1155.0, 211.0),
        TokenMix("code", 2048.0, 28.0),
        TokenMix("long_prompt", 6000.0, 200.0),
        TokenMix("reasoning", 600.0, 1500.0),
    )
}
