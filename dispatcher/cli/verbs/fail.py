"""`dispatcher fail`: declare that a claimed task failed."""

import click

from dispatcher.cli.claims import claim_options, print_answer, report_to_daemon, usage_errors
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples, json_option, reason_option


@click.command(epilog=examples('dispatcher fail --task 42 --reason "no such branch" --no-retry'))
@claim_options
@reason_option()
@click.option("--no-retry", is_flag=True, help="Fail it for good, whatever attempts are left.")
@json_option
@config_option
def command(*, task_id: int, lock: str | None, reason: str, no_retry: bool, as_json: bool) -> int:
    """Declare that a claimed task failed; same exit codes as `heartbeat`."""
    retry = not no_retry
    if reported := report_to_daemon("fail", task_id, lock, reason=reason, retry=retry):
        return print_answer(task_id, reported[0], as_json=as_json)
    with open_client() as store, usage_errors():
        answer = store.fail(task_id, reason, lock=lock, retry=retry)
    return print_answer(task_id, answer, as_json=as_json)
