"""Ending a run in virtual time: who gets which signal when, and when it is gone (protocol 2.9)."""

import errno
import math
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, SIGUSR1

import pytest

from dispatcher import wire, worker_api
from dispatcher.executor.starting.spawn import CannotStart
from dispatcher.executor.system.kernel import ProcessStatus
from dispatcher.host.marks import mark_of
from tests.unit.executor.world import SELF, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


STUBBORN = frozenset({SIGTERM})


def test_signal_grace_kill_at_their_instants(world: World) -> None:
    world.spawner.facts = {"ignores": STUBBORN}
    leader = world.start(kill_grace=10.0)
    ended_at = world.kernel.now

    world.end()
    world.run_for(9.9)
    assert [(ended_at, SIGTERM), (ended_at, SIGCONT)] == leader.signals
    world.run_for(0.2)

    assert (ended_at + 10, SIGKILL) == pytest.approx(leader.signals[2])
    exited = world.last(wire.Exited)
    assert (SIGKILL, "cancelled") == (exited.exit.signal, exited.ended_by)
    assert 0.5 == exited.exit.cpu_seconds


def test_each_process_gets_the_kill_signal_once(world: World) -> None:
    leader = world.start(kill_signal=int(SIGUSR1))
    member = world.kernel.born(leader.pid, ignores=frozenset({SIGUSR1}))
    escaped = world.kernel.born(leader.pid, leads=True)

    world.end()

    assert [SIGUSR1, SIGCONT] == [signum for _, signum in member.signals]
    assert [SIGUSR1] == [signum for _, signum in escaped.signals]  # it died of it


def test_with_kill_mode_leader_only_the_leader_gets_the_signal_and_all_get_sigkill(
    world: World,
) -> None:
    world.spawner.facts = {"ignores": STUBBORN}
    leader = world.start(kill_grace=10.0, kill_mode=wire.KillMode.LEADER)
    member = world.kernel.born(leader.pid)
    escaped = world.kernel.born(leader.pid, leads=True)

    world.end()
    world.run_for(9.9)
    assert [SIGTERM, SIGCONT] == [signum for _, signum in leader.signals]
    assert [] == member.signals + escaped.signals
    world.run_for(0.2)

    for process in (leader, member, escaped):
        assert SIGKILL == process.signals[-1][1]
    assert "cancelled" == world.last(wire.Exited).ended_by


def test_with_kill_mode_leader_the_leftovers_of_a_dead_leader_get_the_kill_signal(
    world: World,
) -> None:
    leader = world.start(kill_mode=wire.KillMode.LEADER, leftover_grace=1.0)
    left = world.kernel.born(leader.pid, leads=True)
    world.kernel.dies(leader)

    world.run_for(1.5)

    assert [SIGTERM] == [signum for _, signum in left.signals]  # it died of it
    assert 1 == len(world.last(wire.Exited).exit.leftovers)


def test_a_leader_that_dies_of_the_signal_waits_for_its_tree(world: World) -> None:
    leader = world.start(kill_grace=5.0)
    child = world.kernel.born(leader.pid, ignores=STUBBORN)

    world.end()
    world.run_for(4.9)
    assert [] == world.sent(wire.Exited)
    assert world.kernel.processes[leader.pid].status  # not reaped while its group may be signalled
    world.run_for(0.2)

    exited = world.last(wire.Exited)
    assert (SIGTERM, "cancelled") == (exited.exit.signal, exited.ended_by)
    assert SIGKILL == child.signals[-1][1]
    assert [] == world.sent(wire.Changed)
    assert {child.pid, leader.pid} == set(world.kernel.reaped)


def test_new_members_get_sigkill_too(world: World) -> None:
    leader = world.start()
    child = world.kernel.born(leader.pid, cannot_die=True, leads=True)
    world.end(at_once=True)
    late = world.kernel.born(child.pid)

    world.run_for(0.01)
    child.cannot_die = False
    world.run_for(0.2)

    assert SIGKILL == late.signals[0][1]
    assert 1 == len(world.sent(wire.Exited))


