"""Daemon and executor stopped across deadlines: waiting messages are read before these count."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress

import psutil
import pytest
from pysqlite3 import dbapi2 as sqlite3

from dispatcher import times
from dispatcher.times import from_iso
from tests.e2e.beating import beating
from tests.e2e.helpers import expect_dead, expect_settled, shell, submit_all
from tests.e2e.world import Daemon, World
from tests.eventually import PATIENCE, eventually, let_pass

#: Seconds of an absence limit, the least there may be; its runs are ended two seconds later.
LIMIT = 1.0
SLACK = 2.0

#: Seconds of a run time-out, until a host is fast enough to get there. The executor's own is later.
TIMEOUTS = (1.5, 6.0, 24.0, 96.0)
BACKSTOP = 2.0

#: Seconds beyond a deadline.
LATER = 0.3


@contextmanager
def stopped(*processes: psutil.Process) -> Iterator[None]:
    """Keep processes from doing anything; they go on in this order."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


def require(truth: object) -> None:
    assert truth


def both(daemon: Daemon, order: str) -> Sequence[psutil.Process]:
    pair = (psutil.Process(daemon.pid), daemon.executor())
    return pair if order == "daemon first" else pair[::-1]


class Crew:
    """Tasks whose workers exit with the codes in a file, one each."""

    def __init__(self, world: World, daemon: Daemon, count: int, **options: str | int) -> None:
        self.world = world
        self.began_after = times.instant()
        script = (
            'go="go$DISPATCHER_TASK_ID"; until [ -s $go ]; do sleep 0.05; done; exit $(cat $go)'
        )
        task = {"command": shell(script), "max_attempts": 1, **options}
        self.tasks = submit_all(world, *[task] * count)
        self.workers = [
            psutil.Process(daemon.expect("run.started", task_id=task)["pid"]) for task in self.tasks
        ]
        self.began_before = times.instant()

    def exit(self, *codes: int) -> None:
        """Let the first workers exit with these codes, and wait until they have."""
        for task, code in zip(self.tasks, codes, strict=False):
            draft = self.world.directory / f"draft{task}"
            draft.write_text(str(code))
            draft.rename(self.world.directory / f"go{task}")
        for worker, _ in zip(self.workers, codes, strict=False):
            expect_dead(worker)

    def judge(self, *codes: int) -> None:
        """Expect each of them to have had one run, which ended with its own code."""
        ends = [("failed" if code else "succeeded", code) for code in codes]
        assert ends == [end for task in self.tasks for end in self.ends(task)]

    def ends(self, task: int) -> list[tuple[str, int | None]]:
        """Return how each run of a task ended, once the task is over."""

        def probe() -> None:
            ((state,),) = self.world.stored(f"SELECT state FROM tasks WHERE id = {task}")
            assert state in {"succeeded", "failed"}, state

        eventually(probe)
        query = f"SELECT outcome, exit_code FROM runs WHERE task_id = {task} ORDER BY fence"
        return self.world.stored(query)


@contextmanager
def crew_in_time(
    world: World, daemon: Daemon, count: int, *processes: psutil.Process
) -> Iterator[tuple[Crew, float]]:
    """Stop processes while a crew has its run time-out before it; yield both.

    On a slow host the time-out may be past by then: again, with a longer one.
    """
    for timeout in TIMEOUTS:
        crew = Crew(world, daemon, count, run_timeout=f"{timeout:g}s")
        with stopped(*processes):
            if times.instant() < crew.began_after + timeout:
                yield crew, timeout
                return
    raise AssertionError(f"the host needs more than {timeout} s to stop a process")


def test_an_executor_that_stood_still_past_the_absence_limit_ends_no_confirmed_run(
    world: World,
) -> None:
    world.configure(executor={"absence_limit": f"{LIMIT:g}s"}, node={"slots": 6})
    with world.daemon() as daemon:
        crew = Crew(world, daemon, 6)

        with stopped(daemon.executor()):
            crew.exit(0, 3)
            let_pass(LIMIT + SLACK + LATER)
        # It has judged all of them when it reports two: the others would be ended by now.
        expect_settled(daemon, crew.tasks[:2])

        assert [] == daemon.events("run.ending")
        crew.exit(0, 3, 0, 3, 0, 3)
        crew.judge(0, 3, 0, 3, 0, 3)


