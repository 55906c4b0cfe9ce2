"""What the simulated boards are: names, limits, clocks and memory of each model, with the source of each number.

Limits and idle powers: telemetry notes, table "Power limits per model" (captures and vendor guides; [rec] = recalled, not re-read).
They seed simulations only: on a real device everything is asked of NVML.
"""

from dataclasses import dataclass

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """One GPU model as the simulated library presents it."""

    key: str
    name: str
    architecture: int  # NVML_DEVICE_ARCH_*: 7 Ampere, 8 Ada, 9 Hopper, 10 Blackwell
    compute_capability: tuple[int, int]
    pci_device_id: int
    default_limit_w: float
    min_limit_w: float
    max_limit_w: float
    idle_w: float  # no context
    context_idle_w: float  # a model loaded, nothing running
    peak_w: float  # what a matrix kernel at the highest clock wants
    graphics_clock_max_mhz: int
    memory_clock_max_mhz: int
    memory_bytes: int
    link_count: int
    is_average_windowed: bool  # NVML power reading is a 1 s mean (false on GA100)
    graphics_clock_min_mhz: int = 210
    graphics_clock_step_mhz: int = 15
    slowdown_temperature_c: int = 87
    shutdown_temperature_c: int = 92
    memory_max_temperature_c: int = 95


def _known() -> dict[str, SimulatedModel]:
    models = (
        # A100: 400 W, 100..400 (capture), idle 56-63 W, 70-73 W loaded, 1410 MHz; reads instantaneous power (GA100).
        SimulatedModel(
            "a100",
            "NVIDIA A100-SXM4-80GB",
            7,
            (8, 0),
            0x20B210DE,
            400,
            100,
            400,
            60,
            72,
            400,
            1410,
            1593,
            80 * GIB,
            12,
            False,
        ),  # fmt: skip
        # H100: 700 W, 200..700 (capture), idle 70-75 W, 118-122 W loaded, 1980 MHz.
        SimulatedModel(
            "h100",
            "NVIDIA H100 80GB HBM3",
            9,
            (9, 0),
            0x233010DE,
            700,
            200,
            700,
            72,
            120,
            700,
            1980,
            2619,
            80 * GIB,
            18,
            True,
        ),  # fmt: skip
        # H200: 700 W confirmed, minimum 200 W [rec], idle ~75 W, ~120 W loaded.
        SimulatedModel(
            "h200", "NVIDIA H200", 9, (9, 0), 0x233510DE, 700, 200, 700, 75, 120, 700, 1980, 3201, 141 * GIB, 18, True
        ),  # fmt: skip
        # B200: 1000 W, 200..1000 (DGX guide), idle 64 W in the guide but 182-184 W loaded (B300, measured).
        SimulatedModel(
            "b200",
            "NVIDIA B200",
            10,
            (10, 0),
            0x290110DE,
            1000,
            200,
            1000,
            140,
            183,
            1000,
            1965,
            3996,
            180 * GIB,
            18,
            True,
        ),  # fmt: skip
        # B300: 1100 W, measured sweep 450..1100 W; 200 W minimum assumed as on B200; GEMM draws 94 % of it.
        SimulatedModel(
            "b300",
            "NVIDIA B300 SXM6 AC",
            10,
            (10, 3),
            0x318210DE,
            1100,
            200,
            1100,
            150,
            183,
            1100,
            2032,
            3996,
            270 * GIB,
            18,
            True,
        ),  # fmt: skip
        # L40S: 350 W, 100..350, idle 35-45 W (mock profile).
        SimulatedModel(
            "l40s", "NVIDIA L40S", 8, (8, 9), 0x26B910DE, 350, 100, 350, 35, 45, 350, 2520, 9001, 45 * GIB, 0, True
        ),  # fmt: skip
        # V100 and A40: the two boards of the Zeus sweeps (250 W / 300 W), kept for calibration.
        SimulatedModel(
            "v100",
            "Tesla V100-PCIE-32GB",
            5,
            (7, 0),
            0x1DB610DE,
            250,
            100,
            250,
            25,
            40,
            250,
            1380,
            877,
            32 * GIB,
            0,
            False,
        ),  # fmt: skip
        SimulatedModel(
            "a40", "NVIDIA A40", 7, (8, 6), 0x223510DE, 300, 100, 300, 30, 70, 300, 1740, 7251, 45 * GIB, 0, True
        ),  # fmt: skip
    )
    return {model.key: model for model in models}


MODELS = _known()


def find_model(key: str) -> SimulatedModel:
    """Return the model named `key`; an unknown name is an error that lists the known ones."""
    if key not in MODELS:
        raise ValueError(f"model {key!r}: not known, expected one of {', '.join(sorted(MODELS))}")
    return MODELS[key]
