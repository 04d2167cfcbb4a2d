"""`dispatcher inbox`: what waits for people."""

from typing import Any

import click

from dispatcher.calendar import Calendar
from dispatcher.cli import render
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples, json_option, queue_option
from dispatcher.cli.param_types import COUNT
from dispatcher.cli.printing import print_json
from dispatcher.operations.answers import Waiting, question_of

#: Tasks that are listed unless a limit is given.
LIMIT = 50


@click.command(epilog=examples("dispatcher inbox", "dispatcher inbox --json | jq '.[].question'"))
@queue_option
@click.option("--limit", type=COUNT, default=LIMIT, show_default=True, metavar="N", help="Maximum.")
@json_option
@config_option
def command(*, queue: str | None, limit: int, as_json: bool) -> None:
    """List the held tasks, those with a question first: they wait for a person.

    `answer` answers and releases one, `release` lets it go on without an answer, `retry` with all
    its attempts, `cancel` gives it up.
    """
    with open_client() as store:
        calendar = store.calendar()
        found = store.inbox(queue=queue, limit=limit)
    if as_json:
        print_json([_as_json(one, calendar) for one in found])
        return
    if not found:
        click.echo("dispatcher: nothing waits for you", err=True)
        return
    from dispatcher.cli.tables import print_table  # noqa: PLC0415 - only for people

    print_table(
        ("ID", "KIND", "QUEUE", "ASKED", "QUESTION", "COMMAND"),
        (_row(one, calendar) for one in found),
        spare=("QUEUE",),
    )


def _row(one: Waiting, calendar: Calendar) -> tuple[object, ...]:
    task, left = one.task, one.handover
    asked_at = left.asked_at if left is not None and question_of(one) else None
    return (
        task.id,
        (left and left.kind) or "held",
        task.queue,
        render.ago(asked_at, calendar.now),
        render.short(question_of(one) or task.reason),
        render.short(render.command_text(task.command), 60),
    )


def _as_json(one: Waiting, calendar: Calendar) -> dict[str, Any]:
    task, left = one.task, one.handover
    return {
        "id": task.id,
        "queue": task.queue,
        "reason": task.reason,
        "command": task.command,
        "kind": left and left.kind,
        "question": left and left.question,
        "asked_at": left and render.moment(left.asked_at, calendar),
        "answer": left and left.answer,
    }
