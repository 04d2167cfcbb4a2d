"""Time-outs in virtual time: each at its own instant, whatever polls, beats or restarts."""

from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from dispatcher import wire
from dispatcher.model import Declared, Liveness, Outcome, TaskState
from dispatcher.supervisor.stop import Stop
from dispatcher.supervisor.timeouts import LOOKS
from tests.simulation import SETTINGS, World
from tests.unit.test_leases import Line, ends, ends_after_quiet

#: With these nothing but its own deadline wakes the supervisor in time.
RARELY = replace(SETTINGS, poll=3_600.0)
LONG = {"lease_ttl_ms": 40_000_000}
WORKER = {"liveness": Liveness.WORKER, **LONG}


@pytest.fixture
def world() -> World:
    return World(settings=RARELY)


def started(world: World, **facts: Any) -> int:
    task = world.submit("work", **{**LONG, **facts})
    world.start()
    return task


def at_work(world: World, **facts: Any) -> Line:
    return Line(world, started(world, **{**WORKER, **facts}))


def outcomes(world: World, task: int) -> list[Outcome | None]:
    return [run.outcome for run in world.runs(task)]


# The whole run -----------------------------------------------------------------------------


def test_a_run_is_ended_at_its_own_instant_and_tried_again(world: World) -> None:
    task = started(world, run_timeout_ms=7_250)

    assert ["timed_out"] == ends_after_quiet(world, 7.249, 0.001)
    world.gone(task, None, signal=15)

    row = world.task(task)
    assert (TaskState.SCHEDULED, 1) == (row.state, row.attempts_used)
    assert "timed_out: run_timeout: not done within 7250ms (attempt 1 of 3)" in row.reason
    assert [Outcome.TIMED_OUT] == outcomes(world, task)
    world.run_for(10)
    assert TaskState.RUNNING is world.state(task)


def test_the_executor_has_the_deadline_two_seconds_behind(world: World) -> None:
    task = started(world, run_timeout_ms=7_250)

    begun = world.at()

    assert {"run_timeout": begun + 9.25} == world.executor.starts[0].deadlines
    renewals = [m for m in world.executor.sent if isinstance(m, wire.Renew)]
    assert [wire.Renew(deadlines={world.uid(task): {"run_timeout": begun + 9.25}})] == renewals


def test_a_run_without_time_outs_costs_no_message_and_has_no_deadline(world: World) -> None:
    started(world)

    assert {} == world.executor.starts[0].deadlines
    assert not [m for m in world.executor.sent if isinstance(m, wire.Renew)]


def test_a_late_start_begins_the_time_later(world: World) -> None:
    task = world.submit("work", **LONG, run_timeout_ms=7_250)
    start = world.executor._start
    late: list[wire.Start] = []
    world.executor._start = late.append  # type: ignore[method-assign]
    world.start()
    world.run_for(5)
    start(late[0])
    world.tick()

    assert ["timed_out"] == ends_after_quiet(world, 7.2, 0.05)
    (renewal,) = [m for m in world.executor.sent if isinstance(m, wire.Renew)]
    assert {world.uid(task): {"run_timeout": 10_000 + 5 + 9.25}} == renewal.deadlines


def test_a_start_in_the_tick_of_anothers_time_out_is_not_forgotten(world: World) -> None:
    started(world, run_timeout_ms=5_000)
    world.run_for(1)
    start = world.executor._start
    late: list[wire.Start] = []
    world.executor._start = late.append  # type: ignore[method-assign]
    world.submit("work", **LONG, run_timeout_ms=3_000)
    world.settle_down()
    world.elapsed += 4

    start(late[0])
    world.settle_down()
    assert ["timed_out"] == ends(world)
    world.run_for(3)

    assert ["timed_out", "timed_out"] == ends(world)


def test_a_restart_changes_nothing_about_when_it_ends(world: World) -> None:
    started(world, run_timeout_ms=7_250)
    world.run_for(5)

    world.restart()

    assert ["timed_out"] == ends_after_quiet(world, 2.2, 0.05)


