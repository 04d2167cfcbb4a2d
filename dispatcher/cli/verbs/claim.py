"""`dispatcher claim`: work on a task from a shell."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Struct

from dispatcher.calendar import Calendar
from dispatcher.cli import exports
from dispatcher.cli.claims import usage_errors, warn_of_end
from dispatcher.cli.configuration import config_as_owner
from dispatcher.cli.options import config_option, examples, json_option, queue_option
from dispatcher.cli.param_types import DURATION, TaskId, file_names
from dispatcher.cli.printing import is_closed, print_json, printed
from dispatcher.client import Client
from dispatcher.config.config import Config
from dispatcher.errors import (
    DispatcherError,
    NoTask,
    QueuePaused,
    StoreUnavailable,
    cannot_write,
    did_you_mean,
)
from dispatcher.execution import Claim
from dispatcher.model import TaskState
from dispatcher.operations.waiting import POLL, is_done
from dispatcher.quantities.durations import Milliseconds
from dispatcher.times import sleep


class _Wanted(Struct, frozen=True, kw_only=True):
    """What to claim, and how to give it to the caller."""

    queue: str | None
    task_id: int | None
    ttl: Milliseconds | None
    lock_file: str | None
    export: bool
    as_json: bool


@click.command(
    cls=exports.ExportCommand,
    epilog=examples(
        "dispatcher claim --queue reviews",
        'out=$(dispatcher claim --export) && eval "$out" && dispatcher complete',
        "dispatcher claim --task 42 --ttl 30m --lock-file lock.txt --json",
        "dispatcher claim --queue reviews --wait   # until there is a task",
    ),
)
@queue_option
@click.option(
    "--task", "task_id", type=TaskId({TaskState.READY}), metavar="ID", help="Claim this task."
)
@click.option("--ttl", type=DURATION, metavar="DURATION", help="Set the task's lease.")
@click.option(
    "--lock-file",
    metavar="PATH",
    shell_complete=file_names,
    help="Write the lock to this file (mode 0600) instead of printing it.",
)
@click.option(
    "--export",
    is_flag=True,
    help="Print variables for a shell to evaluate; without a task, a line that is false.",
)
@click.option("--wait", is_flag=True, help="Wait until there is a task to claim.")
@json_option
@config_option
def command(*, wait: bool, **given: Any) -> None:
    """Claim a ready task and print its lock: the task is yours until its lease expires.

    Nothing is started. Renew the lease with `dispatcher heartbeat`, or the task runs again; end
    with `complete` or `fail`. No heartbeat renews it beyond the task's run time-out, counted from
    this claim, or its total time-out. Exit code 1: there is nothing to claim.

    A daemon runs ready tasks at once. To keep a queue for local claims, write `concurrency = 0`
    under `[queues.NAME]`; `pause` would stop your claims too.
    """
    wanted = _Wanted(**given)
    if wanted.queue is not None and wanted.task_id is not None:
        raise click.UsageError("--task names a task of any queue; leave --queue out")
    if wanted.lock_file is None and is_closed():
        raise click.UsageError("stdout is closed, and the lock would be lost; give --lock-file")
    config = config_as_owner()
    with Client(config) as store:
        if wait:
            _claim_when_there_is_one(store, config, wanted)
        elif not _claim(store, config, wanted):
            raise DispatcherError(_why_not(store, config, wanted))


def _claim_when_there_is_one(store: Client, config: Config, wanted: _Wanted) -> None:
    """Claim and print a task; wait for one, unless the named one is done.

    Also wait while the store does not answer, as another process may write for long.
    """
    reported: set[type[Exception]] = set()
    while True:
        kind: type[Exception] = QueuePaused
        try:
            if _claim(store, config, wanted):
                return
            if wanted.task_id is not None and is_done(store.task(wanted.task_id, payload=False)):
                raise DispatcherError(_why_not(store, config, wanted))
            why = "" if kind in reported else _why_not(store, config, wanted)
        except QueuePaused as error:
            why = str(error)
        except StoreUnavailable as error:
            kind, why = StoreUnavailable, str(error)
        if kind not in reported:
            click.echo(f"dispatcher: {why}; waiting", err=True)
            reported.add(kind)
        sleep(POLL)


def _claim(store: Client, config: Config, wanted: _Wanted) -> bool:
    """Claim and print a task; False if there is none."""
    with _lock_file(wanted.lock_file) as keep:
        calendar = store.calendar()
        with usage_errors():
            claimed = store.claim(
                queue=wanted.queue, task_id=wanted.task_id, lease_ttl_ms=wanted.ttl
            )
        if claimed is None:
            return False

        def given_back(why: str) -> DispatcherError:
            store.give_back(claimed, f"its claim could not be written: {why}")
            return DispatcherError(f"cannot write: {why}; task {claimed.task_id} was given back")

        with printed(given_back):
            keep(claimed.lock)
            warn_of_end(claimed.lease_expires_at, claimed.lease_ttl_ms, calendar)
            _print_claim(claimed, calendar, config, wanted)
    return True


def _print_claim(claimed: Claim, calendar: Calendar, config: Config, wanted: _Wanted) -> None:
    facts = _facts(claimed, calendar)
    if wanted.lock_file is not None:
        facts |= {"lock": None, "lock_file": wanted.lock_file}
    if wanted.export:
        for line in exports.lines(claimed, config, locked=wanted.lock_file is None):
            click.echo(line)
    elif wanted.as_json:
        print_json(facts)
    else:
        for name in ("task_id", "lock", "lock_file", "fence", "lease_expires_at"):
            if facts.get(name) is not None:
                click.echo(f"{name:<17} {facts[name]}")


def _why_not(store: Client, config: Config, wanted: _Wanted) -> str:
    if wanted.task_id is None:
        queue, known = wanted.queue or config.defaults.queue, store.counts()
        near = "" if queue in known else did_you_mean(queue, known)
        listed = f"; see: dispatcher list --queue {queue}" if queue in known else ""
        return f"nothing to claim in queue {queue!r}{near or listed}"
    task = store.task(wanted.task_id, payload=False)
    if task is None:
        return str(NoTask(wanted.task_id))
    return f"task {task.id} is {task.state}: {task.reason}; only a ready one can be claimed"


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


@contextmanager
def _lock_file(lock_file: str | None) -> Iterator[Callable[[str], None]]:
    """Give a function that writes a lock to a file that only its owner may read.

    The file is opened before the claim: a lock that could not be written would be lost with it.
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
        remedy = "name a file that this user may write"
        raise cannot_write(f"cannot write {lock_file}", error, remedy, DispatcherError) from error

    def keep(lock: str) -> None:
        try:
            os.write(descriptor, f"{lock}\n".encode())
            draft.replace(lock_file)
        except OSError as error:  # without a filename it is as one of stdout
            raise OSError(error.errno, f"{lock_file}: {error.strerror}") from error

    try:
        yield keep
    finally:
        os.close(descriptor)
        draft.unlink(missing_ok=True)
