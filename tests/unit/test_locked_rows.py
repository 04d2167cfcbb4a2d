"""Rows that another session holds for long, in virtual time: one run may suffer, and never twice.

What must hold (protocol 1.10): no executor's deadline comes later than the time from which another
node may take the claim, and all other runs go on.
"""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs

from dispatcher import wire
from dispatcher.errors import StoreLocked
from dispatcher.execution import NO_ROWS, Held, Rows
from dispatcher.model import Liveness, Outcome, TaskState
from dispatcher.supervisor.turn import Request
from dispatcher.times import StoreTime
from dispatcher.wire import RunUid
from dispatcher.words import Beat
from tests.recorded_logs import expect_catalogued
from tests.simulation import SETTINGS
from tests.unit.hosts import ENDED, GRACE, LIMIT, TAKEN, Host, Hosts, Road

#: What waits for the row of a run; what passes over one; what only a whole tick may change.
WAITS = {"record_started", "record_leader_exits", "heartbeat", "note", "declare", "settle"}
SEARCHES = {"stranded", "abandoned", "expired"}
OF_NODE = {"confirm", "renew", "renew_short"}


@dataclass
class Locks:
    """What a person has locked: runs, tasks by their runs, and rows of nodes."""

    runs: set[RunUid] = field(default_factory=set)
    tasks: set[RunUid] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)

    def clear(self) -> None:
        for each in (self.runs, self.tasks, self.nodes):
            each.clear()


class Guarded(Road):
    """A store on which a person has locked rows; a transaction waits for none of them."""

    def __init__(self, store: Any, locks: Locks) -> None:
        super().__init__(store)
        self._locks = locks

    def __getattr__(self, name: str) -> Any:
        sound = getattr(self._store, name)
        if name in SEARCHES:
            passed_over = set(self._locks.runs)
            if name != "expired":  # it locks runs alone
                passed_over |= self._locks.tasks
            return lambda *args, **facts: [
                run for run in sound(*args, **facts) if run.run_uid not in passed_over
            ]
        if name in OF_NODE:
            return lambda node, *args, **facts: self._change(
                sound, self._open(node), facts.get("but", ()), (node, *args), facts
            )
        if name in WAITS:
            return lambda what, *args, **facts: self._change(
                sound, self._named(what), (), (what, *args), facts
            )
        return sound

    def _is_locked(self, uid: RunUid) -> bool:
        return uid in self._locks.runs | self._locks.tasks

    def _open(self, node: str) -> dict[RunUid, int]:
        return {run.run_uid: run.task_id for run in self._store.open_runs(node)}

    def _everywhere(self) -> dict[RunUid, int]:
        engine: Any = self._store
        rows = engine.engine.rows("SELECT uid, task_id FROM runs WHERE outcome IS NULL")
        return {RunUid(uid): task_id for uid, task_id in rows}

    def _named(self, what: Any) -> set[RunUid]:
        items = what if isinstance(what, list | tuple) else [what]
        uids = {getattr(one, "uid", getattr(one, "run_uid", one)) for one in items}
        ids = {getattr(one, "task_id", None) for one in items}
        return {uid for uid, task_id in self._everywhere().items() if uid in uids or task_id in ids}

    def _change(
        self, sound: Any, uids: Collection[RunUid], but: Collection[RunUid], args: Any, facts: Any
    ) -> Any:
        wanted = set(uids) - set(but)
        waits = set() if sound.__name__ == "renew" else self._locks.runs & wanted
        if sound.__name__ in {"settle", "renew", "renew_short"}:  # a second change, or the task's
            waits |= self._locks.tasks & wanted
        if waits:
            raise StoreLocked("another session has held a lock")
        return sound(*args, **facts)

    def take_runs(self, uids: Collection[RunUid]) -> Any:
        return self._store.take_runs([uid for uid in uids if not self._is_locked(uid)])

    def begin_endings(self, endings: Collection[Any], **facts: Any) -> Any:
        free = [one for one in endings if one.run_uid not in self._locks.runs]
        return self._store.begin_endings(free, **facts)

    def record_node(self, node: Any) -> bool:
        if node.id in self._locks.nodes:
            raise StoreLocked("another session has held a lock")
        return self._store.record_node(node)

    def claim(self, queue: str, *, node: str, **facts: Any) -> Any:
        if node in self._locks.nodes:
            raise StoreLocked("another session has held a lock")
        return self._store.claim(queue, node=node, **facts)

    def lock_rows(self, tasks: Rows, runs: Rows = NO_ROWS) -> None:
        of_tasks, of_runs = self._wanted(tasks), self._wanted(tasks) | self._wanted(runs)
        if of_tasks & self._locks.tasks or of_runs & self._locks.runs:
            raise StoreLocked("another session has held a lock")
        if tasks.node in self._locks.nodes:
            raise StoreLocked("another session has held a lock")

    def _wanted(self, rows: Rows) -> set[RunUid]:
        named = {
            uid
            for uid, task_id in self._everywhere().items()
            if uid in rows.runs or task_id in rows.tasks
        }
        return named | (self._open(rows.node).keys() if rows.node is not None else set())

    def lock_free(self, wanted: Rows, *, node: str) -> Held:
        uids = self._wanted(wanted)
        return Held(
            tasks={
                uid: task_id
                for uid, task_id in self._everywhere().items()
                if uid in uids and self._is_locked(uid)
            },
            runs=frozenset(uids & self._locks.runs),
            node=node in self._locks.nodes,
        )

    def lock_holder(self, _held: Held, *, node: str) -> str:
        return f"pid 7 at {node}"


