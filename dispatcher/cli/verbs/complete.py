"""`dispatcher complete`: declare that a claimed task succeeded."""

import click

from dispatcher.cli.claims import (
    claim_options,
    json_of,
    print_answer,
    report_to_daemon,
    usage_errors,
)
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples, json_option


@click.command(epilog=examples("""dispatcher complete --task 42 --result '{"rows": 3}'"""))
@claim_options
@click.option("--result", metavar="JSON", help="The result to keep, for `show`.")
@json_option
@config_option
def command(*, task_id: int, lock: str | None, result: str | None, as_json: bool) -> int:
    """Declare that a claimed task succeeded; same exit codes as `heartbeat`."""
    raw = json_of("--result", result)
    if reported := report_to_daemon("succeed", task_id, lock, result=raw):
        return print_answer(task_id, reported[0], as_json=as_json)
    with open_client() as store, usage_errors():
        answer = store.complete(task_id, lock=lock, result=raw)
    return print_answer(task_id, answer, as_json=as_json)
