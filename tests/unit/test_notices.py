"""Workers' notices by systemd's protocol, from the executor's message on, in virtual time."""

from typing import Any

import pytest

from dispatcher import wire
from dispatcher.model import Liveness, TaskState
from dispatcher.times import Instant
from tests.simulation import World

WORKER = {"liveness": Liveness.WORKER, "lease_ttl_ms": 30_000}


def started(**facts: Any) -> tuple[World, int]:
    """Return a world in which one task runs."""
    world = World().start()
    task_id = world.submit("work", **{**WORKER, **facts})
    world.run_for(1)
    assert TaskState.RUNNING is world.state(task_id)
    return world, task_id


def report(world: World, task_id: int, *, serial: int = 1, **words: Any) -> None:
    """Let the executor report a worker's notice."""
    world.executor.events.append(wire.Notice(uid=world.uid(task_id), serial=serial, **words))
    world.settle_down()


def noted(world: World) -> list[int]:
    return [sent.serial for sent in world.executor.sent if isinstance(sent, wire.Noted)]


def last_beat(world: World, task_id: int) -> float | None:
    beat = world.runs(task_id)[-1].last_heartbeat_at
    return None if beat is None else (world.now() - beat) / 1000


@pytest.mark.parametrize(
    ("facts", "watchdog"),
    [
        (WORKER, 30.0),
        ({"liveness": Liveness.PROCESS, "lease_ttl_ms": 6_000, "notify": True}, 6.0),
        ({"liveness": Liveness.PROCESS, "lease_ttl_ms": 6_000}, None),
    ],
)
def test_a_worker_and_every_run_with_notify_get_a_socket(
    facts: dict[str, Any], watchdog: float | None
) -> None:
    world, _ = started(**facts)

    assert [watchdog] == [start.watchdog for start in world.executor.starts]


def test_a_beat_renews_the_lease_and_silence_is_lost() -> None:
    world, task_id = started(max_attempts=1)
    for serial in range(1, 5):
        world.run_for(20)
        report(world, task_id, serial=serial, beat=True, note=f"part {serial}")
    world.run_for(29)

    assert TaskState.RUNNING is world.state(task_id)
    assert "part 4" == world.runs(task_id)[-1].note
    assert [1, 2, 3, 4] == noted(world)
    world.run_for(2)
    assert "lost" == world.task(task_id).ending


def test_a_note_alone_renews_no_lease() -> None:
    """Only WATCHDOG=1 feeds systemd's watchdog; the note is shown nevertheless."""
    world, task_id = started(stall_timeout_ms=20_000)
    world.run_for(15)
    report(world, task_id, note="still here")
    world.run_for(15.5)

    (run,) = world.runs(task_id)
    assert ("still here", None) == (run.note, run.last_heartbeat_at)
    assert "lost" == world.task(task_id).ending  # and not stalled: the note is progress


def test_a_beat_of_an_ending_or_an_earlier_run_is_refused_and_noted() -> None:
    world, task_id = started()
    uid = world.uid(task_id)
    world.cancel(task_id)
    world.settle_down()
    lease = world.runs(task_id)[-1].lease_expires_at
    world.run_for(1)
    report(world, task_id, beat=True, note="no", failed=True)

    (run,) = world.runs(task_id)
    assert (lease, None, None) == (run.lease_expires_at, run.note, run.last_heartbeat_at)
    world.gone(task_id)
    assert TaskState.CANCELLED is world.state(task_id)
    with world.store.transaction() as now:
        world.store.retry(task_id, now=now)
    world.run_for(2)
    assert world.uid(task_id) != uid
    world.executor.events.append(wire.Notice(uid=uid, serial=2, beat=True, failed=True))
    world.settle_down()
    assert last_beat(world, task_id) is None
    assert [1, 2] == noted(world)


def test_a_notice_of_an_unknown_run_is_noted() -> None:
    world, _ = started()
    world.executor.events.append(wire.Notice(uid=wire.RunUid("nobody"), serial=7, beat=True))
    world.settle_down()

    assert [7] == noted(world)


def test_a_run_that_gives_itself_up_fails_once_it_is_gone() -> None:
    world, task_id = started(max_attempts=1)
    report(world, task_id, failed=True)
    report(world, task_id, serial=2, failed=True)  # reported again: the acknowledgement was lost
    world.run_for(9)
    assert world.task(task_id).ending is None
    world.run_for(2)
    assert "failed" == world.task(task_id).ending
    world.gone(task_id, exit_code=0)

    (run,) = world.runs(task_id)
    assert ("failed", "it reported its own failure: WATCHDOG=trigger") == (run.outcome, run.error)


