"""A plan starts on all its hosts or on none, whatever is lost, doubled or killed on the way."""

from collections.abc import Iterable
from contextlib import suppress

import pytest

from flyball_aggregator.placement.commit import (
    RESEND_S,
    RESERVE_TTL_S,
    Answer,
    Attempt,
    Committer,
    Order,
    Outcome,
    Output,
    Stage,
    Verb,
)
from flyball_aggregator.placement.errors import CommitError


class MemoryStore:
    """Keeps attempts like a disk; `writes_left` lets it fail after so many writes."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int], Attempt] = {}
        self.writes_left: int | None = None

    def put(self, attempt: Attempt) -> None:
        self._write()
        self.kept[attempt.job_id, attempt.attempt] = attempt

    def delete(self, job_id: str, attempt: int) -> None:
        self._write()
        self.kept.pop((job_id, attempt), None)

    def load(self) -> Iterable[Attempt]:
        return list(self.kept.values())

    def _write(self) -> None:
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise CommitError("store is down")
            self.writes_left -= 1


class Host:
    """Obeys orders as the agent must: a repeat gets the same answer, a start needs a preparation."""

    def __init__(self, *, refuses: Verb | None = None) -> None:
        self.refuses = refuses
        self.prepared: set[tuple[str, int]] = set()
        self.running: set[tuple[str, int]] = set()

    def obey(self, order: Order) -> Answer:
        key = order.job_id, order.attempt
        is_ack = order.verb is not self.refuses
        if is_ack and order.verb is Verb.PREPARE:
            self.prepared.add(key)
        elif is_ack and order.verb is Verb.START:
            is_ack = key in self.prepared or key in self.running
            self.running |= {key} if is_ack else set()
        elif order.verb in {Verb.STOP, Verb.ABORT}:
            self.prepared.discard(key)
            self.running.discard(key)
        return Answer(order.host, order.verb, *key, is_ack=is_ack)


def run(committer: Committer, hosts: dict[str, Host], out: Output, now_s: float = 0.0) -> list[Outcome]:
    """Carry orders to and fro until nobody says anything."""
    outcomes = [report.outcome for report in out.reports]
    waiting = list(out.orders)
    while waiting:
        answered = committer.answer(hosts[waiting[0].host].obey(waiting.pop(0)), now_s)
        waiting += answered.orders
        outcomes += [report.outcome for report in answered.reports]
    return outcomes


WAVES = [["a"], ["b", "c"]]


def fresh(refusing: str = "", verb: Verb | None = None) -> tuple[MemoryStore, Committer, dict[str, Host]]:
    store = MemoryStore()
    return store, Committer(store, 1), {name: Host(refuses=verb if name == refusing else None) for name in "abc"}


def test_all_hosts_prepare_before_any_starts_and_waves_follow_in_order() -> None:
    _, committer, hosts = fresh()
    out = committer.begin("j", 1, WAVES, {}, 0.0)
    assert [order.verb for order in out.orders] == [Verb.PREPARE] * 3
    for order in out.orders[:2]:
        assert committer.answer(hosts[order.host].obey(order), 0.0).orders == []
    started = committer.answer(hosts["c"].obey(out.orders[2]), 0.0).orders

    assert [(order.host, order.verb) for order in started] == [("a", Verb.START)]
    second = committer.answer(hosts["a"].obey(started[0]), 0.0).orders
    assert [(order.host, order.wave) for order in second] == [("b", 1), ("c", 1)]


@pytest.mark.parametrize("verb", [Verb.PREPARE, Verb.START])
@pytest.mark.parametrize("refusing", ["a", "b", "c"])
def test_one_refusal_leaves_nothing_anywhere(refusing: str, verb: Verb) -> None:
    store, committer, hosts = fresh(refusing, verb)

    assert run(committer, hosts, committer.begin("j", 1, WAVES, {}, 0.0)) == [Outcome.FAILED]
    assert not any(host.prepared or host.running for host in hosts.values())
    assert store.kept == {}


def test_silent_host_is_blamed_and_the_rest_rolled_back() -> None:
    _, committer, hosts = fresh()
    out = committer.begin("j", 1, WAVES, {}, 0.0)
    for order in out.orders[:2]:
        committer.answer(hosts[order.host].obey(order), 1.0)

    rolled = committer.tick(RESERVE_TTL_S)
    assert {order.verb for order in rolled.orders} == {Verb.ABORT}
    outcomes = [committer.answer(hosts[order.host].obey(order), RESERVE_TTL_S) for order in rolled.orders]
    assert outcomes[-1].reports[0].blamed == ("c",)


def test_doubled_late_and_foreign_answers_change_nothing() -> None:
    _, committer, hosts = fresh()
    out = committer.begin("j", 2, WAVES, {}, 0.0)
    answer = hosts["a"].obey(out.orders[0])
    committer.answer(answer, 0.0)

    for stray in (
        answer,
        Answer("a", Verb.PREPARE, "j", 1, is_ack=False),
        Answer("z", Verb.PREPARE, "j", 2, is_ack=False),
        Answer("b", Verb.START, "j", 2, is_ack=True),
        Answer("b", Verb.PREPARE, "ghost", 2, is_ack=True),
    ):
        assert committer.answer(stray, 0.0) == Output()
    assert committer.attempts["j"].stage is Stage.PREPARING


def test_lost_orders_are_said_again_until_answered() -> None:
    _, committer, hosts = fresh()
    committer.begin("j", 1, WAVES, {}, 0.0)

    assert run(committer, hosts, committer.tick(RESEND_S), RESEND_S) == [Outcome.STARTED]


def test_beginning_twice_is_the_same_and_another_attempt_waits() -> None:
    _, committer, _ = fresh()
    committer.begin("j", 1, WAVES, {}, 0.0)

    assert committer.begin("j", 1, WAVES, {}, 0.0) == Output()
    with pytest.raises(CommitError, match="attempt 1 is preparing"):
        committer.begin("j", 2, WAVES, {}, 0.0)


def test_stop_reaches_every_host_before_it_is_reported() -> None:
    store, committer, hosts = fresh()
    run(committer, hosts, committer.begin("j", 1, WAVES, {}, 0.0))

    assert run(committer, hosts, committer.stop("j", 5.0)) == [Outcome.STOPPED]
    assert not any(host.running for host in hosts.values())
    assert store.kept == {}


@pytest.mark.parametrize("answers", range(8))
@pytest.mark.parametrize("is_stopping", [False, True])
def test_death_after_any_answer_ends_started_everywhere_or_nowhere(answers: int, is_stopping: bool) -> None:
    store, committer, hosts = fresh()
    waiting = committer.begin("j", 1, WAVES, {}, 0.0).orders
    if is_stopping:
        run(committer, hosts, Output(orders=waiting))
        waiting = committer.stop("j", 0.0).orders
    for _ in range(min(answers, 6)):
        if waiting:
            waiting += committer.answer(hosts[waiting[0].host].obey(waiting.pop(0)), 0.0).orders
    successor = Committer(store, 2)
    run(successor, hosts, successor.recover(10.0), 10.0)

    running = {name for name, host in hosts.items() if host.running}
    assert running in (set(), set("abc"))
    assert {attempt.stage for attempt in store.kept.values()} == ({Stage.RUNNING} if running else set())
    assert all(running or not host.prepared for host in hosts.values())


@pytest.mark.parametrize("writes", range(5))
def test_nothing_is_sent_for_a_record_that_could_not_be_stored(writes: int) -> None:
    store, committer, hosts = fresh()
    store.writes_left = writes
    with suppress(CommitError):
        run(committer, hosts, committer.begin("j", 1, WAVES, {}, 0.0))
    store.writes_left = None
    successor = Committer(store, 2)
    run(successor, hosts, successor.recover(10.0), 10.0)

    assert {name for name, host in hosts.items() if host.running} in (set(), set("abc"))