def test_r14_a_process_that_cannot_die_is_unkillable_and_never_gone(world: World) -> None:
    world.spawner.facts = {"cannot_die": True}
    leader = world.start(kill_grace=1.0)

    world.end()
    world.run_for(5.9)
    assert [] == world.sent(wire.Changed)
    world.run_for(3600)

    assert [wire.RunState.UNKILLABLE] == [m.state for m in world.sent(wire.Changed)]
    assert 1 == world.names().count("worker.unkillable")
    assert [] == world.sent(wire.Exited)
    assert 360 <= len({at for at, _ in leader.signals}) <= 500  # tried again, each ten seconds

    leader.cannot_die = False
    world.run_for(10)
    assert "cancelled" == world.last(wire.Exited).ended_by


def test_r14_no_run_is_gone_while_a_process_cannot_be_examined(world: World) -> None:
    leader = world.start(leftover_grace=1000.0)
    world.kernel.broken = OSError(errno.EMFILE, "Too many open files")
    world.kernel.dies(leader)

    world.run_for(600)
    assert [] == world.sent(wire.Exited)
    assert 1 == world.names().count("host.short")
    world.kernel.broken = None
    world.run_for(1)

    assert 0 == world.last(wire.Exited).exit.exit_code


def test_leftovers_have_their_grace_and_are_then_ended(world: World) -> None:
    leader = world.start(leftover_grace=2.0, kill_grace=3.0)
    left = world.kernel.born(leader.pid, ignores=STUBBORN, leads=True, environment=b"")
    began = world.kernel.now
    world.kernel.dies(leader, ProcessStatus(exit_code=4))

    world.run_for(10)

    signals = [(round(at - began, 3), signum) for at, signum in left.signals]
    assert [(2.0, SIGTERM), (2.0, SIGCONT), (5.0, SIGKILL)] == signals
    changed, exited = world.last(wire.Changed), world.last(wire.Exited)
    assert (wire.RunState.LEADER_EXITED, 4) == (
        changed.state,
        changed.exit and changed.exit.exit_code,
    )
    assert (4, None, (f"p{left.pid}",)) == (
        exited.exit.exit_code,
        exited.ended_by,
        exited.exit.leftovers,
    )


def test_a_short_leftover_is_waited_for(world: World) -> None:
    leader = world.start(leftover_grace=2.0)
    left = world.kernel.born(leader.pid)
    world.kernel.dies(leader)
    world.run_for(1.0)

    world.kernel.dies(left)
    world.run_for(0.3)

    assert () == world.last(wire.Exited).exit.leftovers


def test_an_end_of_leftovers_does_not_change_who_ended_the_leader(world: World) -> None:
    leader = world.start(leftover_grace=1000.0)
    world.kernel.born(leader.pid)
    world.kernel.dies(leader)
    world.run_for(1)

    world.end()
    world.run_for(1)

    exited = world.last(wire.Exited)
    assert (0, None) == (exited.exit.exit_code, exited.ended_by)


def test_an_exit_seen_in_the_same_tick_comes_before_an_end(world: World) -> None:
    leader = world.start()
    world.kernel.dies(leader)

    world.end()

    exited = world.last(wire.Exited)
    assert (0, None) == (exited.exit.exit_code, exited.ended_by)


def test_an_orphan_that_dies_unseen_may_have_left_another(world: World) -> None:
    """A process reaped in a scan had children that only the next scan can see."""
    leader = world.start(leftover_grace=1000.0)
    between = world.kernel.born(leader.pid, leads=True)
    hidden = world.kernel.born(between.pid, leads=True)
    world.kernel.dies(leader)
    reap_if_dead = world.kernel.reap_if_dead

    def dies_when_checked(orphan: int) -> bool:
        if orphan == between.pid and between.status is None:
            world.kernel.dies(between)
        return reap_if_dead(orphan)

    world.kernel.reap_if_dead = dies_when_checked  # type: ignore[method-assign]
    world.run_for(1)

    assert [] == world.sent(wire.Exited)
    world.kernel.dies(hidden)
    world.run_for(1)
    assert 1 == len(world.sent(wire.Exited))


