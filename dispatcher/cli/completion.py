"""`dispatcher completion`, and what a shell is offered: names from the file and from the store.

Whatever goes wrong, nothing is offered and nothing is said: somebody is in the middle of a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from dispatcher.cli.options import configuration, examples
from dispatcher.cli.render import command_text
from dispatcher.client import Client
from dispatcher.config.config import Config
from dispatcher.model import Task, TaskFilter
from dispatcher.store.open import database_path

#: Seconds that somebody who pressed a key waits for the store at most.
PATIENCE = 0.2

#: The newest tasks that are offered, and that are asked for their queues.
_OFFERED = 50
_ASKED = 500

_T = TypeVar("_T")
_Offers = Iterable[tuple[str, str]]


@click.command(
    epilog=examples(
        'eval "$(dispatcher completion bash)"    # in ~/.bashrc',
        'eval "$(dispatcher completion zsh)"     # in ~/.zshrc, after compinit',
        "dispatcher completion fish > ~/.config/fish/completions/dispatcher.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the lines that let a shell complete verbs, options, states, queues and task ids."""
    kind = get_completion_class(shell)
    assert kind is not None
    asked = kind(click.Command("dispatcher"), {}, "dispatcher", "_DISPATCHER_COMPLETE")
    # Not the method of its own: bash's runs a bash to see how old it is.
    click.echo(ShellComplete.source(asked).strip("\n"))


def offer(what: str, begun: str) -> list[CompletionItem]:
    """Return the "queues", "paused" ones, "profiles" or "tasks" whose names begin so."""
    try:
        found = list(_OFFERS[what](configuration()))
    except Exception:  # noqa: BLE001 - a key was pressed; an error belongs to the command
        return []
    return [CompletionItem(name, help=text) for name, text in found if name.startswith(begun)]


def _queues(config: Config) -> _Offers:
    seen = dict.fromkeys((task.queue for task in _newest(config, _ASKED)), "has tasks")
    return sorted({**seen, **dict.fromkeys(config.queues, "configured")}.items())


def _profiles(config: Config) -> _Offers:
    return [(name, command_text(one.command)) for name, one in sorted(config.profiles.items())]


def _tasks(config: Config) -> _Offers:
    for task in _newest(config, _OFFERED):
        yield str(task.id), f"{task.state}: {command_text(task.command)[:40]}"


def _newest(config: Config, limit: int) -> Sequence[Task]:
    return _in_store(config, lambda store: store.tasks(TaskFilter(limit=limit)))


def _paused(config: Config) -> _Offers:
    paused = _in_store(config, lambda store: [*store.standing().paused.values()])
    return [(one.queue, one.reason) for one in paused]


def _in_store(config: Config, look: Callable[[Client], Sequence[_T]]) -> Sequence[_T]:
    """Return what a look finds; nothing where there is no store: pressing a key makes none."""
    path = database_path(config.store_url)
    if path is not None and not path.exists():
        return []
    with Client(config, patience=PATIENCE) as store:
        return look(store)


_OFFERS: Mapping[str, Callable[[Config], _Offers]] = {
    "queues": _queues,
    "paused": _paused,
    "profiles": _profiles,
    "tasks": _tasks,
}