def test_a_run_whose_time_ended_in_our_absence_ends_when_we_are_back(world: World) -> None:
    started(world, run_timeout_ms=7_250)

    world.elapsed += 60
    world.restart()

    assert ["timed_out"] == ends(world)


@pytest.mark.parametrize("step", [3_600.0, -3_600.0])
def test_r09_no_step_of_the_clock_shortens_or_prolongs_a_run(world: World, step: float) -> None:
    started(world, run_timeout_ms=7_250)
    world.run_for(5)

    world.step_clock(step)
    world.settle_down()

    assert ["timed_out"] == ends_after_quiet(world, 2.2, 0.05)


def test_no_time_is_over_while_nothing_could_be_ended() -> None:
    world = World()
    started(world, run_timeout_ms=7_250)

    world.executor.answering = False
    world.run_for(60)
    assert [] == ends(world)
    world.executor.answering = True
    world.run_for(1)

    assert ["timed_out"] == ends(world)


def test_a_run_that_exited_in_time_is_not_timed_out_while_its_children_linger(world: World) -> None:
    task = started(world, run_timeout_ms=7_250)
    world.run_for(7)
    world.executor.events.append(
        wire.Changed(
            uid=world.uid(task),
            state=wire.RunState.LEADER_EXITED,
            exit=wire.Exit(at=world.at(), exit_code=0),
        )
    )
    world.settle_down()

    world.run_for(5)
    world.gone(task, 0)

    assert [] == ends(world)
    assert TaskState.SUCCEEDED is world.state(task)


def test_an_exit_in_the_tick_of_its_time_out_wins(world: World) -> None:
    task = started(world, run_timeout_ms=7_250)

    world.elapsed += 7.25
    world.gone(task, 0)

    assert TaskState.SUCCEEDED is world.state(task)


def test_a_run_that_declared_has_its_grace_and_no_time_out(world: World) -> None:
    worker = at_work(world, run_timeout_ms=7_250)
    world.run_for(7)
    worker.declare(Declared.SUCCEED)

    assert ["succeeded"] == ends_after_quiet(world, 9.9, 0.2)


def test_a_cancelled_run_is_not_timed_out_as_well(world: World) -> None:
    task = started(world, run_timeout_ms=7_250)
    world.cancel(task)
    world.settle_down()
    world.run_for(10)
    world.gone(task, None, signal=15)

    assert ["cancelled"] == ends(world)
    assert TaskState.CANCELLED is world.state(task)


# Progress ----------------------------------------------------------------------------------


def test_r06_timed_beats_alone_are_not_progress(world: World) -> None:
    worker = at_work(world, lease_ttl_ms=30_000, stall_timeout_ms=60_250)
    worker.beat(progress=0.5, note="alive")  # at the start: as good as the start itself

    for _ in range(6):
        world.run_for(10)
        assert [] == ends(world)
        worker.beat(progress=0.5, note="alive")
    world.run_for(0.25)

    assert ["stalled"] == ends(world)
    world.gone(worker.task_id, None, signal=9)
    assert [Outcome.STALLED] == outcomes(world, worker.task_id)
    assert 1 == world.task(worker.task_id).attempts_used


@pytest.mark.parametrize("report", ["progress", "note"])
def test_another_report_is_progress_from_its_own_instant_on(world: World, report: str) -> None:
    worker = at_work(world, stall_timeout_ms=10_000)

    for step in range(1, 6):
        world.run_for(9.5)
        worker.beat(**{report: step / 10 if report == "progress" else f"page {step}"})

    assert ["stalled"] == ends_after_quiet(world, 9.99, 0.01)


def test_a_growing_output_is_progress_from_when_it_was_seen_on(world: World) -> None:
    task = started(world, stall_timeout_ms=10_000)

    for _ in range(5):
        world.run_for(9.5)
        world.executor.write(world.uid(task))

    assert ["stalled"] == ends_after_quiet(world, 9.99, 0.01 + 10 / LOOKS)


