"""Leases of real workers while clocks are set, processes stand still and the store is crowded."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
from pysqlite3 import dbapi2 as sqlite3

from dispatcher.errors import StoreUnavailable
from dispatcher.store.open import open_store
from tests.contract.helpers import new_task
from tests.e2e.beating import LEASE, beating
from tests.e2e.world import World
from tests.eventually import PATIENCE, let_pass

SILENT = ["sleep", "99"]


def stop_file(world: World) -> Path:
    return world.directory / "stop"


def expect_one_run_each(world: World, *tasks: int) -> None:
    """Let the workers end, and see that none of them was disturbed."""
    stop_file(world).touch()
    for task_id in tasks:
        task = world.until(task_id, "succeeded", "failed")
        assert ["succeeded"] == [run["outcome"] for run in task["runs"]], task
        assert 0 == task["attempts_used"]


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def rewind(world: World, task_id: int, **columns: object) -> None:
    """Set a task's lease to one second after the epoch; and its run's columns."""
    with closing(sqlite3.connect(world.state_dir / "tasks.db", timeout=PATIENCE)) as store, store:
        store.execute(
            "UPDATE runs SET lease_expires_at = 1000 WHERE task_id = ? AND outcome IS NULL",
            (task_id,),
        )
        for name, value in columns.items():
            store.execute(f"UPDATE runs SET {name} = ? WHERE task_id = ?", (value, task_id))


def test_ac1_r07_a_lease_rewound_by_hand_is_lost_when_no_beat_follows(world: World) -> None:
    """For any pid in its row: a live one keeps no lease, and a stranger is not signalled."""
    with world.daemon() as daemon, subprocess.Popen(SILENT) as stranger:
        task_id = world.submit(*SILENT, liveness="worker", lease_ttl="10m", max_attempts=1)
        daemon.expect("run.started", task_id=task_id)

        rewind(world, task_id, pid=stranger.pid)

        daemon.expect("lease.expired", task_id=task_id)
        assert "lost" == world.until(task_id, "failed")["runs"][0]["outcome"]
        assert stranger.poll() is None
        stranger.kill()


def test_a_daemon_that_stood_still_past_leases_spares_workers_that_beat_and_finds_silent_ones(
    world: World,
) -> None:
    with world.daemon() as daemon:
        diligent = [world.submit(*beating(keep=keep), **LEASE) for keep in (False, True)]
        plain = world.submit("sh", "-c", "while [ ! -e stop ]; do sleep 0.1; done", lease_ttl="1s")
        for task_id in (*diligent, plain):
            daemon.expect("run.started", task_id=task_id)
        silent = world.submit(*SILENT, **LEASE)
        daemon.expect("run.started", task_id=silent)

        with stopped(psutil.Process(daemon.pid)):
            let_pass(1.5)

        assert "lost" == world.until(silent, "failed")["runs"][0]["outcome"]
        expect_one_run_each(world, *diligent, plain)


def test_an_executor_that_stood_still_past_leases_charges_nobody(world: World) -> None:
    with world.daemon() as daemon:
        diligent = world.submit(*beating(), **LEASE)
        plain = world.submit("sh", "-c", "while [ ! -e stop ]; do sleep 0.1; done", lease_ttl="1s")
        for task_id in (diligent, plain):
            daemon.expect("run.started", task_id=task_id)

        with stopped(psutil.Process(daemon.executor().pid)):
            let_pass(2.5)

        assert [] == daemon.events("lease.expired")
        expect_one_run_each(world, diligent, plain)


def test_r10_fifty_writers_and_a_long_reader_cost_nobody_a_lease(world: World) -> None:
    """For three leases; for ten in `tests/system`."""
    crowd(world, leases=3)


def crowd(world: World, *, leases: int) -> None:
    """Beat in a crowd of writers, each of which submits as command lines do, to run in a year."""
    over = threading.Event()
    written: list[int] = []
    url = f"sqlite://{world.state_dir}/tasks.db"

    def write() -> None:
        with closing(open_store(url, state_dir=world.state_dir, patience=PATIENCE)) as store:
            while not over.is_set():
                try:
                    with store.transaction() as now:
                        task = new_task(delay_ms=365 * 86_400_000)
                        written.append(store.submit([task], now=now)[0].task_id)
                except StoreUnavailable:
                    pass

    with world.daemon() as daemon:
        diligent = [world.submit(*beating(keep=keep), **LEASE) for keep in (False, True)]
        for task_id in diligent:
            daemon.expect("run.started", task_id=task_id)
        writers = [threading.Thread(target=write) for _ in range(50)]
        with closing(open_store(url, state_dir=world.state_dir, patience=PATIENCE)) as reader:
            with reader.snapshot():
                seen = reader.counts()
                for writer in writers:
                    writer.start()
                let_pass(leases * 1.0)
                assert seen == reader.counts()
            over.set()
            for writer in writers:
                writer.join()

        assert [] == daemon.events("lease.expired")
        assert len(written) > 100
        expect_one_run_each(world, *diligent)


def test_a_worker_that_ended_while_the_executor_stood_still_is_not_lost_for_its_silence(
    world: World,
) -> None:
    """It stopped beating because it was done; only its parent knew, and could not report it."""
    with world.daemon() as daemon:
        done = world.submit(*beating(), **LEASE)
        daemon.expect("run.started", task_id=done)

        with stopped(psutil.Process(daemon.executor().pid)):
            stop_file(world).touch()
            let_pass(1.5)

        assert ["succeeded"] == [run["outcome"] for run in world.until(done, "succeeded")["runs"]]
