"""What `cancel`, `hold`, `release` and `retry` share: the request, and what becomes of tasks."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import click
from msgspec.structs import replace

from dispatcher.cli import effects, render
from dispatcher.cli.opening import open_client
from dispatcher.cli.printing import print_json_list
from dispatcher.cli.progress import bar
from dispatcher.cli.selection import (
    FEW,
    Chosen,
    choose,
    confirm,
    counted,
    nothing_text,
    print_dry_run,
)
from dispatcher.client import Client
from dispatcher.errors import DispatcherError
from dispatcher.model import Intent, Outcome, Task, TaskFilter, TaskState
from dispatcher.operations.intents import request_each
from dispatcher.outlook import IntentResult
from dispatcher.selection import CHANGES, Match, Selection

#: The states of tasks that a verb takes by range or filter, if not all that it changes.
USUAL = {
    **CHANGES,
    Intent.RELEASE: CHANGES[Intent.RELEASE] - {TaskState.WAITING},
    Intent.RETRY: frozenset({TaskState.FAILED}),
}


def request(
    selection: Selection,
    intent: Intent,
    reason: str | None = None,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Request it for each task, and print what becomes of them.

    Raises `DispatcherError` for tasks named by their ids alone that stay as they were.
    """
    with open_client() as store:
        if selection.is_of_ids and not dry_run:
            if len(selection.ids) > FEW and not yes:
                states = choose(store, selection, CHANGES[intent]).states
                confirm(intent, Chosen(selection.ids, states), yes=yes)
            answers = _requested(store, selection.ids, intent, reason)
            _report(store, answers, _refusals(answers), as_json=as_json)
            return
        changes, usual = CHANGES[intent], USUAL[intent]
        if selection.is_of_ids:
            changes |= {TaskState.HELD} if intent is Intent.HOLD and reason else set()
            usual = changes | {TaskState.RUNNING}
        chosen = choose(store, selection, usual, can=lambda one: _can(store, intent, one, changes))
        if dry_run:
            print_dry_run(store, intent, selection, chosen, as_json=as_json)
            return
        wanted = confirm(intent, chosen, yes=yes)
        answers = _requested(store, chosen.ids, intent, reason, wanted)
        refused = _refusals(answers)
        done = [one for one in answers if one.task_id not in refused]
        _report(store, done, {}, as_json=as_json, one_by_one=len(done) <= FEW)
        if not chosen.ids:
            others = () if selection.wanted.states else CHANGES[intent] - usual
            click.echo(f"dispatcher: {nothing_text(store, intent, chosen, others)}", err=True)
        elif stay := len(chosen.ids) - len(done):
            why = "changed meanwhile, or with a run that ends otherwise"
            click.echo(f"dispatcher: left alone: {counted(stay, 'task')}, {why}", err=True)


def _can(store: Client, intent: Intent, one: Match, changes: Collection[TaskState]) -> bool:
    """Return whether the verb changes a task, as far as that is known before."""
    if one.state is not TaskState.RUNNING:
        return one.state in changes
    ahead = store.outlook(one.id)
    if ahead is None:
        return intent in {Intent.CANCEL, Intent.HOLD}
    if intent is Intent.RELEASE:
        return ahead.state is TaskState.HELD and ahead.not_released is None
    return ahead.outcome is not Outcome.SUCCEEDED


def _requested(
    store: Client,
    task_ids: Sequence[int],
    intent: Intent,
    reason: str | None,
    wanted: TaskFilter | None = None,
) -> list[IntentResult]:
    """Write the intent for each task; return what becomes of them, and little more of many."""
    answers: list[IntentResult] = []
    kept: dict[tuple[TaskState, str], Task] = {}
    with bar("done", len(task_ids)) as progressed:
        for some in request_each(
            store.store, store.config, task_ids, intent, reason, wanted=wanted
        ):
            answers += (_lightened(one, kept) for one in some)
            progressed(len(answers))
    return answers


def _lightened(one: IntentResult, kept: dict[tuple[TaskState, str], Task]) -> IntentResult:
    """Return an answer whose task stands for all of its state and queue, unless it runs."""
    if one.task is None or one.task.state is TaskState.RUNNING:
        return one
    return replace(one, task=kept.setdefault((one.task.state, one.task.queue), one.task))


def _refusals(answers: Iterable[IntentResult]) -> dict[int, str]:
    """Return why tasks stay as they were, by their ids."""
    return {one.task_id: why for one in answers if (why := effects.refusal(one)) is not None}


def _report(
    store: Client,
    answers: Sequence[IntentResult],
    refused: Mapping[int, str],
    *,
    as_json: bool,
    one_by_one: bool = True,
) -> None:
    done = [one for one in answers if one.task_id not in refused]
    standing = store.standing() if any(map(effects.is_unfinished, done)) else None
    stranded = effects.stranded_of(standing, done)
    if as_json:
        print_json_list(
            effects.as_json(one, stranded.get(one.task_id), done=one.task_id not in refused)
            for one in answers
        )
    elif one_by_one:
        for one in done:
            text = effects.text(one, stranded.get(one.task_id))
            click.echo(f"{one.task_id} {render.plain(text)}")
    else:
        many = Counter(effects.of_many(one, stranded.get(one.task_id)) for one in done)
        for text, tasks in many.items():
            click.echo(f"{text}: {counted(tasks, 'task')}")
    for line in effects.missing_daemon(standing, done) if standing else ():
        click.echo(f"dispatcher: {render.plain(line)}", err=True)
    if refused:
        raise DispatcherError("\n".join(refused.values()))
