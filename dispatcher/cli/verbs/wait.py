"""`dispatcher wait`: wait until tasks are done."""

from collections.abc import Mapping, Sequence

import click

from dispatcher.cli import waiting
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.param_types import DURATION
from dispatcher.cli.printing import print_json_list
from dispatcher.cli.selection import choose, nothing_text, selected
from dispatcher.client import Client
from dispatcher.errors import DispatcherError, NoTask
from dispatcher.exit_codes import ExitCode
from dispatcher.model import FINISHED, TaskState
from dispatcher.operations.waiting import missing
from dispatcher.quantities.durations import Milliseconds
from dispatcher.selection import Selection

_ALL = frozenset(TaskState)
_UNFINISHED = _ALL - FINISHED


@click.command(
    epilog=examples(
        "dispatcher wait 42 && echo it is done",
        "dispatcher wait --label batch=7 --timeout 8h",
        "dispatcher wait --queue nightly",
        "dispatcher wait --any 42 43 44",
        "dispatcher wait 42 43 --json",
    )
)
@selected(_ALL, usual="; by default those that are not finished, with --label all")
@click.option("--any", "any_one", is_flag=True, help="Wait until one of them is done.")
@click.option(
    "--timeout", type=DURATION, metavar="DURATION", help="Wait no longer than this: exit code 75."
)
@json_option
@config_option
def command(
    *, selection: Selection, any_one: bool, timeout: Milliseconds | None, as_json: bool
) -> int:
    """Wait until tasks are done: finished, or held for a person.

    Exit code 0 if all that are done have succeeded, 1 if not, 75 if the time is over first.

    Tasks that come later are not waited for. With --label the finished tasks count too: a label
    names a batch, and one of its tasks may have failed before.
    """
    with open_client() as store:
        task_ids = _meant(store, selection)
        done = waiting.wait_for(store, task_ids, any_one=any_one, timeout_ms=timeout)
        _print(store, done, as_json=as_json)
        late = [] if any_one and done else waiting.remaining(task_ids, done)
        if late and timeout is not None:
            click.echo(f"dispatcher: {waiting.late_text(late, timeout)}", err=True)
            return ExitCode.TEMPORARY
    succeeded = all(state is TaskState.SUCCEEDED for state in done.values())
    return ExitCode.OK if succeeded else ExitCode.REFUSED


def _meant(store: Client, selection: Selection) -> Sequence[int]:
    """Return the ids of the tasks to wait for.

    Raises `DispatcherError` for an unknown id, and if nothing matches where something must.
    """
    if selection.is_of_ids:
        if (unknown := missing(store.store, selection.ids)) is not None:
            raise NoTask(unknown)
        return selection.ids
    is_whole = bool(selection.ids or selection.ranges or selection.wanted.label)
    chosen = choose(store, selection, _ALL if is_whole else _UNFINISHED)
    if not chosen.ids:
        queue = selection.wanted.queue
        if is_whole or (queue is not None and queue not in store.queues()):
            raise DispatcherError(nothing_text(store, "wait for", chosen))
        click.echo(f"dispatcher: {nothing_text(store, 'wait for', chosen)}", err=True)
    return chosen.ids


def _print(store: Client, done: Mapping[int, TaskState | None], *, as_json: bool) -> None:
    """Print the tasks that are done, in the order of their ids."""
    by_id = sorted(done.items())
    if as_json:
        outcomes = ((one, waiting.outcome_json(store, one, state)) for one, state in by_id)
        print_json_list({"id": one, **outcome} for one, outcome in outcomes)
        return
    for task_id, state in by_id:
        click.echo(f"{task_id} {state or 'deleted'}")
