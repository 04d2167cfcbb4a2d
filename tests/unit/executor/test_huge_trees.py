"""Trees of thousands of processes: a tick does a bounded part, and what is proved stays proved."""

from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

import pytest

from dispatcher import wire
from dispatcher.executor.processes.tree import ATTRIBUTIONS_PER_TICK, REAPS_PER_TICK
from dispatcher.executor.processes.walk import LOOKS_PER_TICK
from dispatcher.executor.run import MAX_LEFTOVERS
from dispatcher.executor.system.kernel import ProcessStatus
from dispatcher.host.marks import MOST_LISTED
from dispatcher.times import Instant
from tests.unit.executor.world import FakeProcess, World

STUBBORN = frozenset({SIGTERM})

HUGE, SMALL = "a" * 32, "b" * 32

#: Processes of a huge tree, without its leader.
MANY = 6 * LOOKS_PER_TICK


class Counting(World):
    """Counts the kernel calls of each tick."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.calls: Counter[str] = Counter()
        self.ticks: list[Counter[str]] = []
        for name in ("look", "signal", "environment", "reap_if_dead"):
            self._count(name)
        tick = self.executor.tick

        def counted(*args: Any) -> None:
            self.calls.clear()
            tick(*args)
            self.ticks.append(Counter(self.calls))

        self.executor.tick = counted  # type: ignore[method-assign]

    def _count(self, name: str) -> None:
        call = getattr(self.kernel, name)

        def counted(*args: Any) -> Any:
            answer = call(*args)
            self.calls[name] += 1
            self.calls["reaped"] += name == "reap_if_dead" and answer
            return answer

        setattr(self.kernel, name, counted)

    def most(self, name: str) -> int:
        """Return the number of kernel calls in the busiest tick."""
        return max(tick[name] for tick in self.ticks)

    def grow(self, leader: FakeProcess, number: int = MANY, **facts: Any) -> list[FakeProcess]:
        """Give a leader a tree in three levels, of which a third left its session."""
        grown = [leader]
        for n in range(number):
            parent = grown[n // 10]
            grown.append(self.kernel.born(parent.pid, leads=n % 3 == 0, **facts))
        return grown[1:]

    def steps(self) -> Iterator[int]:
        """Let tick follow tick for as long as there is more to do at once; count them."""
        for number in range(1, 1000):
            self.executor.step(timeout=0)
            yield number
            if self.executor.runs.due > self.kernel.now:
                return
        pytest.fail("it never comes to an end")


@pytest.fixture
def world(tmp_path: Path) -> Counting:
    return Counting(tmp_path)


def kinds(process: FakeProcess) -> list[int]:
    return [signum for _, signum in process.signals]


def test_each_process_of_a_huge_tree_gets_the_kill_signal_once_over_many_ticks(
    world: Counting,
) -> None:
    world.spawner.facts = {"ignores": STUBBORN}
    leader = world.start(HUGE, kill_grace=10.0)
    tree = world.grow(leader, ignores=STUBBORN)

    world.end(HUGE)
    assert [] == leader.signals, "nobody is signalled before the whole tree is found"
    world.run_for(9)

    assert {(SIGTERM, SIGCONT)} == {tuple(kinds(process)) for process in [leader, *tree]}
    assert LOOKS_PER_TICK < world.most("look") + 2 <= LOOKS_PER_TICK + 3
    assert world.most("signal") <= 2 * LOOKS_PER_TICK
    world.run_for(10)
    assert {SIGKILL} == {process.signals[-1][1] for process in [leader, *tree]}
    assert [HUGE] == [exited.uid for exited in world.sent(wire.Exited)]


def test_small_runs_are_ended_while_a_huge_one_is_still_being_found(world: Counting) -> None:
    huge = world.start(HUGE)
    world.grow(huge)
    small = world.start(SMALL)
    world.kernel.born(small.pid, leads=True)
    ends = [wire.End(uid=wire.RunUid(uid), reason="cancelled") for uid in (HUGE, SMALL)]
    world.deliver(*ends)

    for _ in world.steps():
        if world.sent(wire.Exited):
            break
    assert [SMALL] == [exited.uid for exited in world.sent(wire.Exited)]
    assert [] == huge.signals

    world.run_for(1)
    assert [SMALL, HUGE] == [exited.uid for exited in world.sent(wire.Exited)]


def test_messages_and_exits_are_processed_in_between(world: Counting) -> None:
    huge, other = world.start(HUGE), world.start(SMALL)
    world.grow(huge)
    world.end(HUGE)

    world.kernel.dies(other)
    world.server.inbox.append(wire.Ping(sequence=7))
    world.executor.step(timeout=0)

    assert [] == huge.signals
    kinds_sent = [type(m) for m in world.server.sent if isinstance(m, wire.Exited | wire.Pong)]
    assert [wire.Exited, wire.Pong] == kinds_sent


def test_huge_trees_share_a_tick(world: Counting) -> None:
    trees = [world.start(f"{n:032x}") for n in range(1, 5)]
    for leader in trees:
        world.grow(leader, MANY // 3)
    ends = [wire.End(uid=wire.RunUid(f"{n:032x}"), reason="cancelled") for n in range(1, 5)]
    world.deliver(*ends)
    counts = [sum(bool(leader.signals) for leader in trees) for _ in world.steps()]

    assert {0, 4} == set(counts), "all are as far at the same time"
    assert world.most("look") <= LOOKS_PER_TICK + 4


def test_none_that_cannot_die_keeps_sigkill_from_the_rest(
    world: Counting,
) -> None:
    world.spawner.facts = {"cannot_die": True}
    leader = world.start(HUGE)
    stuck = [
        world.kernel.born(leader.pid, leads=True, cannot_die=True) for _ in range(LOOKS_PER_TICK)
    ]
    mortal = [world.kernel.born(process.pid, leads=True) for process in stuck]

    world.end(HUGE, at_once=True)
    for _ in world.steps():
        pass

    assert {(SIGSTOP, SIGKILL)} == {tuple(kinds(process)) for process in mortal}
    assert [] == world.sent(wire.Exited)
    assert world.most("signal") <= LOOKS_PER_TICK


def test_the_grace_begins_when_the_last_of_a_huge_tree_has_the_kill_signal(
    world: Counting,
) -> None:
    """With a grace that is shorter than the walk it got SIGKILL alone."""
    world.spawner.facts = {"ignores": STUBBORN}
    leader = world.start(HUGE, kill_grace=0.5)
    tree = world.grow(leader, ignores=STUBBORN)
    world.deliver(wire.End(uid=wire.RunUid(HUGE), reason="cancelled"))
    for _ in range(MANY):
        world.executor.step(timeout=0)
        if all(SIGTERM in kinds(process) for process in tree):
            break
        world.kernel.now = Instant(world.kernel.now + 1.0)
    sent = world.kernel.now

    assert [] == [process for process in tree if SIGKILL in kinds(process)]
    world.run_for(2)
    assert sent + 0.5 <= min(at for process in tree for at, s in process.signals if s == SIGKILL)
    assert [] == [process for process in tree if SIGKILL not in kinds(process)]


def test_an_end_at_once_goes_on_part_by_part(world: Counting) -> None:
    leader = world.start(HUGE, kill_grace=1e6)
    for _ in range(MANY):
        world.kernel.born(leader.pid, cannot_die=True)
    world.end(HUGE)
    for _ in range(MANY // LOOKS_PER_TICK + 2):
        world.executor.step(timeout=0)
    assert [] == leader.signals

    world.end(HUGE, at_once=True)
    for _ in world.steps():
        pass

    assert LOOKS_PER_TICK == world.most("signal")


def test_a_tree_that_forks_whenever_it_is_looked_at_is_ended_all_the_same(
    world: Counting,
) -> None:
    world.spawner.facts = {"ignores": STUBBORN}
    leader = world.start(HUGE, kill_grace=1e6)
    children = world.kernel.children

    def forks(pid: int) -> list[int]:
        world.kernel.now += 0.01
        world.kernel.born(pid, ignores=STUBBORN)
        return children(pid)

    world.kernel.children = forks  # type: ignore[method-assign]
    world.end(HUGE)
    for _ in world.steps():
        pass
    assert [SIGTERM, SIGCONT] == kinds(leader)

    world.end(HUGE, at_once=True)
    for _ in world.steps():
        pass
    world.run_for(1)
    assert [HUGE] == [exited.uid for exited in world.sent(wire.Exited)]


def test_no_process_of_a_huge_tree_gets_sigkill_before_each_is_stopped(world: Counting) -> None:
    leader = world.start(HUGE)
    tree = [leader, *world.grow(leader)]
    stopped: list[bool] = []
    signal = world.kernel.signal

    def noted(process: Any, *signums: int) -> bool:
        if SIGKILL in signums:
            stopped.append(all(one.stopped for one in tree))
        return signal(process, *signums)

    world.kernel.signal = noted  # type: ignore[method-assign]
    world.end(HUGE, at_once=True)
    world.run_for(1)

    assert all(stopped)
    assert {(SIGSTOP, SIGKILL)} == {tuple(kinds(process)) for process in tree[1:]}
    assert [SIGSTOP, SIGKILL] == kinds(leader)[:2]
    assert world.most("signal") <= LOOKS_PER_TICK
    assert [HUGE] == [exited.uid for exited in world.sent(wire.Exited)]


def test_a_process_is_stopped_before_its_children_are_listed(world: Counting) -> None:
    leader = world.start(HUGE)
    tree = [leader, *world.grow(leader)]
    children = world.kernel.children
    listed: list[bool] = []

    def noted(pid: int) -> list[int]:
        listed.append(world.kernel.processes[pid].stopped)
        return children(pid)

    world.kernel.children = noted  # type: ignore[method-assign]
    world.end(HUGE, at_once=True)
    world.run_for(1)

    assert listed.count(False) <= LOOKS_PER_TICK, "before it is known that the tree is huge"
    assert 2 * len(tree) <= listed.count(True)


def test_children_of_a_huge_tree_get_sigkill_before_their_parents(world: Counting) -> None:
    """The kernel continues a stopped group that loses its last parent outside of it."""
    leader = world.start(HUGE)
    tree = world.grow(leader)
    parents = {process.pid: process.parent for process in tree}
    killed: list[int] = []
    signal = world.kernel.signal

    def noted(process: Any, *signums: int) -> bool:
        if SIGKILL in signums:
            killed.append(process.pid)
        return signal(process, *signums)

    world.kernel.signal = noted  # type: ignore[method-assign]
    world.end(HUGE, at_once=True)
    world.run_for(1)

    turns = {pid: turn for turn, pid in enumerate(killed)}
    assert len(tree) + 1 == len(turns)
    assert all(turns[child] < turns[parent] for child, parent in parents.items())


def test_a_tree_that_one_tick_can_reach_is_never_stopped(world: Counting) -> None:
    world.spawner.facts = {"ignores": STUBBORN}
    leader = world.start(SMALL, kill_grace=1.0)
    tree = world.grow(leader, LOOKS_PER_TICK // 3, ignores=STUBBORN)

    world.end(SMALL)
    world.run_for(2)

    assert {(SIGTERM, SIGCONT, SIGKILL)} == {tuple(kinds(one)[:3]) for one in [leader, *tree]}


class Bomb:
    """Each of its processes forks between two ticks, into a session of its own, while pids last."""

    def __init__(self, world: Counting, most: int, **facts: Any) -> None:
        self._world, self._most, self._facts = world, most, facts
        world.spawner.facts = {"ignores": STUBBORN}
        self.leader = world.start(HUGE)
        self.tree = [self.leader]
        tick = world.executor.tick

        def forks_first(*args: Any) -> None:
            world.kernel.now += 0.01
            self._fork()
            tick(*args)

        world.executor.tick = forks_first  # type: ignore[method-assign]

    def _fork(self) -> None:
        self.tree = [one for one in self.tree if one.status is None]
        for process in [one for one in self.tree if not one.stopped]:
            if len(self._world.kernel.processes) < self._most:
                child = self._world.kernel.born(process.pid, leads=True, **self._facts)
                self.tree.append(child)


def test_a_bomb_that_refills_the_pids_of_its_dead_is_ended(world: Counting) -> None:
    bomb = Bomb(world, MANY, ignores=STUBBORN)
    world.run_for(10)
    assert MANY == len(world.kernel.processes)

    world.end(HUGE, at_once=True)
    world.run_for(30)

    assert [] == [process for process in bomb.tree if process.status is None]
    assert [HUGE] == [exited.uid for exited in world.sent(wire.Exited)]
    assert "worker.unkillable" not in world.names()


def test_processes_that_cannot_be_stopped_do_not_keep_sigkill_from_the_rest(
    world: Counting,
) -> None:
    """Those of another user fork on."""
    leader = world.start(HUGE)
    tree = world.grow(leader)
    foreign = world.kernel.born(leader.pid, leads=True, owner=0)
    tick = world.executor.tick

    def forks_first(*args: Any) -> None:
        world.kernel.now += 0.01
        world.kernel.born(foreign.pid, owner=0)
        tick(*args)

    world.executor.tick = forks_first  # type: ignore[method-assign]
    world.end(HUGE, at_once=True)
    world.run_for(3)

    assert [] == [process for process in tree if SIGKILL not in kinds(process)]


def test_only_a_process_that_lives_long_after_its_own_sigkill_is_unkillable(
    world: Counting,
) -> None:
    """New processes were named that had just been found, and left alone for ten seconds."""
    world.spawner.facts = {"cannot_die": True}
    leader = world.start(SMALL)
    world.end(SMALL, at_once=True)
    world.run_for(4)
    leader.cannot_die = False
    late = world.kernel.born(leader.pid, leads=True, cannot_die=True)
    began = world.kernel.now

    world.run_for(4.5)
    assert "worker.unkillable" not in world.names()
    world.run_for(1)

    assert f"it survived SIGKILL: p{late.pid} ({late.pid})" == world.last(wire.Changed).reason
    assert late.signals[0][0] < began + 0.2


def test_an_unkillable_run_with_new_processes_is_not_left_alone_for_long(world: World) -> None:
    world.spawner.facts = {"cannot_die": True}
    leader = world.start(SMALL)
    world.end(SMALL, at_once=True)
    world.run_for(60)
    first = world.kernel.born(leader.pid, cannot_die=True)
    while SIGKILL not in kinds(first):
        world.run_for(0.05)

    new = world.kernel.born(leader.pid, cannot_die=True)
    world.run_for(0.3)

    assert SIGKILL in kinds(new)


def test_a_child_whose_parent_dies_while_the_tree_is_being_found_is_not_passed_over(
    world: Counting,
) -> None:
    leader = world.start(HUGE)
    between = world.kernel.born(world.grow(leader)[-1].pid)
    child = world.kernel.born(between.pid, leads=True, ignores=STUBBORN)
    world.end(HUGE)

    world.kernel.dies(between)
    for _ in world.steps():
        pass

    assert [SIGTERM, SIGCONT] == kinds(child)


def test_a_child_that_is_orphaned_after_it_was_found_is_signalled_once(world: Counting) -> None:
    leader = world.start(HUGE)
    between = world.kernel.born(leader.pid)
    child = world.kernel.born(between.pid, leads=True, ignores=STUBBORN)
    world.grow(leader)
    world.end(HUGE)
    for _ in range(MANY // LOOKS_PER_TICK):
        world.executor.step(timeout=0)

    world.kernel.dies(between)
    for _ in world.steps():
        pass

    assert [SIGTERM, SIGCONT] == kinds(child)


def test_no_process_is_signalled_twice_although_the_host_is_short_meanwhile(
    world: Counting,
) -> None:
    world.spawner.facts = {"ignores": STUBBORN}
    leader = world.start(HUGE, kill_grace=1e6)
    tree = world.grow(leader, ignores=STUBBORN)
    world.end(HUGE)
    for ticks, _ in enumerate(world.steps()):
        short = ticks % 2 and leader.signals
        world.kernel.broken = OSError(24, "Too many open files") if short else None
    world.kernel.broken = None
    world.run_for(1)

    assert {(SIGTERM, SIGCONT)} == {tuple(kinds(process)) for process in [leader, *tree]}


@pytest.mark.parametrize("number", [2, LOOKS_PER_TICK, MANY])
def test_a_shortage_keeps_the_kill_signal_from_none(world: Counting, number: int) -> None:
    """It was sent to those alone whose turn came before the shortage or after it."""
    world.spawner.facts = {"ignores": STUBBORN}
    leader = world.start(HUGE, kill_grace=10.0)
    tree = [leader, *world.grow(leader, number, ignores=STUBBORN)]
    signal, calls = world.kernel.signal, count()
    short_from = number // 6

    def short(process: Any, *signums: int) -> bool:
        if short_from <= next(calls) and world.kernel.now < began + 1:
            raise OSError(24, "Too many open files", f"/proc/{process.pid}/stat")
        return signal(process, *signums)

    world.kernel.signal = short  # type: ignore[method-assign]
    began = world.kernel.now
    world.end(HUGE)
    world.run_for(9)

    assert {(SIGTERM, SIGCONT)} == {tuple(kinds(process)) for process in tree}
    assert 1 == world.names().count("host.short")
    world.run_for(3)
    assert [HUGE] == [exited.uid for exited in world.sent(wire.Exited)]


def test_a_group_is_signalled_once_although_the_host_is_short_at_the_first_process(
    world: Counting,
) -> None:
    world.spawner.facts = {"ignores": STUBBORN}
    leader = world.start(HUGE, kill_grace=10.0)
    between = world.kernel.born(leader.pid)
    orphan = world.kernel.born(between.pid, leads=True, ignores=STUBBORN)  # it is found first
    world.kernel.dies(between)
    signal, calls = world.kernel.signal, count()

    def short(process: Any, *signums: int) -> bool:
        if next(calls) < 3:
            raise OSError(24, "Too many open files")
        return signal(process, *signums)

    world.kernel.signal = short  # type: ignore[method-assign]
    world.end(HUGE)
    world.run_for(5)

    assert [SIGTERM, SIGCONT] == kinds(leader) == kinds(orphan)


def test_a_scan_that_the_host_refuses_signals_nobody_and_is_tried_again(world: Counting) -> None:
    world.spawner.facts = {"ignores": STUBBORN}
    leader = world.start(HUGE, kill_grace=10.0)
    tree = [leader, *world.grow(leader, 2, ignores=STUBBORN)]
    world.kernel.broken = OSError(24, "Too many open files")
    world.end(HUGE)
    world.run_for(1)
    world.kernel.broken = None
    world.run_for(8)

    assert {(SIGTERM, SIGCONT)} == {tuple(kinds(process)) for process in tree}


@pytest.mark.parametrize("number", [2, MANY])
def test_a_shortage_that_lasts_does_not_prolong_the_grace(world: Counting, number: int) -> None:
    world.spawner.facts = {"ignores": STUBBORN}
    leader = world.start(HUGE, kill_grace=1.0)
    tree = world.grow(leader, number, ignores=STUBBORN)
    signal = world.kernel.signal

    def short(process: Any, *signums: int) -> bool:
        if SIGTERM in signums:
            raise OSError(24, "Too many open files", f"/proc/{process.pid}/stat")
        return signal(process, *signums)

    world.kernel.signal = short  # type: ignore[method-assign]
    world.end(HUGE)
    world.run_for(3)

    assert [] == [process for process in tree if SIGKILL not in kinds(process)]
    assert [HUGE] == [exited.uid for exited in world.sent(wire.Exited)]


def test_no_process_is_signalled_twice_although_a_list_of_our_children_comes_too_early(
    world: Counting,
) -> None:
    """Their parent has just died of the signal, so the first list of a tick may not have them."""
    leader = world.start(HUGE, kill_grace=1e6)
    escaped = [
        world.kernel.born(leader.pid, leads=True, ignores=STUBBORN)
        for _ in range(3 * LOOKS_PER_TICK)
    ]
    orphans, calls = world.kernel.orphans, count()
    world.kernel.orphans = (  # type: ignore[method-assign]
        lambda: orphans() if next(calls) % 2 or leader.status is None else []
    )

    world.end(HUGE)
    for _ in world.steps():
        pass

    assert {(SIGTERM, SIGCONT)} == {tuple(kinds(process)) for process in escaped}


def test_a_scan_that_the_host_refuses_is_not_repeated_at_once(world: Counting) -> None:
    world.grow(world.start(HUGE))
    world.end(HUGE, at_once=True)
    world.kernel.broken = OSError(24, "Too many open files")

    assert [1] == list(world.steps())
    world.kernel.broken = None
    world.run_for(1)

    assert [HUGE] == [exited.uid for exited in world.sent(wire.Exited)]


def test_some_of_many_that_survive_are_named_and_the_others_counted(world: Counting) -> None:
    world.grow(world.start(SMALL), MOST_LISTED + 2, cannot_die=True)
    world.end(SMALL, at_once=True)
    world.run_for(6)

    reason = world.last(wire.Changed).reason
    assert MOST_LISTED == reason.count("(")
    assert reason.endswith(") and 2 more")


def test_a_shortage_in_the_middle_of_a_freeze_does_not_keep_sigkill_from_the_group(
    world: Counting,
) -> None:
    """A stopped tree may be what the host is short by, and would stand still for ever."""
    leader = world.start(HUGE)
    tree = [leader, *world.grow(leader)]
    group = [process for process in tree if process.group == leader.pid]
    world.end(HUGE, at_once=True)
    steps = world.steps()
    while not leader.stopped:
        next(steps)
    look = world.kernel.look

    def short(pid: int) -> Any:
        raise OSError(24, "Too many open files", f"/proc/{pid}/stat")

    world.kernel.look = short  # type: ignore[method-assign]
    world.run_for(20)

    assert [] == [process for process in group if SIGKILL not in kinds(process)]
    assert [] != [process for process in tree if SIGKILL not in kinds(process)]
    assert 1 == world.names().count("host.short")
    world.kernel.look = look  # type: ignore[method-assign]
    world.run_for(15)
    assert [HUGE] == [exited.uid for exited in world.sent(wire.Exited)]


def test_a_survivor_is_named_as_seen_after_sigkill(world: Counting) -> None:
    leader = world.start(HUGE)
    stuck = world.kernel.born(world.grow(leader)[-1].pid, leads=True, cannot_die=True)
    world.end(HUGE, at_once=True)
    world.executor.step(timeout=0)  # so some are killed, and others not yet found

    world.kernel.now += 6
    world.run_for(6)

    assert f"it survived SIGKILL: p{stuck.pid} ({stuck.pid})" == world.last(wire.Changed).reason


def test_a_traceless_process_at_the_end_of_a_huge_tree_is_known_before_its_parents_die(
    world: Counting,
) -> None:
    """It would be a stray, or be taken for nobody's, had its lineage not been seen."""
    world.start(SMALL)
    leader = world.start(HUGE)
    *_, last = (one for one in world.grow(leader) if one.group == leader.pid)
    traceless = world.kernel.born(last.pid, leads=True, mark=0, environment=b"")

    world.end(HUGE, at_once=True)
    world.run_for(1)

    assert SIGKILL == traceless.signals[-1][1]
    assert [] == world.sent(wire.Stray)
    assert [HUGE] == [exited.uid for exited in world.sent(wire.Exited)]


