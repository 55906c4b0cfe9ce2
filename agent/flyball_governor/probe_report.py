"""What `flyball-governor probe` prints: every GPU and field of this host, with driver and library versions."""

import time
from collections.abc import Iterator
from typing import Any, Final

from flyball_fast.nvml import Nvml
from flyball_fast.nvml_records import SweepPlan
from flyball_governor.probe import as_records, probe

PROBE_S: Final = 10.0  # per GPU, over some twenty fields: five refreshes of a 100 ms sensor each


def probe_devices(library: str | None, plan: SweepPlan, seconds: float = PROBE_S) -> dict[str, Any]:
    """Return the record of this host. Runs in this process: a driver call that hangs holds up nobody else.

    Raises:
        DeviceError: no library or no driver.
    """
    nvml = Nvml(library)
    nvml.open()
    try:
        gpus = [nvml.describe(gpu) for gpu in range(nvml.gpu_count)]
        found = as_records(probe(nvml, seconds=seconds, plan=plan, clock=time.monotonic, sleep=time.sleep))
        return {
            "driver": nvml.driver_version(),
            "nvml": nvml.library_version(),
            "gpus": [
                {
                    "gpu": gpu,
                    "uuid": known.uuid,
                    "name": known.name,
                    "fields": [one for one in found if one["gpu"] == gpu],
                }
                for gpu, known in enumerate(gpus)
            ],
        }
    finally:
        nvml.close()


def probe_lines(record: dict[str, Any]) -> Iterator[str]:
    """Yield the record as a table for people; "-" is unknown."""
    yield f"driver {record['driver'] or '-'}, NVML {record['nvml'] or '-'}"
    for gpu in record["gpus"]:
        yield f"gpu {gpu['gpu']} {gpu['name']} {gpu['uuid']}"
        yield from (_field_line(row) for row in gpu["fields"])


def _field_line(row: dict[str, Any]) -> str:
    if not row["is_supported"]:
        return f"  {row['name']:24} not supported (code {row['code']})"
    cells = (("refresh", row["refresh_s"], "s"), ("read", row["latency_us"], "us"), ("rate", row["rate_hz"], "Hz"))
    shown = (f"{name} {'-' if value is None else format(value, '.3g')} {unit}" for name, value, unit in cells)
    return f"  {row['name']:24} " + "  ".join(shown)
