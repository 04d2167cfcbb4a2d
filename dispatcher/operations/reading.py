"""What a client reads from more than the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dispatcher.config.config import Config
from dispatcher.host import output_files
from dispatcher.model import Run
from dispatcher.store.api import ReaderStore

if TYPE_CHECKING:
    from dispatcher.overview import Status
    from dispatcher.standing import Standing


def runs(store: ReaderStore, config: Config, task_id: int) -> list[Run]:
    """Return a task's runs, oldest first, with the present paths of their outputs."""
    with store.snapshot():
        found = store.runs(task_id)
    return [_relocated(run, str(config.output_dir)) for run in found]


def queues(store: ReaderStore, config: Config) -> frozenset[str]:
    """Return the queues of all tasks, and those that the configuration names."""
    with store.snapshot():
        used = store.counts().keys()
    named = {config.defaults.queue, *config.queues}
    named |= {one.queue for one in config.profiles.values() if one.queue is not None}
    return frozenset({*used, *named})


def status(store: ReaderStore, config: Config) -> Status:
    """Return the state of node, queues and tasks."""
    from dispatcher import overview  # noqa: PLC0415 - no submit needs it

    return overview.status(store, config)


def standing(store: ReaderStore, config: Config) -> Standing:
    """Return the state of this node."""
    from dispatcher import overview  # noqa: PLC0415 - no submit needs it

    return overview.standing(store, config)


def _relocated(run: Run, output_dir: str) -> Run:
    """Return a run with its output's path in the state directory as it is now."""
    moved = output_files.relocated(run.output_path, output_dir)
    is_there = run.output_path != moved and Path(moved).exists()
    return replace(run, output_path=moved) if is_there else run
