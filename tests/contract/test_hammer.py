"""Daemons, operators and submitters on one server, all at once: no deadlock, nothing done twice."""

import os
import random
import re
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from dispatcher import wire
from dispatcher.config.config import Config, load
from dispatcher.environment import Environment
from dispatcher.errors import QueuePaused
from dispatcher.model import FINISHED, Intent, Liveness, Outcome, TaskFilter, TaskState
from dispatcher.new_task import NewTask
from dispatcher.operations.editing import edit_each
from dispatcher.operations.intents import request_each
from dispatcher.operations.local_claims import LocalClaims
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from dispatcher.supervisor.supervisor import Supervisor
from dispatcher.supervisor.turn import Request
from dispatcher.times import Instant, WallTime, instant, sleep
from dispatcher.words import Beat
from tests.contract.helpers import SHARED
from tests.postgres import Postgres
from tests.simulation import SETTINGS, FakeExecutor

pytestmark = SHARED

DAEMONS, OPERATORS, TASKS = 3, 3, 240
SECONDS = 60 if "FUZZ" in os.environ else 4
QUEUES = ("a", "b", "c")

#: What a server logs of a transaction that it ended for another's sake.
BROKEN = re.compile(r"deadlock|could not serialize|lock timeout|duplicate key.*", re.IGNORECASE)

#: Takeovers come after a fraction of a second: the slack is taken back by the margin.
IMPATIENT = replace(
    SETTINGS,
    slots=8,
    absence_limit=0.2,
    takeover_margin=-2.0,
    reap_interval=0.05,
    poll=0.02,
)


class Hammer:
    """A server's store, and what all threads share."""

    def __init__(self, url: str, state_dir: Path, config: Config) -> None:
        self.url = url
        self.state_dir = state_dir
        self.config = config
        self.over = threading.Event()
        self.executed: Counter[tuple[int, int]] = Counter()
        """How often the executors started each task with each fence."""

    def opened(self) -> SqlStore:
        store = open_store(self.url, state_dir=self.state_dir, patience=20)
        assert isinstance(store, SqlStore)
        return store

    def daemon(self, number: int) -> None:
        """Tick without a pause; now and then stand still until others take over."""
        rng, executor = random.Random(number), FakeExecutor()
        executor.clock, executor.wall = instant, lambda: WallTime(0)
        settings = replace(IMPATIENT, node_id=f"node-{number}")
        with closing(self.opened()) as store:
            daemon = Supervisor(store, executor, settings, rng=rng)
            executor.greet()
            while not self.over.is_set():
                self.work(executor, rng)
                events, executor.events = executor.events, []
                daemon.tick(events, self.beats(executor, rng), at=instant())
                if rng.random() < 0.02:
                    sleep(0.5)
                if rng.random() < 0.02:
                    executor.reconnect()
            self.executed.update(
                (int(start.env["DISPATCHER_TASK_ID"]), int(start.env["DISPATCHER_FENCE"]))
                for start in executor.starts
            )

    def work(self, executor: FakeExecutor, rng: random.Random) -> None:
        """Let some runs end, and all whose end was ordered."""
        for uid, run in [*executor.runs.items()]:
            ends = run.state is wire.RunState.ENDING or rng.random() < 0.2
            if ends and run.state is not wire.RunState.GONE:
                executor.gone(uid, rng.choice([0, 0, 0, 1, 75]), at=instant())

    def beats(self, executor: FakeExecutor, rng: random.Random) -> list[Request]:
        starts = [one for one in executor.starts if one.uid in executor.runs]
        return [
            Request(
                Beat(task_id=int(one.env["DISPATCHER_TASK_ID"]), lock=lock, note=str(rng.random())),
                lambda *_: None,
            )
            for one in rng.sample(starts, len(starts))
            if (lock := one.env.get("DISPATCHER_CLAIM_LOCK"))
        ]

    def operator(self, number: int) -> None:
        """Use every verb on tasks in any order."""
        rng = random.Random(100 + number)
        with closing(self.opened()) as store:
            while not self.over.is_set():
                with store.snapshot():
                    ids = rng.sample(store.ids()[-TASKS:], 12)
                doing: Callable[[], object] = rng.choice(
                    [
                        lambda ids=ids: [
                            *request_each(store, self.config, ids, rng.choice([*Intent]))
                        ],
                        lambda ids=ids: [
                            *edit_each(
                                store,
                                self.config,
                                ids,
                                {"queue": rng.choice(QUEUES), "env": {"N": str(rng.random())}},
                            )
                        ],
                        lambda ids=ids: self.pruned(store, ids),
                        lambda: self.submit(store, rng),
                        lambda: self.by_hand(store, rng),
                    ]
                )
                doing()

    def submit(self, store: SqlStore, rng: random.Random) -> None:
        """Submit tasks with keys that others submit too, and environments that some have."""
        keys = rng.sample(range(40), 8)
        tasks = [task(rng, key=f"{key}") for key in keys]
        with store.transaction() as now:
            store.submit(tasks, now=now)

    def by_hand(self, store: SqlStore, rng: random.Random) -> None:
        """Claim a task, and complete it, or let its lease expire."""
        hand = LocalClaims(store, self.config, {})
        with suppress(QueuePaused):
            claim = hand.claim(rng.choice(QUEUES), None, 200)
            if claim is not None and rng.random() < 0.7:
                hand.heartbeat(claim.task_id, None, note="by hand")
                hand.declare("succeed", claim.task_id, None)

    def pruned(self, store: SqlStore, ids: list[int]) -> None:
        with store.transaction() as now:
            store.prune_each(ids, TaskFilter(), limit=9)
        with store.transaction() as now:
            store.prune(before=now, limit=3)


