"""What `cancel`, `hold`, `release` and `retry` share: the request, and what becomes of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import click

from dispatcher.cli import render
from dispatcher.cli.configuration import open_client
from dispatcher.cli.printing import print_json
from dispatcher.client import Client
from dispatcher.daemon_report import StrandedReport
from dispatcher.errors import DispatcherError, NoTask
from dispatcher.model import FINISHED, INTENDED, Intent, Outcome, Task, TaskState
from dispatcher.obstacles import Obstacle, Standing
from dispatcher.outlook import Asked, Outlook

#: Obstacles that leave the rest of the work undone.
_NO_DAEMON = frozenset({Obstacle.DAEMON_NOT_RUNNING, Obstacle.DAEMON_NOT_ANSWERING})

#: Intents that end a run.
_ENDS = frozenset({Intent.CANCEL, Intent.HOLD})

_ONLY = {
    Intent.CANCEL: "there is nothing to cancel",
    Intent.HOLD: "there is nothing to hold",
    Intent.RELEASE: "only held ones can be released",
    Intent.RETRY: "only failed, cancelled and held ones can be retried",
}


def request(
    task_ids: Sequence[int], intent: Intent, reason: str | None = None, *, as_json: bool
) -> None:
    """Request it for each task, and print what becomes of them.

    Raises `DispatcherError` for the tasks that stay as they were.
    """
    with open_client() as store:
        _report(store, [store.ask(task_id, intent, reason) for task_id in task_ids], as_json)


def _report(store: Client, answers: Sequence[Asked], as_json: bool) -> None:
    refused = {one.task_id: why for one in answers if (why := _refusal(one)) is not None}
    done = [one for one in answers if one.task_id not in refused]
    standing = store.standing() if any(map(_is_unfinished, done)) else None
    stranded = {
        one.task_id: found
        for one in done
        if standing and one.task and (found := standing.stranded_of(one.task))
    }
    if as_json:
        print_json([_json(one, stranded, done=one.task_id not in refused) for one in answers])
    else:
        for one in done:
            click.echo(f"{one.task_id} {render.plain(_text(one, stranded.get(one.task_id)))}")
    for line in _missing_daemon(standing, done) if standing else ():
        click.echo(f"dispatcher: {render.plain(line)}", err=True)
    if refused:
        raise DispatcherError("\n".join(refused.values()))


def _is_unfinished(one: Asked) -> bool:
    """Return whether a daemon has work to do after the change."""
    return one.ahead is not None or (one.task is not None and one.task.state is TaskState.READY)


def _json(one: Asked, stranded: Mapping[int, StrandedReport], *, done: bool) -> dict[str, object]:
    living = stranded.get(one.task_id) if one.ahead else None
    return {
        "id": one.task_id,
        "was": one.was,
        "done": done,
        "ending": one.ahead and one.ahead.outcome,
        "then": one.ahead and one.ahead.state,
        "stranded": living and living.why,
    }


def _text(one: Asked, stranded: StrandedReport | None) -> str:
    assert one.task is not None
    if one.ahead is None:
        return one.task.state
    if stranded is None or stranded.is_ours:
        return f"is {_course(one.ahead)}"
    return (
        f"is stranded, and {stranded.describe('it', awaited=False)}; then it is {one.ahead.state}"
    )


def _course(ahead: Outlook) -> str:
    known = "" if ahead.outcome.value == ahead.state.value else f" as {ahead.outcome}"
    return f"being ended{known}; then it is {ahead.state}"


def _refusal(one: Asked) -> str | None:
    """Return why the request has no effect; None: it has one, now or when the run ends."""
    if one.was is None or one.task is None:
        return str(NoTask(one.task_id))
    if one.was is TaskState.RUNNING:
        return _refusal_of_running(one, one.task)
    if one.intent in _ENDS:
        over = one.was in FINISHED and one.was is not INTENDED[one.intent]
        return f"task {one.task_id} has {one.was} already; {_ONLY[one.intent]}" if over else None
    if one.intent is Intent.RELEASE and one.was is one.task.state is TaskState.HELD:
        return f"task {one.task_id} is {one.was} with no attempt left; {_retry(one.task_id)}"
    fits = {TaskState.HELD}
    if one.intent is Intent.RETRY:
        fits |= {TaskState.FAILED, TaskState.CANCELLED}
    return None if one.was in fits else f"task {one.task_id} is {one.was}; {_ONLY[one.intent]}"


def _refusal_of_running(one: Asked, task: Task) -> str | None:
    if one.ahead is None:  # it runs on, or was driven by hand and is settled
        still = task.state is TaskState.RUNNING
        if still and one.intent is Intent.HOLD:
            over = f"task {one.task_id} runs beyond its total time-out, and fails when it ends"
            return f"{over}; {_retry(one.task_id)}"
        return f"task {one.task_id} is running; {_ONLY[one.intent]}" if still else None
    if task.intent is one.intent and one.ahead.state is INTENDED[one.intent]:
        return None
    if one.ahead.outcome is Outcome.SUCCEEDED and one.intent in _ENDS:
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


def _missing_daemon(standing: Standing, done: Sequence[Asked]) -> Iterator[str]:
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