def test_nothing_is_absent_while_orphans_wait_for_their_attribution(world: Counting) -> None:
    leader, other = world.start(HUGE, leftover_grace=1e6), world.start(SMALL)
    orphans = [
        world.kernel.born(leader.pid, mark=0, ignores=STUBBORN)
        for _ in range(5 * ATTRIBUTIONS_PER_TICK)
    ]
    world.kernel.dies(leader)
    world.kernel.dies(other)

    for _ in range(4):
        world.executor.step(timeout=0)
        assert [] == world.sent(wire.Exited)
    world.run_for(1)

    assert world.most("environment") <= ATTRIBUTIONS_PER_TICK
    assert [SMALL] == [exited.uid for exited in world.sent(wire.Exited)]
    assert [] == world.sent(wire.Stray)
    for orphan in orphans:
        world.kernel.dies(orphan)
    world.run_for(1)
    assert [SMALL, HUGE] == [exited.uid for exited in world.sent(wire.Exited)]


def test_all_orphans_of_a_living_run_are_attributed_in_ticks_that_follow_at_once(
    world: Counting,
) -> None:
    leader = world.start(HUGE)
    between = world.kernel.born(leader.pid)
    for _ in range(5 * ATTRIBUTIONS_PER_TICK):
        world.kernel.born(between.pid, leads=True, mark=0)
    world.kernel.dies(between)

    world.run_for(1)
    for _ in world.steps():
        pass

    counts = [tick["environment"] for tick in world.ticks if tick["environment"]]
    assert [ATTRIBUTIONS_PER_TICK] * 5 == counts