def test_an_environment_that_cannot_be_read_yet_leaves_the_owner_unknown(world: World) -> None:
    """In the middle of an exec it reads as empty: 6 to 12 % of all reads."""
    first, second = world.start("first"), world.start("second")
    execing = world.kernel.born(first.pid, leads=True, environment=None)
    world.kernel.dies(first)
    world.kernel.dies(second)

    world.run_for(0.5)
    assert [] == world.sent(wire.Exited)
    execing.environment = b"A=b\0" + worker_api.MARKER.encode() + b"=first\0"
    world.run_for(0.1)

    assert ["second"] == [exited.uid for exited in world.sent(wire.Exited)]


def test_an_environment_that_is_never_readable_makes_a_stray(world: World) -> None:
    first, second = world.start("first"), world.start("second")
    silent = world.kernel.born(first.pid, leads=True, environment=None)
    world.kernel.dies(first)

    world.run_for(1.5)
    assert ["first"] == [exited.uid for exited in world.sent(wire.Exited)]
    (stray,) = world.sent(wire.Stray)
    assert (silent.pid, ("first", "second")) == (stray.pid, stray.candidates)
    world.kernel.dies(second)
    world.run_for(20)

    assert ["first", "second"] == [exited.uid for exited in world.sent(wire.Exited)]
    assert SIGTERM == silent.signals[0][1]


def test_a_stray_is_ended_when_its_candidates_are_gone_in_the_same_tick(world: World) -> None:
    """The latest to start are named with it, and the last to be gone takes it along."""
    leaders = [world.start(f"run-{number}") for number in range(25)]
    stray = world.kernel.born(leaders[0].pid, leads=True)
    world.kernel.dies(leaders[0])
    for leader in leaders[1:]:
        world.kernel.dies(leader)

    world.run_for(20)

    (reason,) = world.sent(wire.Stray)
    assert tuple(f"run-{number}" for number in range(5, 25)) == reason.candidates
    assert SIGTERM == stray.signals[0][1]
    assert 25 == len(world.sent(wire.Exited))
    assert [] == [p for p in world.kernel.processes.values() if p.pid == stray.pid]


def test_a_process_of_our_own_session_is_nobodys(world: World) -> None:
    """Somebody else in this process may have children: they are not touched, not even reaped."""
    leader = world.start()
    ours = world.kernel.born(SELF)
    dead = world.kernel.born(SELF)
    world.kernel.dies(dead)

    world.end(at_once=True)
    world.run_for(5)

    assert 1 == len(world.sent(wire.Exited))
    assert [leader.pid] == world.kernel.reaped
    assert [] == ours.signals


def test_a_process_older_than_every_run_belongs_to_none(world: World) -> None:
    elder = world.kernel.born(SELF, leads=True)
    world.run_for(1)
    world.start()

    world.end(at_once=True)
    world.run_for(5)

    assert 1 == len(world.sent(wire.Exited))
    assert [] == elder.signals + world.sent(wire.Stray)


def test_lineage_is_remembered(world: World) -> None:
    """Seen below a living leader, a process is known when it is orphaned without any trace."""
    other = world.start("other")
    world.spawner.facts = {"ignores": STUBBORN}
    leader = world.start(kill_grace=5.0)
    between = world.kernel.born(leader.pid, ignores=STUBBORN)
    hidden = world.kernel.born(between.pid, leads=True, environment=b"", ignores=STUBBORN)
    world.end()  # now it is looked at

    world.kernel.dies(between)
    world.run_for(6)

    assert [SIGTERM, SIGCONT, SIGKILL] == [signum for _, signum in hidden.signals]
    assert [] == world.sent(wire.Stray)
    assert ["run"] == [exited.uid for exited in world.sent(wire.Exited)]
    assert [] == other.signals