def test_an_output_written_anew_and_no_longer_than_before_is_progress(world: World) -> None:
    task = started(world, stall_timeout_ms=10_000)
    world.executor.write(world.uid(task))

    for _ in range(5):
        world.run_for(9.5)
        world.executor.write(world.uid(task), grows=False)
    assert [] == ends(world)
    world.run_for(10 + 10 / LOOKS)

    assert ["stalled"] == ends(world)


@pytest.mark.parametrize("step", [8.5, 9.999, 3_600, -8.5, -3_600])
def test_no_step_of_the_clock_makes_an_output_old_or_young(world: World, step: float) -> None:
    task = started(world, stall_timeout_ms=10_000)
    world.run_for(9)
    world.executor.write(world.uid(task))
    world.run_for(0.5)

    world.step_clock(step)  # before it was seen that it grew

    assert ["stalled"] == ends_after_quiet(world, 9.4, 0.2 + 10 / LOOKS)


@pytest.mark.parametrize("seen", [True, False])
def test_nor_does_one_while_the_executor_is_connected_anew(world: World, *, seen: bool) -> None:
    task = started(world, stall_timeout_ms=10_000)
    world.run_for(9.5)
    world.executor.write(world.uid(task))
    world.run_for(0.6 if seen else 0.4)

    world.step_clock(9)
    world.executor.reconnect()
    world.settle_down()

    assert ["stalled"] == ends_after_quiet(world, 8.9, 1.2 + 10 / LOOKS)


@pytest.mark.parametrize(("stall", "looks"), [(40.0, [5.0, 10.0, 15.0]), (4.0, [1.0, 2.0, 3.0])])
def test_the_output_is_looked_at_some_times_in_a_time_out_and_not_all_the_time(
    world: World, stall: float, looks: list[float]
) -> None:
    started(world, stall_timeout_ms=round(stall * 1000), lease_ttl_ms=1_000)
    looked = []
    written = world.executor.output_state

    def counted(path: str, pid: int | None) -> Any:
        looked.append(world.elapsed)
        return written(path, pid)

    world.executor.output_state = counted  # type: ignore[method-assign]
    world.run_for(looks[-1] + 0.1)

    assert looks == looked


def test_a_clock_that_was_set_makes_no_progress_old(world: World) -> None:
    worker = at_work(world, stall_timeout_ms=30_000)
    world.run_for(10)
    worker.beat(progress=0.1)

    world.step_clock(3_600)

    assert ["stalled"] == ends_after_quiet(world, 29.9, 0.2)


def test_after_a_restart_the_silence_counts_from_the_outputs_age(world: World) -> None:
    task = started(world, stall_timeout_ms=10_000)
    world.run_for(5)
    world.executor.write(world.uid(task))
    world.run_for(3)

    world.restart()

    assert ["stalled"] == ends_after_quiet(world, 6.9, 0.2)


def test_after_a_long_absence_a_whole_time_begins_anew(world: World) -> None:
    started(world, stall_timeout_ms=10_000)

    world.elapsed += 60
    world.restart()

    assert ["stalled"] == ends_after_quiet(world, 9.9, 0.2)


def test_a_daemon_that_stood_still_holds_it_against_nobody() -> None:
    world = World()
    at_work(world, stall_timeout_ms=10_000, start_timeout_ms=10_000)

    world.elapsed += 9.9
    world.settle_down()

    assert ["lost"] == ends_after_quiet(world, 9.9, 0.2)


# The first beat ------------------------------------------------------------------------------


def test_r22_a_worker_that_never_begins_is_lost_long_before_its_lease(world: World) -> None:
    worker = at_work(world, start_timeout_ms=5_250)

    assert ["lost"] == ends_after_quiet(world, 5.249, 0.001)
    world.gone(worker.task_id, None, signal=15)

    assert [Outcome.LOST] == outcomes(world, worker.task_id)
    assert "start_timeout: no heartbeat within 5250ms" in world.task(worker.task_id).reason
    assert 1 == world.task(worker.task_id).attempts_used


@pytest.mark.parametrize("restarted", [False, True])
def test_one_beat_is_enough(world: World, restarted: bool) -> None:
    worker = at_work(world, start_timeout_ms=5_250)
    world.run_for(5)
    worker.beat()
    if restarted:
        world.restart()

    world.run_for(3_600)

    assert [] == ends(world)


