"""`dispatcher submit`: one task from the command line, or many from a file."""

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, cast

import click

from dispatcher.cli import inputs, lines, submitter
from dispatcher.cli.accepted import AcceptedTasks, naming_unprinted, warned
from dispatcher.cli.configuration import config_as_owner
from dispatcher.cli.options import (
    config_option,
    examples,
    json_option,
    limit_options,
    parent_options,
    queue_option,
    start_options,
    urgent_option,
)
from dispatcher.cli.param_types import directory_names, file_names, offered
from dispatcher.cli.printing import print_json, print_json_list
from dispatcher.cli.script import ScriptCommand, command_of
from dispatcher.client import Client
from dispatcher.config.config import Config
from dispatcher.exit_codes import ExitCode
from dispatcher.model import Liveness, Submitted
from dispatcher.new_task import NewTask
from dispatcher.quantities.durations import Milliseconds
from dispatcher.submission import TaskOptions, new_task
from dispatcher.wire import KillMode

#: Ids printed at a time.
_PRINTED = 1_000


@click.command(
    cls=ScriptCommand,
    context_settings={"allow_interspersed_args": False},
    epilog=examples(
        "dispatcher submit -- gzip -k big.log",
        "dispatcher submit -q nightly -n backup --delay 2h --max-attempts 5 -- ./backup.sh",
        "dispatcher submit --liveness worker --lease-ttl 30s -- ./speaks-systemds-watchdog",
        "dispatcher submit --env HOME --env LEVEL=3 --payload @job.json -- python job.py",
        "dispatcher submit --wait -- make test && echo it is green",
        "dispatcher submit --key report-2026-08 -- ./report.sh   # twice: still one task",
        "dispatcher submit --after 12,15 --after-any 17 -- ./report.sh",
        "dispatcher submit --script train.sh -- --epochs 3",
        "ls *.log | sed 's/^/gzip -k /' | dispatcher submit --from -",
        """echo '{"command": ["true"], "queue": "ci"}' | dispatcher submit --from -""",
    ),
)
@click.option(
    "--profile",
    metavar="NAME",
    shell_complete=offered("profiles"),
    help="Run this profile of the configuration instead of COMMAND.",
)
@queue_option
@click.option(
    "--priority",
    "-p",
    type=int,
    metavar="N",
    help="Higher runs first in its queue; queues take turns [default: 0].",
)
@urgent_option
@click.option("--max-attempts", type=int, metavar="N", help="Attempts before the task fails.")
@click.option(
    "--cwd",
    metavar="DIR",
    shell_complete=directory_names,
    help="Working directory [default: this one].",
)
@click.option(
    "--env",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="A variable for the command; without a value, your own. Repeatable.",
)
@click.option(
    "--clean-env",
    is_flag=True,
    default=None,
    help="Give the command a clean environment and umask, not those of this shell.",
)
@click.option("--key", metavar="TEXT", help="Submit once: the same key again gives the same task.")
@click.option(
    "--concurrency-key",
    metavar="TEXT",
    help="Run one at a time of the tasks of the queue with this key.",
)
@parent_options
@start_options
@click.option(
    "--liveness",
    type=click.Choice([kind.value for kind in Liveness]),
    help="Who renews the lease: the daemon while the process lives, or only the worker's "
    "heartbeats [default: process].",
)
@click.option(
    "--notify/--no-notify",
    default=None,
    help="Give the command a socket of systemd's notify protocol; --liveness worker always does.",
)
@limit_options
@click.option("--payload", metavar="JSON|@FILE|-", help="JSON for the command's stdin.")
@click.option(
    "--label",
    "-l",
    multiple=True,
    metavar="NAME=VALUE",
    help="A label, for list --label. Repeatable.",
)
@click.option(
    "--require",
    multiple=True,
    metavar="NAME=VALUE",
    help="Run only on a node with this label ([node] labels). Repeatable.",
)
@click.option(
    "--limit",
    multiple=True,
    metavar="NAME[=N]",
    shell_complete=offered("limits"),
    help="Take N of a named limit ([limits.NAME]) while it runs [default: 1]. Repeatable.",
)
@click.option("--name", "-n", metavar="TEXT", help="A name for people: the label `name`.")
@click.option(
    "--from",
    "source",
    metavar="FILE|-",
    shell_complete=file_names,
    help="Submit many, all or none: a command of the shell a line, or a JSON object a line with "
    'these options as keys and "command" as a list. Options given here apply to lines without '
    "them.",
)
@click.option(
    "--script",
    metavar="FILE",
    shell_complete=file_names,
    help="Run this script with COMMAND as its arguments. Its comments before the first command may "
    "hold options: #DISPATCHER --queue gpu. The file runs as it is when the task starts.",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait until all are done; print what failed; exit 1 unless all succeeded.",
)
@json_option
@config_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, shell_complete=file_names)
def command(
    *,
    source: str | None,
    script: str | None,
    wait: bool,
    as_json: bool,
    command: tuple[str, ...],
    **given: Any,
) -> int:
    """Submit COMMAND as a task and print its id.

    It needs no daemon: the task waits for one. The command runs as in this shell: with its
    directory, environment and umask. Its output is kept: `dispatcher logs`.
    """
    options = _options(**given)
    config = config_as_owner()
    if source is not None or not (options.get("clean_env") or options.get("profile")):
        options |= submitter.shell_options(config)
    tasks = _tasks(config, source, _of_script(script, source, command), options)
    is_bulk = source is not None
    submitter.report_missing(() if is_bulk or as_json else tasks)
    with Client(config) as store:
        seen = AcceptedTasks(_submitted(store, tasks, is_bulk=is_bulk))
        submitted = warned(seen, "its line was not" if is_bulk else "nothing was")
        if wait:
            with naming_unprinted(seen):
                facts = [_facts(one) for one in submitted]
                if not as_json:
                    _print_ids(one["id"] for one in facts)
            return _print_outcomes(store, facts, seen, is_bulk=is_bulk, as_json=as_json)
        with naming_unprinted(seen):
            if not as_json:
                _print_ids(one.task_id for one in submitted)
            elif is_bulk:
                print_json_list(map(_facts, submitted))
            else:
                print_json(_facts(next(submitted)))
        if not as_json:
            submitter.report_waiting(store, () if is_bulk else tasks)
    return ExitCode.OK


