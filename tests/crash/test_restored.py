"""The store is not what it was: an older copy of it, or another one."""

import shutil
from pathlib import Path

import pytest

from dispatcher.errors import ConfigError
from dispatcher.executor.phases import Phase
from dispatcher.exit_codes import ExitCode
from dispatcher.model import Outcome, TaskState
from dispatcher.store.open import open_store
from tests.crash import workers
from tests.crash.judges import judge_stage
from tests.crash.outside import Outside
from tests.crash.stage import Stage


def back_up(stage: Stage) -> Path:
    """Copy the database while it is not open."""
    stage.store.close()
    copy = stage.directory / "backup"
    shutil.copy(database(stage), copy)
    stage.open_store()
    return copy


def restore(stage: Stage, copy: Path) -> None:
    stage.store.close()
    shutil.copy(copy, database(stage))
    stage.open_store()


def another_store(stage: Stage) -> Path:
    path = stage.directory / "another.db"
    elsewhere = stage.directory / "elsewhere"
    open_store(f"sqlite://{path}", state_dir=elsewhere, patience=5.0).close()
    return path


def database(stage: Stage) -> Path:
    path = stage.place.state_dir / "tasks.db"
    assert not path.with_name("tasks.db-wal").exists(), "the database is open"
    return path


def test_a_run_that_the_store_does_not_know_is_ended_not_adopted(stage: Stage) -> None:
    copy = back_up(stage)
    task = stage.submit(f"setsid sleep 1000 & {workers.STAYS}")
    stage.start_executor()
    stage.start_daemon()
    stage.until(lambda: stage.diary(task).started())
    stage.until(lambda: len(stage.family.living()) == 2)
    stage.kill_daemon()

    restore(stage, copy)
    stage.finish()

    assert [] == stage.tasks()
    assert [1] == stage.diary(task).started()
    assert [] == stage.family.living()
    assert ["run.unknown"] == [e["event"] for e in stage.trace if "unknown" in e["event"]]


def test_an_older_copy_repeats_no_uid_and_starts_no_twin(stage: Stage) -> None:
    gate = stage.directory / "gate"
    stage.config = stage.place.config(kill_grace_ms=200)
    task = stage.submit(f'trap "" TERM; {workers.STAYS_UNTIL_ALLOWED}', str(gate))
    copy = back_up(stage)
    stage.start_executor()
    stage.start_daemon()
    stage.until(lambda: stage.diary(task).started())
    (forgotten,) = stage.runs(task)
    stage.kill_daemon()

    gate.touch()
    restore(stage, copy)
    stage.finish()

    (run,) = stage.runs(task)
    assert run.uid != forgotten.uid
    assert Outcome.SUCCEEDED is run.outcome
    assert [("start", 1), ("start", 1), ("end", 1)] == stage.diary(task).lines()


def test_an_older_copy_gets_no_exit_of_a_run_that_it_forgot(stage: Stage) -> None:
    copy = back_up(stage)
    first = stage.submit(workers.EXITS_7)
    stage.start_executor()
    stage.start_daemon()
    stage.until(lambda: Phase.RUNNING in [run.phase for run in stage.executor.runs.values()])
    stage.kill_daemon()
    stage.until(lambda: Phase.GONE in [run.phase for run in stage.executor.runs.values()])

    restore(stage, copy)
    second = stage.submit(workers.EXITS_0)
    stage.finish()

    assert first == second, "the copy gives the same id again"
    assert TaskState.SUCCEEDED is stage.task(second).state
    assert [Outcome.SUCCEEDED] == [run.outcome for run in stage.runs(second)]


def test_another_store_is_refused_while_runs_of_the_old_one_live(
    stage: Stage, template: Path
) -> None:
    task = stage.submit(workers.STAYS)
    stage.start_executor()
    stage.start_daemon()
    stage.until(lambda: stage.diary(task).started())
    stage.kill_daemon()
    ours = back_up(stage)
    other = another_store(stage)

    restore(stage, other)
    with pytest.raises(ConfigError, match=r"runs of the store .* still live on this node \(1,"):
        stage.finish()
    stage.kill_daemon()

    assert [Phase.RUNNING] == [run.phase for run in stage.executor.runs.values()]
    restore(stage, ours)
    stage.cancel(task)
    stage.finish()
    assert TaskState.CANCELLED is stage.task(task).state


def test_the_daemon_logs_another_store_and_exits_78(outside: Outside) -> None:
    stage = outside.stage
    task = stage.submit(workers.STAYS)
    with outside.daemon() as daemon:
        outside.wait_for(lambda: stage.diary(task).started())
        daemon.kill()
    ours = back_up(stage)

    restore(stage, another_store(stage))
    with outside.daemon("--drain") as refused:
        outside.wait_for(lambda: refused.poll() is not None)

    assert ExitCode.CONFIG == refused.returncode
    assert "still live on this node" in outside.log.read_text()
    assert stage.family.living()
    restore(stage, ours)
    stage.cancel(task)
    outside.drain()
    judge_stage(stage)
    assert [Outcome.CANCELLED] == [run.outcome for run in stage.runs(task)]
