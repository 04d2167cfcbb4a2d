"""Arguments and options that several verbs have."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import click

from dispatcher.cli.configuration import name_file
from dispatcher.cli.param_types import DURATION, PARENTS, SIGNAL, START, TEXT, file_names, offered
from dispatcher.dependency import ParentFailure
from dispatcher.new_task import URGENT
from dispatcher.wire import KillMode

config_option = click.option(
    "--config",
    metavar="PATH",
    shell_complete=file_names,
    callback=lambda ctx, _param, path: name_file(ctx, path),
    expose_value=False,
    help="Configuration file [default: the first of $DISPATCHER_CONFIG,"
    " $XDG_CONFIG_HOME/dispatcher/dispatcher.toml (~/.config) and"
    " /etc/dispatcher/dispatcher.toml].",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

absolute_option = click.option(
    "--absolute", is_flag=True, help="Print times as dates in UTC, not as ages."
)

urgent_option = click.option(
    "--urgent",
    "priority",
    flag_value=URGENT,
    type=int,
    help=f"First in its queue: --priority {URGENT}.",
)


queue_option = click.option(
    "--queue",
    "-q",
    metavar="NAME",
    shell_complete=offered("queues"),
    help="Queue [default: as configured].",
)


def start_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --delay, and --at, which gives `start_at`; the later one of both options counts."""

    @wraps(command)
    def with_start(**given: Any) -> Any:
        # Options come in the order in which they were typed, those of a script first.
        starts = {name: given.pop(name) for name in [*given] if name in {"start_at", "delay"}}
        counts = next((name for name in reversed(starts) if starts[name] is not None), None)
        return command(
            **{name: starts[name] if name == counts else None for name in starts}, **given
        )

    at = click.option(
        "--at",
        "start_at",
        type=START,
        metavar="TIME",
        help='Start no earlier: the next "23:00", or a date, e.g. "2026-08-01T06:00".',
    )
    delay = click.option(
        "--delay",
        type=DURATION,
        metavar="DURATION",
        help='Start no earlier than this from now, e.g. "90s", "2h".',
    )
    return delay(at(with_start))


def parent_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name the tasks for which one waits."""

    @wraps(command)
    def with_parents(
        *, after: Any, after_any: Any, on_parent_failure: str | None, **given: Any
    ) -> Any:
        rule = None if on_parent_failure is None else ParentFailure(on_parent_failure)
        return command(
            after=[one for some in after for one in some] or None,
            after_any=[one for some in after_any for one in some] or None,
            on_parent_failure=rule,
            **given,
        )

    texts = {
        "after": "Start once this task has succeeded: its id, or its key in the same queue; "
        '"3,7-9" is several. Repeatable.',
        "after-any": "Start once this task has finished, however. Repeatable.",
    }
    decorated = click.option(
        "--on-parent-failure",
        type=click.Choice([rule.value for rule in ParentFailure]),
        help="What becomes of the task if one of --after does not succeed [default: hold].",
    )(with_parents)
    for name in reversed(texts):
        decorated = click.option(
            f"--{name}", type=PARENTS, multiple=True, metavar="ID|KEY", help=texts[name]
        )(decorated)
    return decorated


def queues_options(offer: str, every: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what adds the argument that names queues, and `--all`; one of both is given.

    A shell completes the queues that `offer` lists; `every` is the help of `--all`.
    """

    def add(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_queues(*, queues: tuple[str, ...], every: bool, **others: Any) -> None:
            if every and queues:
                raise click.UsageError("--all means every queue; name none")
            if not (every or queues):
                raise click.UsageError("Missing argument 'QUEUE...': name queues, or give --all")
            command(queues=queues, **others)

        all_option = click.option("--all", "every", is_flag=True, help=every)
        argument = click.argument(
            "queues", type=TEXT, metavar="QUEUE...", nargs=-1, shell_complete=offered(offer)
        )
        return argument(all_option(with_queues))

    return add


def _not_blank(_: click.Context, __: click.Parameter, text: str) -> str:
    if not text.strip():
        raise click.UsageError("--reason: is empty; give a reason, which `show` and `why` print")
    return text


def reason_option(default: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option that gives people a reason; without a default it is required."""
    return click.option(
        "--reason",
        type=TEXT,
        metavar="TEXT",
        callback=_not_blank,
        help="Why; `show` and `why` print it.",
        **({"required": True} if default is None else {"default": default, "show_default": True}),
    )


def examples(*lines: str) -> str:
    """Return the end of a help text: lines that can be tried as they are."""
    # The backspace keeps click from wrapping what follows.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


_LIMITS = {
    "lease-ttl": "How long a claim lasts without a heartbeat.",
    "run-timeout": "End a run that lasts longer: timed_out.",
    "stall-timeout": "End a run without new progress or output for this long: stalled.",
    "start-timeout": "End a run without a first heartbeat for this long: lost. With --liveness "
    "worker.",
    "queue-timeout": "Fail a task that was ready for this long while no slot was free.",
    "total-timeout": "Fail a task that is not done this long after its submit.",
    "kill-grace": "Time between the kill signal and SIGKILL [default: as configured].",
}

_DELAYS = {
    "backoff-min": "Back-off after a first failure, doubled by each [default: as configured].",
    "backoff-max": "Longest back-off [default: as configured].",
    "cooldown": "Delay after a deferral that names none [default: as configured].",
}

_BUDGETS = {
    "max-deferrals": "Deferrals after which the task is held [default: as configured].",
    "max-orphans": "Runs lost in crashes after which the task is held [default: as configured].",
}


def limit_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options that bound a task in time, end its runs, and run it again."""
    for name, text in reversed(_BUDGETS.items()):
        command = click.option(f"--{name}", type=int, metavar="N", help=text)(command)
    command = _durations(command, _DELAYS)
    command = click.option(
        "--kill-mode",
        type=click.Choice([mode.value for mode in KillMode]),
        help="What gets the kill signal: all processes of the run, or only the first one; those "
        "that survive the grace get SIGKILL [default: tree].",
    )(command)
    command = click.option(
        "--kill-signal",
        type=SIGNAL,
        metavar="SIGNAL",
        help="The signal that ends a run [default: TERM].",
    )(command)
    return _durations(command, _LIMITS)


def _durations(command: Callable[..., int], named: Mapping[str, str]) -> Callable[..., int]:
    for name, text in reversed([*named.items()]):
        command = click.option(f"--{name}", type=DURATION, metavar="DURATION", help=text)(command)
    return command