def test_the_earliest_deadline_ends_a_run_without_a_request(world: World) -> None:
    at = world.kernel.now
    leader = world.start(deadlines={"absence": at + 60, "run_timeout": at + 30})

    world.run_for(29.9)
    assert [] == leader.signals
    world.run_for(0.2)

    changed, exited = world.last(wire.Changed), world.last(wire.Exited)
    assert (wire.RunState.ENDING, "run_timeout") == (changed.state, changed.ended_by)
    assert (SIGTERM, "run_timeout") == (exited.exit.signal, exited.ended_by)


def test_a_renewed_deadline_counts_from_the_last_renewal(world: World) -> None:
    at = world.kernel.now
    leader = world.start(deadlines={"absence": at + 10})
    for later in (20, 15, 30):
        world.run_for(4)
        world.deliver(wire.Renew(deadlines={wire.RunUid("run"): {"absence": at + later}}))

    world.run_for(17.9)
    assert [] == leader.signals
    world.run_for(0.2)

    assert "absence" == world.last(wire.Exited).ended_by


def test_a_deadline_ends_leftovers_too(world: World) -> None:
    """Another host may start the task's next run soon."""
    deadlines = {"absence": world.kernel.now + 5}
    leader = world.start(deadlines=deadlines, leftover_grace=1000.0)
    left = world.kernel.born(leader.pid)
    world.kernel.dies(leader)

    world.run_for(5.1)

    assert SIGTERM == left.signals[0][1]
    assert (0, None) == (world.last(wire.Exited).exit.exit_code, world.last(wire.Exited).ended_by)


def test_r35_a_refusal_leaves_nothing_behind(world: World) -> None:
    world.spawner.refusal = CannotStart(wire.Fault.HOST, "no memory")
    start = wire.Start(
        uid=wire.RunUid("run"), epoch=1, command=("x",), env={}, output_path="/x", kill_grace=1.0
    )

    world.deliver(start, wire.End(uid=start.uid, reason="cancelled"))
    world.server.knocks = True
    world.run_for(5)

    failed = world.last(wire.StartFailed)
    assert (wire.Fault.HOST, "no memory") == (failed.fault, failed.error)
    assert [] == world.sent(wire.RunReport) + world.sent(wire.Exited)
    assert [] == world.journal.predecessors_runs()


def test_a_living_run_is_not_forgotten_on_any_request(world: World) -> None:
    world.start()
    world.deliver(wire.Forget(uid=wire.RunUid("run")))

    assert ["running"] == [e["state"] for e in world.events if e["event"] == "run.forget_refused"]
    assert ["run"] == [run.uid for run in world.journal.predecessors_runs()]


def test_runs_leave_nothing_behind(world: World) -> None:
    for n in range(100):
        leader = world.start(str(n), deadlines={"run_timeout": world.kernel.now + 1e6})
        world.kernel.dies(leader)
        world.run_for(0)
        world.deliver(wire.Forget(uid=wire.RunUid(str(n))))

    table = world.executor.table
    assert ({}, {}, set()) == (table.known, table.live, world.kernel.handles)
    assert world.executor.patience(None) is None


def test_leftovers_are_left_alone_if_the_start_requests_it(world: World) -> None:
    leader = world.start(report_leftovers=True, leftover_grace=2.0)
    server = world.kernel.born(leader.pid)
    world.kernel.dies(leader)
    world.run_for(1.9)
    assert [] == world.sent(wire.Exited)
    world.run_for(0.4)

    assert ((), 1) == (world.last(wire.Exited).exit.leftovers, len(world.sent(wire.Exited)))
    assert 1 == len(world.last(wire.Exited).exit.left_alone)
    assert [] == server.signals

    # Nothing of it becomes another run's, though that one lived when it was started.
    other = world.start("other", leftover_grace=0.0)
    helper = world.kernel.born(server.pid)
    stranger = world.kernel.born(server.pid, leads=True, environment=b"DISPATCHER_RUN=run\0")
    world.kernel.dies(server)
    world.run_for(2)
    world.kernel.dies(other)
    world.run_for(5)
    assert ("other", ()) == (world.last(wire.Exited).uid, world.last(wire.Exited).exit.leftovers)
    assert [] == world.sent(wire.Stray)
    assert [] == helper.signals + stranger.signals