def test_a_restart_gives_a_worker_time_to_reach_us(world: World) -> None:
    at_work(world, start_timeout_ms=5_250)
    world.run_for(5)

    world.restart()

    assert ["lost"] == ends_after_quiet(world, 5.2, 0.1)


# Waiting -------------------------------------------------------------------------------------


def test_a_task_that_gets_no_slot_fails_without_a_run(world: World) -> None:
    for _ in range(SETTINGS.slots):
        world.submit("work", **LONG)
    task = world.submit("late", queue_timeout_ms=7_250)
    world.start()

    world.run_for(7.249)
    assert TaskState.READY is world.state(task)
    with capture_logs() as logs:
        world.run_for(0.001)

    row = world.task(task)
    assert (TaskState.FAILED, "queue_timeout: not claimed within 7250ms") == (row.state, row.reason)
    assert [("task.timed_out", task, "queue_timeout")] == [
        (line["event"], line["task_id"], line["timeout"]) for line in logs
    ]
    assert (7_250, []) == ((row.finished_at or 0) - row.created_at, world.runs(task))


def test_one_that_came_meanwhile_is_found_within_a_poll() -> None:
    world = World(settings=replace(SETTINGS, slots=1))
    started(world)
    world.run_for(3.3)

    task = world.submit("late", queue_timeout_ms=1_000)

    assert (TaskState.READY, TaskState.FAILED) == world.states_at(task, 0.9, 1.1)


def test_one_whose_submit_woke_the_daemon_is_found_at_once() -> None:
    world = World(settings=replace(RARELY, slots=1))
    started(world)
    world.run_for(3.3)

    task = world.submit("late", queue_timeout_ms=1_000)
    world.supervisor.wake()
    world.settle_down()

    assert (TaskState.READY, TaskState.FAILED) == world.states_at(task, 0.9, 1.1)


def test_a_task_claimed_in_time_is_free_of_its_queue_timeout(world: World) -> None:
    task = started(world, queue_timeout_ms=1_000)

    world.run_for(60)

    assert TaskState.RUNNING is world.state(task)


def test_each_waiting_period_has_its_own_time(world: World) -> None:
    task = started(world, queue_timeout_ms=5_000)
    world.run_for(60)
    world.supervisor.stop(Stop.AT_ONCE, at=world.at())
    world.settle_down()
    world.gone(task, None, signal=15)
    assert TaskState.READY is world.state(task)

    world.fresh_supervisor()
    world.tick()
    world.run_for(4.9)  # no executor: nobody claims it
    assert TaskState.READY is world.state(task)
    world.run_for(0.2)

    assert TaskState.FAILED is world.state(task)


def test_waiting_tasks_are_queried_once_in_a_poll() -> None:
    world = World()
    queries = 0
    next_failure = world.store.next_failure

    def counted() -> Any:
        nonlocal queries
        queries += 1
        return next_failure()

    world.store.next_failure = counted  # type: ignore[method-assign]
    started(world, lease_ttl_ms=400)  # so that it ticks each 100 ms
    world.run_for(10)

    assert 10 <= queries <= 12


# The whole task ------------------------------------------------------------------------------


def test_a_running_task_is_ended_for_good_when_its_total_time_is_over(world: World) -> None:
    task = started(world, total_timeout_ms=7_250)

    assert ["timed_out"] == ends_after_quiet(world, 7.249, 0.001)
    world.gone(task, None, signal=15)

    row = world.task(task)
    assert (TaskState.FAILED, 1, 3) == (row.state, row.attempts_used, row.max_attempts)
    assert "total_timeout is over" == row.reason
    assert [Outcome.TIMED_OUT] == outcomes(world, task)


def test_the_total_time_goes_on_when_the_hosts_clock_is_set(world: World) -> None:
    started(world, total_timeout_ms=7_250)
    world.run_for(5)
    ended = []
    world.executor.send = lambda message: ended.append((world.elapsed, message))  # type: ignore[method-assign]

    world.step_clock(-100)
    world.settle_down()
    world.run_for(300)

    assert [7.25] == [moment for moment, message in ended if isinstance(message, wire.End)]


