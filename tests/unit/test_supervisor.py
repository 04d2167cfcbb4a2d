"""The supervisor in virtual time, against the real store and a fake executor."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from dispatcher import wire
from dispatcher.daemon.worker_channel import WorkerRequests
from dispatcher.errors import CommitUnknown, StoreRefused, StoreUnavailable, StoreWithheld
from dispatcher.model import Declared, Liveness, Outcome, TaskState
from dispatcher.store.api import Store
from dispatcher.supervisor.stop import Stop
from dispatcher.supervisor.turn import Request
from dispatcher.times import Instant, StoreTime
from dispatcher.words import Beat, Declaration, Invalid, Refused, Renewed
from dispatcher.worker_api import WorkerError
from tests.recorded_logs import expect_catalogued
from tests.simulation import SETTINGS, World


@pytest.fixture
def world() -> World:
    return World()


def test_a_submitted_task_is_claimed_started_and_settled(world: World) -> None:
    task = world.submit("true")

    world.start()
    assert TaskState.RUNNING == world.state(task)
    world.gone(task, 0)

    assert TaskState.SUCCEEDED == world.state(task)
    (run,) = world.runs(task)
    assert (Outcome.SUCCEEDED, 0, 1000) == (run.outcome, run.exit_code, run.pid)
    assert {} == world.executor.runs  # settled, and only then forgotten


def test_the_worker_gets_its_claim_in_the_environment(world: World) -> None:
    task = world.submit("true", env={"A": "b", "DISPATCHER_FENCE": "99"}, lease_ttl_ms=1500)

    world.start()

    env = world.executor.starts[0].env
    with world.store.transaction():
        lock = world.store.engine.rows("SELECT lock FROM runs WHERE outcome IS NULL")[0][0]  # type: ignore[attr-defined]
    assert {
        "A": "b",
        "DISPATCHER_TASK_ID": str(task),
        "DISPATCHER_RUN_ID": "1",
        "DISPATCHER_RUN": world.uid(task),
        "DISPATCHER_ATTEMPT": "1",
        "DISPATCHER_FENCE": "1",
        "DISPATCHER_CLAIM_LOCK": lock,
        "DISPATCHER_SOCKET": "/run/worker.sock",
        "DISPATCHER_LEASE_TTL": "1.5",
        "DISPATCHER_HEARTBEAT_INTERVAL": "0.500",
        "DISPATCHER_QUEUE": "default",
        "DISPATCHER_LAST_OUTCOME": "",
    } == env


def test_r25_a_failure_is_tried_again_after_a_growing_delay_until_used_up(world: World) -> None:
    task = world.submit("false")
    world.start()
    delays = []

    for _ in range(2):
        world.gone(task, 1)
        assert TaskState.SCHEDULED == world.state(task)
        delays.append(world.task(task).run_at - world.now())
        world.run_for(delays[-1] / 1000)
        assert TaskState.RUNNING == world.state(task)
    world.gone(task, 1)

    assert 5_000 <= delays[0] <= 10_000 <= delays[1] <= 20_000
    assert TaskState.FAILED == world.state(task)
    assert "exit code 1 (attempt 3 of 3)" == world.task(task).reason
    assert [1, 2, 3] == [run.attempt for run in world.runs(task)]
    assert [1, 2, 3] == [run.fence for run in world.runs(task)]
    assert ["", "failed", "failed"] == [
        start.env["DISPATCHER_LAST_OUTCOME"] for start in world.executor.starts
    ]


def test_deferrals_and_attempts_are_counted_apart(world: World) -> None:
    task = world.submit("defer")
    world.start()

    world.gone(task, 75)
    assert (TaskState.SCHEDULED, 0, 1) == (
        world.state(task),
        world.task(task).attempts_used,
        world.task(task).deferrals,
    )
    world.run_for(30)
    world.gone(task, 78)

    assert (TaskState.HELD, 0) == (world.state(task), world.task(task).attempts_used)


def test_r44_r45_no_more_tasks_are_claimed_than_there_are_slots(world: World) -> None:
    tasks = [world.submit("true") for _ in range(5)]

    world.start()

    assert [TaskState.RUNNING] * 2 + [TaskState.READY] * 3 == [world.state(t) for t in tasks]
    world.gone(tasks[0])
    assert TaskState.RUNNING == world.state(tasks[2])
    assert 2 == len(world.executor.runs)


def test_r47_queues_take_turns_whatever_their_priorities(world: World) -> None:
    world.restart(slots=1)
    many = [world.submit("true", queue="a", priority=9) for _ in range(4)]
    few = [world.submit("true", queue="b"), world.submit("true", queue="c")]
    started = []

    world.settle_down()
    for _ in range(6):
        running = next(t for t in many + few if world.state(t) is TaskState.RUNNING)
        started.append(world.task(running).queue)
        world.gone(running)

    assert ["a", "b", "c", "a", "a", "a"] == started


def test_free_slots_are_shared_between_queues(world: World) -> None:
    world.restart(slots=6)
    for queue, tasks in (("a", 9), ("b", 9), ("c", 1)):
        for _ in range(tasks):
            world.submit("true", queue=queue)

    world.settle_down()

    running = Counter(start.env["DISPATCHER_QUEUE"] for start in world.executor.starts)
    assert {"a": 3, "b": 2, "c": 1} == running


def test_a_delayed_task_starts_when_its_time_has_come_and_not_before(world: World) -> None:
    task = world.submit("true", delay_ms=90_500)
    world.start()

    world.run_for(90.4)
    assert TaskState.SCHEDULED == world.state(task)
    world.run_for(0.1)

    assert TaskState.RUNNING == world.state(task)


def test_r18_a_cancelled_run_ends_before_its_task_is_cancelled(world: World) -> None:
    task = world.submit("sleep")
    world.start()
    uid = world.uid(task)

    world.cancel(task)
    world.settle_down()
    assert TaskState.RUNNING == world.state(task)
    assert wire.End(uid=uid, reason="cancelled") in world.executor.sent
    world.gone(task, None, signal=9)

    assert TaskState.CANCELLED == world.state(task)
    assert Outcome.CANCELLED == world.runs(task)[0].outcome


def test_an_ending_is_sent_once(world: World) -> None:
    task = world.submit("sleep")
    world.start()
    world.cancel(task)

    world.run_for(5)

    assert 1 == len([m for m in world.executor.sent if isinstance(m, wire.End)])


def test_an_ending_is_sent_again_to_a_fresh_connection(world: World) -> None:
    task = world.submit("sleep")
    world.start()
    world.cancel(task)
    world.settle_down()

    world.restart()

    assert 2 == len([m for m in world.executor.sent if isinstance(m, wire.End)])


def test_r62_a_run_goes_on_over_a_restart_of_the_daemon(world: World) -> None:
    task = world.submit("sleep")
    world.start()

    world.restart()
    assert TaskState.RUNNING == world.state(task)
    world.gone(task, 7)

    assert [(Outcome.FAILED, 7)] == [(r.outcome, r.exit_code) for r in world.runs(task)]


def test_r31_an_exit_while_the_daemon_was_away_is_settled_with_its_code(world: World) -> None:
    task = world.submit("sleep")
    world.start()

    world.executor.gone(world.uid(task), 75, at=world.at())
    world.restart()

    assert [(Outcome.DEFERRED, 75)] == [(r.outcome, r.exit_code) for r in world.runs(task)]
    assert {} == world.executor.runs


def test_r22_a_run_that_no_executor_knows_is_orphaned_and_costs_no_attempt(world: World) -> None:
    task = world.submit("sleep")
    world.start()

    world.executor.die()
    world.restart()

    assert Outcome.ORPHANED == world.runs(task)[0].outcome
    row = world.task(task)
    assert (TaskState.RUNNING, 0, 1, 2) == (row.state, row.attempts_used, row.orphans, row.fence)


def test_a_run_that_the_store_does_not_know_is_ended_and_never_adopted(world: World) -> None:
    uid = wire.RunUid("f" * 32)
    world.executor.runs[uid] = wire.RunReport(uid=uid, state=wire.RunState.RUNNING, pid=7)

    world.start()
    grace = world.settings.kill_grace
    assert wire.End(uid=uid, reason="unknown", longest_grace=grace) in world.executor.sent
    world.executor.gone(uid, None, signal=9)
    world.settle_down()

    assert {} == world.executor.runs


def test_nothing_is_claimed_while_no_executor_answers(world: World) -> None:
    task = world.submit("true")

    world.run_for(5)
    assert TaskState.READY == world.state(task)
    world.executor.answering = False
    world.start()
    assert TaskState.READY == world.state(task)
    world.executor.answering = True
    world.run_for(1)

    assert TaskState.RUNNING == world.state(task)


def test_nothing_is_claimed_for_an_executor_whose_greeting_is_not_read_yet(world: World) -> None:
    """Such a claim was settled by that greeting, which did not name it, as `orphaned`."""
    world.start()
    world.executor.die()
    world.executor.greet()
    held, world.executor.events = world.executor.events, []
    task = world.submit("true")

    world.tick()
    assert TaskState.READY == world.state(task)
    world.executor.events = held
    world.run_for(1)

    assert TaskState.RUNNING == world.state(task)
    assert 1 == len(world.executor.starts)


def test_r35_a_fault_of_the_host_charges_no_task_and_pauses_the_node(world: World) -> None:
    tasks = [world.submit("true") for _ in range(3)]
    world.executor.refusal = wire.StartFailed(
        uid=wire.RunUid(""), fault=wire.Fault.HOST, error="too many open files"
    )

    world.start()
    assert "too many open files" == world.supervisor.report(at=world.at()).paused
    claims = [len(world.runs(task)) for task in tasks]
    world.run_for(30)
    world.executor.refusal = None
    world.run_for(90)

    assert [1, 1, 0] == claims
    assert [0, 0, 0] == [world.task(task).attempts_used for task in tasks]
    assert all(run.outcome is Outcome.RELEASED for run in world.runs(tasks[0])[:-1])
    assert len(world.runs(tasks[0])) + len(world.runs(tasks[1])) < 14  # paused ever longer
    assert world.supervisor.report(at=world.at()).paused is None


def test_a_task_whose_predecessor_lives_waits_ever_longer(world: World) -> None:
    task = world.submit("true")
    world.executor.refusal = wire.StartFailed(
        uid=wire.RunUid(""), fault=wire.Fault.PREDECESSOR, error="predecessor alive"
    )
    delays = []

    world.start()
    for _ in range(8):
        delays.append((world.task(task).run_at - world.now()) / 1000)
        world.run_for(delays[-1])
    assert [1, 2, 4, 8, 16, 32, 60, 60] == delays
    world.executor.refusal = None
    world.run_for(60)

    assert (TaskState.RUNNING, 0) == (world.state(task), world.task(task).attempts_used)


def test_r27_a_spawn_that_the_task_is_to_blame_for_uses_up_an_attempt(world: World) -> None:
    task = world.submit("nonsense")
    world.executor.refusal = wire.StartFailed(
        uid=wire.RunUid(""), fault=wire.Fault.TASK, error="no such program: 'nonsense'"
    )

    world.start()

    (run,) = world.runs(task)
    assert (Outcome.SPAWN_FAILED, "no such program: 'nonsense'") == (run.outcome, run.error)
    assert 1 == world.task(task).attempts_used


def test_a_run_that_the_executor_ended_by_itself_gets_the_outcome_of_the_reason(
    world: World,
) -> None:
    tasks = [world.submit("true") for _ in range(2)]
    world.start()

    for task, reason in zip(tasks, ("shutdown", "absence"), strict=True):
        uid = world.uid(task)
        world.executor.runs[uid] = wire.RunReport(
            uid=uid, state=wire.RunState.ENDING, pid=1, ended_by=reason
        )
        changed = wire.Changed(uid=uid, state=wire.RunState.ENDING, ended_by=reason)
        world.executor.events.append(changed)
        world.gone(task, None, signal=15)

    outcomes = [world.runs(task)[0].outcome for task in tasks]
    assert [Outcome.RELEASED, Outcome.ORPHANED] == outcomes


# Stopping ---------------------------------------------------------------------------------


def test_r34_a_drain_waits_and_then_releases(world: World) -> None:
    tasks = [world.submit("sleep"), world.submit("sleep"), world.submit("sleep")]
    world.start()

    world.supervisor.stop(Stop.DRAIN, at=world.at())
    world.run_for(1)
    world.gone(tasks[0], 0)
    assert TaskState.READY == world.state(tasks[2])  # nothing new is claimed
    world.run_for(58.9)
    assert not any(isinstance(m, wire.End) for m in world.executor.sent)
    world.run_for(0.2)
    assert wire.End(uid=world.uid(tasks[1]), reason="released") in world.executor.sent
    assert not world.supervisor.is_over(at=world.at())
    world.gone(tasks[1], None, signal=15)

    assert world.supervisor.is_over(at=world.at())
    row = world.task(tasks[1])
    assert (TaskState.READY, 0, 0) == (row.state, row.attempts_used, row.orphans)


def test_a_second_request_ends_runs_at_once(world: World) -> None:
    task = world.submit("sleep")
    world.start()

    world.supervisor.stop(Stop.DRAIN, at=world.at())
    world.settle_down()
    world.supervisor.stop(Stop.DRAIN, at=world.at())
    world.settle_down()

    end = wire.End(uid=world.uid(task), reason="released", at_once=True)
    assert end in world.executor.sent


def test_a_stop_waits_for_no_executor_while_nothing_runs(world: World) -> None:
    """It waited 75 s for one that could not start, with nothing running."""
    world.submit("sleep")
    world.tick()
    world.supervisor.stop(Stop.DRAIN, at=world.at())
    world.tick()
    assert not world.supervisor.is_over(at=world.at()), "one that comes may have what is to forget"

    world.executor.missing = True
    world.tick()

    assert world.supervisor.is_over(at=world.at())


def test_a_stop_waits_for_an_executor_with_runs(world: World) -> None:
    world.submit("sleep")
    world.start()
    runs = dict(world.executor.runs)
    world.executor.die()
    world.supervisor.stop(Stop.DRAIN, at=world.at())
    world.run_for(1)

    assert not world.supervisor.is_over(at=world.at())
    world.executor.runs = runs
    world.executor.greet()
    world.run_for(1)
    assert not world.supervisor.is_over(at=world.at()), "it is back, and what runs is waited for"


def test_a_drain_gives_up_on_runs_that_do_not_end(world: World) -> None:
    world.submit("sleep")
    world.start()

    world.supervisor.stop(Stop.AT_ONCE, at=world.at())
    world.run_for(20)
    assert not world.supervisor.is_over(at=world.at())
    world.run_for(5)

    assert world.supervisor.is_over(at=world.at())
    assert not world.supervisor.leaves_nothing_behind


@pytest.mark.parametrize(("how", "named"), [(Stop.LEAVE, 0), (Stop.AT_ONCE, 1)])
def test_a_drain_names_the_runs_that_it_leaves_behind_and_a_leave_does_not(
    world: World, how: Stop, named: int
) -> None:
    world.submit("sleep")
    world.start()
    world.supervisor.stop(how, at=world.at())

    with capture_logs() as logs:
        world.supervisor.log_left_behind()

    assert ["run.left_behind"] * named == [line["event"] for line in logs]
    expect_catalogued(logs)


def test_to_leave_touches_no_worker(world: World) -> None:
    task = world.submit("sleep")
    world.start()

    world.supervisor.stop(Stop.LEAVE, at=world.at())
    world.settle_down()

    assert world.supervisor.is_over(at=world.at())
    assert TaskState.RUNNING == world.state(task)
    assert not any(isinstance(m, wire.End) for m in world.executor.sent)


def test_until_idle_is_over_when_nothing_is_ready_scheduled_or_running(world: World) -> None:
    task = world.submit("false", max_attempts=2)
    world.fresh_supervisor(until_idle=True)
    world.start()

    for _ in range(2):
        assert not world.supervisor.is_over(at=world.at())
        world.gone(task, 1)
        world.run_for(30)

    assert world.supervisor.is_over(at=world.at())


# The store's failures -----------------------------------------------------------------------


class Unwell:
    """A store whose transactions fail at their end when the test requires it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.failures: list[tuple[Exception, bool]] = []
        """Errors to raise at the next commits, and whether the commit happens all the same."""

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    @contextmanager
    def transaction(self) -> Iterator[StoreTime]:
        error, commits = self.failures.pop(0) if self.failures else (None, True)
        if error is not None and not commits:
            with self._store.transaction() as now:
                yield now
                raise error
        else:
            with self._store.transaction() as now:
                yield now
            if error is not None:
                raise error