def test_a_requested_end_reports_no_leftovers(world: World) -> None:
    world.spawner.facts = {"ignores": frozenset({SIGTERM})}
    leader = world.start(report_leftovers=True, kill_grace=1.0)
    child = world.kernel.born(leader.pid, ignores=frozenset({SIGTERM}))
    world.end()
    world.run_for(3)

    assert [SIGKILL] == [signum for _, signum in child.signals if signum == SIGKILL][:1]
    assert () == world.last(wire.Exited).exit.left_alone


def test_a_leftover_left_alone_is_reaped_at_its_death_although_nothing_runs(world: World) -> None:
    leader = world.start(report_leftovers=True)
    server = world.kernel.born(leader.pid)
    world.kernel.dies(leader)
    world.run_for(5)
    assert [] == server.signals

    world.kernel.dies(server)
    world.run_for(2)
    assert server.pid in world.kernel.reaped
    assert math.inf == world.executor.runs.due, "and then nothing is looked at"


def test_a_mark_is_read_before_every_sign_that_may_be_anothers(world: World) -> None:
    """Neither environment, session, output nor parents are left of it."""
    uid, other = "a" * 32, "b" * 32
    bystander = world.start(other)
    leader = world.start(uid, leftover_grace=1.0)
    between = world.kernel.born(leader.pid, leads=True)
    hidden = world.kernel.born(between.pid, leads=True, environment=b"")
    world.kernel.dies(between)
    world.kernel.dies(leader)

    world.run_for(5)

    assert SIGTERM == hidden.signals[0][1]
    assert (uid, (f"p{hidden.pid}",)) == (
        world.last(wire.Exited).uid,
        world.last(wire.Exited).exit.leftovers,
    )
    assert [] == world.sent(wire.Stray) + bystander.signals


def test_another_runs_daemon_with_a_remembered_pid_is_not_taken_for_a_leftover(
    world: World,
) -> None:
    """A leftover left alone is known by its mark; its pid may belong to another process by now."""
    first, second = "a" * 32, "b" * 32
    leader = world.start(first, report_leftovers=True)
    left = world.kernel.born(leader.pid)
    world.kernel.dies(leader)
    world.run_for(5)
    other = world.start(second, leftover_grace=1.0)
    daemon = world.kernel.born(other.pid, environment=b"")
    daemon.session = daemon.group = leader.pid  # the first leader's number came round
    world.kernel.dies(other)
    world.run_for(5)

    assert SIGTERM == daemon.signals[0][1]
    assert [second] == [m.uid for m in world.sent(wire.Exited) if m.exit.leftovers]
    assert [] == left.signals


def test_r15_a_leader_that_proc_does_not_show_is_signalled_and_never_taken_for_gone(
    world: World,
) -> None:
    """Under `hidepid` it is our unreaped child, whatever /proc shows."""
    world.spawner.facts = {"hidden": True, "ignores": frozenset({SIGTERM})}
    leader = world.start("a" * 32, kill_grace=1.0)

    world.end("a" * 32)
    world.run_for(0.5)
    assert [SIGTERM, SIGCONT] == [signum for _, signum in leader.signals]
    assert [] == world.sent(wire.Exited)
    world.run_for(2)

    assert SIGKILL == world.last(wire.Exited).exit.signal


def test_a_child_that_proc_does_not_show_is_signalled_with_its_run(world: World) -> None:
    leader = world.start("a" * 32)
    hidden = world.kernel.born(leader.pid, leads=True, hidden=True, ignores=frozenset({SIGTERM}))

    world.end("a" * 32, at_once=True)
    world.run_for(1)

    assert SIGKILL == hidden.signals[-1][1]
    assert 1 == len(world.sent(wire.Exited))


