"""`dispatcher edit`: change tasks that do not run."""

import os
from collections.abc import Sequence
from typing import Any, cast

import click

from dispatcher.cli import lines, submitter
from dispatcher.cli.configuration import config_as_owner
from dispatcher.cli.contradictions import parsed
from dispatcher.cli.options import (
    config_option,
    examples,
    json_option,
    limit_options,
    start_options,
    urgent_option,
)
from dispatcher.cli.param_types import directory_names, offered
from dispatcher.cli.printing import print_json_list
from dispatcher.cli.progress import bar
from dispatcher.cli.selection import (
    FEW,
    Chosen,
    acting,
    choose,
    confirm,
    nothing_text,
    print_dry_run,
    selected,
)
from dispatcher.client import Client
from dispatcher.config import limits
from dispatcher.errors import DispatcherError, NoTask
from dispatcher.model import TaskState
from dispatcher.operations.editing import EDITABLE, Edited, TaskEdits, edit_each
from dispatcher.quantities.durations import Milliseconds
from dispatcher.selection import Selection
from dispatcher.submission import directory

#: States of tasks that a range or a filter takes unless it names others: those that wait.
_WAITING = frozenset({TaskState.WAITING, TaskState.SCHEDULED, TaskState.READY, TaskState.HELD})

#: Options that can be removed from a task, with their keys of `TaskEdits`.
_UNSET = {
    **{
        name.replace("_", "-"): f"{name}_ms"
        for name in (*limits.TIMEOUTS, "kill_grace", *limits.DELAYS)
    },
    **{name.replace("_", "-"): name for name in ("kill_signal", "kill_mode", *limits.BUDGETS)},
}

_COMMAND = "dispatcher.cli.edit.command"


class EditCommand(click.Command):
    """A command in which the task's new command follows `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the new command off the arguments."""
        if "--" in args:
            at = args.index("--")
            args, ctx.meta[_COMMAND] = args[:at], tuple(args[at + 1 :])
        if not ctx.resilient_parsing:
            parsed(ctx, args)
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the arguments for the line of usage."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


@click.command(
    cls=EditCommand,
    epilog=examples(
        "dispatcher edit 42 --priority 5 --run-timeout 2h",
        "dispatcher edit 42 --delay 0s   # as soon as there is a slot",
        "dispatcher edit 42 -- make -j4 test",
        "dispatcher edit 42 --env LEVEL=3 --unset-env DEBUG --unset run-timeout",
        "dispatcher edit --in-queue nightly --queue daily --dry-run",
    ),
)
@selected(
    EDITABLE,
    usual="; by default those that wait",
    queue=("--in-queue",),
    label=("--with-label",),
)
@click.option(
    "--queue",
    "-q",
    "to_queue",
    metavar="NAME",
    shell_complete=offered("queues"),
    help="Move it to this queue.",
)
@click.option("--priority", "-p", type=int, metavar="N", help="Higher runs first in its queue.")
@urgent_option
@click.option("--max-attempts", type=int, metavar="N", help="Attempts before the task fails.")
@start_options
@click.option("--cwd", metavar="DIR", shell_complete=directory_names, help="Working directory.")
@click.option(
    "--env",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="Set a variable; without a value, to your own. Repeatable.",
)
@click.option("--unset-env", multiple=True, metavar="NAME", help="Remove a variable. Repeatable.")
@click.option("--label", "-l", multiple=True, metavar="NAME=VALUE", help="Set a label. Repeatable.")
@click.option("--unset-label", multiple=True, metavar="NAME", help="Remove a label. Repeatable.")
@click.option(
    "--require",
    multiple=True,
    metavar="NAME=VALUE",
    help="Run it only on a node with this label. Repeatable.",
)
@click.option(
    "--unset-require", multiple=True, metavar="NAME", help="No longer require it. Repeatable."
)
@click.option("--name", "-n", metavar="TEXT", help="Set the label `name`.")
@limit_options
@click.option(
    "--unset",
    multiple=True,
    type=click.Choice(list(_UNSET)),
    metavar="OPTION",
    help=f"Remove this setting. Repeatable. {', '.join(_UNSET)}.",
)
@acting
@json_option
@config_option
def command(*, selection: Selection, dry_run: bool, yes: bool, as_json: bool, **given: Any) -> None:
    """Change tasks that do not run. COMMAND replaces the command of one task.

    A failed or cancelled task can be changed before its `retry`. A running one keeps what it began
    with: `hold` it first. A new total time-out counts from the submit, or from the last `retry`.
    """
    command: tuple[str, ...] | None = click.get_current_context().meta.get(_COMMAND)
    edits = _edits(command=command, **given)
    if not edits:
        raise click.UsageError("nothing to change; give an option like --priority 5, or a command")
    if command is not None and not (selection.is_of_ids and len(selection.ids) == 1):
        raise click.UsageError("a command is of one task: name one id before the --")
    if not as_json and "cwd" in edits:
        submitter.report_no_directory(edits["cwd"])
    with Client(config_as_owner(whole=command is not None)) as store:
        if selection.is_of_ids and not dry_run:
            chosen = Chosen(selection.ids)
        else:
            chosen = choose(store, selection, EDITABLE if selection.is_of_ids else _WAITING)
        if dry_run:
            print_dry_run(store, "edit", selection, chosen, as_json=as_json)
            return
        confirm("edit", chosen, yes=yes)
        answers = _edited(store, selection, chosen, edits)
        _report(answers, selection, as_json=as_json)
        if not chosen.ids:
            click.echo(f"dispatcher: {nothing_text(store, 'edit', chosen)}", err=True)


