"""Isolation: ordered, proven, owned, and undone by its owner only; limits stop acts but never a release."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.flyball_agent.health_bench import GPU, Bench

from flyball_agent.check import add_parser, run
from flyball_agent.facts import NODE, Entity
from flyball_agent.health_inputs import Intent
from flyball_agent.isolation import Actuator, Isolation, IsolationError, OwnershipBook, Profile, StepResult, Target
from flyball_agent.isolation_gates import CdiSpec, GovernorGate, Hook, SystemdGate
from flyball_agent.isolation_guard import GuardLimits, IsolationGuard, Surroundings, Window
from flyball_agent.isolation_slurm import SlurmDrain, run_command
from flyball_agent.state_file import Gpu, check_gpu, health_plain, write_health

import argparse  # isort: skip
import time  # isort: skip

OTHER = Entity("gpu", "0000:1a:00.0")


def target(entity: Entity = GPU, incident: str = "inc-1", index: int | None = 3) -> Target:
    return Target(entity, incident, "node7", index, f"GPU-{index}", "xid.48 x1")


class Slurm:
    """`scontrol` as a controller would answer it: real argument shapes, one node."""

    def __init__(self, state: str = "IDLE", reason: str = "") -> None:
        self.state = state
        self.reason = reason
        self.commands: list[list[str]] = []

    async def __call__(self, command: Sequence[str], stdin: bytes = b"") -> tuple[int, str]:
        self.commands.append(list(command))
        if list(command) == ["scontrol", "show", "node", "node7", "--oneliner"]:
            reason = f" Reason={self.reason} [root@2026-11-20T10:00:00]" if self.reason else ""
            return 0, f"NodeName=node7 Arch=x86_64 Gres=gpu:8 State={self.state} ThreadsPerCore=2{reason} Comment=a b\n"
        if command[:3] == ["scontrol", "update", "NodeName=node7"]:
            fields = dict(field.split("=", 1) for field in command[3:])
            if fields["State"] == "DRAIN":
                self.state, self.reason = f"{self.state}+DRAIN", fields["Reason"]
            else:
                self.state, self.reason = self.state.replace("+DRAIN", ""), ""
            return 0, ""
        return 1, "slurm_load_node error: Invalid node name specified"


class Means:
    """A means that does what a test tells it."""

    limit_s = 0.05
    is_host_wide = False

    def __init__(self, name: str, fails: str = "", why: str | None = None) -> None:
        self.name = name
        self.fails = fails
        self.why = why
        self.stands = False
        self.done: list[str] = []

    async def probe(self, target: Target) -> str | None:
        return self.why

    async def apply(self, target: Target) -> None:
        self.done.append("apply")
        if self.fails == "apply":
            raise IsolationError("broken")
        if self.fails == "hang":
            import asyncio

            await asyncio.Event().wait()
        self.stands = self.fails != "verify"

    async def verify(self, target: Target) -> bool:
        return self.stands

    async def revert(self, target: Target) -> None:
        self.done.append(f"revert {target.incident}")
        self.stands = False


def isolation(tmp_path: Path, *steps: Actuator, escalation: Actuator | None = None, dry: bool = False) -> Isolation:
    book = OwnershipBook(tmp_path / "held.json")
    book.load()
    profile = Profile(steps, escalation)
    return Isolation(lambda _: profile, book, is_dry=lambda: dry)


def outcomes(results: Sequence[StepResult]) -> list[str]:
    return [result.outcome for result in results]


async def test_means_are_applied_in_order_and_one_that_fails_does_not_stop_the_next(tmp_path: Path) -> None:
    steps = [
        Means("a"),
        Means("b", "apply"),
        Means("c", "hang"),
        Means("d", "verify"),
        Means("e", why="no"),
        Means("f"),
    ]
    results = await isolation(tmp_path, *steps).isolate(target())
    assert outcomes(results) == ["applied", "failed", "failed", "failed", "unavailable", "applied"]


async def test_the_escalation_is_used_when_nothing_took_effect(tmp_path: Path) -> None:
    last = Means("slurm")
    results = await isolation(tmp_path, Means("a", "apply"), Means("b", why="no"), escalation=last).isolate(target())
    assert outcomes(results) == ["failed", "unavailable", "applied"]


async def test_a_dry_run_does_nothing_and_says_what_it_would(tmp_path: Path) -> None:
    means = Means("a")
    results = await isolation(tmp_path, means, dry=True).isolate(target())
    assert (outcomes(results), means.done) == (["would"], [])
    assert "would isolate gpu:0000:9b:00.0" in results[0].detail


async def test_what_another_owner_isolated_is_left_alone_both_ways(tmp_path: Path) -> None:
    means = Means("a")
    means.stands = True
    house = isolation(tmp_path, means)
    assert outcomes(await house.isolate(target())) == ["already"]
    assert await house.release(target()) == []
    assert means.done == []


async def test_what_is_held_survives_a_crash_and_is_lifted_after_it(tmp_path: Path) -> None:
    means = Means("a")
    await isolation(tmp_path, means).isolate(target())
    again = isolation(tmp_path, means)
    assert outcomes(await again.release(target(incident="other"))) == ["reverted"]
    assert means.done == ["apply", "revert inc-1"]


async def test_a_release_works_in_a_dry_run_too(tmp_path: Path) -> None:
    means = Means("a")
    await isolation(tmp_path, means).isolate(target())
    assert outcomes(await isolation(tmp_path, means, dry=True).release(target())) == ["reverted"]


async def test_a_broken_book_lifts_nothing(tmp_path: Path) -> None:
    (tmp_path / "held.json").write_text("{")
    with pytest.raises(IsolationError, match=r"held\.json"):
        OwnershipBook(tmp_path / "held.json").load()


async def test_a_host_wide_means_is_lifted_with_the_last_entity(tmp_path: Path) -> None:
    slurm = Slurm()
    house = isolation(tmp_path, SlurmDrain(slurm))
    assert outcomes(await house.isolate(target())) == ["applied"]
    assert outcomes(await house.isolate(target(OTHER, "inc-2"))) == ["already"]
    assert outcomes(await house.release(target())) == ["kept"]
    assert "DRAIN" in slurm.state
    assert outcomes(await house.release(target(OTHER, "inc-2"))) == ["reverted"]
    assert slurm.state == "IDLE"


async def test_a_drain_carries_our_tag_and_a_release_resumes_it(tmp_path: Path) -> None:
    slurm = Slurm()
    house = isolation(tmp_path, SlurmDrain(slurm))
    await house.isolate(target())
    assert slurm.commands[-2] == [
        "scontrol",
        "update",
        "NodeName=node7",
        "State=DRAIN",
        "Reason=flyball:inc-1 xid.48 x1",
    ]
    await house.release(target())
    assert slurm.commands[-1] == ["scontrol", "update", "NodeName=node7", "State=RESUME"]


@pytest.mark.parametrize("first", [True, False])
async def test_case_17_a_release_never_undoes_an_operators_drain(tmp_path: Path, first: bool) -> None:
    """Whether the operator drained before us or took our drain over: the reason is theirs, so is the drain."""
    slurm = Slurm("MIXED+DRAIN", "fan noise, ann") if first else Slurm()
    house = isolation(tmp_path, SlurmDrain(slurm))
    await house.isolate(target())
    if not first:
        slurm.reason = "fan noise, ann"
    await house.release(target())
    assert ("DRAIN" in slurm.state, slurm.reason) == (True, "fan noise, ann")
    assert not any("State=RESUME" in command for command in slurm.commands)


@pytest.mark.parametrize(
    ("state", "is_drained"),
    [("IDLE+DRAIN", True), ("MIXED+DRAIN", False), ("ALLOCATED+DRAIN", False), ("DOWN*+DRAIN", True), ("IDLE", False),
     ("IDLE+COMPLETING+DRAIN", False), ("IDLE+DRAIN*", True)],
)  # fmt: skip
async def test_a_host_is_drained_when_no_job_is_left(state: str, is_drained: bool) -> None:
    assert await SlurmDrain(Slurm(state)).is_drained(target()) is is_drained


async def test_a_host_that_slurm_does_not_know_is_unavailable(tmp_path: Path) -> None:
    async def unknown(command: Sequence[str], stdin: bytes = b"") -> tuple[int, str]:
        return 1, "Invalid node name"

    results = await isolation(tmp_path, SlurmDrain(unknown)).isolate(target())
    assert outcomes(results) == ["unavailable"]


async def test_a_missing_program_is_an_isolation_error() -> None:
    with pytest.raises(IsolationError, match="no-such-program"):
        await run_command(["no-such-program-of-flyball"])


async def test_a_gate_is_ours_alone(tmp_path: Path) -> None:
    gate, folder = SystemdGate(tmp_path / "quarantine"), tmp_path / "quarantine"
    assert await gate.probe(target(Entity("nic", "x"), index=None)) is not None
    await gate.apply(target())
    assert (folder / "gpu-3").read_text().startswith("flyball:inc-1\n")
    await gate.revert(target())
    assert not (folder / "gpu-3").exists()
    (folder / "node").write_text("by ann\n")
    await gate.apply(target(NODE))
    await gate.revert(target(NODE))
    assert (folder / "node").read_text() == "by ann\n"


async def test_a_container_list_leaves_out_what_is_isolated_and_takes_it_back(tmp_path: Path) -> None:
    full, written = tmp_path / "nvidia.json", tmp_path / "flyball.json"
    names = ["0", "1", "GPU-0", "GPU-1", "all"]
    full.write_text(
        json.dumps({"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": [{"name": n} for n in names]})
    )
    spec = CdiSpec(full, written)
    first, second = target(index=0), target(OTHER, index=1)
    assert not await spec.verify(first)
    await spec.apply(first)
    assert [device["name"] for device in json.loads(written.read_text())["devices"]] == ["1", "GPU-1"]
    await spec.apply(second)
    await spec.revert(first)
    assert [device["name"] for device in json.loads(written.read_text())["devices"]] == ["0", "GPU-0"]
    assert await spec.verify(second)


HOOK = """
import json, sys
given = json.load(sys.stdin)
assert given["version"] == 1 and given["entity"] == "gpu:0000:9b:00.0" and given["owner"] == "flyball:inc-1"
open(sys.argv[1], "a").write(given["operation"] + " ")
sys.exit(0 if given["operation"] != "revert" else 3)
"""


async def test_a_hook_gets_json_on_stdin_and_answers_with_its_exit_code(tmp_path: Path) -> None:
    script, log = tmp_path / "hook.py", tmp_path / "log"
    script.write_text(HOOK)
    hook = Hook("site", (sys.executable, str(script), str(log)))
    assert await hook.probe(target()) is None
    await hook.apply(target())
    assert await hook.verify(target())
    with pytest.raises(IsolationError, match=r"hook:site revert gpu:0000:9b:00\.0: exit 3"):
        await hook.revert(target())
    assert log.read_text() == "probe apply verify revert "


class Governor:
    def __init__(self) -> None:
        self.orders: list[tuple[str, str]] = []
        self.on: set[str] = set()

    async def order(self, action: str, arguments: Mapping[str, str]) -> tuple[bool, str]:
        self.orders.append((action, arguments.get("gpu_uuid", "")))
        if action == "nvml_drain_on":
            self.on.add(arguments["gpu_uuid"])
        if action == "nvml_drain_off":
            self.on.discard(arguments["gpu_uuid"])
        return action != "nvml_drain_state" or arguments["gpu_uuid"] in self.on, ""


async def test_the_governor_is_asked_for_what_needs_root(tmp_path: Path) -> None:
    governor = Governor()
    house = isolation(tmp_path, GovernorGate("nvml_drain", governor))
    assert outcomes(await house.isolate(target())) == ["applied"]
    assert governor.on == {"GPU-3"}
    assert outcomes(await house.release(target())) == ["reverted"]
    assert governor.on == set()


ISOLATE, RELEASE = Intent("isolate", GPU), Intent("release", GPU)
REPAIR = Intent("repair", GPU, detail="reset_gpu")
LIMITS = GuardLimits(is_enforcing=True, may_repair=True)
NOW = Surroundings(now_s=1e6, belongs_to=frozenset({"node7", "rack-2"}))


def test_observing_is_the_default_and_refuses_to_act() -> None:
    assert IsolationGuard().judge(ISOLATE, NOW).rule.startswith("observing")


@pytest.mark.parametrize(
    "around",
    [
        Surroundings(now_s=1e6, is_opted_out=True),
        Surroundings(now_s=1e6, mode="observe"),
        Surroundings(now_s=1e6, windows=(Window(0, 2e6, "rack-2"),), belongs_to=frozenset({"rack-2"})),
        Surroundings(now_s=1e6, isolated_gpus=5),
    ],
)
def test_limits_stop_an_isolation_and_never_a_release(around: Surroundings) -> None:
    guard = IsolationGuard(LIMITS)
    assert not guard.judge(ISOLATE, around).is_allowed
    assert guard.judge(RELEASE, around).is_allowed


def test_a_maintenance_window_of_another_rack_or_of_yesterday_stops_nothing() -> None:
    windows = (Window(0, 2e6, "rack-9"), Window(0, 1e6, "rack-2"))
    around = Surroundings(now_s=1e6, windows=windows, belongs_to=frozenset({"rack-2"}))
    assert IsolationGuard(LIMITS).judge(ISOLATE, around).is_allowed


def test_a_careful_fleet_leaves_hosts_to_operators_but_not_gpus() -> None:
    guard, careful = IsolationGuard(LIMITS), Surroundings(now_s=1e6, mode="careful")
    assert guard.judge(ISOLATE, careful).is_allowed
    assert not guard.judge(Intent("isolate", NODE), careful).is_allowed


def test_repairs_are_opted_into_spaced_and_counted() -> None:
    assert not IsolationGuard(GuardLimits(is_enforcing=True)).judge(REPAIR, NOW).is_allowed
    guard = IsolationGuard(LIMITS)
    for number in range(4):
        around = Surroundings(now_s=1e6 + number * 700)
        assert guard.judge(REPAIR, around).is_allowed
        guard.count(REPAIR, around.now_s)
    assert guard.judge(REPAIR, Surroundings(now_s=1e6 + 4 * 700)).rule == "repairs of today"
    assert guard.judge(REPAIR, Surroundings(now_s=1e6 + 100_000)).is_allowed
    assert not IsolationGuard(LIMITS, repairs=[(1e6 - 5, str(GPU))]).judge(REPAIR, NOW).is_allowed


def test_a_day_has_only_so_many_actions() -> None:
    guard = IsolationGuard(LIMITS)
    for number in range(12):
        guard.count(ISOLATE, 1e6 + number)
    assert not guard.judge(ISOLATE, Surroundings(now_s=1e6 + 60)).is_allowed


def test_case_16_a_host_alone_isolates_itself_once_for_what_it_surely_sees() -> None:
    guard, ask = IsolationGuard(LIMITS), Intent("ask_permit", NODE)
    assert not guard.answer_offline(ask, ["gpus_isolated"])
    assert guard.answer_offline(ask, ["gpu:0000:9b:00.0.xid.79"])
    assert not guard.answer_offline(ask, ["driver.hung"])
    guard.back_online()
    assert guard.answer_offline(ask, ["driver.hung"])


GPUS = [Gpu(0, "GPU-0", OTHER.name), Gpu(1, "GPU-1", GPU.name)]


def health_file(bench: Bench, *, is_enforcing: bool = True) -> bytes:
    return json.dumps(health_plain(bench.machine, GPUS, now_s=bench.now_s, is_enforcing=is_enforcing)).encode()


def test_a_check_refuses_the_isolated_gpu_and_allows_its_neighbour() -> None:
    bench = Bench()
    bench.progress("observed", entity=OTHER)
    bench.xid(48)
    raw = health_file(bench)
    assert check_gpu(raw, "0", bench.now_s)[0] == 0
    for name in ("1", "GPU-1", GPU.name):
        code, text = check_gpu(raw, name, bench.now_s)
        assert (code, text) == (1, "QUARANTINED: xid.48 x1 -> reset_gpu")


def test_a_check_refuses_every_gpu_of_an_isolated_host() -> None:
    bench = Bench()
    bench.progress("observed", entity=OTHER)
    bench.order("isolate", entity=NODE)
    assert check_gpu(health_file(bench), "0", bench.now_s)[0] == 1
    assert check_gpu(health_file(bench), None, bench.now_s)[0] == 1


def test_a_host_that_observes_refuses_nothing_and_says_what_it_would() -> None:
    bench = Bench()
    bench.xid(48)
    code, text = check_gpu(health_file(bench, is_enforcing=False), "1", bench.now_s)
    assert (code, text.startswith("observing only, would refuse")) == (0, True)


@pytest.mark.parametrize("raw", [None, b"", b"{", b"[]", b'{"version": 99}'])
def test_no_health_file_is_unknown(raw: bytes | None) -> None:
    assert check_gpu(raw, "0", 0.0)[0] == 2


def test_an_old_health_file_or_a_gpu_without_data_is_unknown() -> None:
    bench = Bench()
    raw = health_file(bench)
    assert check_gpu(raw, "0", bench.now_s + 61)[0] == 2
    assert check_gpu(raw, "0", bench.now_s)[0] == 2
    assert check_gpu(raw, "7", bench.now_s)[0] == 2


def test_the_check_command_gives_the_worst_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench()
    bench.now_s = time.time()
    bench.progress("observed", entity=OTHER)
    bench.xid(48)
    write_health(tmp_path / "health.json", json.loads(health_file(bench)))
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    answers = []
    for gpus in ([], ["0"], ["0", "1"], ["9"]):
        words = [word for gpu in gpus for word in ("--gpu", gpu)]
        answers.append(run(parser.parse_args(["check", "--file", str(tmp_path / "health.json"), *words])))
    assert answers == [2, 0, 1, 2]
    assert "1: QUARANTINED" in capsys.readouterr().out