def test_an_unreadable_process_keeps_no_other_run(world: World) -> None:
    """A storm of forks in one run: its neighbours are settled as if it were not there."""
    storm, quiet = world.start("a" * 32), world.start("b" * 32)
    forked = iter(range(10**6))
    orphans = world.kernel.orphans

    def storms() -> list[int]:
        for _ in range(3):
            between = world.kernel.born(storm.pid)
            world.kernel.born(between.pid, leads=True, environment=None)
            world.kernel.dies(between)
            youngest = max(world.kernel.processes)
            if next(forked) % 3:
                world.kernel.dies(world.kernel.processes[youngest])
        return orphans()

    world.kernel.orphans = storms  # type: ignore[method-assign]
    world.kernel.dies(quiet)
    world.run_for(0)

    assert ["b" * 32] == [exited.uid for exited in world.sent(wire.Exited)]


def test_without_marks_the_rest_still_gives_a_process_away(world: World) -> None:
    world.spawner.why_unmarked = "a hard limit"
    world.start("b" * 32)
    leader = world.start("a" * 32, leftover_grace=1.0)
    marked = b"DISPATCHER_RUN=" + b"a" * 32
    escaped = world.kernel.born(leader.pid, leads=True, environment=marked)
    world.kernel.dies(leader)

    world.run_for(5)

    assert SIGTERM == escaped.signals[0][1]
    assert [] == world.sent(wire.Stray)


def test_a_run_not_proved_gone_after_sigkill_is_reported_with_its_reason(world: World) -> None:
    world.spawner.facts = {"cannot_die": True}
    leader = world.start("a" * 32, kill_grace=0.0)
    world.end("a" * 32)
    world.run_for(10)

    reasons = [m.reason for m in world.sent(wire.Changed)]
    assert [f"it survived SIGKILL: p{leader.pid} ({leader.pid})"] == reasons
    world.connect(connected=True)
    assert reasons == [m.reason for m in world.sent(wire.RunReport)]


def test_dead_orphans_are_reaped_the_sooner_the_more_there_are(world: World) -> None:
    """A storm of forks must not leave the host without pids."""
    storm = world.start("a" * 32)

    def leaves(dead: int) -> None:
        for _ in range(dead):
            between = world.kernel.born(storm.pid)
            orphan = world.kernel.born(between.pid, leads=True)
            world.kernel.dies(between)
            world.kernel.dies(orphan)

    leaves(60)
    world.run_for(1.0)
    leaves(60)
    world.run_for(0.1)
    assert 120 == len(world.kernel.reaped)
    leaves(3)
    world.run_for(0.1)

    assert 120 == len(world.kernel.reaped), "few can wait for a second"


def test_a_leftover_left_alone_is_known_by_its_mark_when_no_other_sign_remains(
    world: World,
) -> None:
    leader = world.start("a" * 32, report_leftovers=True)
    server = world.kernel.born(leader.pid)
    world.kernel.dies(leader)
    world.run_for(5)
    other = world.start("b" * 32, leftover_grace=0.0)
    helper = world.kernel.born(server.pid, leads=True, environment=b"")
    world.kernel.dies(server)
    world.run_for(2)
    world.kernel.dies(other)
    world.run_for(5)

    assert ("b" * 32, ()) == (
        world.last(wire.Exited).uid,
        world.last(wire.Exited).exit.leftovers,
    )
    assert [] == helper.signals + world.sent(wire.Stray)


def test_the_session_number_of_a_leftover_left_alone_may_be_another_runs_by_now(
    world: World,
) -> None:
    """The daemon has no mark, as it set that limit itself; its environment names its run."""
    serving = world.start("a" * 32, report_leftovers=True)
    world.kernel.born(serving.pid, leads=True)
    world.kernel.dies(serving)
    world.run_for(5)
    other = world.start("b" * 32, leftover_grace=0.0)
    environment = b"DISPATCHER_RUN=" + b"b" * 32 + b"\0"
    daemon = world.kernel.born(other.pid, mark=0, environment=environment)
    daemon.session = daemon.group = serving.pid
    world.kernel.dies(other)
    world.run_for(5)

    assert SIGTERM == daemon.signals[0][1]
    assert 1 == len(world.last(wire.Exited).exit.leftovers)


