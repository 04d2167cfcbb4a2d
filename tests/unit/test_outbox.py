"""Unsent messages: one of a kind for each run, in an order that stays true."""

from typing import Any

import pytest

from dispatcher import wire
from dispatcher.outbox import Outbox

ONE, TWO = wire.RunUid("one"), wire.RunUid("two")
GONE = wire.Exit(at=1.0, exit_code=3)


def lines(*messages: wire.Message, decode: Any) -> list[Any]:
    outbox = Outbox()
    for message in messages:
        outbox.put(message)
    return [decode(line) for line in outbox.take().splitlines()]


def from_executor(*messages: wire.FromExecutor) -> list[wire.FromExecutor]:
    return lines(*messages, decode=wire.decode_from_executor)


def to_executor(*messages: wire.ToExecutor) -> list[wire.ToExecutor]:
    return lines(*messages, decode=wire.decode_to_executor)


def test_a_message_that_was_taken_waits_no_more() -> None:
    outbox = Outbox()
    outbox.put(wire.Leave())

    assert outbox
    assert b'{"type":"leave"}\n' == outbox.take()
    assert not outbox
    assert b"" == outbox.take()


def test_runs_are_in_the_order_of_their_reports() -> None:
    messages = [
        wire.Started(uid=ONE, pid=1, start_ticks=2, at=3.0),
        wire.Started(uid=TWO, pid=4, start_ticks=5, at=6.0),
        wire.Exited(uid=ONE, exit=GONE),
    ]

    assert messages == from_executor(*messages)


def test_changes_of_a_run_are_one_that_keeps_all_of_them() -> None:
    exited = wire.Changed(uid=ONE, state=wire.RunState.LEADER_EXITED, exit=GONE)
    ending = wire.Changed(uid=ONE, state=wire.RunState.ENDING, ended_by="absence")
    stuck = wire.Changed(uid=ONE, state=wire.RunState.UNKILLABLE)

    assert [
        wire.Changed(uid=ONE, state=wire.RunState.UNKILLABLE, exit=GONE, ended_by="absence")
    ] == from_executor(exited, ending, stuck)


def test_notices_of_a_run_are_one_and_stand_before_its_end() -> None:
    beat = wire.Notice(uid=ONE, serial=1, beat=True)
    note = wire.Notice(uid=ONE, serial=2, note="late", until=9.0)
    exited = wire.Exited(uid=ONE, exit=GONE)

    assert [
        wire.Notice(uid=ONE, serial=2, beat=True, note="late", until=9.0),
        exited,
    ] == from_executor(beat, exited, note)


def test_an_answer_follows_every_message_before_it() -> None:
    exited = wire.Exited(uid=ONE, exit=GONE)

    assert [exited, wire.Pong(sequence=2)] == from_executor(
        wire.Pong(sequence=1), exited, wire.Pong(sequence=2)
    )


def test_deadlines_are_one_message_behind_the_starts_and_none_moves_back() -> None:
    start = wire.Start(uid=TWO, epoch=1, command=("true",), env={}, output_path="/two")
    early = wire.Renew(deadlines={ONE: {"absence": 9.0, "run_timeout": 4.0}})
    late = wire.Renew(deadlines={ONE: {"absence": 8.0}, TWO: {"absence": 8.0}})

    assert [
        start,
        wire.Renew(
            deadlines={ONE: {"absence": 9.0, "run_timeout": 4.0}, TWO: {"absence": 8.0}},
        ),
    ] == to_executor(early, start, late)


def test_the_end_of_a_run_stays_at_once() -> None:
    at_once = wire.End(uid=ONE, reason="released", at_once=True)

    assert [at_once] == to_executor(at_once, wire.End(uid=ONE, reason="released"))


@pytest.mark.parametrize("rounds", [1, 1000])
def test_a_peer_that_does_not_read_costs_what_its_runs_cost(rounds: int) -> None:
    outbox = Outbox()
    for number in range(rounds):
        for uid in (ONE, TWO):
            outbox.put(wire.Notice(uid=uid, serial=number, beat=True, until=1.0))
            outbox.put(wire.Changed(uid=uid, state=wire.RunState.ENDING, ended_by="absence"))
            outbox.put(wire.Renew(deadlines={uid: {"absence": 1.0}}))
            outbox.put(wire.End(uid=uid, reason="lost"))
            outbox.put(wire.Forget(uid=uid))
            outbox.put(wire.Noted(uid=uid, serial=number))
        outbox.put(wire.Ping(sequence=number))
        outbox.put(wire.Pong(sequence=number))
        outbox.put(wire.Stray(pid=number, name="x", candidates=(ONE, TWO)))

    assert 2 * 5 + 4 == outbox.take().count(b"\n")
