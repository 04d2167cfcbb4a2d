"""Daemons, operators and submitters on one server, all at once, with tasks that wait for others."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dispatcher.config.config import load
from dispatcher.dependency import DependencyState, ParentFailure, TaskKey
from dispatcher.events import EventKind
from dispatcher.model import FINISHED, TaskState
from dispatcher.store.sql import SqlStore
from dispatcher.times import Instant, instant, sleep
from tests.contract.helpers import SHARED
from tests.contract.test_hammer import DAEMONS, OPERATORS, SECONDS, TASKS, Hammer, task
from tests.postgres import Postgres

pytestmark = SHARED

#: What a task that runs, or has run well, no longer asks of its parents.
PAST = {TaskState.RUNNING, TaskState.SUCCEEDED}


class FamilyHammer(Hammer):
    """Submits tasks that wait for some of the last ones, and for each other."""

    def submit(self, store: SqlStore, rng: random.Random) -> None:
        with store.snapshot():
            last = store.ids()[-60:]
        keys = [f"{key}" for key in rng.sample(range(10**6), 4)]
        keys[0] = rng.choice(("1", "2", "3"))  # others submit it, too
        tasks = []
        for place, key in enumerate(keys):
            parents = {*rng.sample(last, k=min(len(last), rng.randint(0, 3)))}
            names = [*parents, *(TaskKey("a", one) for one in keys[:place] if rng.random() < 0.4)]
            needed = {one: rng.random() < 0.7 for one in names}
            wanted = task(
                rng,
                key=key,
                queue="a",
                max_attempts=rng.choice((1, 2)),
                after=tuple(one for one in names if needed[one]),
                after_any=tuple(one for one in names if not needed[one]),
                on_parent_failure=rng.choice((None, *ParentFailure)),
            )
            tasks.append(wanted)
        with store.transaction() as now:
            store.submit(tasks, now=now)


def test_r43_what_waits_for_what_is_right_whoever_acts_at_the_same_time(
    raw: SqlStore, postgres: Postgres, tmp_path: Path
) -> None:
    config = load(None, {"STATE_DIRECTORY": "/v"})
    hammer = FamilyHammer(postgres.url(), tmp_path / "state", config)
    rng = random.Random(0)
    with raw.transaction() as now:
        raw.submit([task(rng) for _ in range(TASKS)], now=now)
    for _ in range(20):
        hammer.submit(raw, rng)

    with ThreadPoolExecutor(DAEMONS + OPERATORS) as pool:
        futures = [pool.submit(hammer.daemon, number) for number in range(DAEMONS)]
        futures += [pool.submit(hammer.operator, number) for number in range(OPERATORS)]
        until = Instant(instant() + SECONDS)
        while instant() < until and not any(future.done() for future in futures):
            sleep(0.05)
        hammer.over.set()
        for future in futures:
            future.result()

    judge(raw)


def judge(store: SqlStore) -> None:
    """Check what holds after each commit."""
    with store.snapshot():
        assert {} == store.wrong_counts()
        found = store.engine.rows(
            "SELECT id, state, reason, blockers, hold_kind, awaited, on_parent_failure FROM tasks"
        )
        tasks = {row[0]: row[1:] for row in found}
        edges = store.engine.rows("SELECT task_id, parent_id, any_outcome, state FROM dependencies")
    assert len(edges) > TASKS // 4
    states = Counter(state for *_, state in edges)
    assert states.keys() == {*DependencyState}
    open_ones = Counter(child for child, *_, state in edges if state == DependencyState.OPEN)
    broken = {child for child, *_, state in edges if state == DependencyState.BROKEN}
    for child, above, any_outcome, state in edges:
        is_there = above in tasks
        of, rule = tasks[child][0], tasks[child][5]
        if state == DependencyState.OPEN:
            assert is_there, "it waits for a deleted task"
            assert tasks[above][0] not in FINISHED or tasks[above][4], "nobody will pass it on"
        if state == DependencyState.BROKEN and is_there and of not in PAST:
            assert tasks[above][0] in (TaskState.FAILED, TaskState.CANCELLED), (child, above)
            assert not any_outcome
            assert rule != ParentFailure.RUN
    for task_id, (state, reason, blockers, hold_kind, *_) in tasks.items():
        assert (blockers or 0) == open_ones[task_id], task_id
        if state == TaskState.WAITING:
            assert open_ones[task_id], f"{task_id} waits for nobody"
            assert task_id not in broken
        if state == TaskState.HELD and hold_kind == "parent":
            assert task_id in broken or reason.endswith("does not exist")
    with store.snapshot():
        for task_id in tasks:
            events = [one for one in store.task_events(task_id) if one.after is not None]
            if not events or events[0].kind != EventKind.SUBMIT:
                continue  # a part of it is deleted already
            assert [one.after for one in events[:-1]] == [one.before for one in events[1:]]
            assert events[-1].after == tasks[task_id][0]
