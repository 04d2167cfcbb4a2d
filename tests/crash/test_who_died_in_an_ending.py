"""The table "Who died when" of docs/protocol.md, the rest: endings, survivors, other boots."""

import pytest

from dispatcher import times
from dispatcher.executor.phases import Phase
from dispatcher.model import Outcome, TaskState
from tests.crash import workers
from tests.crash.declaring import Declaring
from tests.crash.mortal import AFTER, BEFORE
from tests.crash.rows import ESCAPES_AND_STAYS, ORPHANED_THEN_7, dying, ends, phases, start, starts
from tests.crash.stage import Stage

# An ending ---------------------------------------------------------------------------------


def test_ending_committed_not_signalled_daemon_dead_is_ended_with_the_same_outcome(
    stage: Stage,
) -> None:
    task = stage.submit(ESCAPES_AND_STAYS)
    start(stage, daemon=dying("client.send", BEFORE, when=lambda: stage.task(task).ending))
    starts(stage, task)
    stage.cancel(task)
    assert stage.daemon is None

    assert [(Outcome.CANCELLED, None)] == ends(stage, task)
    assert TaskState.CANCELLED is stage.task(task).state


@pytest.mark.parametrize("moment", [BEFORE, AFTER])
def test_ending_signalled_not_gone_executor_dead_is_ended_with_the_same_outcome(
    stage: Stage, moment: str
) -> None:
    task = stage.submit(ESCAPES_AND_STAYS)
    start(stage, executor=dying("kernel.signal_group", moment, 1))
    starts(stage, task)
    stage.cancel(task)

    assert [(Outcome.CANCELLED, None)] == ends(stage, task)


def test_ending_signalled_both_dead_is_ended_with_the_same_outcome(stage: Stage) -> None:
    task = stage.submit(ESCAPES_AND_STAYS)
    start(stage, executor=dying("kernel.signal_group", AFTER, 1))
    stage.die_together = True
    starts(stage, task)
    stage.cancel(task)
    stage.until(lambda: stage.daemon is None)

    assert [(Outcome.CANCELLED, None)] == ends(stage, task)


@pytest.mark.parametrize(
    ("deadline", "outcome", "attempts"),
    [("absence", Outcome.ORPHANED, 0), ("run_timeout", Outcome.TIMED_OUT, 1)],
)
@pytest.mark.parametrize("both", [False, True])
def test_executor_ended_a_run_by_itself_no_daemon_is_settled_by_its_report(
    stage: Stage, deadline: str, outcome: Outcome, attempts: int, *, both: bool
) -> None:
    gate = stage.directory / "gate"
    task = stage.submit(workers.STAYS_UNTIL_ALLOWED, str(gate), attempts=2)
    start(stage)
    starts(stage, task)
    passed = {stage.runs(task)[0].uid: {deadline: times.instant()}}
    stage.executor.executor.table.renew(passed)
    stage.kill_daemon()
    stage.until(lambda: Phase.GONE in phases(stage))
    if both:
        stage.kill_executor()
    gate.touch()

    assert [outcome, Outcome.SUCCEEDED] == [end[0] for end in ends(stage, task)]
    assert attempts == stage.task(task).attempts_used


def test_executor_shut_down_no_daemon_is_released(stage: Stage) -> None:
    gate = stage.directory / "gate"
    task = stage.submit(workers.STAYS_UNTIL_ALLOWED, str(gate))
    start(stage)
    starts(stage, task)
    stage.kill_daemon()
    stage.executor.executor.shut_down()
    stage.until(lambda: stage.executor is None)
    gate.touch()

    assert [Outcome.RELEASED, Outcome.SUCCEEDED] == [end[0] for end in ends(stage, task)]
    assert 0 == stage.task(task).orphans


@pytest.mark.parametrize("moment", [BEFORE, AFTER])
def test_declaration_committed_not_answered_is_accepted_when_it_is_repeated(
    stage: Stage, moment: str
) -> None:
    play = Declaring()
    play.begin(stage)
    fate = dying("store.commit", moment, when=lambda: fate.calls["store.declare"])
    start(stage, daemon=fate)
    while stage.daemon is not None:
        play.operate(stage)
        stage.turn()
    declared = stage.runs(1)[0].result

    stage.until_idle = False
    while not play.answered:
        stage.revive()
        stage.turn()
        play.repeat()
    stage.kill_daemon()
    stage.until_idle = True

    assert (moment == AFTER) == (declared is not None)
    assert [Outcome.SUCCEEDED] == [end[0] for end in ends(stage, 1)]
    assert '{"answer": 42}' == stage.runs(1)[0].result


# Executor, both, host ----------------------------------------------------------------------


@pytest.mark.parametrize("both", [False, True])
def test_executor_killed_survivors_are_ended_before_hello_and_run_again(
    stage: Stage, *, both: bool
) -> None:
    gate = stage.directory / "gate"
    body = f'[ -e "$1" ] || {{ {ESCAPES_AND_STAYS}; }}; code=0'
    task = stage.submit(body, str(gate))
    start(stage)
    starts(stage, task)
    stage.until(lambda: len(stage.family.living()) == 2)
    stage.kill_executor()
    if both:
        stage.kill_daemon()
    gate.touch()

    stage.start_executor()
    stage.until(lambda: stage.executor.executor.is_open)

    assert [] == stage.family.living()
    assert [Outcome.ORPHANED, Outcome.SUCCEEDED] == [end[0] for end in ends(stage, task)]
    assert (0, 1) == (stage.task(task).attempts_used, stage.task(task).orphans)


def test_r63_host_rebooted_is_orphaned_at_once(stage: Stage) -> None:
    gate = stage.directory / "gate"
    task = stage.submit(workers.STAYS_UNTIL_ALLOWED, str(gate))
    start(stage)
    starts(stage, task)
    reboot(stage)
    gate.touch()

    assert [Outcome.ORPHANED, Outcome.SUCCEEDED] == [end[0] for end in ends(stage, task)]
    assert 0 == stage.task(task).attempts_used


def test_host_rebooted_during_an_ending_has_its_outcome(stage: Stage) -> None:
    task = stage.submit(workers.STAYS)
    start(stage, daemon=dying("client.send", BEFORE, when=lambda: stage.task(task).ending))
    starts(stage, task)
    stage.cancel(task)
    reboot(stage)

    assert [(Outcome.CANCELLED, None)] == ends(stage, task)


def test_host_rebooted_forgets_exits_of_another_boot(stage: Stage) -> None:
    task = stage.submit(workers.EXITS_7)
    start(stage, executor=dying("server.flush", BEFORE, when=lambda: Phase.GONE in phases(stage)))
    stage.until(lambda: stage.executor is None)
    reboot(stage)

    assert ORPHANED_THEN_7 == ends(stage, task)


def reboot(stage: Stage) -> None:
    """Lose every process, and let the journal's header name a boot that is over."""
    stage.kill()
    stage.family.end()
    journal = stage.place.journal
    header = journal.read_bytes()
    forged = header.replace(stage.boot_id.encode(), b"another boot", 1)
    assert forged != header
    journal.write_bytes(forged)