def test_marked_orphans_keep_no_other_run_however_many_they_are(world: Counting) -> None:
    leader, other = world.start(HUGE, leftover_grace=1e6), world.start(SMALL)
    world.grow(leader, 5 * ATTRIBUTIONS_PER_TICK)
    world.kernel.dies(leader)
    world.kernel.dies(other)

    world.executor.step(timeout=0)

    assert [SMALL] == [exited.uid for exited in world.sent(wire.Exited)]


def test_dead_orphans_are_reaped_part_by_part_and_their_run_is_gone_after_the_last(
    world: Counting,
) -> None:
    leader = world.start(HUGE)
    tree = [world.kernel.born(leader.pid) for _ in range(3 * REAPS_PER_TICK)]
    world.kernel.dies(leader)
    for process in tree:
        world.kernel.dies(process)

    for _ in world.steps():
        if not world.sent(wire.Exited):
            continue
        break
    world.run_for(0.1)

    assert world.most("reaped") <= REAPS_PER_TICK
    assert {process.pid for process in tree} <= set(world.kernel.reaped[:-1])
    assert leader.pid == world.kernel.reaped[-1]
    assert 1 == len(world.sent(wire.Exited))


def test_a_dead_process_that_is_not_reaped_yet_is_not_a_leftover(world: Counting) -> None:
    leader = world.start(HUGE, leftover_grace=0.0)
    tree = [world.kernel.born(leader.pid) for _ in range(3 * REAPS_PER_TICK)]
    world.kernel.dies(leader)
    for process in tree:
        world.kernel.dies(process)

    world.run_for(1)

    assert () == world.last(wire.Exited).exit.leftovers
    assert "worker.leftover_ended" not in world.names()