@pytest.fixture
def unwell(world: World) -> Unwell:
    store = Unwell(world.store)
    world.store = store  # type: ignore[assignment]
    world.fresh_supervisor()
    return store


def test_nothing_leaves_before_the_commit_and_nothing_is_lost_after_it_failed(
    world: World, unwell: Unwell
) -> None:
    task = world.submit("true")
    world.start()
    world.executor.gone(world.uid(task), 0, at=world.at())
    sent = len(world.executor.sent)

    unwell.failures = [(StoreUnavailable("locked"), False)] * 5
    world.tick()
    assert (sent, TaskState.RUNNING) == (len(world.executor.sent), world.state(task))
    unwell.failures = unwell.failures[:2]
    world.run_for(1)

    assert TaskState.SUCCEEDED == world.state(task)
    assert 1 == len(world.runs(task))


def test_rights_that_are_missing_at_the_start_end_the_daemon_and_later_are_an_outage(
    world: World, unwell: Unwell
) -> None:
    unwell.failures = [(StoreWithheld("denied"), False)]
    with pytest.raises(StoreWithheld):
        world.tick()

    task = world.submit("true")
    world.start()
    unwell.failures = [(StoreWithheld("denied"), False)] * 3
    with capture_logs() as logs:
        world.gone(task, 0)
        world.run_for(2)

    assert ["store.unavailable", "store.recovered"] == [
        one["event"] for one in logs if one["event"].startswith("store.")
    ]
    assert TaskState.SUCCEEDED == world.state(task)


