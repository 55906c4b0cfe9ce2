from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.flyball_governor.device_side_fake import MAXIMUM, MINIMUM, FakeDeviceSide
from tests.flyball_governor.rig import LEASE_KEY, Rig, busy, enforcing, idle

from flyball_governor.journal import StateFile
from flyball_wire.errors import SignatureError, WireError
from flyball_wire.local_socket import Request
from flyball_wire.messages import Command
from flyball_wire.signing import SigningKey, sign


async def started(folder: Path, **more: object) -> Rig:
    """Return a governor that needs leases, some seconds after its start."""
    rig = Rig(enforcing(folder), **more)  # type: ignore[arg-type]  # Rig's own fields
    await rig.begin()
    return await rig.run(2)


async def test_a_gated_start_brings_caps_to_the_minimum_and_keeps_the_gate_shut(tmp_path: Path) -> None:
    rig = await started(tmp_path)

    assert rig.side.limits == [MINIMUM, MINIMUM]
    assert not rig.governor.gate.is_open
    assert (tmp_path / "gate").read_text().strip() == "shut"
    assert rig.report.is_gated
    assert rig.report.bound_milliwatts == 2 * MINIMUM


async def test_prior_limits_are_on_disk_before_the_first_write(tmp_path: Path) -> None:
    rig = Rig(enforcing(tmp_path))
    await rig.begin()

    assert rig.side.writes == []
    assert StateFile(tmp_path / "prior_limits").read() == {"GPU-fake-0": MAXIMUM, "GPU-fake-1": MAXIMUM}