def test_a_notice_before_an_exit_counts_although_no_daemon_was_there() -> None:
    world, task_id = started(max_attempts=1)
    uid = world.uid(task_id)
    world.executor.gone(uid, 0, at=world.at())
    world.executor.events.clear()
    world.fresh_supervisor()
    world.executor.events.append(wire.Notice(uid=uid, serial=1, failed=True, note="no use"))
    world.executor.greet()
    world.settle_down()

    (run,) = world.runs(task_id)
    assert ("failed", "no use") == (run.outcome, run.note)


def test_an_absence_renews_once_and_a_kept_beat_no_more_than_that() -> None:
    """A kept beat counts when it is recorded; the next one must come within the lease again."""
    world, task_id = started(max_attempts=1)
    uid = world.uid(task_id)
    world.elapsed += 3_600
    world.executor.events.clear()
    world.fresh_supervisor()
    world.executor.events.append(wire.Notice(uid=uid, serial=1, beat=True))
    world.executor.greet()
    world.settle_down()
    assert 0 == last_beat(world, task_id)
    world.run_for(29)
    assert world.task(task_id).ending is None
    world.run_for(2)
    assert "lost" == world.task(task_id).ending


def test_a_first_beat_ends_the_wait_for_one() -> None:
    world, task_id = started(start_timeout_ms=5_000)
    world.run_for(3)
    report(world, task_id, beat=True)
    world.run_for(20)

    assert world.task(task_id).ending is None


# More time -----------------------------------------------------------------------------------

PROCESS = {"liveness": Liveness.PROCESS, "lease_ttl_ms": 60_000, "notify": True}


@pytest.mark.parametrize(
    ("facts", "requested", "ended"),
    [
        ({}, 90.0, 90.0),
        ({}, 10.0, 60.0),
        ({}, 1000.0, 120.0),
        ({"total_timeout_ms": 300_000}, 200.0, 200.0),
        ({"total_timeout_ms": 300_000}, 1000.0, 300.0),
    ],
    ids=str,
)
def test_more_time_is_given_as_far_as_it_goes(
    facts: dict[str, int], requested: float, ended: float
) -> None:
    """To the total time-out, else to twice the run's own; earlier never."""
    world, task_id = started(**PROCESS, run_timeout_ms=60_000, max_attempts=1, **facts)
    (start,) = world.executor.starts
    began = world.at() - 1
    report(world, task_id, until=Instant(began + requested))
    world.run_for(ended - 3)
    assert world.task(task_id).ending is None
    world.run_for(4)

    assert "timed_out" == world.task(task_id).ending
    assert start.longest == pytest.approx(
        began + facts.get("total_timeout_ms", 120_000) / 1000, abs=1
    )


def test_more_time_requested_with_the_first_notice_holds() -> None:
    """The executor may report it before the start."""
    world = World().start()
    task_id = world.submit("work", **PROCESS, run_timeout_ms=10_000)
    world.tick()
    requested = wire.Notice(uid=world.uid(task_id), serial=1, until=Instant(world.at() + 18))
    world.executor.events.insert(0, requested)
    world.settle_down()
    world.run_for(17)
    assert world.task(task_id).ending is None
    world.run_for(2)
    assert "timed_out" == world.task(task_id).ending


def test_more_time_requested_while_the_daemon_stood_still_holds() -> None:
    world, task_id = started(**PROCESS, run_timeout_ms=10_000)
    world.executor.events.append(
        wire.Notice(uid=world.uid(task_id), serial=1, until=Instant(world.at() + 17))
    )
    world.elapsed += 14
    world.settle_down()

    assert world.task(task_id).ending is None
    world.run_for(5)
    assert "timed_out" == world.task(task_id).ending


def test_repeated_requests_for_time_do_not_extend_a_run_for_ever() -> None:
    """Also at the very moment at which the time is over."""
    world, task_id = started(**PROCESS, run_timeout_ms=10_000)
    for serial in range(1, 23):
        world.executor.events.append(
            wire.Notice(uid=world.uid(task_id), serial=serial, until=Instant(world.at() + 60))
        )
        world.elapsed += 1
        world.settle_down()

    assert "timed_out" == world.task(task_id).ending


def test_more_time_holds_over_a_restart_of_the_daemon() -> None:
    world, task_id = started(**PROCESS, run_timeout_ms=10_000)
    report(world, task_id, until=Instant(world.at() + 15))
    uid = world.uid(task_id)
    run = world.executor.runs[uid]
    facts = {name: getattr(run, name) for name in run.__struct_fields__}
    world.executor.runs[uid] = wire.RunReport(**{**facts, "until": world.at() + 15})
    world.elapsed += 11
    world.restart()
    assert world.task(task_id).ending is None
    world.run_for(5)
    assert "timed_out" == world.task(task_id).ending
    world.gone(task_id)
    assert "nor within the extension that it requested" in (world.runs(task_id)[0].error or "")
