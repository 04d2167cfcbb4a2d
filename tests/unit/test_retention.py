"""The daemon itself deletes tasks that finished long ago, in virtual time; nothing grows."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

from msgspec.structs import replace

from dispatcher.events import Ledger
from dispatcher.model import Liveness, TaskState
from dispatcher.new_task import NewTask
from dispatcher.store.sql import SqlStore
from dispatcher.supervisor.retention import BATCH_INTERVAL, LOOK_INTERVAL, PRUNE_BATCH, Files
from dispatcher.times import WallTime
from dispatcher.wire import RunUid
from dispatcher.words import Beat, Renewed
from tests.simulation import SETTINGS, World

HOUR = 3600.0

KEEPING = replace(SETTINGS, retention=HOUR)


class FakeFiles:
    """An output directory in a list."""

    def __init__(self) -> None:
        self.discarded: list[tuple[str, str]] = []
        self.old: list[RunUid] = []
        self.expired_before: WallTime | None = None

    def expire(self, before: WallTime) -> None:
        self.expired_before = before

    def suspects(self, *, limit: int) -> Sequence[RunUid]:
        return self.old[:limit]

    def judged(self, suspects: Sequence[RunUid], unknown: Iterable[RunUid]) -> None:
        del self.old[: len(suspects)]
        self.discard((f"/output/{uid}.log" for uid in unknown), "no run")

    def discard(self, paths: Iterable[str], reason: str) -> None:
        self.discarded += [(path, reason) for path in paths]


fits: Files = FakeFiles()


def rows(world: World) -> dict[str, int]:
    """Return how many rows each table has."""
    engine = cast("SqlStore", world.store).engine
    with world.store.snapshot():
        tables = [
            row[0] for row in engine.rows("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        return {name: engine.rows(f"SELECT count(*) FROM {name}")[0][0] for name in tables}


def finished(world: World, **facts: Any) -> int:
    """Run a task to its end."""
    task_id = world.submit(**facts)
    world.settle_down()
    world.run_for(1)
    world.gone(task_id)
    assert world.state(task_id) is TaskState.SUCCEEDED
    return task_id


def test_r56_only_tasks_that_finished_before_the_retention_are_deleted_with_their_output() -> None:
    files = FakeFiles()
    world = World(KEEPING, files=files).start()
    old = finished(world)
    path = world.runs(old)[0].output_path
    waiting = world.submit(delay_ms=10**9)
    running = world.submit()
    world.run_for(HOUR / 2)
    young = finished(world)

    world.run_for(HOUR / 2 + LOOK_INTERVAL)

    with world.store.snapshot():
        assert None is world.store.task(old)
        assert all(world.store.task(each) for each in (waiting, running, young))
    assert [(path, "retention")] == files.discarded


def test_events_of_queues_go_after_the_retention_and_younger_ones_stay() -> None:
    world = World(KEEPING)
    with world.store.transaction() as now:
        for number in range(PRUNE_BATCH + 1):
            world.store.pause(str(number), "old", now=now)
    world.elapsed += 2 * HOUR
    with world.store.transaction() as now:
        world.store.pause("young", "why", now=now)
    world.start()

    world.run_for(LOOK_INTERVAL)

    with world.store.snapshot():
        left = world.store.last_events(Ledger.EVENTS, before=10**6, limit=9)
    assert ["young"] == [one.subject for one in left]


def test_r56_a_backlog_goes_in_batches_between_which_others_are_served() -> None:
    world = World(KEEPING)
    with world.store.transaction() as now:
        for _ in range(3 * PRUNE_BATCH):
            task = NewTask(command=("true",), max_attempts=1, lease_ttl_ms=1000)
            task_id = world.store.submit([task], now=now)[0].task_id
            world.store.cancel(task_id, "not needed", now=now)
    world.elapsed += 2 * HOUR
    world.start()

    assert 2 * PRUNE_BATCH == rows(world)["tasks"]
    fresh = world.submit()
    world.settle_down()
    assert world.state(fresh) is TaskState.RUNNING
    world.run_for(3 * BATCH_INTERVAL)
    assert 1 == rows(world)["tasks"]


def test_with_a_retention_of_never_nothing_is_deleted() -> None:
    world = World(SETTINGS).start()
    task_id = finished(world)

    world.run_for(2 * HOUR)

    assert world.state(task_id) is TaskState.SUCCEEDED


def test_output_of_which_the_store_knows_no_run_is_removed() -> None:
    """Left by a crash between the commit that deleted the row and the file's removal."""
    files = FakeFiles()
    world = World(KEEPING, files=files).start()
    running = world.submit()
    world.settle_down()
    known, stray = world.uid(running), RunUid("f" * 32)
    files.old = [known, stray]

    world.run_for(LOOK_INTERVAL)

    assert [(f"/output/{stray}.log", "no run")] == files.discarded
    assert [] == files.old


def test_no_output_is_judged_before_the_executor_reported_its_runs() -> None:
    files = FakeFiles()
    world = World(KEEPING, files=files)
    files.old = [RunUid("f" * 32)]

    world.settle_down()
    world.run_for(LOOK_INTERVAL)

    assert [] == files.discarded


def test_r56_no_row_grows_with_heartbeats() -> None:
    world = World(KEEPING).start()
    task_id = world.submit(liveness=Liveness.WORKER)
    world.settle_down()
    engine = cast("SqlStore", world.store).engine
    with world.store.snapshot():
        ((lock,),) = engine.rows("SELECT lock FROM runs WHERE outcome IS NULL")
    before, beats = rows(world), 20_000

    with world.store.transaction() as now:
        for number in range(beats):
            progress, note = number / beats, f"step {number}"
            beat = Beat(task_id=task_id, lock=lock, progress=progress, note=note)
            assert isinstance(world.store.heartbeat([beat], now=now)[0], Renewed)

    assert before == rows(world)