@pytest.mark.parametrize("order", ["daemon first", "executor first"])
def test_r86_a_finished_run_has_its_code_after_both_stood_still_past_run_time_outs(
    world: World, order: str
) -> None:
    with world.daemon() as daemon:
        with crew_in_time(world, daemon, 3, *both(daemon, order)) as (crew, timeout):
            crew.exit(0, 3, 0)
            let_pass(crew.began_before + timeout + BACKSTOP + LATER - times.instant())

        crew.judge(0, 3, 0)


@pytest.mark.parametrize("order", ["daemon first", "executor first"])
def test_a_finished_run_has_its_code_after_both_stood_still_past_the_absence_limit(
    world: World, order: str
) -> None:
    world.configure(executor={"absence_limit": f"{LIMIT:g}s"})
    with world.daemon() as daemon:
        crew = Crew(world, daemon, 2)

        with stopped(*both(daemon, order)):
            crew.exit(0, 3)
            let_pass(LIMIT + SLACK + LATER)

        crew.judge(0, 3)


def test_the_daemon_decides_no_time_out_before_an_executor_that_stands_still_has_spoken(
    world: World,
) -> None:
    with world.daemon() as daemon:
        with crew_in_time(world, daemon, 2, daemon.executor()) as (crew, timeout):
            crew.exit(0)
            let_pass(crew.began_before + timeout + LATER - times.instant())
            ids = ", ".join(map(str, crew.tasks))
            endings = world.stored(
                f"SELECT ending FROM runs WHERE task_id IN ({ids}) AND outcome IS NULL"
            )
            assert [(None,), (None,)] == endings

        done, late = crew.tasks
        assert [("succeeded", 0)] == crew.ends(done)
        assert [("timed_out", None)] == crew.ends(late)


def cpu(process: psutil.Process) -> float:
    used = process.cpu_times()
    return used.user + used.system


@contextmanager
def at_rest(process: psutil.Process) -> Iterator[None]:
    """Expect a process to sleep most of the time."""
    before, began = cpu(process), time.monotonic()
    yield
    assert cpu(process) - before < (time.monotonic() - began) / 4


def test_a_daemon_that_finds_its_executor_stopped_calls_it_silent_and_sleeps(world: World) -> None:
    with world.daemon() as daemon:
        crew = Crew(world, daemon, 1)
        executor = daemon.executor()
        with stopped(executor):
            daemon.kill()
            with world.daemon(alone=False) as successor:
                with at_rest(psutil.Process(successor.pid)):
                    successor.expect("executor.silent")
                    let_pass(1)
                assert "silent" == world.cli("status", "--json").json["executor"]
                assert "the executor is silent" in world.cli("why", crew.tasks[0]).stdout
                assert "has not greeted it" in world.cli("doctor", exits=1).stdout

                executor.send_signal(signal.SIGCONT)
                successor.expect("executor.connected", executor_pid=executor.pid)
                crew.exit(3)
                crew.judge(3)
    world.expect_nobody()


def test_no_beating_worker_is_lost_that_waited_at_the_door_of_a_stopped_executor(
    world: World,
) -> None:
    """More of them than the daemon lets in at once, and for longer than their leases."""
    count = 48
    world.configure(node={"slots": count})
    task = {"command": beating(), "liveness": "worker", "lease_ttl": "60s", "max_attempts": 1}
    with world.daemon() as daemon:
        tasks = submit_all(world, *[task] * count)
        eventually(lambda: require(len(beaten(world, 0)) == count))
        executor = daemon.executor()
        with stopped(executor):
            daemon.kill()
            shorten_leases(world, LEASE)
            with world.daemon(alone=False) as successor:
                let_pass(LEASE / 1000 + LATER)
                executor.send_signal(signal.SIGCONT)
                greeted = successor.expect("executor.connected")["timestamp"]
                eventually(lambda: require(len(beaten(world, from_iso(greeted))) == count))

                assert [] == successor.events("lease.expired")
                (world.directory / "stop").touch()
                expect_settled(successor, tasks, outcome="succeeded")
    world.expect_nobody()


#: Milliseconds: as short as a crowd on a slow host can keep.
LEASE = 2_000


def shorten_leases(world: World, ttl: int) -> None:
    """Make leases short that had to be long until everybody had started: no daemon runs."""
    with closing(sqlite3.connect(world.database, timeout=PATIENCE)) as store, store:
        store.execute(
            "UPDATE runs SET lease_ttl_ms = ?, lease_expires_at = last_heartbeat_at + ?",
            (ttl, ttl),
        )


def beaten(world: World, since: int) -> list[tuple[int]]:
    """Return the tasks with an accepted beat since, in the store's time."""
    return world.stored("SELECT task_id FROM runs WHERE last_heartbeat_at > ?", since)
