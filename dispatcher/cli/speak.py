"""`dispatcher heartbeat`, `complete` and `fail`, for whoever has the lock of a claim.

Inside a task the daemon that runs it is asked over its socket, whatever the configuration is now;
otherwise, and when no daemon answers, the store is written to directly.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from dispatcher import control, worker_api
from dispatcher.calendar import Calendar
from dispatcher.cli.options import (
    ID,
    client,
    config_option,
    examples,
    json_option,
    print_json,
    reason_option,
    variables_that_hold,
)
from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.config.config import SOCKET
from dispatcher.errors import CommitUnknown, NoLock
from dispatcher.exit_codes import ExitCode
from dispatcher.host import files
from dispatcher.times import StoreTime, wall_clock
from dispatcher.words import REMEDIES, Accepted, Refused, Renewed, understood, worded
from dispatcher.worker_api import WorkerError

LOCK = "DISPATCHER_CLAIM_LOCK"

task_option = click.option(
    "--task",
    "task_id",
    type=ID,
    required=True,
    envvar="DISPATCHER_TASK_ID",
    show_envvar=True,
    metavar="ID",
    help="The claimed task.",
)


def _read_lock(_: click.Context, __: click.Parameter, path: str | None) -> str | None:
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:  # a pipe may be meant: who names it waits for it
            return file.read(files.MOST_OF_ID).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text"
        remedy = "name the file that `claim --lock-file` wrote"
        raise NoLock(f"no lock: cannot read {path}: {why}; {remedy}") from error


def lock_options(function: Any) -> Any:
    """Add the ways to give a claim's lock."""
    for option in (
        click.option(
            "--lock-file", "locked", metavar="PATH", callback=_read_lock, help="A file that has it."
        ),
        click.option("--lock", metavar="TEXT", help=f"The claim's lock [default: ${LOCK}]."),
    ):
        function = option(function)
    return function


@click.command(
    epilog=examples(
        "dispatcher heartbeat --task 42 --lock-file lock.txt --progress 0.5 --note 'half of it'",
        'dispatcher heartbeat            # after: eval "$(dispatcher claim --export)"',
    )
)
@task_option
@lock_options
@click.option("--progress", type=click.FloatRange(0, 1), metavar="0..1", help="How far it is.")
@click.option("--note", metavar="TEXT", help="What it is doing.")
@json_option
@config_option
def heartbeat(
    *,
    task_id: int,
    lock: str | None,
    locked: str | None,
    progress: float | None,
    note: str | None,
    as_json: bool,
) -> int:
    """Renew a claim's lease, and print until when.

    Exit codes: 0 renewed, 69 the store did not answer and 74 nobody knows whether it took it: try
    again, 79 the claim is no longer yours: stop working on it.
    """
    lock = _lock(lock, locked)
    heard = said(_over_socket, "heartbeat", task_id, lock, progress=progress, note=note)
    if heard is not None:
        answer, calendar = heard
        lease_ttl_ms = _lease_of_this_run(task_id)
    else:
        with client() as store:
            calendar = store.calendar()
            answer = said(store.heartbeat, task_id, lock=lock, progress=progress, note=note)
            task = store.task(task_id)
            lease_ttl_ms = 0 if task is None else task.lease_ttl_ms
    if isinstance(answer, Renewed):
        warn_of_end(answer.lease_expires_at, lease_ttl_ms, calendar)
    return _tell(task_id, answer, calendar, as_json=as_json)


@click.command(epilog=examples("""dispatcher complete --task 42 --result '{"rows": 3}'"""))
@task_option
@lock_options
@click.option("--result", metavar="JSON", help="What to keep of it, for `show`.")
@json_option
@config_option
def complete(
    *, task_id: int, lock: str | None, locked: str | None, result: str | None, as_json: bool
) -> int:
    """Say that a claimed task is done; exit codes as of `heartbeat`."""
    raw = None if result is None else _json(result)
    lock = _lock(lock, locked)
    if heard := said(_over_socket, "succeed", task_id, lock, result=raw):
        return _tell(task_id, heard[0], as_json=as_json)
    with client() as store:
        answer = said(store.complete, task_id, lock=lock, result=raw)
    return _tell(task_id, answer, as_json=as_json)


