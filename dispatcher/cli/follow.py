"""`dispatcher logs -f` and `submit --wait`: looking at tasks until they are done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence

import click

from dispatcher.cli.output import Output, print_end
from dispatcher.client import Client
from dispatcher.model import FINISHED, Run, TaskState

#: Seconds between two looks at a file, and at the store.
FILE_POLL = 0.1
STORE_POLL = 0.5

#: Tasks asked after in one look.
_BATCH = 500

#: Where nothing happens before somebody acts.
_AT_REST = FINISHED | {TaskState.HELD}


def follow(store: Client, task_id: int, first: Run) -> None:
    """Print a run's output as it grows, and that of every later run, until the task rests."""
    run: Run | None = first
    while run is not None:
        _print(store, task_id, run)
        run = _next_run(store, task_id, run)
        if run is not None:
            click.echo(f"dispatcher: run {run.id}, attempt {run.attempt}:", err=True)


def wait_for(store: Client, task_ids: Sequence[int], tell: Callable[[int], None]) -> bool:
    """Wait until all tasks rest; tell how many do; say whether all of them succeeded."""
    waiting, good = list(dict.fromkeys(task_ids)), True
    while waiting:
        asked, rest = waiting[:_BATCH], waiting[_BATCH:]
        open_ = []
        for task_id in asked:
            task = store.task(task_id)
            if task is not None and task.state not in _AT_REST:
                open_.append(task_id)
            else:
                good &= task is not None and task.state is TaskState.SUCCEEDED
        moved = len(open_) < len(asked)
        waiting = rest + open_ if moved else open_ + rest
        tell(len(task_ids) - len(waiting))
        if waiting and not moved:
            time.sleep(STORE_POLL)
    return good


def _print(store: Client, task_id: int, run: Run) -> None:
    with Output(run.output_path) as output:
        is_over = _each(STORE_POLL, lambda: _is_over(store, task_id, run))
        while True:
            over = next(is_over)
            while chunk := output.read():
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            if output.dropped:
                lost, output.dropped = output.dropped, 0
                click.echo(f"dispatcher: {lost} bytes were dropped to keep the budget", err=True)
            if over:
                ended = _look_up(store, task_id, run)
                if ended is not None and ended.output_tail and not output.exists():
                    print_end(ended)
                return
            time.sleep(FILE_POLL)


def _is_over(store: Client, task_id: int, run: Run) -> bool:
    now = _look_up(store, task_id, run)
    return now is None or now.outcome is not None


def _look_up(store: Client, task_id: int, run: Run) -> Run | None:
    return next((one for one in store.runs(task_id) if one.id == run.id), None)


def _next_run(store: Client, task_id: int, run: Run) -> Run | None:
    """Wait for the run after this one; None when the task rests without one."""
    while True:
        task = store.task(task_id)
        later = [one for one in store.runs(task_id) if one.fence > run.fence]
        if later:
            return later[0]
        if task is None or task.state in _AT_REST:
            return None
        time.sleep(STORE_POLL)


def _each(interval: float, ask: Callable[[], bool]) -> Iterator[bool]:
    """Yield the answer to a question that is asked at most once in an interval."""
    while True:
        answer, until = ask(), time.monotonic() + interval
        yield answer
        while time.monotonic() < until:
            yield answer
