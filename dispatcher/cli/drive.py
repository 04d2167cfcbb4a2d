"""`dispatcher claim`, `heartbeat`, `complete` and `fail`: a task driven from somebody's shell.

The last three speak for a worker's run as well, to whoever has its lock.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from dispatcher import control, regular_files, wire
from dispatcher.calendar import Calendar
from dispatcher.cli.options import (
    ID,
    Duration,
    client,
    config_option,
    configuration,
    examples,
    json_option,
    offered,
    print_json,
    reason_option,
)
from dispatcher.client import Client
from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.config.config import Config
from dispatcher.config.durations import Milliseconds
from dispatcher.errors import DispatcherError, NoLock, NoTask, cannot_write, did_you_mean
from dispatcher.model import Claim
from dispatcher.processes import worker_environment
from dispatcher.times import StoreTime
from dispatcher.wire import ExitCode, WorkerError
from dispatcher.words import REMEDIES, Accepted, Refused, Renewed

_LOCK = "DISPATCHER_CLAIM_LOCK"

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
            return file.read(regular_files.MOST_OF_ID).decode().strip()
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
        click.option("--lock", metavar="TEXT", help=f"The claim's lock [default: ${_LOCK}]."),
    ):
        function = option(function)
    return function


@click.command(
    epilog=examples(
        "dispatcher claim --queue reviews",
        'eval "$(dispatcher claim --export)"; dispatcher heartbeat; dispatcher complete',
        "dispatcher claim --task 42 --ttl 30m --lock-file lock.txt --json",
    )
)
@click.option(
    "--queue",
    metavar="NAME",
    shell_complete=offered("queues"),
    help="Queue [default: as configured].",
)
@click.option(
    "--task",
    "task_id",
    type=ID,
    metavar="ID",
    help="The task of this id.",
)
@click.option("--ttl", type=Duration(), metavar="DURATION", help="The task's lease from now on.")
@click.option("--lock-file", metavar="PATH", help="Write the lock there, mode 0600; print it not.")
@click.option("--export", is_flag=True, help="Print lines for a shell to evaluate.")
@json_option
@config_option
def claim(
    *,
    queue: str | None,
    task_id: int | None,
    ttl: Milliseconds | None,
    lock_file: str | None,
    export: bool,
    as_json: bool,
) -> None:
    """Claim a ready task and print its lock: it is yours until its lease expires.

    Nothing is started. Beat with `dispatcher heartbeat` before it expires, else the task runs
    again; then say `complete` or `fail`. No beat renews it beyond the task's run time-out, counted
    from this claim, and its total one. Exit code 1: there is nothing to claim.

    A daemon runs what is ready at once. To have a queue for yourself beside it, write
    `concurrency = 0` under `[queues.NAME]`; `pause` would keep you out too.
    """
    if queue is not None and task_id is not None:
        raise click.UsageError("--task names a task of any queue; leave --queue out")
    config = configuration()
    with _kept(lock_file) as keep, Client(config) as store:
        calendar = store.calendar()
        claimed = _said(store.claim, queue=queue, task_id=task_id, lease_ttl_ms=ttl)
        if claimed is None:
            raise DispatcherError(_why_not(store, config, queue, task_id))
        keep(claimed.lock)
    facts = _facts(claimed, calendar)
    _warn_of_end(claimed.lease_expires_at, claimed.lease_ttl_ms, calendar)
    if lock_file is not None:
        facts |= {"lock": None, "lock_file": lock_file}
    if export:
        _print_exports(claimed, config, locked=lock_file is None)
    elif as_json:
        print_json(facts)
    else:
        for name in ("task_id", "lock", "lock_file", "fence", "lease_expires_at"):
            if facts.get(name) is not None:
                click.echo(f"{name:<17} {facts[name]}")


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
    with client() as store:
        calendar = store.calendar()
        answer = _said(
            store.heartbeat, task_id, lock=_lock(lock, locked), progress=progress, note=note
        )
        task = store.task(task_id)
    if isinstance(answer, Renewed) and task is not None:
        _warn_of_end(answer.lease_expires_at, task.lease_ttl_ms, calendar)
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
    with client() as store:
        answer = _said(store.complete, task_id, lock=_lock(lock, locked), result=raw)
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
    with client() as store:
        answer = _said(store.fail, task_id, reason, lock=_lock(lock, locked), retry=not no_retry)
    return _tell(task_id, answer, as_json=as_json)


def _warn_of_end(expires_at: StoreTime, lease_ttl_ms: int, calendar: Calendar) -> None:
    """Report that a lease ends early; the calendar was read before the lease began."""
    if expires_at - calendar.now < lease_ttl_ms:
        until = calendar.iso(expires_at)
        told = f"its run or total time-out ends at {until}; no heartbeat renews the lease beyond"
        click.echo(f"dispatcher: {told}", err=True)


def _said(say: Any, *args: Any, **kwargs: Any) -> Any:
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
            f"""--result: {in_words(error)}; write for example: '{{"rows": 3}}'"""
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


def _why_not(store: Client, config: Config, queue: str | None, task_id: int | None) -> str:
    if task_id is None:
        wanted, known = queue or config.defaults.queue, store.status().counts
        near = "" if wanted in known else did_you_mean(wanted, known)
        listed = f"; see: dispatcher list --queue {wanted}" if wanted in known else ""
        return f"nothing to claim in queue {wanted!r}{near or listed}"
    task = store.task(task_id)
    if task is None:
        return str(NoTask(task_id))
    return f"task {task_id} is {task.state}: {task.reason}; only a ready one can be claimed"


def _facts(claimed: Claim, calendar: Calendar) -> dict[str, Any]:
    payload = None if claimed.payload is None else msgspec.Raw(claimed.payload.encode())
    return {
        "task_id": claimed.task_id,
        "lock": claimed.lock,
        "fence": claimed.fence,
        "attempt": claimed.attempt,
        "run_id": claimed.run_id,
        "queue": claimed.queue,
        "lease_ttl_ms": int(claimed.lease_ttl_ms),
        "lease_expires_at": calendar.iso(claimed.lease_expires_at),
        "command": claimed.command,
        "payload": payload,
        "cwd": claimed.cwd,
        "env": dict(claimed.env),
    }


def _print_exports(claimed: Claim, config: Config, *, locked: bool) -> None:
    """Print what a worker finds in its environment, but the marker of a run that we started."""
    socket = control.find(config).with_name("worker.sock")
    variables = {**config.environment, **worker_environment(claimed, str(socket))}
    for name, value in variables.items():
        if name != wire.MARKER and (locked or name != _LOCK):
            click.echo(f"export {name}={shlex.quote(value)}")


@contextmanager
def _kept(lock_file: str | None) -> Iterator[Callable[[str], None]]:
    """Give a function that keeps a lock in a file which nobody but its owner reads.

    It is opened before: a lock that could not be written would be lost, and the claim with it.
    """
    if lock_file is None:
        yield lambda _: None
        return
    if Path(lock_file).is_dir():
        raise click.UsageError(f"--lock-file: {lock_file} is a directory; name a file")
    draft = Path(f"{lock_file}.new-{os.getpid()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        told, remedy = f"cannot write {lock_file}", "name a file that this user may write"
        raise cannot_write(told, error, remedy, DispatcherError) from error

    def keep(lock: str) -> None:
        try:
            os.write(descriptor, f"{lock}\n".encode())
            draft.replace(lock_file)
        except OSError as error:
            raise DispatcherError(
                f"{lock_file}: {error.strerror}; the task is claimed, its lock is {lock}"
            ) from error

    try:
        yield keep
    finally:
        os.close(descriptor)
        draft.unlink(missing_ok=True)