class LockedHosts(Hosts):
    """Hosts whose store a person works on, too."""

    def __init__(self, count: int = 2, **settings: Any) -> None:
        super().__init__(count, **settings)
        self.locks = Locks()
        for host in self.all:
            host.road = host.store = Guarded(host.shared, self.locks)
            host.fresh_supervisor()

    def judge(self) -> None:
        """See also that each run ends before others may take it."""
        super().judge()
        for host in self.all:
            for uid, takeover_at in self._takeovers(host):
                left = (takeover_at - host.now()) / 1000
                dead_in = host.executor.deadlines[uid] - host.at() + GRACE
                assert dead_in + SETTINGS.takeover_margin <= left + 0.002

    def _takeovers(self, host: Host) -> Iterator[tuple[RunUid, StoreTime]]:
        store: Any = host.shared
        with store.snapshot():
            rows = store.engine.rows("SELECT uid, takeover_at FROM runs WHERE outcome IS NULL")
        living = host.executor.living()
        return ((RunUid(uid), takeover_at) for uid, takeover_at in rows if uid in living)


Logs = list[Any]


@pytest.fixture
def logs() -> Iterator[Logs]:
    with capture_logs() as captured:
        yield captured
    expect_catalogued(captured)


def of(logs: Logs, *events: str) -> Logs:
    return [entry for entry in logs if entry["event"] in events]


def outcomes(host: Host, task_id: int) -> list[Outcome | None]:
    return [run.outcome for run in host.runs(task_id)]


def fence(host: Host, task_id: int) -> int:
    return host.task(task_id).fence


@pytest.fixture
def hosts() -> LockedHosts:
    hosts = LockedHosts()
    hosts.start()
    return hosts


def running(hosts: LockedHosts, many: int = 2) -> list[int]:
    """Let the first host start tasks."""
    first, second = hosts.all
    second.frozen = True
    tasks = [first.submit("work", kill_grace_ms=int(GRACE * 1000)) for _ in range(many)]
    hosts.run_for(2)
    second.frozen = False
    hosts.run_for(2)
    assert tasks == first.tasks
    return tasks


@pytest.mark.parametrize("first_looks", [True, False])
def test_a_run_whose_row_is_locked_for_long_ends_alone_and_runs_again_at_the_release(
    hosts: LockedHosts, *, first_looks: bool
) -> None:
    """It can be neither confirmed nor taken over; then the first who has the row decides."""
    locked, other = running(hosts)
    one, _ = hosts.all
    hosts.locks.runs.add(one.uid(locked))

    hosts.run_for(LIMIT / 2)
    assert [locked, other] == one.tasks
    hosts.run_for(ENDED)
    assert [other] == one.tasks
    assert [None] == outcomes(one, locked)
    hosts.run_for(2 * TAKEN)
    assert [None] == outcomes(one, locked)
    assert one.supervisor.report(at=one.at()).store_silent_for_s is None

    hosts.locks.clear()
    if not first_looks:
        hosts.all.reverse()
    hosts.run_for(30)
    assert [Outcome.ORPHANED, None] == outcomes(one, locked)
    assert 1 == sum(locked in host.tasks for host in hosts.all)
    assert ([None], 1) == (outcomes(one, other), fence(one, other))