def test_a_back_off_never_leads_beyond_the_total_time(world: World) -> None:
    task = started(world, total_timeout_ms=14_000)
    world.gone(task, 1)
    world.run_for(10)  # back-off of 5 to 10 s
    assert 2 == len(world.runs(task))
    world.gone(task, 1)  # back-off of 10 to 20 s

    row = world.task(task)
    assert (TaskState.SCHEDULED, 14_000) == (row.state, row.run_at - row.created_at)
    world.run_for(3.9)
    assert TaskState.SCHEDULED is world.state(task)
    world.run_for(0.2)

    row = world.task(task)
    assert (TaskState.FAILED, 14_000) == (row.state, (row.finished_at or 0) - row.created_at)
    assert "total_timeout: not done within 14s of its submit" == row.reason
    assert 2 == len(world.runs(task))


@pytest.mark.parametrize("exit_code", [1, 75])
def test_r41_a_run_that_ends_after_the_total_time_is_the_last(world: World, exit_code: int) -> None:
    task = started(world, total_timeout_ms=7_250)
    world.executor.answering = False  # it cannot be ended, and exits by itself later
    world.run_for(10)
    world.executor.answering = True

    world.gone(task, exit_code)

    assert TaskState.FAILED is world.state(task)


def test_success_is_success_at_any_time(world: World) -> None:
    task = started(world, total_timeout_ms=7_250)
    world.executor.answering = False
    world.run_for(10)
    world.executor.answering = True

    world.gone(task, 0)

    assert TaskState.SUCCEEDED is world.state(task)


def test_a_held_task_fails_when_its_total_time_is_over(world: World) -> None:
    task = started(world, total_timeout_ms=7_250)
    world.gone(task, 78)
    assert TaskState.HELD is world.state(task)

    world.run_for(7.3)

    assert TaskState.FAILED is world.state(task)


def test_r41_endless_deferrals_end_with_the_total_time(world: World) -> None:
    task = started(world, total_timeout_ms=100_000)

    for _ in range(4):
        if TaskState.RUNNING is world.state(task):
            world.gone(task, 75)
        world.run_for(30)

    row = world.task(task)
    assert (TaskState.FAILED, 0, 4) == (row.state, row.attempts_used, row.deferrals)


@pytest.mark.parametrize("fault", [wire.Fault.HOST, wire.Fault.PREDECESSOR])
def test_a_start_that_is_put_off_stays_within_the_total_time(
    world: World, fault: wire.Fault
) -> None:
    world.executor.refusal = wire.StartFailed(uid=wire.RunUid(""), fault=fault, error="not now")
    task = started(world, total_timeout_ms=500)  # shorter than the first delay
    assert 500 == world.task(task).run_at - world.task(task).created_at

    world.run_for(0.6)

    row = world.task(task)
    assert (TaskState.FAILED, 500) == (row.state, (row.finished_at or 0) - row.created_at)


def test_a_start_that_fails_after_its_cancel_is_cancelled(world: World) -> None:
    world.executor.refusal = wire.StartFailed(
        uid=wire.RunUid(""), fault=wire.Fault.HOST, error="no memory"
    )
    task = world.submit("work", **LONG)
    world.executor.greet()
    world.tick()
    while not world.executor.events:
        world.tick()
    world.cancel(task)
    world.settle_down()

    assert TaskState.CANCELLED is world.state(task)


# Many, and for long ------------------------------------------------------------------------------


def test_r26_twenty_that_time_out_together_do_not_start_together_again() -> None:
    world = World(settings=replace(RARELY, slots=20))
    tasks = [world.submit("work", **LONG, run_timeout_ms=5_000) for _ in range(20)]
    world.start()
    world.run_for(5)
    assert 20 == len(ends(world))
    for task in tasks:
        world.gone(task, None, signal=15)
    ended = world.now()

    world.run_for(10)

    starts = sorted(world.runs(task)[1].claimed_at - ended for task in tasks)
    base = 10_000  # uniform in [base / 2, base]
    assert base / 2 <= starts[0]
    assert starts[-1] <= base
    assert starts[-1] - starts[0] > base / 3
    assert len(set(starts)) > 15