@click.command(
    epilog=examples('dispatcher fail --task 42 --reason "no such branch" --no-retry'),
)
@task_option
@lock_options
@reason_option()
@click.option("--no-retry", is_flag=True, help="For good, whatever attempts are left.")
@json_option
@config_option
def fail(
    *,
    task_id: int,
    lock: str | None,
    locked: str | None,
    reason: str,
    no_retry: bool,
    as_json: bool,
) -> int:
    """Say that a claimed task could not be done; exit codes as of `heartbeat`."""
    lock, retry = _lock(lock, locked), not no_retry
    if heard := said(_over_socket, "fail", task_id, lock, reason=reason, retry=retry):
        return _tell(task_id, heard[0], as_json=as_json)
    with client() as store:
        answer = said(store.fail, task_id, reason, lock=lock, retry=retry)
    return _tell(task_id, answer, as_json=as_json)


def _over_socket(
    op: str, task_id: int, lock: str | None, **facts: object
) -> tuple[Renewed | Accepted | Refused, Calendar] | None:
    """Say it to the daemon that runs this task, and return its answer; None: ask the store.

    The calendar takes the host's clock for store time. Raises `CommitUnknown` when the daemon does
    not know, ValueError for what cannot be said.
    """
    socket = variables_that_hold().get(SOCKET) if worker_api.MARKER in os.environ else None
    lock = lock or os.environ.get(LOCK)
    if not socket or not lock:
        return None
    line = worded(op, task_id, lock, **facts)
    understood(line)
    reply = control.say(Path(socket), line)
    calendar = Calendar(StoreTime(wall_clock()), 0)
    answer = None if reply is None else _answer(reply, calendar)
    return None if answer is None else (answer, calendar)


def _answer(reply: Mapping[str, Any], calendar: Calendar) -> Renewed | Accepted | Refused | None:
    match reply:
        case {"ok": True, "lease_expires_in": seconds}:
            return Renewed(StoreTime(calendar.now + round(seconds * 1000)))
        case {"ok": True}:
            return Accepted()
        case {"error": WorkerError.STORE_UNAVAILABLE}:
            raise CommitUnknown(REMEDIES[WorkerError.STORE_UNAVAILABLE])
        case {"error": error, "state": state, "attempt": attempt}:
            return Refused(WorkerError(error), state, attempt)
    return None


def _lease_of_this_run(task_id: int) -> int:
    """Return the lease in milliseconds, as this run's environment has it; 0 of another task."""
    own = os.environ.get("DISPATCHER_TASK_ID") == str(task_id)
    return round(float(os.environ["DISPATCHER_LEASE_TTL"]) * 1000) if own else 0


def warn_of_end(expires_at: StoreTime, lease_ttl_ms: int, calendar: Calendar) -> None:
    """Report that a lease ends early; the calendar was read before the lease began."""
    if expires_at - calendar.now < lease_ttl_ms:
        until = calendar.iso(expires_at)
        told = f"its run or total time-out ends at {until}; no heartbeat renews the lease beyond"
        click.echo(f"dispatcher: {told}", err=True)


def said(say: Any, *args: Any, **kwargs: Any) -> Any:
    """Return what a function returns; what it refuses to say is a mistake of the command line."""
    try:
        return say(*args, **kwargs)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _lock(given: str | None, from_file: str | None) -> str | None:
    if given is not None and from_file is not None:
        raise click.UsageError("--lock and --lock-file say the same thing; give one")
    return from_file if given is None else given


def _json(text: str) -> msgspec.Raw:
    try:
        return msgspec.json.decode(text.removeprefix("\ufeff"), type=msgspec.Raw)
    except UNREADABLE as error:
        raise click.UsageError(
            f"""--result: {in_words(error, text=text)}; write for example: '{{"rows": 3}}'"""
        ) from error


def _tell(
    task_id: int,
    answer: Renewed | Accepted | Refused,
    calendar: Calendar | None = None,
    *,
    as_json: bool,
) -> int:
    """Print an answer; return the exit code."""
    match answer:
        case Renewed():
            until = calendar and calendar.iso(answer.lease_expires_at)
            facts: dict[str, object] = {"ok": True, "lease_expires_at": until}
            words = f"{task_id} renewed until {until}"
        case Accepted():
            facts = {"ok": True}
            words = f"{task_id} accepted"
        case Refused():
            message = REMEDIES[answer.error]
            facts = {
                "ok": False,
                "error": answer.error,
                "message": message,
                "state": answer.state,
                "attempt": answer.attempt,
            }
            state = f" (task {task_id}: {answer.state}, attempt {answer.attempt})"
            known = state if answer.state is not None else f" (task {task_id})"
            click.echo(f"dispatcher: {answer.error}: {message}{known}", err=True)
            words = ""
    if as_json:
        print_json(facts)
    elif words:
        click.echo(words)
    if not isinstance(answer, Refused):
        return ExitCode.OK
    declared = answer.error is WorkerError.ALREADY_DECLARED
    return ExitCode.NOT_SO if declared else ExitCode.LEASE_LOST
