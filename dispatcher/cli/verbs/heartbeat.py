"""`dispatcher heartbeat`: renew a claim's lease."""

import os

import click

from dispatcher.cli.claims import (
    claim_options,
    json_of,
    print_answer,
    report_to_daemon,
    usage_errors,
    warn_of_end,
)
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.words import Renewed


@click.command(
    epilog=examples(
        "dispatcher heartbeat --task 42 --lock-file lock.txt --progress 0.5 --note 'half of it'",
        'dispatcher heartbeat            # after: out=$(dispatcher claim --export) && eval "$out"',
    )
)
@claim_options
@click.option(
    "--progress", type=click.FloatRange(0, 1), metavar="0..1", help="Share of the work done."
)
@click.option("--note", metavar="TEXT", help="What it is doing.")
@click.option("--checkpoint", metavar="JSON", help="What the next run of the task finds.")
@json_option
@config_option
def command(
    *,
    task_id: int,
    lock: str | None,
    progress: float | None,
    note: str | None,
    checkpoint: str | None,
    as_json: bool,
) -> int:
    """Renew a claim's lease, and print its new expiry.

    Exit codes: 0 renewed; 69 the store did not answer, 74 the renewal may or may not be written:
    try again; 79 the claim is no longer yours: stop working on it.
    """
    left = json_of("--checkpoint", checkpoint)
    reported = report_to_daemon(
        "heartbeat", task_id, lock, progress=progress, note=note, checkpoint=left
    )
    if reported is not None:
        answer, calendar = reported
        lease_ttl_ms = _lease_of_this_run(task_id)
    else:
        with open_client() as store:
            calendar = store.calendar()
            with usage_errors():
                answer = store.heartbeat(
                    task_id, lock=lock, progress=progress, note=note, checkpoint=left
                )
            task = store.task(task_id, payload=False)
            lease_ttl_ms = 0 if task is None else task.lease_ttl_ms
    if isinstance(answer, Renewed):
        warn_of_end(answer.lease_expires_at, lease_ttl_ms, calendar)
    return print_answer(task_id, answer, calendar, as_json=as_json)


def _lease_of_this_run(task_id: int) -> int:
    """Return the lease in milliseconds from this run's environment; 0 for another task."""
    own = os.environ.get("DISPATCHER_TASK_ID") == str(task_id)
    return round(float(os.environ["DISPATCHER_LEASE_TTL"]) * 1000) if own else 0
