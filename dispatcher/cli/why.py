"""`dispatcher why`: why a task is where it is, and what happens next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from dispatcher.cli import render
from dispatcher.cli.options import (
    client,
    config_option,
    examples,
    json_option,
    one_id,
    print_json,
)
from dispatcher.errors import NoTask
from dispatcher.model import LOCAL, Run, Task, TaskState
from dispatcher.standing import Standing


@click.command(epilog=examples("dispatcher why 42"))
@one_id
@json_option
@config_option
def why(*, task_id: int, as_json: bool) -> None:
    """Say why a task is where it is, and what has to happen before it goes on."""
    with client() as store:
        task, runs, status = store.task(task_id), store.runs(task_id), store.standing()
    if task is None:
        raise NoTask(task_id)
    told = list(explain(task, runs, status))
    if as_json:
        print_json({"id": task.id, "state": task.state, "reason": task.reason, "because": told})
    else:
        click.echo(f"task {task.id} is {task.state}: {render.plain(task.reason)}")
        for line in told:
            click.echo(f"  {render.plain(line)}")


def explain(task: Task, runs: list[Run], status: Standing) -> Iterator[str]:
    """Yield what stands between a task and its next state, the nearest first."""
    if task.state is TaskState.RUNNING:
        yield from _of_running(task, runs[-1] if runs else None, status)
    elif task.state is TaskState.SCHEDULED:
        yield f"it is due at {render.moment(task.run_at)}"
    elif task.state is TaskState.HELD:
        yield f"it waits for you: dispatcher release {task.id}, retry {task.id} or cancel {task.id}"
    elif task.state is TaskState.FAILED:
        yield f"dispatcher logs {task.id} shows what its last run wrote" if runs else "it never ran"
        yield f"dispatcher retry {task.id} gives it all its attempts again"
    if task.state in {TaskState.READY, TaskState.SCHEDULED}:
        yield from _of_waiting(task, status)
    if task.fails_at is not None:
        yield f"it fails at {render.moment(task.fails_at)} if it has not been claimed by then"


def _of_running(task: Task, run: Run | None, status: Standing) -> Iterator[str]:
    if run is None:
        return
    if run.node.startswith(LOCAL):
        yield f"it was claimed by hand; its lease expires at {render.moment(run.lease_expires_at)}"
        return
    yield f"run {run.id}, attempt {run.attempt} of {task.max_attempts}, process {run.pid or '-'}"
    if task.ending is not None:
        yield f"it is being ended ({task.ending}): its processes have until the kill grace is over"
    else:
        yield f"its lease expires at {render.moment(run.lease_expires_at)} unless it is renewed"
    yield from _of_daemon(status)


def _of_waiting(task: Task, status: Standing) -> Iterator[str]:
    for paused in status.paused:
        if paused.queue == task.queue:
            since = render.moment(paused.paused_at)
            yield f"its queue {task.queue} is paused since {since}: {paused.reason}"
    yield from _of_daemon(status)
    report = status.report
    if report and int(report.get("busy", 0)) >= int(report.get("slots", 1)):
        yield f"all {report['slots']} slots are busy"


def _of_daemon(status: Standing) -> Iterator[str]:
    if status.daemon != "running":
        yield f"the daemon is {status.daemon}: dispatcher run"
        return
    report: dict[str, Any] = dict(status.report)
    if report.get("stopping"):
        yield f"the daemon is stopping ({report['stopping']})"
    if report.get("paused"):
        yield f"this node is paused: {report['paused']}"
    if report.get("executor") != "connected":
        yield f"the executor is {report.get('executor')}: nothing is started or ended without it"
    if report.get("store_silent_for_s") is not None:
        yield f"the store has not answered the daemon for {report['store_silent_for_s']} s"
