"""Whose a process is, from its cgroup: Slurm job, Kubernetes pod, container, systemd unit or login session.

Source: /proc/PID/cgroup in both versions; names as Slurm's cgroup plugin, the kubelet, docker, podman and systemd make
them. A process tells nothing about itself that it could choose: only the kernel's path is read.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

OwnerKind = Literal["slurm_job", "pod", "container", "unit", "session"]
_PATTERNS: Final[tuple[tuple[OwnerKind, re.Pattern[str]], ...]] = (  # the first that fits
    ("slurm_job", re.compile(r"/(?:slurmstepd\.scope|slurm[^/]*)/(?:uid_\d+/)?job_(?P<id>\d+)")),
    ("pod", re.compile(r"[/-]pod(?P<id>[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")),
    ("container", re.compile(r"(?:docker|libpod|cri-containerd|crio)[-/](?:conmon-)?(?P<id>[0-9a-f]{12,64})")),
    ("container", re.compile(r"/lxc(?:\.payload)?[./](?P<id>[A-Za-z0-9._-]+)")),
    ("session", re.compile(r"/session-(?P<id>[A-Za-z0-9]+)\.scope")),
    ("unit", re.compile(r".*/(?P<id>[^/]+\.(?:service|scope))")),
)


@dataclass(frozen=True, slots=True)
class WorkOwner:
    """What a process belongs to; `name` is the number, uid, id or unit that its manager knows it by."""

    kind: OwnerKind
    name: str


def parse_cgroup(text: str) -> WorkOwner | None:
    """Return the owner in the text of a cgroup file; None where no path names one."""
    paths = [line.split(":", 2)[2] for line in text.splitlines() if line.count(":") >= 2]
    for kind, pattern in _PATTERNS:
        for path in paths:
            if found := pattern.search(path):
                name = found["id"].replace("_", "-") if kind == "pod" else found["id"]
                return WorkOwner(kind, name[:128])
    return None


def read_owner(pid: int, root: Path = Path("/proc")) -> WorkOwner | None:
    """Return whose a process is; None when it is gone or nobody's."""
    try:
        return parse_cgroup((root / str(pid) / "cgroup").read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None


def read_owners(pids: Iterable[int], root: Path = Path("/proc")) -> frozenset[WorkOwner]:
    """Return all whose these processes are."""
    found = (read_owner(pid, root) for pid in pids)
    return frozenset(owner for owner in found if owner is not None)
