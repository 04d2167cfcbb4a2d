"""Shared by the rows of "Who died when": a start, a death, and the end."""

from collections.abc import Callable

from dispatcher.executor.phases import Phase
from dispatcher.model import Outcome
from tests.crash import workers
from tests.crash.judges import judge_stage
from tests.crash.mortal import Fate, Point
from tests.crash.stage import Stage

ESCAPES_AND_STAYS = f"setsid sleep 1000 </dev/null >/dev/null 2>&1 & {workers.STAYS}"
SETTLED_7 = [(Outcome.FAILED, 7)]
ORPHANED_THEN_7 = [(Outcome.ORPHANED, None), (Outcome.FAILED, 7)]


def start(stage: Stage, *, daemon: Fate | None = None, executor: Fate | None = None) -> None:
    stage.fates = [fate for fate in (daemon, executor) if fate is not None]
    stage.start_executor(executor)
    stage.start_daemon(daemon)


def dying(
    site: str, moment: str, number: int = 0, when: Callable[[], object] = lambda: True
) -> Fate:
    return Fate(Point(site, moment, number), when=when)


def ends(stage: Stage, task_id: int) -> list[tuple[Outcome | None, int | None]]:
    """Return outcome and exit code of each run, once all is done and judged."""
    stage.finish()
    judge_stage(stage)
    assert all(fate.dead for fate in stage.fates), "nobody died"
    return [(run.outcome, run.exit_code) for run in stage.runs(task_id)]


def starts(stage: Stage, task_id: int) -> None:
    """Wait until a task's worker is at work, and the daemon knows it."""
    stage.until(lambda: stage.diary(task_id).started())
    stage.until(lambda: stage.runs(task_id)[-1].pid)


def phases(stage: Stage) -> list[Phase]:
    return [run.phase for run in stage.executor.runs.values()]
