"""`dispatcher why`: why a task is in its state, and what happens next."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import click

from dispatcher.cli import effects, kin, render
from dispatcher.cli.glance import last_line
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.printing import print_json, print_json_list
from dispatcher.cli.several import each_id, one_id, task_ids_argument
from dispatcher.client import Client
from dispatcher.config.settings import LeasesSection
from dispatcher.daemon_report import DaemonReport
from dispatcher.errors import NoTask
from dispatcher.execution import KILL_GRACE_MS, LOCAL
from dispatcher.handover import Handover
from dispatcher.host import marks
from dispatcher.model import Run, Task, TaskState
from dispatcher.nodes import NodeView
from dispatcher.obstacles import Reason, Standing
from dispatcher.operations.limits import gone_text
from dispatcher.outlook import Outlook, is_run_missing
from dispatcher.quantities.durations import Milliseconds
from dispatcher.store.glance import MOST_BEFORE
from dispatcher.times import StoreTime

#: The defaults.
LEASES = LeasesSection()


@click.command(epilog=examples("dispatcher why 42", "dispatcher why 42 45-47"))
@task_ids_argument
@json_option
@config_option
def command(*, tasks: tuple[int | range, ...], as_json: bool) -> None:
    """Explain why tasks are in their states, and what must happen before they go on.

    JSON is an object for one ID, and otherwise a list.
    """
    with open_client() as store:
        ids = each_id(store, tasks)
        first = next(ids)  # raises for an unknown id, before the daemon is read
        status = store.standing()
        explained = (_explained(store, task_id, status) for task_id in chain([first], ids))
        if not as_json:
            for lines, _ in explained:
                click.echo("\n".join(lines))
        elif one_id(tasks) is None:
            print_json_list(as_mapping for _, as_mapping in explained)
        else:
            print_json(next(explained)[1])


def _explained(store: Client, task_id: int, status: Standing) -> tuple[list[str], dict[str, Any]]:
    """Return an explanation as lines for people, and as JSON."""
    with store.store.snapshot():
        task = store.store.task(task_id, payload=False)
        runs = store.store.runs(task_id)
    ahead = store.outlook(task_id)
    if task is None:
        raise NoTask(task_id)
    before = _before(store, task)
    parents = () if task.blockers is None else store.parents(task.id)
    asks = () if task.state is not TaskState.HELD else _asks(store.handover(task_id), task_id)
    gone = [name for name in task.takes if name not in store.config.limits]
    waits = [*asks, *kin.waits(task, parents), *map(gone_text, gone)]
    because = list(
        explain(task, runs, status, ahead, store.config.leases, before=before, waits=waits)
    )
    reason = "" if ahead is not None else f": {render.plain(task.reason)}"
    lines = [f"task {task.id} is {task.state}{reason}"]
    lines += [f"  {render.plain(line)}" for line in because]
    obstacles = [
        {
            "obstacle": one.obstacle,
            "text": one.text,
            "until": render.moment(one.until, status.calendar),
        }
        for one in status.obstacles(task)
    ]
    return lines, {
        "id": task.id,
        "state": task.state,
        "reason": task.reason,
        "obstacles": obstacles,
        "because": because,
    }


def _asks(left: Handover | None, task_id: int) -> Iterator[str]:
    """Yield the question of a held task, and how it is answered."""
    if left is not None and left.question is not None and left.answer is None:
        yield f"it asks: {left.question}"
        yield f"dispatcher answer {task_id} TEXT answers that, and releases it"


def _before(store: Client, task: Task) -> int:
    """Return how many ready tasks of its queue precede a ready task."""
    if task.state is not TaskState.READY:
        return 0
    with store.store.snapshot():
        return store.store.before(task, limit=MOST_BEFORE)


def explain(
    task: Task,
    runs: list[Run],
    status: Standing,
    ahead: Outlook | None = None,
    leases: LeasesSection = LEASES,
    *,
    before: int = 0,
    waits: Sequence[str] = (),
) -> Iterator[str]:
    """Yield what keeps a task from its next state, the nearest first.

    `ahead`: the outlook of a run that is ending, within the graces of `leases`. `before`: how many
    ready tasks of its queue precede it, counted to `MOST_BEFORE`. `waits`: what is to be said about
    its parents.
    """
    if task.state is TaskState.RUNNING:
        yield from _explain_running(task, runs[-1] if runs else None, status, ahead, leases)
    elif task.state is TaskState.HELD:
        yield from _last_line(runs)
        release = f"release {task.id}, " if task.attempts_used < task.max_attempts else ""
        yield f"it waits for you: dispatcher {release}retry {task.id} or cancel {task.id}"
    elif task.state is TaskState.FAILED:
        yield from _last_line(runs)
        yield f"dispatcher logs {task.id} shows what its last run wrote" if runs else "it never ran"
        yield f"dispatcher retry {task.id} gives it all its attempts again"
    elif task.state is not TaskState.WAITING:
        yield from (_with_distance(reason, status) for reason in status.obstacles(task))
    if task.state is not TaskState.RUNNING:
        yield from waits
    if before:
        yield _place(before)
    if task.state is not TaskState.RUNNING and runs and runs[-1].leftovers:
        names = ", ".join(runs[-1].leftovers)
        yield f"its last run left processes behind, which were ended: {names}"
    if task.fails_at is not None:
        yield f"it fails at {_date(task.fails_at, status)} if it has not been claimed by then"


def _place(before: int) -> str:
    tasks = "1 ready task" if before == 1 else f"{before} ready tasks"
    least = "at least " if before >= MOST_BEFORE else ""
    return f"{least}{tasks} of its queue {'is' if before == 1 else 'are'} before it"


def _with_distance(reason: Reason, status: Standing) -> str:
    return (
        reason.text
        if reason.until is None
        else f"{reason.text} ({render.ago(reason.until, status.now)})"
    )


def _date(time: StoreTime | None, status: Standing) -> str:
    return f"{render.moment(time, status.calendar)} ({render.ago(time, status.now)})"


def _last_line(runs: list[Run]) -> Iterator[str]:
    """Yield the last line that a last run wrote: its question if it exited with 78."""
    if runs and (line := last_line(render.tail(runs[-1]) or "")):
        yield f"the last line it wrote: {line}"


def _explain_running(
    task: Task, run: Run | None, status: Standing, ahead: Outlook | None, leases: LeasesSection
) -> Iterator[str]:
    if run is None or is_run_missing(task, [run]):
        yield effects.missing_run(task.id)
        return
    if run.node.startswith(LOCAL):
        expires_at = _date(run.lease_expires_at, status)
        yield f"it is a local claim; its lease expires at {expires_at}"
        yield from _last_heartbeat(run, status)
        return
    yield f"run {run.id}, attempt {run.attempt} of {task.max_attempts}, process {run.pid or '-'}"
    if (there := status.elsewhere(run)) is not None:
        yield from _explain_elsewhere(there, run, status)
    if (stranded := status.stranded_of(task)) is not None:
        living = stranded.describe("it", awaited=status.missing == "executor")
        yield f"{living}; it is settled once nothing of it lives"
    if ahead is not None:
        yield from _explain_ending(task, run, status, ahead, leases)
    else:
        yield from _explain_lease(there, run, status)
    if status.report is not None:
        yield from _reported(task, status.report)
    yield from _last_heartbeat(run, status)
    if there is not None:
        return
    yield from (reason.text for reason in status.daemon_obstacles())
    yield from (reason.text for reason in status.faults())


def _reported(task: Task, report: DaemonReport) -> Iterator[str]:
    """Yield what the daemon reports of a running task."""
    if why := report.unkillable_because.get(task.id):
        yield f"it is not proved gone, and keeps its slot: {why}"
    if why := report.unsignalled_because.get(task.id):
        yield why
    locked = report.rows_locked
    if locked is not None and task.id in locked.tasks and not locked.node_row:
        yield locked.describe()  # otherwise it is an obstacle


def _explain_elsewhere(there: NodeView, run: Run, status: Standing) -> Iterator[str]:
    """Yield where a run of another node is, and when it is taken over."""
    seen = render.ago(there.node.seen_at, status.now)
    yield f"it is on {there.name}, which was last seen {seen}"
    if run.takeover_at is not None:
        takeover_at = _date(run.takeover_at, status)
        yield f"another node takes it over at {takeover_at} unless {there.name} confirms it"


def _explain_lease(there: NodeView | None, run: Run, status: Standing) -> Iterator[str]:
    """Yield when the lease expires, unless the run is taken over before."""
    if there is None or run.takeover_at is None:
        yield f"its lease expires at {_date(run.lease_expires_at, status)} unless it is renewed"


def _explain_ending(
    task: Task, run: Run, status: Standing, ahead: Outlook, leases: LeasesSection
) -> Iterator[str]:
    """Yield how the run ends, which of its processes live, and what follows."""
    if ahead.declared:
        begun, grace = f"it declared {ahead.outcome}", f"{leases.exit_grace_ms} to exit"
    else:
        begun = f"it ends as {ahead.outcome}"
        grace = f"the leftover grace of {leases.leftover_grace_ms}, as its leader has exited"
    if task.ending is not None:
        own = task.kill_grace_ms
        kill_grace = Milliseconds(KILL_GRACE_MS if own is None else own)
        grace = f"the kill grace of {kill_grace}, then SIGKILL"
    course = f"its processes have {grace}"
    if (stranded := status.stranded_of(task)) is not None:
        course = "nothing ends its processes"
        if stranded.is_ours:
            course = "its processes have no grace, as the executor does not know it"
    elif task.ending is not None and status.missing is not None:
        course = f"if it is not being ended yet, it goes on until the {status.missing} is back"
    then = f"then the task is {ahead.state}" + (f": {ahead.reason}" if ahead.reason else "")
    then += f" (dispatcher {task.intent})" if task.intent else ""
    yield f"{begun}; {course}; {then}"
    if living := marks.MarkedProcesses([run.uid]).living[run.uid]:
        yield f"of it still live: {marks.listed(living)}"


def _last_heartbeat(run: Run, status: Standing) -> Iterator[str]:
    if run.last_heartbeat_at is not None:
        progress, when = render.progress_text(run), render.ago(run.last_heartbeat_at, status.now)
        yield f"its last heartbeat came {when}" + (f": {progress}" if progress else "")