async def test_a_lease_becomes_caps_and_opens_the_gate_and_is_answered_with_its_fence(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    report = await rig.grant(900)
    await rig.run(1)

    assert (report.fence.epoch, report.fence.seq) == (1, 1)
    assert report.bound_milliwatts == 900_000
    assert rig.side.limits == [450_000, 450_000]
    assert rig.governor.gate.is_open


async def test_caps_never_sum_to_more_than_the_lease_while_load_moves_about(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    await rig.grant(900, ttl_s=1000)
    rig.side.largest_sum = 0
    for step in range(30):
        rig.loads = {step % 2: idle, 1 - step % 2: busy}
        await rig.run(0.7)

    assert 850_000 < rig.side.largest_sum <= 900_000


async def test_load_that_moves_to_the_other_gpu_is_followed_within_half_a_second(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    rig.loads = {0: busy, 1: idle}
    await rig.grant(900, ttl_s=100)
    await rig.run(8)
    before = list(rig.side.limits)
    rig.loads = {0: idle, 1: busy}
    await rig.run(0.5)

    assert before == [700_000, 200_000]
    assert rig.side.limits == [200_000, 700_000]


async def test_a_steady_demand_writes_no_cap(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    rig.loads = {0: busy, 1: lambda cap: (min(cap, 310_000), 0.0)}
    await rig.grant(900, ttl_s=1000)
    await rig.run(10)
    written = len(rig.side.writes)
    await rig.run(20)

    assert len(rig.side.writes) == written


async def test_a_lower_lease_counts_the_old_caps_until_power_has_settled(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    await rig.grant(1200)
    await rig.run(3)
    rig.loads = {gpu: lambda cap: (590_000, 1.0) for gpu in (0, 1)}
    report = await rig.grant(800)
    await rig.run(0.2)
    during = rig.report
    rig.loads = {}
    await rig.run(0.3)

    assert report.bound_milliwatts == 1_200_000
    assert rig.side.limits == [400_000, 400_000]
    assert during.bound_milliwatts == 1_200_000
    assert rig.report.bound_milliwatts == 800_000


async def test_the_same_lease_twice_changes_nothing_and_is_answered(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    lease = rig.lease(900)
    await rig.send(lease)
    await rig.run(1)
    await rig.grant(600)
    await rig.run(3)
    report = await rig.send(lease)
    await rig.run(1)

    assert report.fence.seq == 2
    assert sum(rig.side.limits) == 600_000


async def test_a_lease_that_names_another_incarnation_is_left_alone(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    report = await rig.grant(900, incarnation="0" * 32)
    await rig.run(1)

    assert report.fence.seq == 0
    assert sum(rig.side.limits) == 2 * MINIMUM


async def test_a_lease_signed_by_a_stranger_is_refused_and_counted(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    stranger = SigningKey("lease-1", Ed25519PrivateKey.generate())

    with pytest.raises(SignatureError):
        await rig.send(rig.lease(900), stranger)
    assert rig.requests.refused_total == 1


async def test_when_the_lease_runs_out_caps_hold_and_then_ramp_to_the_safe_share(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    await rig.grant(1200, safe_w=700)
    await rig.run(30)
    held = sum(rig.side.limits)
    await rig.run(13)
    ramping = sum(rig.side.limits)
    await rig.run(20)

    assert held == 1_200_000
    assert 700_000 < ramping < 1_200_000
    assert sum(rig.side.limits) == 700_000
    assert rig.governor.gate.is_open


async def test_a_restart_keeps_the_caps_under_what_disk_and_hardware_say(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    await rig.grant(900)
    await rig.run(3)
    again = Rig(rig.config, rig.side, rig.clock)
    await again.begin()
    await again.run(2)

    assert again.governor.identity.incarnation != rig.governor.identity.incarnation
    assert sum(rig.side.limits) == 900_000
    assert again.report.bound_milliwatts == 900_000
    assert again.report.fence.seq == 0


async def test_observe_writes_nothing_counts_at_maximum_and_explains(tmp_path: Path) -> None:
    rig = Rig(replace(enforcing(tmp_path, host_limit_w=900.0), mode="observe"))
    await rig.begin()
    await rig.run(3)
    status = (await rig.requests.handle_request(Request(1, "status"))).reply

    assert rig.side.writes == []
    assert rig.report.bound_milliwatts == 2 * MAXIMUM
    assert rig.governor.gate.is_open
    assert "observe: would set" in str(status)


async def test_caps_switched_off_is_observe_whatever_the_mode_says(tmp_path: Path) -> None:
    config = enforcing(tmp_path, host_limit_w=900.0)
    rig = Rig(replace(config, caps=replace(config.caps, enabled=False)))
    await rig.begin()
    await rig.run(3)

    assert rig.side.writes == []
    assert rig.report.mode == "observe"


async def test_a_host_limit_holds_with_no_aggregator_at_all(tmp_path: Path) -> None:
    rig = Rig(enforcing(tmp_path, host_limit_w=800.5, needs_lease=False))
    await rig.begin()
    await rig.run(3)

    assert sum(rig.side.limits) == 800_000
    assert rig.governor.gate.is_open


async def test_the_smaller_of_lease_and_host_limit_holds(tmp_path: Path) -> None:
    rig = Rig(enforcing(tmp_path, host_limit_w=700.0))
    await rig.begin()
    await rig.run(2)
    await rig.grant(900)
    await rig.run(3)

    assert sum(rig.side.limits) == 700_000


async def test_without_samples_every_gpu_gets_the_same(tmp_path: Path) -> None:
    rig = await started(tmp_path, is_sampled=False)
    await rig.grant(900)
    await rig.run(3)

    assert rig.side.limits == [450_000, 450_000]


async def test_a_limit_raised_by_another_hand_is_lowered_within_two_seconds_and_told(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    await rig.grant(900, ttl_s=100)
    await rig.run(3)
    rig.side.limits[0] = MAXIMUM
    await rig.run(2)

    assert sum(rig.side.limits) <= 900_000
    assert "foreign_cap" in rig.events
    assert rig.report.has_foreign_cap
    await rig.run(12)
    assert not rig.report.has_foreign_cap


async def test_a_limit_lowered_by_another_hand_is_not_undone_until_an_operator_resumes(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    await rig.grant(900, ttl_s=1000)
    await rig.run(3)
    rig.side.limits[0] = 250_000
    await rig.run(20)
    held = list(rig.side.limits)
    await rig.requests.handle_request(Request(1, "resume"))
    await rig.run(3)

    assert held == [250_000, 650_000]
    assert rig.side.limits == [450_000, 450_000]


async def test_a_disk_that_refuses_keeps_every_cap_unwritten_and_says_so(tmp_path: Path) -> None:
    rig = Rig(enforcing(tmp_path))
    (tmp_path / ".prior_limits.new").mkdir()
    await rig.begin()
    await rig.run(7)

    assert rig.side.writes == []
    assert not rig.report.can_write
    assert not rig.governor.gate.is_open


async def test_a_lease_is_not_answered_before_it_is_on_disk(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    (tmp_path / ".lease.new").mkdir()
    report = await rig.grant(900)
    await rig.run(1)
    before = list(rig.side.limits)
    (tmp_path / ".lease.new").rmdir()
    await rig.run(2)

    assert report.fence.seq == 0
    assert before == [MINIMUM, MINIMUM]
    assert rig.report.fence.seq == 1
    assert rig.side.limits == [450_000, 450_000]


async def test_a_write_that_does_not_return_counts_and_its_writer_is_left_behind(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    rig.side.hung.add(0)
    await rig.grant(900)
    await rig.run(3)

    assert rig.side.writers_replaced > 0
    assert rig.report.bound_milliwatts >= 900_000
    assert sum(rig.side.limits) <= 900_000


async def test_a_refused_write_is_said_and_not_repeated_ten_times_a_second(tmp_path: Path) -> None:
    rig = Rig(enforcing(tmp_path), FakeDeviceSide(refused={0: "NO_PERMISSION"}))
    await rig.begin()
    await rig.run(7)

    assert rig.governor.caps.writer.writes_total <= 4
    assert not rig.report.can_write
    assert rig.report.bound_milliwatts == MAXIMUM + MINIMUM


async def test_a_gpu_that_cannot_be_read_counts_at_its_maximum_and_the_others_make_room(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    await rig.grant(1000, ttl_s=100)
    await rig.run(3)
    rig.side.unreadable.add(0)
    await rig.run(3)

    assert rig.side.limits[1] == 300_000
    assert rig.report.bound_milliwatts == 1_000_000


async def test_quiesce_shuts_the_gate_and_counts_at_maximum_until_caps_are_read_back(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    await rig.grant(900, ttl_s=1000)
    await rig.run(3)
    await rig.requests.handle_request(Request(1, "quiesce"))
    await rig.run(2)
    quiesced = (rig.side.is_quiesced, rig.governor.gate.is_open, rig.report.bound_milliwatts)
    rig.side.limits = [MAXIMUM, MAXIMUM]
    await rig.requests.handle_request(Request(2, "resume"))
    await rig.run(3)

    assert quiesced == (True, False, 2 * MAXIMUM)
    assert sum(rig.side.limits) == 900_000
    assert rig.governor.gate.is_open
    assert rig.report.bound_milliwatts == 900_000


async def test_stopping_leaves_caps_as_they_are(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    await rig.grant(900)
    await rig.run(3)
    written = list(rig.side.writes)
    rig.governor.stop()
    await rig.governor.run()
    await rig.governor.close()

    assert rig.side.writes == written
    assert rig.side.is_stopped


def command(rig: Rig, action: str) -> Command:
    """Return a signed-to-be command, newer than any lease so far."""
    rig.seq += 1
    stamp = rig.report.stamp_ms
    return Command("h1", rig.governor.identity.incarnation, "c1", 1, rig.seq, stamp, 5000, action, ())


async def test_a_signed_release_puts_prior_limits_back_and_forgets_them(tmp_path: Path) -> None:
    rig = Rig(enforcing(tmp_path), FakeDeviceSide(limits=[600_000, 650_000]))
    await rig.begin()
    await rig.run(2)
    await rig.grant(900, ttl_s=100)
    await rig.run(2)
    await rig.requests.handle_request(Request(1, "command", sign(command(rig, "release"), LEASE_KEY)))
    await rig.run(2)

    assert rig.side.limits == [600_000, 650_000]
    assert StateFile(tmp_path / "prior_limits").read() == {}
    assert rig.report.bound_milliwatts == 2 * MAXIMUM


async def test_a_command_is_taken_once_and_only_from_a_closed_set(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    order = Request(1, "command", sign(command(rig, "quiesce"), LEASE_KEY))
    await rig.requests.handle_request(order)

    with pytest.raises(WireError, match="not after the last one"):
        await rig.requests.handle_request(order)
    with pytest.raises(WireError, match="expected release, quiesce or resume"):
        await rig.requests.handle_request(Request(2, "command", sign(command(rig, "rm -rf"), LEASE_KEY)))


async def test_the_agent_may_lower_the_host_and_take_that_back(tmp_path: Path) -> None:
    rig = Rig(enforcing(tmp_path, host_limit_w=1000.0, needs_lease=False))
    await rig.begin()
    await rig.run(3)
    await rig.requests.handle_request(Request(1, "lower", limit_milliwatts=600_000))
    await rig.run(3)
    lowered = sum(rig.side.limits)
    await rig.requests.handle_request(Request(2, "lower"))
    await rig.run(3)

    assert lowered == 600_000
    assert sum(rig.side.limits) == 1_000_000


async def test_a_host_limit_below_the_devices_minima_holds_the_minima_and_says_so(tmp_path: Path) -> None:
    rig = Rig(enforcing(tmp_path, host_limit_w=100.0, needs_lease=False))
    await rig.begin()
    await rig.run(3)
    status = (await rig.requests.handle_request(Request(1, "status"))).reply

    assert rig.side.limits == [MINIMUM, MINIMUM]
    assert "below the devices' minima" in str(status)


async def test_a_gate_file_that_could_not_be_written_is_written_when_it_can_be(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    (tmp_path / ".gate.new").mkdir()
    await rig.grant(900)
    await rig.run(2)
    during = rig.governor.gate.is_open
    (tmp_path / ".gate.new").rmdir()
    await rig.run(2)

    assert not during
    assert rig.governor.gate.is_open


class SlowDisk(StateFile):
    """A state file whose disk answers when a test lets it."""

    def __init__(self, path: Path, may_answer: Event) -> None:
        super().__init__(path)
        object.__setattr__(self, "may_answer", may_answer)

    def write(self, record: dict[str, object]) -> None:
        event: Event = self.may_answer  # type: ignore[attr-defined]  # set in the constructor of a frozen class
        event.wait(20)
        super().write(record)


async def test_a_disk_that_hangs_holds_back_raises_but_never_a_lowering(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    await rig.grant(1200, ttl_s=100)
    await rig.run(3)
    may_answer = Event()
    rig.governor.seat.file = SlowDisk(tmp_path / "lease", may_answer)
    lowered = await rig.grant(800, ttl_s=100)
    await rig.run(1)
    limits = list(rig.side.limits)
    may_answer.set()
    writing = rig.governor.seat._writing
    assert writing is not None
    await writing
    await rig.run(2)

    assert lowered.fence.seq == 1
    assert limits == [400_000, 400_000]
    assert rig.report.fence.seq == 2


async def test_a_signed_order_about_health_is_handed_on_to_the_agent_once_and_moves_nothing(tmp_path: Path) -> None:
    rig = await started(tmp_path)
    order = replace(command(rig, "health"), arguments=(("act", "mode"), ("mode", "careful")))
    request = Request(1, "command", sign(order, LEASE_KEY))
    await rig.requests.handle_request(request)
    with pytest.raises(WireError, match="not after the last one"):
        await rig.requests.handle_request(request)
    unknown = replace(command(rig, "health"), arguments=(("act", "burn"),))
    with pytest.raises(WireError, match="expected one of permit, mode"):
        await rig.requests.handle_request(Request(2, "command", sign(unknown, LEASE_KEY)))
    forged = sign(replace(order, seq=order.seq + 9), SigningKey("lease-1", Ed25519PrivateKey.generate()))
    with pytest.raises(SignatureError):
        await rig.requests.handle_request(Request(3, "command", forged))

    assert rig.events.count("order") == 1
    assert rig.side.limits == [MINIMUM, MINIMUM]