@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_without_an_answer_is_reconciled(
    world: World, unwell: Unwell, *, committed: bool
) -> None:
    task = world.submit("true")
    world.executor.greet()
    world.tick()

    unwell.failures = [(CommitUnknown("no answer"), committed)]  # the claim's
    world.tick()
    assert [] == world.executor.starts
    world.run_for(2)
    assert TaskState.RUNNING == world.state(task)
    unwell.failures = [(CommitUnknown("no answer"), committed)]  # the settle's
    world.gone(task, 0)
    world.run_for(2)

    assert TaskState.SUCCEEDED == world.state(task)
    assert 0 == world.task(task).attempts_used
    assert 1 == [run.outcome for run in world.runs(task)].count(Outcome.SUCCEEDED)
    assert {} == world.executor.runs


def refuse_tails(world: World, unwell: Unwell) -> None:
    settle = world.store.settle

    def refuse(settlements, *, now):
        if any(one.output_tail for one in settlements):
            raise StoreRefused("CHECK failed")
        return settle(settlements, now=now)

    unwell.settle = refuse  # type: ignore[attr-defined]


def test_one_offender_is_held_and_the_others_go_on(world: World, unwell: Unwell) -> None:
    offender, other = world.submit("true"), world.submit("true")
    world.start()
    refuse_tails(world, unwell)
    world.executor.gone(world.uid(offender), 0, at=world.at(), tail="bad")
    world.executor.gone(world.uid(other), 0, at=world.at())
    world.settle_down()

    assert (TaskState.HELD, TaskState.SUCCEEDED) == (world.state(offender), world.state(other))
    assert "internal error: CHECK failed" == world.task(offender).reason
    assert {} == world.executor.runs