@pytest.mark.parametrize("kind", ["runs", "tasks"])
def test_a_run_whose_row_is_released_in_time_goes_on(hosts: LockedHosts, kind: str) -> None:
    locked, other = running(hosts)
    one, _ = hosts.all
    held = (
        LIMIT * 0.7 if kind == "runs" else 3 * TAKEN
    )  # a task's lock keeps nobody from confirming
    getattr(hosts.locks, kind).add(one.uid(locked))
    one.finish(other)

    hosts.run_for(held)
    assert TaskState.SUCCEEDED is one.state(other)
    hosts.locks.clear()
    hosts.run_for(3 * TAKEN)

    assert ([None], [locked]) == (outcomes(one, locked), one.tasks)
    one.finish(locked)
    hosts.run_for(2)
    assert [Outcome.SUCCEEDED] == outcomes(one, locked)


def test_a_run_is_confirmed_as_soon_as_it_is_released(hosts: LockedHosts) -> None:
    """Not only when the others are: its deadline may come before."""
    locked, _ = running(hosts)
    one, _ = hosts.all
    uid = one.uid(locked)
    hosts.locks.runs.add(uid)

    hosts.run_for(one.executor.deadlines[uid] - one.at() - 1.5)
    hosts.locks.clear()
    hosts.run_for(2 * TAKEN)

    assert ([None], 1) == (outcomes(one, locked), fence(one, locked))


@pytest.mark.parametrize("kind", ["runs", "tasks"])
def test_what_a_locked_run_reports_is_recorded_at_the_release(
    hosts: LockedHosts, kind: str, logs: Logs
) -> None:
    locked, other = running(hosts)
    one, _ = hosts.all
    getattr(hosts.locks, kind).add(one.uid(locked))
    one.finish(locked, 3)
    hosts.run_for(10)

    assert [None] == outcomes(one, locked)
    report = one.supervisor.report(at=one.at())
    text = (
        f"another session (pid 7 at {one.settings.node_id}) holds a lock on the rows of task"
        f" {locked}; nothing of it is recorded until it ends"
    )
    assert report.rows_locked is not None
    assert text == report.rows_locked.describe() == of(logs, "rows.locked")[0]["reason"]
    assert [] == of(logs, "store.unavailable")

    hosts.locks.clear()
    hosts.run_for(1.1)
    assert [Outcome.FAILED] == outcomes(one, locked)
    assert [3] == [run.exit_code for run in one.runs(locked)]
    assert [other] == one.tasks
    assert None is one.supervisor.report(at=one.at()).rows_locked
    assert of(logs, "rows.unlocked")[0]["waited_s"] > 9


def test_a_lock_for_a_moment_is_no_outage_and_is_not_reported(
    hosts: LockedHosts, logs: Logs
) -> None:
    locked, _ = running(hosts)
    one, _ = hosts.all
    hosts.locks.runs.add(one.uid(locked))
    one.finish(locked)
    hosts.run_for(0.3)
    hosts.locks.clear()
    hosts.run_for(0.5)

    assert [Outcome.SUCCEEDED] == outcomes(one, locked)
    assert [] == of(logs, "rows.locked", "rows.unlocked", "store.unavailable")


def test_no_lease_of_a_locked_run_is_judged(hosts: LockedHosts) -> None:
    one, two = hosts.all
    other, _ = running(hosts)
    two.frozen = True
    one.finish(other)
    hosts.run_for(1)
    task = one.submit("work", liveness=Liveness.WORKER, lease_ttl_ms=30_000)
    hosts.run_for(2)
    lock = one.executor.starts[-1].env["DISPATCHER_CLAIM_LOCK"]
    answers: list[Any] = []

    def beat() -> None:
        one.tick(Request(Beat(task_id=task, lock=lock), lambda answer, _: answers.append(answer)))

    hosts.locks.tasks.add(one.uid(task))
    hosts.locks.nodes.add(one.settings.node_id)  # a tick waits for this, and then passes over all
    hosts.run_for(10)
    for _ in range(8):
        beat()
        hosts.run_for(10)
    assert [None] * 8 == answers
    assert None is one.task(task).ending
    hosts.locks.clear()
    hosts.run_for(2)
    beat()

    assert None is not answers[-1]
    hosts.run_for(29)
    assert None is one.task(task).ending
    hosts.run_for(3)
    assert Outcome.LOST is one.task(task).ending


