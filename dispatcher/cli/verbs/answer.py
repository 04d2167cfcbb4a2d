"""`dispatcher answer`: answer a held task's question, and release the task."""

import sys

import click

from dispatcher.cli import effects, render
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.param_types import TEXT, TaskId
from dispatcher.cli.printing import print_json
from dispatcher.errors import DispatcherError
from dispatcher.model import TaskState
from dispatcher.worker_api import MAX_ANSWER


@click.command(
    epilog=examples(
        'dispatcher answer 42 "use the staging database"', "dispatcher answer 42 - < answer.txt"
    )
)
@click.argument("task_id", type=TaskId({TaskState.HELD}), metavar="ID")
@click.argument("text", type=TEXT, metavar="TEXT|-")
@json_option
@config_option
def command(*, task_id: int, text: str, as_json: bool) -> None:
    """Answer a held task, and release it: its next run finds question and answer.

    It needs no daemon. `dispatcher inbox` lists what waits for an answer.
    """
    if text == "-":
        text = _from_stdin()
    with open_client() as store:
        done = store.answer(task_id, text)
        if (refused := effects.refusal(done)) is not None:
            raise DispatcherError(f"the answer is kept, but {refused}")
        if as_json:
            print_json(effects.as_json(done, None, done=True))
            return
        click.echo(f"{task_id} answered, {render.plain(effects.text(done, None))}")
        for line in effects.missing_daemon(store.standing(), [done]):
            click.echo(f"dispatcher: {render.plain(line)}", err=True)


def _from_stdin() -> str:
    given = sys.stdin.buffer.read(MAX_ANSWER + 1)
    try:
        return given.decode()
    except UnicodeDecodeError as error:
        if len(given) > MAX_ANSWER and error.reason == "unexpected end of data":
            return given.decode(errors="replace")  # it is too long in any case
        raise click.UsageError("the answer is not UTF-8; encode it so") from None
