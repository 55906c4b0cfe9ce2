"""What a host consists of, hashed, and how it differs from the record that was accepted for it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from flyball_wire.messages import Birth

MAX_DIFFERENCES: Final = 64


def inventory_of(birth: Birth) -> dict[str, str]:
    """Return a host's parts as flat words, by name; what a birth does not tell is not among them."""
    parts = {"agent_version": birth.agent_version, "cpu_count": str(birth.cpu_count)}
    parts |= {"memory_gib": str(birth.memory_bytes >> 30), "gpus": str(len(birth.gpus))}
    for gpu in birth.gpus:
        told = (gpu.model, gpu.uuid, gpu.pci_address, gpu.minimum_milliwatts, gpu.maximum_milliwatts)
        names = ("model", "uuid", "pci", "minimum_milliwatts", "maximum_milliwatts")
        parts |= {f"gpu{gpu.index}.{name}": str(value) for name, value in zip(names, told, strict=True)}
    return parts


def hash_inventory(parts: Mapping[str, str]) -> str:
    """Return the SHA-256 of an inventory, the same whatever the order."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(golden: Mapping[str, str], found: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Return (accepted, found) of each part that differs; None where it is missing."""
    names = sorted(golden.keys() | found.keys())
    changed = {name: (golden.get(name), found.get(name)) for name in names if golden.get(name) != found.get(name)}
    return dict(list(changed.items())[:MAX_DIFFERENCES])


class GoldenRecords:
    """One accepted inventory for each host: the first that was seen, until an operator accepts another."""

    def __init__(self) -> None:
        self.golden: dict[str, dict[str, str]] = {}
        self.found: dict[str, dict[str, str]] = {}
        self.boots: dict[str, str] = {}

    def take(self, birth: Birth) -> dict[str, tuple[str | None, str | None]] | None:
        """Take a birth that tells GPUs; return how it differs, None where that was said already."""
        parts = inventory_of(birth)
        self.golden.setdefault(birth.host, parts)
        was, self.found[birth.host], self.boots[birth.host] = self.found.get(birth.host), parts, birth.boot_id
        return None if was == parts else differences(self.golden[birth.host], parts)

    def accept(self, host: str) -> bool:
        """Make what was found last the golden record; False where nothing was found yet."""
        if host not in self.found:
            return False
        self.golden[host] = self.found[host]
        return True

    def view(self, host: str) -> dict[str, Any]:
        """Return hashes and differences of a host."""
        golden, found = self.golden.get(host), self.found.get(host)
        return {
            "host": host,
            "boot_id": self.boots.get(host),
            "hash": None if found is None else hash_inventory(found),
            "golden_hash": None if golden is None else hash_inventory(golden),
            "differences": {} if golden is None or found is None else differences(golden, found),
        }
