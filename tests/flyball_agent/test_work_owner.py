"""Paths as the managers make them, versions 1 and 2."""

from pathlib import Path

import pytest

from flyball_agent.work_owner import WorkOwner, parse_cgroup, read_owner, read_owners

SLICE = "/kubepods.slice/kubepods-burstable.slice"
USER = "/user.slice/user-1000.slice"
POD = "0a1b2c3d-0000-1111-2222-333344445555"


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("0::/system.slice/slurmstepd.scope/job_4242/step_0/user/task_3", WorkOwner("slurm_job", "4242")),
        ("5:memory:/slurm/uid_1000/job_77/step_batch\n1:name=systemd:/a/slurmd.service", WorkOwner("slurm_job", "77")),
        (f"0::{SLICE}/kubepods-burstable-pod{POD.replace('-', '_')}.slice/cri-containerd-{'ab' * 32}.scope", WorkOwner("pod", POD)),
        (f"0::/kubepods/besteffort/pod{POD}/{'cd' * 32}", WorkOwner("pod", POD)),
        (f"0::/system.slice/docker-{'ef' * 32}.scope", WorkOwner("container", "ef" * 32)),
        (f"0::{USER}/user@1000.service/libpod-{'12' * 32}.scope", WorkOwner("container", "12" * 32)),
        ("0::/user.slice/user-1000.slice/session-4.scope", WorkOwner("session", "4")),
        ("0::/system.slice/vllm@0.service", WorkOwner("unit", "vllm@0.service")),
        ("0::/", None),
        ("nonsense", None),
    ],
)  # fmt: skip
def test_a_path_names_its_owner(text: str, owner: WorkOwner | None) -> None:
    assert parse_cgroup(text) == owner


def test_processes_of_one_job_are_one_owner_and_those_gone_none(tmp_path: Path) -> None:
    for pid in (10, 11):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cgroup").write_text("0::/system.slice/slurmstepd.scope/job_9/step_0")

    assert read_owners([10, 11, 12], tmp_path) == {WorkOwner("slurm_job", "9")}
    assert read_owner(12, tmp_path) is None