def test_one_offender_is_held_also_when_it_ended_in_our_absence(
    world: World, unwell: Unwell
) -> None:
    offender, other = world.submit("true"), world.submit("true")
    world.start()
    refuse_tails(world, unwell)
    world.executor.gone(world.uid(offender), 0, at=world.at(), tail="bad")
    world.restart()
    world.gone(other, 0)

    assert (TaskState.HELD, TaskState.SUCCEEDED) == (world.state(offender), world.state(other))


@pytest.mark.parametrize("committed", range(5))
@pytest.mark.parametrize("error", [StoreUnavailable("locked"), CommitUnknown("no answer")])
def test_each_request_is_answered_once_wherever_the_store_fails(
    world: World, unwell: Unwell, error: Exception, committed: int
) -> None:
    """The store refuses the tick, takes some of its operations, and then is silent."""
    world.start()
    answers: list[list[object]] = [[], [], []]
    beats = [
        Request(
            Beat(task_id=number, lock="x"),
            lambda answer, _, received=received: received.append(answer),
        )
        for number, received in enumerate(answers, 1)
    ]

    none: Any = (None, True)
    unwell.failures = [(StoreRefused("CHECK failed"), False), *[none] * committed, (error, False)]
    world.tick(*beats)

    refused = Refused(WorkerError.UNKNOWN_TASK)
    assert [[refused] if number < committed else [None] for number in range(3)] == answers


