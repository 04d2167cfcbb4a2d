"""The table "Who died when" of docs/protocol.md, starts and exits: a test for each row.

A row's name gives what was done, what was not, who died, and the result.
"""

import pytest

from dispatcher.executor.phases import Phase
from dispatcher.model import Outcome
from tests.crash import workers
from tests.crash.mortal import AFTER, BEFORE, WITHIN
from tests.crash.rows import (
    ESCAPES_AND_STAYS,
    ORPHANED_THEN_7,
    SETTLED_7,
    dying,
    ends,
    phases,
    start,
    starts,
)
from tests.crash.stage import Stage

# A claim and its start ---------------------------------------------------------------------


def test_claim_committed_start_not_sent_is_orphaned_uncounted(stage: Stage) -> None:
    task = stage.submit(workers.EXITS_7)
    start(stage, daemon=dying("client.send", BEFORE, 1))

    assert ORPHANED_THEN_7 == ends(stage, task)
    assert [2] == stage.diary(task).started()
    assert (1, 1) == (stage.task(task).attempts_used, stage.task(task).orphans)


@pytest.mark.parametrize("point", [("client.flush", AFTER), ("connection.send", WITHIN)])
def test_start_sent_whole_or_half_not_read_daemon_dead_is_dropped_unread_and_orphaned(
    stage: Stage, point: tuple[str, str]
) -> None:
    task = stage.submit(workers.EXITS_7)
    start(stage, daemon=dying(*point, 1))

    assert ORPHANED_THEN_7 == ends(stage, task)
    assert [2] == stage.diary(task).started()


def test_start_read_daemon_dead_runs_and_is_settled_by_the_next_daemon(stage: Stage) -> None:
    task = stage.submit(workers.EXITS_7)
    start(stage, daemon=dying("client.flush", AFTER, 1))
    stage.until(lambda: stage.daemon is None)
    stage.until(lambda: Phase.GONE in phases(stage))

    assert SETTLED_7 == ends(stage, task)


@pytest.mark.parametrize("moment", [BEFORE, AFTER])
def test_start_read_not_spawned_executor_dead_is_swept_and_orphaned(
    stage: Stage, moment: str
) -> None:
    task = stage.submit(workers.EXITS_7)
    start(stage, executor=dying("journal.flush", moment, 1))

    assert ORPHANED_THEN_7 == ends(stage, task)
    assert [2] == stage.diary(task).started()


@pytest.mark.parametrize("site", ["spawner.start", "kernel.adopt"])
def test_spawned_start_not_journaled_executor_dead_is_swept_before_hello(
    stage: Stage, site: str
) -> None:
    task = stage.submit(ESCAPES_AND_STAYS)
    start(stage, executor=dying(site, AFTER, 1))
    stage.until(lambda: stage.executor is None)
    stage.until(lambda: stage.diary(task).started())
    stage.until(lambda: len(stage.family.living()) == 2)

    stage.start_executor()
    stage.until(lambda: stage.executor.executor.is_open)

    assert [] == stage.family.living()
    assert [Phase.GONE] == phases(stage)
    stage.cancel(task)
    assert [(Outcome.CANCELLED, None)] == ends(stage, task)


# An exit and its settle --------------------------------------------------------------------


def test_exit_seen_not_journaled_executor_dead_is_orphaned_its_code_lost(stage: Stage) -> None:
    task = stage.submit(workers.EXITS_7)
    start(stage, executor=dying("kernel.reap", AFTER, 1))

    assert ORPHANED_THEN_7 == ends(stage, task)
    assert [1, 2] == stage.diary(task).started()
    assert (1, 1) == (stage.task(task).attempts_used, stage.task(task).orphans)


def test_exit_journaled_not_delivered_is_settled_with_the_real_code(stage: Stage) -> None:
    task = stage.submit(workers.EXITS_7)
    start(stage, executor=dying("server.flush", BEFORE, when=lambda: Phase.GONE in phases(stage)))

    assert SETTLED_7 == ends(stage, task)


def test_exit_journaled_both_dead_is_settled_with_the_real_code(stage: Stage) -> None:
    gate = stage.directory / "gate"
    task = stage.submit(f"{workers.WAITS}; code=7", str(gate))
    start(stage)
    starts(stage, task)
    stage.kill_daemon()
    gate.touch()
    stage.until(lambda: Phase.GONE in phases(stage))
    stage.kill_executor()

    assert SETTLED_7 == ends(stage, task)


def test_exit_while_the_daemon_is_dead_is_settled_with_the_real_code(stage: Stage) -> None:
    task = stage.submit(workers.EXITS_7)
    start(stage)
    stage.until(lambda: stage.executor.runs)
    stage.kill_daemon()
    stage.until(lambda: Phase.GONE in phases(stage))

    assert SETTLED_7 == ends(stage, task)
    assert [1] == stage.diary(task).started()
    (run,) = stage.runs(task)
    assert (True, True) == (run.pid is not None, run.started_at is not None)


@pytest.mark.parametrize("point", [("store.settle", AFTER), ("store.commit", BEFORE)])
def test_exit_delivered_settle_not_committed_is_settled_by_the_next_daemon(
    stage: Stage, point: tuple[str, str]
) -> None:
    task = stage.submit(workers.EXITS_7)
    fate = dying(*point, when=lambda: fate.calls["store.settle"])
    start(stage, daemon=fate)

    assert SETTLED_7 == ends(stage, task)


@pytest.mark.parametrize(
    "point", [("store.commit", AFTER), ("client.flush", BEFORE), ("connection.send", WITHIN)]
)
def test_settle_committed_not_forgotten_is_forgotten_without_a_second_settle(
    stage: Stage, point: tuple[str, str]
) -> None:
    task = stage.submit(workers.EXITS_7)
    fate = dying(*point, when=lambda: fate.calls["store.settle"])
    start(stage, daemon=fate)
    stage.until(lambda: stage.daemon is None)
    settled = stage.runs(task)

    assert SETTLED_7 == ends(stage, task)
    assert settled == stage.runs(task)


@pytest.mark.parametrize("moment", [BEFORE, AFTER])
def test_forget_lost_with_the_executor_is_sent_again(stage: Stage, moment: str) -> None:
    task = stage.submit(workers.EXITS_7)
    start(stage, executor=dying("server.receive", moment, when=lambda: Phase.GONE in phases(stage)))

    assert SETTLED_7 == ends(stage, task)
