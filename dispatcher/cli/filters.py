"""The options by which a verb finds tasks."""

from collections.abc import Callable, Collection
from functools import wraps
from typing import Any

import click

from dispatcher.cli import lines
from dispatcher.cli.param_types import TEXT, offered
from dispatcher.model import TaskFilter, TaskState

_PROFILE = click.option(
    "--profile",
    type=TEXT,
    metavar="NAME",
    shell_complete=offered("profiles"),
    help="Only tasks of this profile.",
)

_TEXT = click.option(
    "--text", type=TEXT, metavar="TEXT", help="Only commands or names that contain this."
)


def filter_options(
    states: Collection[TaskState],
    *,
    usual: str = "",
    queue: tuple[str, ...] = ("--queue", "-q"),
    label: tuple[str, ...] = ("--label", "-l"),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what adds filters of tasks to a verb, which receives one `wanted`.

    A filter can name some of the `states`; `usual` is the help's text for those that the verb takes
    otherwise. `queue` and `label` name two options, for a verb that has others of these names.
    """
    named = [state.value for state in TaskState if state in states]
    help_ = f"Only this state. Repeatable. {', '.join(named)}{usual}."
    options = (
        click.option(
            *queue,
            "in_queue",
            type=TEXT,
            metavar="NAME",
            shell_complete=offered("queues"),
            help="Only this queue.",
        ),
        _PROFILE,
        click.option(
            *label, "with_label", type=TEXT, metavar="NAME=VALUE", help="Only with this label."
        ),
        _TEXT,
        click.option(
            "--state", multiple=True, type=click.Choice(named), metavar="STATE", help=help_
        ),
    )
    return lambda command: _added(options, command)


def _added(
    options: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...],
    command: Callable[..., Any],
) -> Callable[..., Any]:
    @wraps(command)
    def with_filter(
        *, in_queue: str | None, with_label: str | None, state: tuple[str, ...], **given: Any
    ) -> Any:
        wanted = TaskFilter(
            states=frozenset(map(TaskState, state)) or None,
            queue=in_queue,
            label=None if with_label is None else _pair(with_label),
            profile=given.pop("profile"),
            text=given.pop("text"),
        )
        return command(wanted=wanted, **given)

    decorated: Callable[..., Any] = with_filter
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def _pair(label: str) -> tuple[str, str]:
    ((name, value),) = lines.pairs("label", [label]).items()
    return name, value
