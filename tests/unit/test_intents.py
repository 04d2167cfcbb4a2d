"""An operator's intent in virtual time: kept through every way in which a run is settled."""

from collections.abc import Callable

import pytest

from dispatcher import wire
from dispatcher.model import Declared, Intent, Outcome, TaskState
from dispatcher.supervisor.stop import Stop
from dispatcher.supervisor.turn import Request
from dispatcher.words import Declaration
from tests.simulation import World

#: An operator's intent while a run is being ended, and the task's state then.
WORDS = [
    (Intent.CANCEL, TaskState.CANCELLED),
    (Intent.HOLD, TaskState.HELD),
    (Intent.RETRY, TaskState.RUNNING),  # ready, and claimed at once
]


def request(world: World, task: int, intent: Intent) -> None:
    """Write the intent as the command line does."""
    with world.store.transaction() as now:
        match intent:
            case Intent.CANCEL:
                world.store.cancel(task, "an operator", now=now)
            case Intent.HOLD:
                world.store.hold(task, "an operator", now=now)
            case Intent.RELEASE:
                world.store.release(task, now=now)
            case Intent.RETRY:
                world.store.retry(task, now=now)


def timing_out(**facts: int) -> tuple[World, int]:
    """Return a world with a run that is being ended for its run time-out."""
    world = World()
    task = world.submit("sleep", **{"run_timeout_ms": 1_000, **facts})
    world.start()
    world.run_for(1.1)
    assert Outcome.TIMED_OUT is world.task(task).ending
    return world, task


# Ways in which a run that is ending is settled


def by_its_exit(world: World, task: int) -> None:
    world.gone(task, None, signal=9)


def by_reconcile(world: World, _: int) -> None:
    world.executor.runs.clear()
    world.restart()


def by_reconcile_that_knows_the_exit(world: World, task: int) -> None:
    world.executor.gone(world.uid(task), None, signal=9, at=world.at())
    world.restart()


def by_another_node(world: World, _: int) -> None:
    """The database was moved to another state directory, and nothing of the run lives here."""
    with world.store.transaction():
        world.store.engine.change("UPDATE runs SET node = 'far'")
    world.executor.runs.clear()
    world.restart()


def by_replay(world: World, task: int) -> None:
    """One transaction for each operation, since the store refuses what came with the exit."""
    world.executor.events.append(
        wire.Started(uid=wire.RunUid(world.uid(task)), pid=2**70, start_ticks=1, at=world.at())
    )
    by_its_exit(world, task)


def by_an_exit_that_the_store_refuses(world: World, task: int) -> None:
    """Its task would be held for an internal error, without an intent."""
    world.gone(task, None, signal=9, max_rss_bytes=2**70)


@pytest.mark.parametrize(
    "settle",
    [
        by_its_exit,
        by_reconcile,
        by_reconcile_that_knows_the_exit,
        by_another_node,
        by_replay,
        by_an_exit_that_the_store_refuses,
    ],
)
@pytest.mark.parametrize(("intent", "state"), WORDS)
def test_r77_a_task_goes_where_an_operator_sent_it_whatever_settles_its_run(
    intent: Intent, state: TaskState, settle: Callable[[World, int], None]
) -> None:
    world, task = timing_out()

    request(world, task, intent)
    settle(world, task)

    row = world.task(task)
    assert (state, None) == (row.state, row.intent)
    assert Outcome.TIMED_OUT is world.runs(task)[0].outcome
    assert (0 if intent is Intent.RETRY else 1) == row.attempts_used
    world.run_for(3_600)
    assert (2 if intent is Intent.RETRY else 1) == len(world.runs(task))


def test_a_run_cancelled_before_it_was_started_is_cancelled_though_the_host_is_at_fault() -> None:
    world = World()
    world.executor.refusal = wire.StartFailed(
        uid=wire.RunUid("x"), fault=wire.Fault.HOST, error="no memory"
    )
    task = world.submit("true")
    world.executor.greet()
    world.tick()
    world.tick()
    assert TaskState.RUNNING is world.state(task)

    request(world, task, Intent.CANCEL)
    world.settle_down()

    assert TaskState.CANCELLED is world.state(task)
    world.run_for(3_600)
    assert 1 == len(world.runs(task))


@pytest.mark.parametrize(("intent", "state"), WORDS)
def test_after_a_declared_deferral_too(intent: Intent, state: TaskState) -> None:
    world = World()
    task = world.submit("sleep")
    world.start()
    uid = world.uid(task)
    with world.store.transaction():
        locked = world.store.locks_of([uid]).get(uid)
    assert locked is not None
    words = Declaration(task_id=task, lock=locked[1], word=Declared.DEFER)
    world.tick(Request(words, lambda *_: None))

    request(world, task, intent)
    world.settle_down()
    if intent is not Intent.RETRY:  # it is ended at once, and not after its exit grace
        assert wire.RunState.ENDING is world.executor.runs[uid].state
    world.gone(task, 75)

    assert (state, Outcome.DEFERRED) == (world.state(task), world.runs(task)[0].outcome)


