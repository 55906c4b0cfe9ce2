"""What the simulated boards are: names, limits, clocks and memory of each model, with the source of each number.

Limits and idle powers come from captures and vendor guides; [rec] marks a recalled number that was not read again. They
seed simulations only: on a real device everything is asked of NVML.
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


_BOARDS = (
    # A100: 400 W, 100..400 (capture), idle 56-63 W, 70-73 W loaded, 1410 MHz; reads instantaneous power (GA100).
    SimulatedModel(
        key="a100",
        name="NVIDIA A100-SXM4-80GB",
        architecture=7,
        compute_capability=(8, 0),
        pci_device_id=0x20B210DE,
        default_limit_w=400,
        min_limit_w=100,
        max_limit_w=400,
        idle_w=60,
        context_idle_w=72,
        peak_w=400,
        graphics_clock_max_mhz=1410,
        memory_clock_max_mhz=1593,
        memory_bytes=80 * GIB,
        link_count=12,
        is_average_windowed=False,
    ),
    # H100: 700 W, 200..700 (capture), idle 70-75 W, 118-122 W loaded, 1980 MHz.
    SimulatedModel(
        key="h100",
        name="NVIDIA H100 80GB HBM3",
        architecture=9,
        compute_capability=(9, 0),
        pci_device_id=0x233010DE,
        default_limit_w=700,
        min_limit_w=200,
        max_limit_w=700,
        idle_w=72,
        context_idle_w=120,
        peak_w=700,
        graphics_clock_max_mhz=1980,
        memory_clock_max_mhz=2619,
        memory_bytes=80 * GIB,
        link_count=18,
        is_average_windowed=True,
    ),
    # H200: 700 W confirmed, minimum 200 W [rec], idle ~75 W, ~120 W loaded.
    SimulatedModel(
        key="h200",
        name="NVIDIA H200",
        architecture=9,
        compute_capability=(9, 0),
        pci_device_id=0x233510DE,
        default_limit_w=700,
        min_limit_w=200,
        max_limit_w=700,
        idle_w=75,
        context_idle_w=120,
        peak_w=700,
        graphics_clock_max_mhz=1980,
        memory_clock_max_mhz=3201,
        memory_bytes=141 * GIB,
        link_count=18,
        is_average_windowed=True,
    ),
    # B200: 1000 W, 200..1000 (DGX guide), idle 64 W in the guide but 182-184 W loaded (B300, measured).
    SimulatedModel(
        key="b200",
        name="NVIDIA B200",
        architecture=10,
        compute_capability=(10, 0),
        pci_device_id=0x290110DE,
        default_limit_w=1000,
        min_limit_w=200,
        max_limit_w=1000,
        idle_w=140,
        context_idle_w=183,
        peak_w=1000,
        graphics_clock_max_mhz=1965,
        memory_clock_max_mhz=3996,
        memory_bytes=180 * GIB,
        link_count=18,
        is_average_windowed=True,
    ),
    # B300: 1100 W, measured sweep 450..1100 W; 200 W minimum assumed as on B200; GEMM draws 94 % of it.
    SimulatedModel(
        key="b300",
        name="NVIDIA B300 SXM6 AC",
        architecture=10,
        compute_capability=(10, 3),
        pci_device_id=0x318210DE,
        default_limit_w=1100,
        min_limit_w=200,
        max_limit_w=1100,
        idle_w=150,
        context_idle_w=183,
        peak_w=1100,
        graphics_clock_max_mhz=2032,
        memory_clock_max_mhz=3996,
        memory_bytes=270 * GIB,
        link_count=18,
        is_average_windowed=True,
    ),
    # L40S: 350 W, 100..350, idle 35-45 W (mock profile).
    SimulatedModel(
        key="l40s",
        name="NVIDIA L40S",
        architecture=8,
        compute_capability=(8, 9),
        pci_device_id=0x26B910DE,
        default_limit_w=350,
        min_limit_w=100,
        max_limit_w=350,
        idle_w=35,
        context_idle_w=45,
        peak_w=350,
        graphics_clock_max_mhz=2520,
        memory_clock_max_mhz=9001,
        memory_bytes=45 * GIB,
        link_count=0,
        is_average_windowed=True,
    ),
    # V100 and A40: the two boards of the Zeus sweeps (250 W / 300 W), kept for calibration.
    SimulatedModel(
        key="v100",
        name="Tesla V100-PCIE-32GB",
        architecture=5,
        compute_capability=(7, 0),
        pci_device_id=0x1DB610DE,
        default_limit_w=250,
        min_limit_w=100,
        max_limit_w=250,
        idle_w=25,
        context_idle_w=40,
        peak_w=250,
        graphics_clock_max_mhz=1380,
        memory_clock_max_mhz=877,
        memory_bytes=32 * GIB,
        link_count=0,
        is_average_windowed=False,
    ),
    SimulatedModel(
        key="a40",
        name="NVIDIA A40",
        architecture=7,
        compute_capability=(8, 6),
        pci_device_id=0x223510DE,
        default_limit_w=300,
        min_limit_w=100,
        max_limit_w=300,
        idle_w=30,
        context_idle_w=70,
        peak_w=300,
        graphics_clock_max_mhz=1740,
        memory_clock_max_mhz=7251,
        memory_bytes=45 * GIB,
        link_count=0,
        is_average_windowed=True,
    ),
)

MODELS = {board.key: board for board in _BOARDS}


def find_model(key: str) -> SimulatedModel:
    """Return the model named `key`; an unknown name is an error that lists the known ones."""
    if key not in MODELS:
        raise ValueError(f"model {key!r}: not known, expected one of {', '.join(sorted(MODELS))}")
    return MODELS[key]
