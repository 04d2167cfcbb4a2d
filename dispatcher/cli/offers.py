"""What a shell completes: names from the configuration and the store.

On any error nothing is offered and nothing is printed: the user is in the middle of a line.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from click.shell_completion import CompletionItem
from msgspec.structs import replace

from dispatcher.cli.configuration import config_as_owner
from dispatcher.cli.render import command_text
from dispatcher.client import Client
from dispatcher.config.config import Config
from dispatcher.model import Node, PausedQueue, Task, TaskFilter, TaskState
from dispatcher.nodes import names
from dispatcher.store.open import database_path, remembered_identity
from dispatcher.store.search import each_task

#: Seconds to wait for the store; the Tab key must answer at once.
PATIENCE = 0.2

#: The newest tasks to offer.
_MOST_TASKS = 50

#: The newest tasks whose queues are offered.
_SEARCHED = 500

#: The newest ids among which tasks in some states are searched: 20 ms.
_MOST_SEARCHED = 20_000

_T = TypeVar("_T")
_Offers = Iterable[tuple[str, str]]


def offer(kind: str, begun: str) -> list[CompletionItem]:
    """Return the names of a kind that begin so; the kinds are the keys of `_OFFERS`."""
    return _begun(_OFFERS[kind], begun)


def offer_tasks(states: Collection[TaskState] | None, begun: str) -> list[CompletionItem]:
    """Return the ids that begin so, of the newest tasks in these states, or in any."""
    return _begun(partial(_tasks, states=states), begun)


def _begun(offers: Callable[[Config], _Offers], begun: str) -> list[CompletionItem]:
    try:
        found = list(offers(config_as_owner(whole=False, warn=False)))
    except Exception:  # noqa: BLE001 - the error belongs to the command, not to the Tab key
        return []
    return [CompletionItem(name, help=text) for name, text in found if name.startswith(begun)]


def _queues(config: Config) -> _Offers:
    newest = _newest(config, TaskFilter(limit=_SEARCHED))
    seen = dict.fromkeys((task.queue for task in newest), "has tasks")
    return sorted({**seen, **dict.fromkeys(config.queues, "configured")}.items())


def _profiles(config: Config) -> _Offers:
    return [(name, command_text(one.command)) for name, one in sorted(config.profiles.items())]


def _limits(config: Config) -> _Offers:
    return [(name, str(one.rule)) for name, one in sorted(config.limits.items())]


def _tasks(config: Config, states: Collection[TaskState] | None) -> _Offers:
    wanted = TaskFilter(states=frozenset(states or TaskState), limit=_MOST_TASKS)
    for task in _newest(config, wanted):
        yield str(task.id), f"{task.state}: {command_text(task.command)[:40]}"


def _newest(config: Config, wanted: TaskFilter) -> Sequence[Task]:
    """Return matching tasks; few may match, so that only some of all tasks are searched."""

    def newest(client: Client) -> Sequence[Task]:
        with client.store.snapshot():
            last = client.store.ids().stop
        searched = replace(wanted, after_id=last - 1 - _MOST_SEARCHED)
        return list(each_task(client.store, searched, payload=False))

    return _from_store(config, newest)


def _paused(config: Config) -> _Offers:
    paused = _from_store(config, _paused_queues)
    return [(one.queue, one.reason) for one in paused]


def _paused_queues(client: Client) -> Sequence[PausedQueue]:
    with client.store.snapshot():
        return client.store.paused_queues()


def _from_store(config: Config, query: Callable[[Client], Sequence[_T]]) -> Sequence[_T]:
    """Return a query's result; nothing where no database is yet: the Tab key makes none."""
    path = database_path(config.store_url)
    if path is None and remembered_identity(config.state_dir) is None:
        return []
    if path is not None and not path.exists():
        return []
    with Client(config, patience=PATIENCE) as store:
        return query(store)


def _nodes(config: Config) -> _Offers:
    nodes = _from_store(config, _all_nodes)
    called = names(nodes)
    return [(called[one.id], one.draining or "") for one in nodes]


def _all_nodes(client: Client) -> Sequence[Node]:
    with client.store.snapshot():
        return client.store.nodes()


_OFFERS: Mapping[str, Callable[[Config], _Offers]] = {
    "queues": _queues,
    "paused": _paused,
    "nodes": _nodes,
    "profiles": _profiles,
    "limits": _limits,
}
