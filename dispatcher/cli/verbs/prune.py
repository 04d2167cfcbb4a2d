"""`dispatcher prune`: delete tasks that finished long ago."""

import click
from msgspec.structs import replace

from dispatcher.cli.configuration import config_as_owner
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.printing import print_json
from dispatcher.cli.progress import bar
from dispatcher.cli.selection import (
    Chosen,
    acting,
    choose,
    confirm,
    counted,
    print_dry_run,
    selected,
)
from dispatcher.client import Client
from dispatcher.config.config import Config
from dispatcher.errors import DispatcherError, NoTask
from dispatcher.model import FINISHED, Pruned, TaskFilter, TaskState
from dispatcher.operations.tasks import prune, prune_each
from dispatcher.quantities.durations import Milliseconds
from dispatcher.selection import Selection
from dispatcher.times import StoreTime


@click.command(
    epilog=examples(
        "dispatcher prune",
        "dispatcher prune --older-than 12h --dry-run",
        "dispatcher prune --older-than 1h --state succeeded",
        "dispatcher prune 42 50-60",
    )
)
@selected(
    FINISHED,
    older_than="Finished at least this long ago [default: output.retention, 30d; of ids and "
    "ranges 0s].",
    required=False,
)
@acting
@json_option
@config_option
def command(*, selection: Selection, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete tasks that finished long ago, with their runs and output files.

    Name them by id, by range (12-40), or by filters, all of which must match. An age below 1s
    matches everything that has finished, and requires another filter.
    """
    config = config_as_owner()
    age = _age(config, selection)
    others = replace(selection, older_than_ms=None)
    states = others.wanted.states
    with Client(config) as store:
        if age is not None and others == Selection(wanted=TaskFilter(states=states)):
            found = _prune_states(store, age, states, dry_run=dry_run, yes=yes, as_json=as_json)
        else:
            found = _prune_chosen(store, age, selection, dry_run=dry_run, yes=yes, as_json=as_json)
    if not found and age is not None and selection.older_than_ms is None:
        none = f"none finished more than {Milliseconds(age)} ago"
        click.echo(f"dispatcher: {none}; --older-than takes younger ones", err=True)


def _age(config: Config, selection: Selection) -> int | None:
    """Return how long ago tasks must have finished, in milliseconds; None: at any time."""
    if selection.older_than_ms is not None:
        return selection.older_than_ms
    if selection.ids or selection.ranges:
        return None
    if config.output.retention_ms is None:
        raise click.UsageError('[output] retention is "never": give an age, e.g. --older-than 30d')
    return config.output.retention_ms


def _moment(store: Client) -> StoreTime:
    """Return a time before which no task finishes any more: all earlier transactions are over.

    So what is deleted was counted, and confirmed. On a shared store a task that finishes in a
    transaction that is not over may be deleted without that.
    """
    with store.store.transaction() as now:
        return now


def _prune_states(
    store: Client,
    age: int,
    states: frozenset[TaskState] | None,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Delete all tasks of some states, which an index finds; return how many there are."""
    states = states or FINISHED
    before = StoreTime(_moment(store) - age)
    with store.store.snapshot():
        many = store.store.prunable(before=before, states=states)
    if not dry_run:
        confirm("delete", Chosen(range(many)), yes=yes)
        with bar("deleted", many) as progressed:
            pruned = prune(
                store.store, store.config, before=before, states=states, report=progressed
            )
        _print_pruned(pruned, as_json=as_json)
    elif as_json:
        print_json({"dry_run": True, "tasks": many})
    else:
        click.echo(f"would delete: {counted(many, 'task')}, with their runs and output files")
    return many


def _prune_chosen(
    store: Client, age: int | None, selection: Selection, *, dry_run: bool, yes: bool, as_json: bool
) -> int:
    """Delete the tasks that a selection finds; return how many they are.

    Raises `DispatcherError` for tasks named by their ids alone that stay.
    """
    moment = _moment(store)
    before = StoreTime(moment + 1 if age is None else moment - age)
    wanted = replace(selection.wanted, finished_before=before)
    chosen = choose(store, replace(selection, wanted=wanted, older_than_ms=None), FINISHED)
    if dry_run:
        print_dry_run(store, "delete", selection, chosen, as_json=as_json)
        return len(chosen.ids)
    confirm("delete", chosen, yes=yes)
    with bar("deleted", len(chosen.ids)) as progressed:
        pruned = prune_each(store.store, store.config, chosen.ids, chosen.wanted, report=progressed)
    _print_pruned(pruned, as_json=as_json)
    if selection.is_of_ids and (stay := set(selection.ids) - set(chosen.ids)):
        raise DispatcherError("\n".join(_why_not(store, one) for one in sorted(stay)))
    return len(chosen.ids)


def _print_pruned(pruned: Pruned, *, as_json: bool) -> None:
    if as_json:
        print_json({"tasks": pruned.tasks, "output_files": len(pruned.output_paths)})
    else:
        files = counted(len(pruned.output_paths), "output file")
        click.echo(f"deleted: {counted(pruned.tasks, 'task')}, {files}")


def _why_not(store: Client, task_id: int) -> str:
    task = store.task(task_id, payload=False)
    if task is None:
        return str(NoTask(task_id))
    return f"task {task_id} is {task.state}; only finished tasks can be deleted"