def task(rng: random.Random, **facts: object) -> NewTask:
    given = {
        "command": ("work",),
        "queue": rng.choice(QUEUES),
        "max_attempts": 3,
        "lease_ttl_ms": rng.choice([300, 60_000]),
        "liveness": rng.choice([*Liveness]),
        "environment": Environment({"E": rng.choice("xyz")}),
        "backoff_min_ms": 10,
        "backoff_max_ms": 20,
        "cooldown_ms": 10,
        "kill_grace_ms": 0,
        "run_timeout_ms": rng.choice([None, 200]),
        "total_timeout_ms": rng.choice([None, 5_000]),
    }
    return NewTask(**{**given, **facts})  # type: ignore[arg-type]


@pytest.fixture
def hammer(postgres: Postgres, raw: SqlStore, tmp_path: Path) -> Hammer:
    config = load(None, {"STATE_DIRECTORY": "/v"})
    return Hammer(postgres.url(), tmp_path / "state", config)


def test_daemons_operators_and_submitters_wait_for_each_other_in_one_order(
    hammer: Hammer, postgres: Postgres, raw: SqlStore
) -> None:
    log = postgres.directory / "log"
    before = log.stat().st_size
    rng = random.Random(0)
    with raw.transaction() as now:
        raw.submit([task(rng) for _ in range(TASKS)], now=now)

    with ThreadPoolExecutor(DAEMONS + OPERATORS) as pool:
        futures = [pool.submit(hammer.daemon, number) for number in range(DAEMONS)]
        futures += [pool.submit(hammer.operator, number) for number in range(OPERATORS)]
        until = Instant(instant() + SECONDS)
        while instant() < until and not any(future.done() for future in futures):
            sleep(0.05)
        hammer.over.set()
        for future in futures:
            future.result()

    with log.open() as lines:
        lines.seek(before)
        assert [] == [line for line in lines if BROKEN.search(line)]
    assert {1} == {*hammer.executed.values()}, "one fence was started twice"
    judge(raw)


def judge(store: SqlStore) -> None:
    """Check what no order of transactions may bring about."""
    with store.snapshot():
        runs = store.engine.rows("SELECT task_id, fence, outcome FROM runs ORDER BY task_id, fence")
        states = dict(store.engine.rows("SELECT id, state FROM tasks"))
        unused = store.engine.rows(
            "SELECT id FROM environments WHERE id NOT IN (SELECT environment_id FROM tasks)"
        )
    outcomes = Counter(Outcome(outcome) for _, _, outcome in runs if outcome)
    running = Counter(task_id for task_id, _, outcome in runs if outcome is None)
    assert {task_id for task_id, state in states.items() if state == TaskState.RUNNING} == {
        *running
    }
    assert [] == unused
    assert outcomes[Outcome.ORPHANED] > 0, "nothing was taken over"
    assert outcomes[Outcome.SUCCEEDED] > 0
    assert any(TaskState(state) in FINISHED for state in states.values())