@pytest.mark.parametrize(("intent", "state"), WORDS)
@pytest.mark.parametrize(
    ("code", "outcome"), [(1, Outcome.FAILED), (75, Outcome.DEFERRED), (78, Outcome.HELD)]
)
def test_after_its_leader_has_exited_the_run_keeps_its_outcome(
    intent: Intent, state: TaskState, code: int, outcome: Outcome
) -> None:
    world = World()
    task = world.submit("sleep")
    world.start()
    end = wire.Exit(at=world.at(), exit_code=code)
    changed = wire.Changed(uid=world.uid(task), state=wire.RunState.LEADER_EXITED, exit=end)
    world.executor.events.append(changed)
    world.settle_down()

    request(world, task, intent)
    world.gone(task, code)

    assert (state, outcome) == (world.state(task), world.runs(task)[0].outcome)


def test_an_intent_before_the_settle_outranks_exit_0() -> None:
    """The exit was on its way: the first transaction decides, and reports it."""
    for intent, state in WORDS[:2]:
        world = World()
        task = world.submit("true")
        world.start()
        world.executor.gone(world.uid(task), 0, at=world.at())  # seen, and not yet read

        request(world, task, intent)
        world.settle_down()

        (run,) = world.runs(task)
        assert (state, "an operator") == (world.state(task), world.task(task).reason)
        assert (state.value, 0) == (run.outcome, run.exit_code)


def test_an_intent_after_the_settle_finds_the_task_finished() -> None:
    world = World()
    task = world.submit("true")
    world.start()
    world.gone(task, 0)

    with world.store.transaction() as now:
        assert TaskState.SUCCEEDED is world.store.cancel(task, "an operator", now=now)
    assert TaskState.SUCCEEDED is world.state(task)


def test_a_cancel_after_an_ending_that_was_first_holds_through_a_drain() -> None:
    world = World()
    task = world.submit("sleep")
    world.start()
    world.supervisor.stop(Stop.AT_ONCE, at=world.at())
    world.settle_down()
    assert Outcome.RELEASED is world.task(task).ending

    request(world, task, Intent.CANCEL)
    world.gone(task, None, signal=9)

    assert TaskState.CANCELLED is world.state(task)


@pytest.mark.parametrize(
    ("intents", "state", "attempts_used"),
    [
        ([Intent.CANCEL, Intent.RETRY], TaskState.RUNNING, 0),
        ([Intent.HOLD, Intent.RELEASE], TaskState.RUNNING, 1),
        ([Intent.HOLD, Intent.RELEASE, Intent.CANCEL], TaskState.CANCELLED, 1),
        ([Intent.RETRY, Intent.HOLD], TaskState.HELD, 1),
        ([Intent.CANCEL, Intent.RELEASE], TaskState.CANCELLED, 1),  # nothing to release
    ],
)
def test_the_last_intent_of_several_holds(
    intents: list[Intent], state: TaskState, attempts_used: int
) -> None:
    world, task = timing_out()

    for intent in intents:
        request(world, task, intent)
    by_its_exit(world, task)

    assert (state, attempts_used) == (world.state(task), world.task(task).attempts_used)


def test_a_retry_of_an_ending_run_begins_the_total_time_anew() -> None:
    world, task = timing_out(total_timeout_ms=5_000)
    request(world, task, Intent.RETRY)
    world.run_for(4.5)  # past the total time of before

    by_its_exit(world, task)

    assert TaskState.RUNNING is world.state(task)
    assert [1, 2] == [run.fence for run in world.runs(task)]


@pytest.mark.parametrize(
    ("first", "then", "outcome"),
    [
        (Intent.HOLD, Intent.RELEASE, Outcome.HELD),
        (Intent.CANCEL, Intent.RETRY, Outcome.CANCELLED),
    ],
)
def test_a_task_whose_verb_is_taken_back_before_its_run_is_gone_runs_again_uncharged(
    first: Intent, then: Intent, outcome: Outcome
) -> None:
    world = World()
    task = world.submit("sleep", max_attempts=1)
    world.start()

    request(world, task, first)
    world.settle_down()
    request(world, task, then)
    world.gone(task, None, signal=15)

    assert (TaskState.RUNNING, 0) == (world.state(task), world.task(task).attempts_used)
    assert outcome is world.runs(task)[0].outcome