def _edits(
    *,
    command: tuple[str, ...] | None,
    to_queue: str | None,
    cwd: str | None,
    env: tuple[str, ...],
    unset_env: tuple[str, ...],
    label: tuple[str, ...],
    unset_label: tuple[str, ...],
    require: tuple[str, ...],
    unset_require: tuple[str, ...],
    name: str | None,
    unset: tuple[str, ...],
    **others: Any,
) -> TaskEdits:
    """Return the options as edits; the durations among `others` are in milliseconds."""
    edits = {
        f"{key}_ms" if isinstance(value, Milliseconds) else key: value
        for key, value in others.items()
    }
    edits |= {
        "command": command,
        "queue": to_queue,
        "cwd": None if cwd is None else directory(cwd),
        "env": {**dict.fromkeys(unset_env), **lines.variables(env, os.environ)} or None,
        "labels": {
            **dict.fromkeys(unset_label),
            **lines.named(name, lines.pairs("label", label)),
        }
        or None,
        "requires": {**dict.fromkeys(unset_require), **lines.pairs("require", require)} or None,
    }
    edits = {key: value for key, value in edits.items() if value is not None}
    return cast("TaskEdits", edits | dict.fromkeys(_UNSET[one] for one in unset))


def _edited(store: Client, selection: Selection, chosen: Chosen, edits: TaskEdits) -> list[Edited]:
    answers: list[Edited] = []
    wanted = None if selection.is_of_ids else chosen.wanted
    with bar("done", len(chosen.ids)) as progressed:
        for some in edit_each(store.store, store.config, chosen.ids, edits, wanted=wanted):
            answers += some
            progressed(len(answers))
    return answers


def _report(answers: Sequence[Edited], selection: Selection, *, as_json: bool) -> None:
    """Print which tasks were edited. Raises `DispatcherError` for those that stay."""
    done = [one for one in answers if one.done]
    refused = [_refusal(one) for one in answers if not one.done]
    if as_json:
        print_json_list({"id": one.task_id, "was": one.was, "done": one.done} for one in answers)
    elif selection.is_of_ids or len(done) <= FEW:
        for one in done:
            click.echo(f"{one.task_id} edited")
    else:
        click.echo(f"edited: {len(done)} tasks")
    if refused:
        stay = f"{len(refused)} tasks stay as they are, for example {refused[0]}"
        raise DispatcherError("\n".join(refused) if selection.is_of_ids else stay)


def _refusal(one: Edited) -> str:
    if one.refused is not None:
        return f"task {one.task_id}: {one.refused}"
    if one.was is None:
        return str(NoTask(one.task_id))
    if one.was is TaskState.RUNNING:
        remedy = f"`dispatcher hold {one.task_id}` ends its run first"
        return f"task {one.task_id} is running, and keeps what it began with; {remedy}"
    return f"task {one.task_id} has succeeded; submit another one"