def test_r15_as_the_init_of_a_container_it_ends_no_stranger_that_it_is_given(world: World) -> None:
    """Every orphan of its pid namespace becomes its child."""
    world.kernel.pid = 1  # type: ignore[misc]
    leader = world.start("a" * 32)
    stranger = world.kernel.born(SELF, leads=True, environment=b"")
    escaped = world.kernel.born(leader.pid, leads=True, environment=b"")

    world.end("a" * 32, at_once=True)
    world.run_for(5)

    assert [] == stranger.signals + world.sent(wire.Stray)
    assert SIGKILL == escaped.signals[-1][1]


def test_a_run_that_only_its_daemon_knows_is_swept_and_reported_gone(world: World) -> None:
    """Its journal was lost; what no daemon of this node names is nobody's to end."""
    uid, other = "a" * 32, "b" * 32
    survivor = world.kernel.born(2, leads=True, mark=mark_of(uid))
    stranger = world.kernel.born(2, leads=True, mark=mark_of(other))

    world.end(uid)
    world.run_for(1)

    assert [SIGKILL] == [signum for _, signum in survivor.signals][:1]
    assert [] == stranger.signals
    exited = world.last(wire.Exited)
    assert (uid, "swept", None) == (exited.uid, exited.ended_by, exited.exit.exit_code)


@pytest.mark.parametrize("kill_mode", list(wire.KillMode))
def test_a_process_of_another_user_is_named_at_the_kill_signal_and_never_called_a_survivor(
    world: World, kill_mode: wire.KillMode
) -> None:
    world.spawner.facts = {"owner": 0}
    leader = world.start(kill_grace=1.0, kill_mode=kill_mode)

    world.end()
    world.run_for(0.5)
    early = world.sent(wire.Changed)
    world.run_for(60)

    reason = f"p{leader.pid} ({leader.pid}) belongs to root, and the dispatcher may not signal it"
    why = f"{reason}: sudo kill {leader.pid}"
    assert [(wire.RunState.ENDING, why)] == [(m.state, m.reason) for m in early]
    assert [(wire.RunState.UNKILLABLE, why)] == [
        (m.state, m.reason) for m in world.sent(wire.Changed)[1:]
    ]
    assert 1 == world.names().count("worker.unsignalled")
    world.connect(connected=True)
    assert [why] == [m.reason for m in world.sent(wire.RunReport)]


def test_a_leftover_of_another_user_is_named_and_not_counted_as_ended(world: World) -> None:
    leader = world.start(leftover_grace=1.0, kill_grace=1.0)
    left = world.kernel.born(leader.pid, owner=1001, leads=True)
    ended = world.kernel.born(leader.pid, leads=True)
    world.kernel.dies(leader)

    world.run_for(1.5)
    reasons = [m.reason for m in world.sent(wire.Changed) if m.reason]
    world.kernel.dies(left)
    world.run_for(10)

    reason = f"p{left.pid} ({left.pid}) belongs to uid 1001, and the dispatcher may not signal it"
    assert [f"{reason}: sudo kill {left.pid}"] == reasons
    assert (f"p{ended.pid}",) == world.last(wire.Exited).exit.leftovers


def test_survivors_and_processes_of_another_user_are_distinguished(world: World) -> None:
    world.spawner.facts = {"cannot_die": True}
    leader = world.start(kill_grace=0.0)
    theirs = world.kernel.born(leader.pid, owner=0)
    more = world.kernel.born(leader.pid, owner=0)
    world.end()
    world.run_for(10)

    survived = f"it survived SIGKILL: p{leader.pid} ({leader.pid})"
    pids = (theirs.pid, more.pid)
    named = ", ".join(f"p{pid} ({pid})" for pid in pids)
    refused = f"{named} belong to root, and the dispatcher may not signal them: sudo kill {pids[0]}"
    assert f"{survived}; {refused} {pids[1]}" == world.last(wire.Changed).reason
