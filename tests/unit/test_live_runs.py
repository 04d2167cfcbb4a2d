"""Live runs in memory: what is counted and sorted agrees with a look at each."""

import math
import random

import pytest

from dispatcher.execution import NO_LIMITS
from dispatcher.model import Liveness
from dispatcher.supervisor.live_runs import LiveRun, LiveRuns, Watch
from dispatcher.times import NEVER, Instant
from dispatcher.wire import RunUid

UIDS = [RunUid(f"{number:032x}") for number in range(40)]


def live(uid: RunUid, rng: random.Random) -> LiveRun:
    """Return a run that shares some of its values with others."""
    return LiveRun(
        uid=uid,
        task_id=rng.randrange(8),
        run_id=1,
        attempt=1,
        fence=1,
        queue=rng.choice("abc"),
        liveness=rng.choice([*Liveness]),
        lease_ttl=rng.choice([1.0, 5.0, 60.0]),
        limits=NO_LIMITS,
        kill_grace=rng.choice([0.0, 10.0, 20.0]),
        pid=rng.choice([None, 7]),
    )


def change(runs: LiveRuns, rng: random.Random) -> None:
    """Do something to them at random."""
    uid, instant = rng.choice(UIDS), Instant(rng.randrange(9))
    one = runs.get(uid)
    if one is None:
        runs.add(live(uid, rng))
        return
    match rng.randrange(8):
        case 0 | 1:
            assert one is runs.pop(uid)
        case 2:
            runs.started(one, 8)
        case 3:
            runs.watch(one, None)
        case 4:
            runs.expect_exit(one, instant)
        case 5:
            runs.end_sent(one, instant, at_once=rng.random() < 0.3)
        case _:
            runs.watch(one, Watch(run_by=instant))


def check(runs: LiveRuns) -> None:
    """Compare what is known at once with a look at each."""
    each = [*runs.values()]
    assert [*runs] == [*runs.keys()] == [one.uid for one in each]
    assert runs.living == sum(one.pid is not None for one in each)
    assert runs.workers == sum(one.liveness is Liveness.WORKER for one in each)
    assert runs.shortest_lease == min((one.lease_ttl for one in each), default=math.inf)
    assert runs.longest_grace == max((one.kill_grace for one in each), default=None)
    for task_id in range(8):
        assert [*runs.of_task(task_id)] == [one for one in each if one.task_id == task_id]
    some = UIDS[::3]
    rest = [one for one in each if one.uid not in some]
    assert len(rest) == runs.count(but=some)
    assert {queue: sum(one.queue == queue for one in rest) for queue in "abcd"} == runs.in_queues(
        "abcd", but=some
    )
    going_on = [one for one in each if not one.end_sent]
    assert going_on == [*runs.going_on.values()]
    gently = {one.uid for one in each if one.end_sent and not one.at_once_sent}
    assert gently == runs.ending_gently.keys()
    watched = [one for one in going_on if one.watch is not None]
    assert watched == [*runs.watched]
    dues = {one.uid: one.watch.due for one in watched if one.watch is not None}
    assert min(dues.values(), default=NEVER) == runs.watch_due
    at = Instant(4)
    past = [dues[one.uid] for one in runs.past_deadlines(at)]
    assert past == sorted(due for due in dues.values() if due <= at)
    late = {one.uid for one in going_on if one.exit_by is not None and one.exit_by <= at}
    assert late == {one.uid for one in runs.past_exits(at)}


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_to_runs_is_counted(seed: int) -> None:
    rng, runs = random.Random(seed), LiveRuns()
    for _ in range(1_000):
        change(runs, rng)
        check(runs)

    runs.clear()

    check(runs)
    assert not runs


def test_a_run_that_was_removed_counts_nowhere_even_if_its_uid_is_there_again() -> None:
    rng, runs = random.Random(0), LiveRuns()
    before, after = live(UIDS[0], rng), live(UIDS[0], rng)
    runs.add(before)
    runs.pop(before.uid)
    runs.add(after)

    runs.started(before, 8)
    runs.watch(before, Watch(run_by=Instant(1)))
    runs.expect_exit(before, Instant(1))
    runs.end_sent(before, Instant(1), at_once=False)

    assert (8, 1, True) == (before.pid, before.exit_by, before.end_sent)
    check(runs)
