"""`dispatcher logs -f`: print what a task's runs write until it finishes or is held."""

import sys
import time
from collections.abc import Callable, Iterator

import click

from dispatcher.cli import render
from dispatcher.cli.output import print_end
from dispatcher.cli.sources import opened
from dispatcher.client import Client
from dispatcher.model import Run
from dispatcher.operations.waiting import POLL, is_done

#: Seconds between two looks at a file.
FILE_POLL = 0.1


def follow(store: Client, task_id: int, first: Run, *, tail: int | None = None) -> None:
    """Print a run's output as it grows, then each later run's, until the task ends or is held.

    `tail`: lines of the first run's output to begin with.
    """
    run: Run | None = first
    while run is not None:
        click.echo(f"dispatcher: run {run.id}, attempt {run.attempt}:", err=True)
        _print(store, task_id, run, tail)
        tail = None
        run = _next_run(store, task_id, run.fence)


def await_run(store: Client, task_id: int) -> None:
    """Print that a task has not run yet, and wait for its first run, or its end without one."""
    task = store.task(task_id, payload=False)
    if task is not None and not is_done(task) and not store.runs(task_id):
        why = f"{task.state}, {render.plain(task.reason)}"
        click.echo(
            f"dispatcher: task {task_id} has not run yet: {why}; waiting until it does", err=True
        )
        _next_run(store, task_id)


#: As a worker may do to its own output (docs/workers.md, "How it ends").
TRUNCATED = "dispatcher: the output was truncated; what follows is new"


def _print(store: Client, task_id: int, run: Run, tail: int | None) -> None:
    with opened(store, run, tail=tail) as output:
        is_over = _sampled(POLL, lambda: _is_over(store, task_id, run))
        while True:
            over = next(is_over)
            while chunk := output.read():
                if output.truncated:
                    output.truncated = 0
                    click.echo(TRUNCATED, err=True)
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            if output.dropped:
                lost, output.dropped = output.dropped, 0
                click.echo(f"dispatcher: {lost} bytes were dropped to keep the budget", err=True)
            if over:
                ended = _look_up(store, task_id, run)
                if ended is not None and ended.output_tail and not output.exists():
                    print_end(ended, exists=False)
                return
            time.sleep(FILE_POLL)


def _is_over(store: Client, task_id: int, run: Run) -> bool:
    now = _look_up(store, task_id, run)
    return now is None or now.outcome is not None


def _look_up(store: Client, task_id: int, run: Run) -> Run | None:
    return next((one for one in store.runs(task_id) if one.id == run.id), None)


def _next_run(store: Client, task_id: int, fence: int = 0) -> Run | None:
    """Wait for the run after the one of this fence; None if the task ends without one."""
    while True:
        task = store.task(task_id, payload=False)
        later = [one for one in store.runs(task_id) if one.fence > fence]
        if later:
            return later[0]
        if is_done(task):
            return None
        time.sleep(POLL)


def _sampled(interval: float, read: Callable[[], bool]) -> Iterator[bool]:
    """Yield a value that is read at most once in an interval."""
    while True:
        value, until = read(), time.monotonic() + interval
        yield value
        while time.monotonic() < until:
            yield value
