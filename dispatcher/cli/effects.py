"""What becomes of tasks on which an operator acts, in words and as JSON."""

from collections.abc import Iterator, Mapping, Sequence

from dispatcher.cli import render
from dispatcher.daemon_report import StrandedReport
from dispatcher.errors import NoTask
from dispatcher.model import FINISHED, INTENDED, Intent, Outcome, Task, TaskState
from dispatcher.obstacles import Obstacle, Standing
from dispatcher.outlook import IntentResult, Outlook
from dispatcher.selection import ENDS

#: Obstacles that leave the rest of the work undone.
_NO_DAEMON = frozenset({Obstacle.DAEMON_NOT_RUNNING, Obstacle.DAEMON_NOT_ANSWERING})

_ONLY = {
    Intent.CANCEL: "there is nothing to cancel",
    Intent.HOLD: "there is nothing to hold",
    Intent.RELEASE: "only held and waiting ones can be released",
    Intent.RETRY: "only failed, cancelled and held ones can be retried",
}

#: Ends the report of a run that is missing. The executor ends its processes when it is greeted.
_HOLD_BY_SQL = (
    "stop the daemon, write to the store: UPDATE tasks SET state = 'held', run_uid = NULL,"
    " fails_at = total_at WHERE id = {id}; start the daemon, and release, retry or cancel the task"
)


def is_unfinished(one: IntentResult) -> bool:
    """Return whether a daemon has work to do after the change."""
    return one.ahead is not None or (one.task is not None and one.task.state is TaskState.READY)


def as_json(one: IntentResult, stranded: StrandedReport | None, *, done: bool) -> dict[str, object]:
    living = stranded if one.ahead else None
    return {
        "id": one.task_id,
        "was": one.was,
        "done": done,
        "ending": one.ahead and one.ahead.outcome,
        "then": one.ahead and one.ahead.state,
        "stranded": living and living.why,
    }


def text(one: IntentResult, stranded: StrandedReport | None) -> str:
    """Return what becomes of a task, to be read after its id."""
    assert one.task is not None
    if one.ahead is None:
        return f"{one.task.state}: {one.task.reason}" if _is_broken(one) else one.task.state
    if stranded is None or stranded.is_ours:
        return f"is {_course(one.ahead)}"
    return (
        f"is stranded, and {stranded.describe('it', awaited=False)}; then it is {one.ahead.state}"
    )


def of_many(one: IntentResult, stranded: StrandedReport | None) -> str:
    """Return what becomes of a task, to be read before the number of such tasks."""
    assert one.task is not None
    if one.ahead is None:
        return one.task.state
    if stranded is None or stranded.is_ours:
        return f"{_course(one.ahead)}".replace("; then it is", ", then")
    return f"stranded, see `dispatcher status`, then {one.ahead.state}"


def _course(ahead: Outlook) -> str:
    known = "" if ahead.outcome.value == ahead.state.value else f" as {ahead.outcome}"
    return f"being ended{known}; then it is {ahead.state}"


def _is_held_still(one: IntentResult) -> bool:
    assert one.task is not None
    return one.intent is Intent.RELEASE and one.was is one.task.state is TaskState.HELD


def _is_broken(one: IntentResult) -> bool:
    """Return whether an operator's hold is over, but a parent did not succeed meanwhile."""
    assert one.task is not None
    return _is_held_still(one) or (
        one.intent is Intent.RELEASE and one.task.state is TaskState.CANCELLED
    )


def refusal(one: IntentResult) -> str | None:
    """Return why the request has no effect; None: it has one, now or when the run ends."""
    if one.was is None or one.task is None:
        return str(NoTask(one.task_id))
    if one.was is TaskState.RUNNING:
        return _refusal_of_running(one, one.task)
    if one.intent in ENDS:
        over = one.was in FINISHED and one.was is not INTENDED[one.intent]
        has = "is" if one.was is TaskState.CANCELLED else "has"
        already = f"task {one.task_id} {has} {one.was} already; {_ONLY[one.intent]}"
        return already if over else None
    if _is_held_still(one) and one.task.attempts_used >= one.task.max_attempts:
        return f"task {one.task_id} is {one.was} with no attempt left; {_retry(one.task_id)}"
    fits = {TaskState.HELD, TaskState.WAITING}
    if one.intent is Intent.RETRY:
        fits = {TaskState.HELD, TaskState.FAILED, TaskState.CANCELLED}
        if one.was is TaskState.SUCCEEDED:
            again = f"a new task with the command that `dispatcher show {one.task_id}` prints"
            return f"task {one.task_id} has succeeded; to run it again, submit {again}"
    return None if one.was in fits else f"task {one.task_id} is {one.was}; {_ONLY[one.intent]}"


def missing_run(task_id: int) -> str:
    """Return what to do about a task that runs without a row of its run."""
    return f"its run is missing, whose row was deleted by hand; {_HOLD_BY_SQL.format(id=task_id)}"


def _refusal_of_running(one: IntentResult, task: Task) -> str | None:
    if one.is_run_missing:
        return f"task {one.task_id} is running, and {missing_run(one.task_id)}"
    if one.ahead is None:  # it runs on, or was driven by hand and is settled
        still = task.state is TaskState.RUNNING
        if still and one.intent is Intent.HOLD:
            over = f"task {one.task_id} runs beyond its total time-out, and fails when it ends"
            return f"{over}; {_retry(one.task_id)}"
        return f"task {one.task_id} is running; {_ONLY[one.intent]}" if still else None
    if task.intent is one.intent and one.ahead.state is INTENDED[one.intent]:
        return None
    if one.ahead.outcome is Outcome.SUCCEEDED and one.intent in ENDS:
        succeeded = "declared success" if one.ahead.declared else "exited with success"
        return f"task {one.task_id} has {succeeded}; it cannot be {INTENDED[one.intent]}"
    course, why = _course(one.ahead), _ONLY[one.intent]
    if one.intent is Intent.RELEASE and one.ahead.state is TaskState.HELD:
        course += f", and cannot be released: {render.line(one.ahead.not_released or '')}"
        why = _retry(one.task_id)
    elif one.intent is Intent.HOLD and one.ahead.state is TaskState.FAILED:
        course, why = f"{course}: {render.line(one.ahead.reason)}", _retry(one.task_id)
    return f"task {one.task_id} is {course}; {why}"


def _retry(task_id: int) -> str:
    return f"`dispatcher retry {task_id}` restores all its attempts"


def missing_daemon(standing: Standing, done: Sequence[IntentResult]) -> Iterator[str]:
    """Yield why no daemon does the rest, and what happens until one does."""
    if any(one.ahead is not None for one in done):
        next_ = "a run that is not being ended yet goes on until it is back"
        reasons = [*standing.daemon_obstacles()]
    else:
        ready = [one.task.queue for one in done if one.task and one.task.state is TaskState.READY]
        next_ = "ready tasks wait until it is back"
        reasons = standing.queue_obstacles(ready[0]) if ready else []
    for reason in reasons:
        if reason.obstacle in _NO_DAEMON:
            yield f"{reason.text}; {next_}"


def stranded_of(
    standing: Standing | None, done: Sequence[IntentResult]
) -> Mapping[int, StrandedReport]:
    """Return the stranded runs of tasks, by the tasks' ids."""
    return {
        one.task_id: found
        for one in done
        if standing and one.task and (found := standing.stranded_of(one.task))
    }