def test_a_leader_that_is_signalled_alone_is_signalled_once_at_any_size(world: Counting) -> None:
    world.spawner.facts = {"ignores": STUBBORN}
    leader = world.start(HUGE, kill_grace=10.0, kill_mode=wire.KillMode.LEADER)
    tree = world.grow(leader)
    world.end(HUGE)

    world.run_for(9)

    assert [SIGTERM, SIGCONT] == kinds(leader)
    assert [] == [signum for process in tree for signum in kinds(process)]


def test_huge_leftovers_are_named_as_few_and_logged_once(world: Counting) -> None:
    leader = world.start(HUGE, leftover_grace=1.0)
    world.grow(leader)
    world.kernel.dies(leader)

    world.run_for(5)

    (ended,) = [e for e in world.events if e["event"] == "worker.leftover_ended"]
    assert MAX_LEFTOVERS == len(ended["names"])
    assert MAX_LEFTOVERS == len(world.last(wire.Exited).exit.leftovers)


def test_leftovers_are_named_however_many_dead_processes_come_first(
    world: Counting,
) -> None:
    """Those of the first part alone were named: many of the dead may come first."""
    leader = world.start(HUGE, report_leftovers=True, leftover_grace=1.0)
    server = world.kernel.born(leader.pid, leads=True)
    for _ in range(3 * LOOKS_PER_TICK):
        world.kernel.born(server.pid).status = ProcessStatus(exit_code=0)
    living = [server, *(world.kernel.born(server.pid) for _ in range(5))]
    world.kernel.dies(leader)

    world.run_for(5)

    names = tuple(f"p{process.pid} ({process.pid})" for process in living)
    assert names == world.last(wire.Exited).exit.left_alone


def test_leftovers_of_many_runs_are_all_named(world: Counting) -> None:
    """Each run has a small share of a tick."""
    leaders = [
        world.start(f"{n:032x}", report_leftovers=True, leftover_grace=1.0) for n in range(1, 41)
    ]
    for leader in leaders:
        for _ in range(6):
            world.kernel.born(leader.pid, leads=True)
    for leader in leaders:
        world.kernel.dies(leader)

    world.run_for(3)

    assert [6] * 40 == [len(exited.exit.left_alone) for exited in world.sent(wire.Exited)]


def test_huge_leftovers_are_left_alone_if_the_start_requests_it(world: Counting) -> None:
    leader = world.start(HUGE, report_leftovers=True, leftover_grace=1.0)
    tree = world.grow(leader)
    world.kernel.dies(leader)

    world.run_for(5)

    assert MAX_LEFTOVERS == len(world.last(wire.Exited).exit.left_alone)
    assert [] == [signum for process in tree for signum in kinds(process)]
    assert not world.executor.table.live