def test_a_message_that_the_store_can_never_take_is_answered_so_and_others_count(
    world: World,
) -> None:
    tasks = [world.submit("work", liveness=Liveness.WORKER) for _ in range(2)]
    world.start()
    locks = [one.env["DISPATCHER_CLAIM_LOCK"] for one in world.executor.starts]
    answers: list[object] = []
    messages: list[Beat | Declaration] = [
        Beat(task_id=tasks[0], lock=locks[0], note="a\udcffb"),
        Beat(task_id=tasks[1], lock=locks[1], note="all well"),
        Declaration(task_id=tasks[0], lock=locks[0], word=Declared.FAIL, reason="a\udcffb"),
    ]

    world.tick(*(Request(one, lambda answer, _: answers.append(answer)) for one in messages))

    assert [Invalid, Renewed, Invalid] == [type(answer) for answer in answers]
    assert "not UTF-8" in str(answers[0])
    assert [[None], ["all well"]] == [[run.note for run in world.runs(task)] for task in tasks]


def test_a_worker_receives_it_as_invalid_with_the_reason() -> None:
    replies: list[object] = []
    requests = WorkerRequests()
    requests.add(b'{"op": "heartbeat", "task_id": 1, "lock": "x"}', replies.append)

    (request,) = requests.take(at=Instant(1.0))
    request.answer(Invalid("because"), StoreTime(0))

    assert [{"ok": False, "error": "invalid", "message": "because"}] == replies


def test_a_day_of_a_hundred_slots_takes_seconds() -> None:
    world = World(settings=replace(SETTINGS, slots=100))
    tasks = [world.submit("sleep") for _ in range(100)]
    world.start()

    world.run_for(3600)
    for task in tasks:
        world.gone(task, 0)

    assert {TaskState.SUCCEEDED} == {world.state(task) for task in tasks}


def test_what_a_refused_tick_leaves_due_is_done_at_once(
    world: World, unwell: Unwell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.supervisor.claimer.DUE_BATCH", 1)
    world.start()
    tasks = [world.submit("work", delay_ms=1_000) for _ in range(3)]
    world.run_for(0.9)
    world.elapsed += 0.2
    unwell.failures = [(StoreRefused("CHECK failed"), False)]

    world.settle_down()

    assert TaskState.SCHEDULED not in {world.state(task) for task in tasks}