def test_many_at_once_are_ended_in_batches_that_leave_room_for_beats() -> None:
    world = World(settings=replace(RARELY, slots=150))
    for _ in range(150):
        world.submit("work", **LONG, run_timeout_ms=5_000)
    world.start()

    world.elapsed += 5
    world.tick()
    assert 100 == len(ends(world))
    assert world.deadline <= world.at()
    world.settle_down()

    assert 150 == len(ends(world))


@pytest.mark.parametrize(
    ("wanted", "outcome"),
    [
        ({"run_timeout_ms": 5_000}, Outcome.TIMED_OUT),
        ({"stall_timeout_ms": 5_000}, Outcome.STALLED),
        ({"start_timeout_ms": 5_000}, Outcome.LOST),
    ],
)
def test_r40_every_time_out_counts_until_the_attempts_are_used_up(
    world: World, wanted: dict[str, int], outcome: Outcome
) -> None:
    task = started(world, **WORKER, **wanted, max_attempts=2)

    for _ in range(2):
        world.run_for(5)
        world.gone(task, None, signal=15)
        world.run_for(10)

    assert [outcome] * 2 == outcomes(world, task)
    assert (TaskState.FAILED, 2) == (world.state(task), world.task(task).attempts_used)


def test_r38_a_held_task_stays_held_without_a_total_time() -> None:
    world = World()
    task = started(world, run_timeout_ms=5_000, queue_timeout_ms=5_000)
    world.gone(task, 78)

    for slots in range(1, 4):
        world.restart(slots=slots)
        world.run_for(100)

    assert TaskState.HELD is world.state(task)


def test_r38_a_task_that_used_up_its_deferrals_stays_held_until_an_operator_acts() -> None:
    """Neither restarts nor other limits nor time let it run again."""
    world = World()
    task = started(world, max_deferrals=1)
    for _ in range(2):
        world.gone(task, 75)
        world.run_for(60)
    assert TaskState.HELD is world.state(task)

    for slots in range(1, 4):
        world.restart(slots=slots)
        world.run_for(1_000)
    assert TaskState.HELD is world.state(task)
    assert [Outcome.DEFERRED] * 2 == outcomes(world, task)

    with world.store.transaction() as now:
        world.store.retry(task, now=now)
    world.run_for(1)
    assert TaskState.RUNNING is world.state(task)


# How it is ended ---------------------------------------------------------------------------------


def test_a_run_is_ended_with_its_own_signal_and_grace(world: World) -> None:
    world.submit("work", kill_signal=10, kill_grace_ms=1_500)
    world.submit("work", kill_grace_ms=0)
    world.start()

    assert [(10, 1.5), (15, 0.0)] == [
        (start.kill_signal, start.kill_grace) for start in world.executor.starts
    ]


def test_without_its_own_it_has_the_built_in_ones_whatever_the_node_is_configured_with() -> None:
    world = World(settings=replace(SETTINGS, kill_grace=3.0))
    started(world)

    (begun,) = world.executor.starts
    assert (15, 10.0) == (begun.kill_signal, begun.kill_grace)


def test_a_stop_waits_as_long_as_the_most_patient_of_its_runs(world: World) -> None:
    started(world, kill_grace_ms=100_000)

    world.supervisor.stop(Stop.AT_ONCE, at=world.at())
    world.settle_down()
    world.run_for(100)
    assert not world.supervisor.is_over(at=world.at())
    world.run_for(SETTINGS.start.leftover_grace + 10.1)

    assert world.supervisor.is_over(at=world.at())


def test_a_stop_waits_for_the_grace_that_the_executor_received_despite_a_reload_since(
    world: World,
) -> None:
    started(world, kill_grace_ms=100_000)
    world.supervisor.reconfigure(replace(SETTINGS, kill_grace=0.0))

    world.supervisor.stop(Stop.AT_ONCE, at=world.at())
    world.settle_down()
    world.run_for(100)

    assert not world.supervisor.is_over(at=world.at())