def test_a_beat_that_the_executor_forwarded_is_recorded_at_the_release_before_it_is_judged(
    hosts: LockedHosts,
) -> None:
    one, two = hosts.all
    two.frozen = True
    task = one.submit("work", liveness=Liveness.WORKER, lease_ttl_ms=30_000, notify=True)
    hosts.run_for(2)
    hosts.locks.tasks.add(one.uid(task))
    hosts.locks.nodes.add(one.settings.node_id)
    hosts.run_for(10)
    one.executor.events.append(wire.Notice(uid=one.uid(task), serial=1, beat=True))
    hosts.run_for(60)
    assert None is one.task(task).ending

    hosts.locks.clear()
    hosts.run_for(25)
    assert None is one.task(task).ending
    hosts.run_for(7)
    assert Outcome.LOST is one.task(task).ending


def test_a_locked_node_claims_nothing_and_all_its_runs_go_on(hosts: LockedHosts) -> None:
    locked, other = running(hosts)
    one, two = hosts.all
    two.frozen = True
    hosts.locks.nodes.add(one.settings.node_id)
    waiting = one.submit("work")
    one.finish(other)
    hosts.run_for(3 * TAKEN)

    assert TaskState.READY is one.state(waiting)
    assert (TaskState.SUCCEEDED, [locked]) == (one.state(other), one.tasks)
    locks = one.supervisor.report(at=one.at()).rows_locked
    assert locks is not None
    assert "holds a lock on this node's row; nothing is claimed until it ends" in locks.describe()

    hosts.locks.clear()
    hosts.run_for(2)
    assert [locked, waiting] == one.tasks
    assert [None] == outcomes(one, locked)


@pytest.mark.parametrize("seed", range(100 if "FUZZ" in os.environ else 3))
def test_whatever_is_locked_no_task_ever_runs_twice_and_each_ends(seed: int) -> None:
    rng = random.Random(seed)
    hosts = LockedHosts(count=2, slots=3)
    hosts.start()
    first = hosts.all[0]
    tasks = [first.submit("work", kill_grace_ms=10_000, max_attempts=9) for _ in range(5)]
    for _ in range(30):
        rng.choice(TROUBLES)(hosts, rng.choice(hosts.all), rng)
        hosts.run_for(rng.choice([0.5, 5, LIMIT / 4, TAKEN]))
    hosts.locks.clear()
    for host in hosts.all:
        host.frozen = host.road.cut = False
    while [TaskState.SUCCEEDED] * 5 != [first.state(task) for task in tasks]:
        hosts.run_for(TAKEN)
        for host in hosts.all:
            for task in host.tasks:
                host.finish(task)
        assert first.elapsed < 100 * TAKEN


def lock_run(hosts: LockedHosts, host: Host, _rng: random.Random) -> None:
    hosts.locks.runs.update(host.executor.living()[:1])


def lock_task(hosts: LockedHosts, host: Host, _rng: random.Random) -> None:
    hosts.locks.tasks.update(host.executor.living()[:1])


def lock_node(hosts: LockedHosts, host: Host, _rng: random.Random) -> None:
    hosts.locks.nodes.add(host.settings.node_id)


def release(hosts: LockedHosts, _host: Host, _rng: random.Random) -> None:
    hosts.locks.clear()


def finish(_hosts: LockedHosts, host: Host, rng: random.Random) -> None:
    for task in host.tasks[:1]:
        host.finish(task, rng.choice([0, 1]))


def freeze(_hosts: LockedHosts, host: Host, _rng: random.Random) -> None:
    host.frozen = not host.frozen


def cut(_hosts: LockedHosts, host: Host, _rng: random.Random) -> None:
    host.road.cut = not host.road.cut


def reconnect(_hosts: LockedHosts, host: Host, _rng: random.Random) -> None:
    if not host.frozen:
        host.executor.reconnect()


TROUBLES = (lock_run, lock_run, lock_task, lock_node, release, finish, freeze, cut, reconnect)