def _options(
    *,
    env: tuple[str, ...],
    label: tuple[str, ...],
    require: tuple[str, ...],
    limit: tuple[str, ...],
    name: str | None,
    payload: str | None,
    liveness: str | None,
    kill_mode: str | None,
    **others: Any,
) -> TaskOptions:
    """Return the options of a task; the durations among `others` are in milliseconds."""
    options = {
        f"{name}_ms" if isinstance(value, Milliseconds) else name: value
        for name, value in others.items()
    }
    options |= {
        "env": lines.variables(env, os.environ),
        "labels": lines.named(name, lines.pairs("label", label)),
        "requires": lines.pairs("require", require) or None,
        "limits": lines.units(limit) or None,
        "payload": inputs.payload(payload),
        "liveness": None if liveness is None else Liveness(liveness),
        "kill_mode": None if kill_mode is None else KillMode(kill_mode),
    }
    return cast(
        "TaskOptions", {name: given for name, given in options.items() if given is not None}
    )


def _print_outcomes(
    store: Client, facts: list[dict[str, Any]], seen: AcceptedTasks, *, is_bulk: bool, as_json: bool
) -> ExitCode:
    """Wait until all are done; with --json, print ids and outcomes."""
    if not as_json:
        return ExitCode.OK if _all_succeed(store, facts) else ExitCode.REFUSED
    with naming_unprinted(seen):
        good = _all_succeed(store, facts)
        print_json(facts if is_bulk else facts[0])
    return ExitCode.OK if good else ExitCode.REFUSED


def _facts(one: Submitted) -> dict[str, Any]:
    return {"id": one.task_id, "created": one.created, "differs": one.differs}


def _print_ids(ids: Iterable[int]) -> None:
    ids = iter(ids)
    while some := list(islice(ids, _PRINTED)):
        click.echo("\n".join(map(str, some)))


def _submitted(store: Client, tasks: Iterable[NewTask], *, is_bulk: bool) -> Iterator[Submitted]:
    if not is_bulk:
        return iter([store.submit(task) for task in tasks])
    from dispatcher.cli.progress import bar  # noqa: PLC0415 - for bulk submits

    with bar("submitted", None) as progressed:
        return store.submit_all(tasks, report=progressed)


def _all_succeed(store: Client, facts: list[dict[str, Any]]) -> bool:
    """Wait for tasks, and add their outcomes to their facts."""
    from dispatcher.cli import waiting  # noqa: PLC0415 - for --wait alone

    sys.stdout.flush()
    done = waiting.wait_for(store, [one["id"] for one in facts])
    for one in facts:
        one.update(waiting.outcome_json(store, one["id"], done[one["id"]]))
    return all(one["state"] == "succeeded" for one in facts)


def _of_script(script: str | None, source: str | None, command: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command, which for a script is its arguments."""
    if script is None:
        return command
    if source is not None:
        raise click.UsageError("--script and --from both give commands; use one")
    return command_of(script, command)


def _tasks(
    config: Config, source: str | None, command: tuple[str, ...], options: TaskOptions
) -> Iterable[NewTask]:
    """Return the one task of the command line, or those of a file's lines, read one by one."""
    if source is None:
        return [new_task(config, command, options)]
    if command or options.get("key") is not None:
        raise click.UsageError("with --from, command and key stand in the file's lines")
    tasks = lines.read(inputs.lines(source), config, options, os.environ)
    if not (first := list(islice(tasks, 1))):  # a wrong file must make no store
        submitter.report_empty(source)
    return chain(first, tasks)
