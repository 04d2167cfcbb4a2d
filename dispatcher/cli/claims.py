"""What `heartbeat`, `complete` and `fail` share: the claim they name, and how they report.

Inside a task they report to the daemon that runs it, over its socket, whatever the configuration is
now. Elsewhere, and when no daemon answers, they write to the store.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import click
import msgspec

from dispatcher import control, worker_api
from dispatcher.calendar import Calendar
from dispatcher.cli.configuration import applicable_environment
from dispatcher.cli.param_types import TaskId, file_names
from dispatcher.cli.printing import print_json
from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.config.places import SOCKET
from dispatcher.errors import CommitUnknown, NoLock
from dispatcher.exit_codes import ExitCode
from dispatcher.host import files
from dispatcher.model import TaskState
from dispatcher.times import StoreTime, wall_clock
from dispatcher.words import REMEDIES, Accepted, Refused, Renewed, encode_request, parse_request
from dispatcher.worker_api import WorkerError

LOCK = "DISPATCHER_CLAIM_LOCK"

Answer = Renewed | Accepted | Refused


def _read_lock(_: click.Context, __: click.Parameter, path: str | None) -> str | None:
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:  # may be a pipe that its writer opens later
            return file.read(files.MOST_OF_ID).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text"
        remedy = "name the file that `claim --lock-file` wrote"
        raise NoLock(f"no lock: cannot read {path}: {why}; {remedy}") from error


def claim_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options that name a task, and give its claim's `lock`; None: see the environment."""

    @wraps(command)
    def with_lock(*, lock: str | None, lock_from_file: str | None, **given: Any) -> int:
        if lock is not None and lock_from_file is not None:
            raise click.UsageError("--lock and --lock-file both give the lock; use one")
        return command(lock=lock_from_file if lock is None else lock, **given)

    decorated: Callable[..., int] = with_lock
    for option in (
        click.option(
            "--lock-file",
            "lock_from_file",
            metavar="PATH",
            shell_complete=file_names,
            callback=_read_lock,
            help="Read the lock from this file.",
        ),
        click.option("--lock", metavar="TEXT", help=f"The claim's lock [default: ${LOCK}]."),
        click.option(
            "--task",
            "task_id",
            type=TaskId({TaskState.RUNNING}),
            required=True,
            envvar="DISPATCHER_TASK_ID",
            show_envvar=True,
            metavar="ID",
            help="The claimed task.",
        ),
    ):
        decorated = option(decorated)
    return decorated


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn the ValueErrors of the body into usage errors."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def json_of(option: str, text: str | None) -> msgspec.Raw | None:
    """Return the JSON of an option as it is; None: it was not given."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text.removeprefix("\ufeff"), type=msgspec.Raw)
    except UNREADABLE as error:
        raise click.UsageError(
            f"""{option}: {in_words(error, text=text)}; write for example: '{{"rows": 3}}'"""
        ) from error


def report_to_daemon(
    op: str, task_id: int, lock: str | None, **facts: object
) -> tuple[Answer, Calendar] | None:
    """Report to the daemon that runs this task, and return its answer; None: use the store.

    The calendar takes the host's clock for store time. Raises `CommitUnknown` when the daemon does
    not know, and a usage error for what the protocol cannot carry.
    """
    socket = applicable_environment().get(SOCKET) if worker_api.MARKER in os.environ else None
    lock = lock or os.environ.get(LOCK)
    if not socket or not lock:
        return None
    with usage_errors():
        line = encode_request(op, task_id, lock, **facts)
        parse_request(line)
    reply = control.send_request(Path(socket), line)
    calendar = Calendar(StoreTime(wall_clock()), 0)
    answer = None if reply is None else _answer(reply, calendar)
    return None if answer is None else (answer, calendar)


def _answer(reply: Mapping[str, Any], calendar: Calendar) -> Answer | None:
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


def warn_of_end(expires_at: StoreTime, lease_ttl_ms: int, calendar: Calendar) -> None:
    """Report that a lease ends early; the calendar was read before the lease began."""
    if expires_at - calendar.now < lease_ttl_ms:
        until = calendar.iso(expires_at)
        warning = f"its run or total time-out ends at {until}; no heartbeat renews the lease beyond"
        click.echo(f"dispatcher: {warning}", err=True)


def print_answer(
    task_id: int, answer: Answer, calendar: Calendar | None = None, *, as_json: bool
) -> int:
    """Print the answer to a report; return the exit code."""
    match answer:
        case Renewed():
            until = calendar and calendar.iso(answer.lease_expires_at)
            facts: dict[str, object] = {"ok": True, "lease_expires_at": until}
            text = f"{task_id} renewed until {until}"
        case Accepted():
            facts, text = {"ok": True}, f"{task_id} accepted"
        case Refused():
            facts, text = _print_refusal(task_id, answer), ""
    if as_json:
        print_json(facts)
    elif text:
        click.echo(text)
    if not isinstance(answer, Refused):
        return ExitCode.OK
    declared = answer.error is WorkerError.ALREADY_DECLARED
    return ExitCode.REFUSED if declared else ExitCode.LEASE_LOST


def _print_refusal(task_id: int, answer: Refused) -> dict[str, object]:
    """Print a refusal on stderr; return its facts."""
    message = REMEDIES[answer.error]
    state = f"{answer.state}, attempt {answer.attempt}"
    known = f"task {task_id}" if answer.state is None else f"task {task_id}: {state}"
    click.echo(f"dispatcher: {answer.error}: {message} ({known})", err=True)
    return {
        "ok": False,
        "error": answer.error,
        "message": message,
        "state": answer.state,
        "attempt": answer.attempt,
    }
