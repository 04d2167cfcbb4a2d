"""The tasks that a verb acts on: ids, ranges and filters; the question before it changes many."""

import os
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import wraps
from pathlib import Path
from typing import Any, TextIO

import click
from msgspec import Struct, field
from msgspec.structs import replace

from dispatcher.cli import render
from dispatcher.cli.filters import filter_options
from dispatcher.cli.param_types import DURATION, TaskIds
from dispatcher.cli.printing import print_json
from dispatcher.client import Client
from dispatcher.config.section import LEAST_RETENTION
from dispatcher.errors import DispatcherError, did_you_mean
from dispatcher.model import TaskFilter, TaskState
from dispatcher.selection import ENDS, Match, Selection
from dispatcher.store.search import each_match

#: So many tasks are changed without a question, and named one by one.
FEW = 20


def selected(
    states: Collection[TaskState],
    *,
    usual: str = "",
    offers: Collection[TaskState] | None = None,
    older_than: str = "Submitted at least this long ago.",
    required: bool = True,
    queue: tuple[str, ...] = ("--queue", "-q"),
    label: tuple[str, ...] = ("--label", "-l"),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what adds ids, ranges and filters to a verb, which receives one `selection`.

    A shell offers ids of tasks in the states `offers` [default: `states`]. For the others see
    `filter_options`.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_selection(
            *, tasks: Sequence[int | range], wanted: TaskFilter, age_ms: int | None, **given: Any
        ) -> Any:
            ids = tuple(dict.fromkeys(one for one in tasks if isinstance(one, int)))
            ranges = tuple(one for one in tasks if isinstance(one, range))
            selection = Selection(ids=ids, ranges=ranges, wanted=wanted, older_than_ms=age_ms)
            if required and selection == Selection():
                raise click.UsageError(_MISSING.format(queue[0]))
            if not given.get("dry_run", True):
                _refuse_everything(selection)
            return command(selection=selection, **given)

        age = click.option(
            "--older-than", "age_ms", type=DURATION, metavar="DURATION", help=older_than
        )
        filters = filter_options(states, usual=usual, queue=queue, label=label)
        ids = TaskIds(offers or states)
        argument = click.argument("tasks", metavar="ID...", type=ids, nargs=-1)
        return argument(filters(age(with_selection)))

    return decorate


_MISSING = "Missing argument 'ID...': name tasks by ids, ranges (12-40) or filters, e.g. {} NAME"


def _refuse_everything(selection: Selection) -> None:
    """Refuse an age that everything has, with nothing more."""
    age = selection.older_than_ms
    if age is None or age >= LEAST_RETENTION or selection != Selection(older_than_ms=age):
        return
    raise click.UsageError(
        f"--older-than {age} alone means everything; name a state or a queue too, or try: --dry-run"
    )


def acting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a verb that may change many tasks: `dry_run` and `yes`."""
    command = click.option(
        "--yes", is_flag=True, help=f"On a terminal, change more than {FEW} without a question."
    )(command)
    return click.option(
        "--dry-run", is_flag=True, help="Change nothing; print which tasks it would be."
    )(command)


class Chosen(Struct, frozen=True):
    """The tasks that a selection finds."""

    ids: Sequence[int]
    states: Mapping[TaskState, int] = field(default_factory=dict)
    """How many are in each state, as far as that is known."""
    wanted: TaskFilter = field(default_factory=TaskFilter)
    """What they matched."""

    def text(self, does: str) -> str:
        """Return their number, that of each state, and of the runs that a verb ends.

        "3 tasks (1 ready, 2 running), and end 2 runs".
        """
        known = [f"{self.states[state]} {state}" for state in TaskState if state in self.states]
        text = counted(len(self.ids), "task") + (f" ({', '.join(known)})" if known else "")
        runs = self.states.get(TaskState.RUNNING, 0) if does in ENDS else 0
        return text + (f", and end {counted(runs, 'run')}" if runs else "")


def choose(
    store: Client,
    selection: Selection,
    usual: Collection[TaskState],
    *,
    can: Callable[[Match], bool] = bool,
) -> Chosen:
    """Return the tasks that a selection finds, of `usual` states unless it names others."""
    with store.store.snapshot() as now:
        wanted = selection.filter(usual, now=now)
    ids, states = array("q"), Counter[TaskState]()
    for one in each_match(store.store, selection.parts(wanted)):
        if can(one):
            ids.append(one.id)
            states[one.state] += 1
    return Chosen(ids, states, wanted)


def confirm(does: str, chosen: Chosen, *, yes: bool) -> TaskFilter:
    """Require the count of more than a few tasks from the user of a terminal.

    Return what a task must still match: after a question, one of the states that were counted.
    Raises `DispatcherError` for another answer.
    """
    if yes or len(chosen.ids) <= FEW or not sys.stdin.isatty():
        return chosen.wanted
    many = len(chosen.ids)
    with _shown_where_typed() as shown:
        question = f"{does} {chosen.text(does)}? Type {many} to go on: "
        click.echo(question, file=shown, nl=False)
    if sys.stdin.readline().strip() != str(many):
        raise DispatcherError("nothing was changed; --yes goes on without the question")
    return replace(chosen.wanted, states=frozenset(chosen.states))


def _shown_where_typed() -> AbstractContextManager[TextIO]:
    """Open stderr, or the terminal of stdin where stderr goes elsewhere."""
    if not sys.stderr.isatty():
        with suppress(OSError):
            return Path(os.ttyname(sys.stdin.fileno())).open("w")
    return nullcontext(sys.stderr)


def print_dry_run(
    store: Client, does: str, selection: Selection, chosen: Chosen, *, as_json: bool
) -> None:
    """Print which tasks a verb would change; of many the first ones."""
    if as_json:
        states = {state.value: chosen.states[state] for state in chosen.states}
        print_json({"dry_run": True, "tasks": len(chosen.ids), "states": states})
        return
    from dispatcher.cli.glance import command_cell  # noqa: PLC0415 - only for people
    from dispatcher.cli.tables import print_table  # noqa: PLC0415 - only for people

    click.echo(f"would {does}: {chosen.text(does)}")
    found = [
        task for one in chosen.ids[:FEW] if (task := store.task(one, payload=False)) is not None
    ]
    if found:
        rows = [
            (one.id, one.state, one.queue, command_cell(one, render.command_text(one.command)))
            for one in found
        ]
        headings = ("ID", "STATE", "QUEUE", "COMMAND")
        print_table(headings, rows, spare=("QUEUE",), alike=("STATE",))
    if len(chosen.ids) > FEW:
        click.echo(f"… and {len(chosen.ids) - FEW} more")
    if stay := sorted(set(selection.ids).difference(chosen.ids)):
        one = len(stay) == 1
        which = f"{'task' if one else 'tasks'} {', '.join(map(str, stay))}"
        stays = f"{which} would stay as {'it is' if one else 'they are'}"
        click.echo(f"dispatcher: {stays}", err=True)


def nothing_text(
    store: Client, does: str, chosen: Chosen, others: Collection[TaskState] = ()
) -> str:
    """Return that a selection finds no task; `others` are states that --state can name."""
    wanted = chosen.wanted
    if wanted.queue is not None and wanted.queue not in (known := store.queues()):
        more = f"; no queue {wanted.queue!r}{did_you_mean(wanted.queue, known)}"
    else:
        more = f"; --state takes others: {_names(others)}" if others else ""
    return f"nothing to {does}: no task that matches is {_names(wanted.states or (), ' or ')}{more}"


def _names(states: Collection[TaskState], between: str = ", ") -> str:
    return between.join(state for state in TaskState if state in states)


def counted(count: int, what: str) -> str:
    """Return a number with its noun: "1 task", "2 tasks"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
