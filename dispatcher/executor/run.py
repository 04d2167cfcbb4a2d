"""One run as the executor tracks it, from its start until the daemon has settled it."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import msgspec

from dispatcher import wire, worker_api
from dispatcher.executor.kills import UNKILLABLE_AFTER, Kills
from dispatcher.executor.phases import MOVES, Phase, Step
from dispatcher.executor.records import Gone, InheritedRun
from dispatcher.executor.system.procfs import Process
from dispatcher.times import NEVER, Instant

#: Seconds between a signal and the first look at its effect; each further look doubles it.
FIRST_INTERVAL = 0.001

#: Names of leftovers reported with an exit; a worker may leave thousands.
MAX_LEFTOVERS = 20

#: Seconds at most between two looks at a tree that should become empty.
LONGEST_INTERVAL = {Phase.LINGERING: 0.25, Phase.SIGNALLED: 0.25, Phase.KILLED: 0.1}
LONGEST_INTERVAL_UNKILLABLE = 10.0


def ids(uid: wire.RunUid, task_variables: Mapping[str, str]) -> dict[str, str | int]:
    """Return the fields that identify a run in a log line: its uid, and its task if known."""
    task = task_variables.get(worker_api.TASK_VARIABLE, "")
    return {"uid": uid, "task_id": int(task)} if task.isdecimal() else {"uid": uid}


@dataclass(slots=True, eq=False)
class TrackedRun:
    """A run that the executor has not forgotten."""

    uid: wire.RunUid
    output_path: str
    phase: Phase = Phase.STARTING
    pid: int | None = None
    start_ticks: int | None = None
    handle: int | None = None
    """The leader's pidfd, until its exit was seen."""
    kill_signal: int = signal.SIGTERM
    kill_mode: wire.KillMode = wire.KillMode.TREE
    kill_grace: float = 0.0
    leftover_grace: float = 0.0
    report_leftovers: bool = False
    deadlines: dict[str, float] = field(default_factory=dict)
    longest: float | None = None
    """Latest instant to which the worker itself may move its run time-out; None: it may not."""
    until: float | None = None
    """The end of the extension that the worker requested."""
    exit: wire.Exit | None = None
    """The leader's end; complete, with the tree's usage, once the run is gone."""
    ended_by: str | None = None
    """The reason of the ending, if the leader lived when it began."""
    leftovers: tuple[str, ...] = ()
    unkillable: bool = False
    """A process lives long after its SIGKILL, or for as long it is unknown whether one does."""
    kills: Kills = field(default_factory=Kills)
    trouble: str = ""
    """Why the run is `unkillable`, or before that which processes may not be signalled."""
    inherited: InheritedRun | None = None
    """The predecessor's record of a run that it started; None: this executor started the run."""
    marked: bool = False
    """Its processes carry its mark."""
    task_variables: dict[str, str] = field(default_factory=dict)
    """The variables of its environment that name its task: `worker_api.IDENTITY_VARIABLES`."""
    forwarded: int | None = None
    """Bytes of its output that were forwarded to systemd's journal, or lost; None: output stays in
    its file."""
    forget_later: bool = False
    """The daemon has settled it, and the rest of its output is still to be forwarded."""
    exit_recorded: bool = False
    """The leader's exit was reported before the run was gone."""
    signalling: bool = False
    """The kill signal has not reached the whole tree yet."""
    ending_since: Instant = NEVER
    """When the kill signal was first to be sent."""
    limit: Instant = NEVER
    """When the phase ends, whatever the processes do."""
    look_at: Instant = NEVER
    interval: float = FIRST_INTERVAL

    @classmethod
    def started(cls, start: wire.Start, *, marked: bool) -> Self:
        """Return the run of an accepted start."""
        return cls(
            uid=start.uid,
            output_path=start.output_path,
            kill_signal=start.kill_signal,
            kill_mode=start.kill_mode,
            kill_grace=start.kill_grace,
            leftover_grace=start.leftover_grace,
            report_leftovers=start.report_leftovers,
            deadlines=dict(start.deadlines),
            longest=start.longest,
            marked=marked,
            task_variables={
                name: start.env[name] for name in worker_api.IDENTITY_VARIABLES if name in start.env
            },
            forwarded=0 if start.to_journald else None,
        )

    @classmethod
    def taken_over(cls, inherited: InheritedRun) -> Self:
        """Return a predecessor's run."""
        return cls(
            uid=inherited.uid,
            output_path=inherited.output_path,
            phase=Phase.GONE if isinstance(inherited, Gone) and inherited.exit else Phase.STARTING,
            pid=inherited.pid,
            start_ticks=inherited.start_ticks,
            exit=inherited.exit,
            ended_by=inherited.ended_by,
            inherited=inherited,
            marked=inherited.marked,
            task_variables=inherited.task_variables,
            forwarded=inherited.forwarded,
        )

    @property
    def state(self) -> wire.RunState:
        """How far the run is, in the words of the wire."""
        if self.unkillable and self.phase is not Phase.GONE:
            return wire.RunState.UNKILLABLE
        match self.phase:
            case Phase.STARTING | Phase.RUNNING:
                return wire.RunState.RUNNING
            case Phase.GONE:
                return wire.RunState.GONE
            case _ if self.exit is not None and self.ended_by is None:
                return wire.RunState.LEADER_EXITED
            case _:
                return wire.RunState.ENDING

    @property
    def ids(self) -> dict[str, str | int]:
        """The fields that identify it in a log line."""
        return ids(self.uid, self.task_variables)

    @property
    def leader_lives(self) -> bool:
        """Whether a leader of our own has not been seen to exit."""
        return self.exit is None and self.inherited is None

    @property
    def holds_leader(self) -> bool:
        """Whether the leader is ours and not reaped, so that no other process has its pid."""
        stolen = self.exit is not None and self.exit.exit_code is None and self.exit.signal is None
        return self.inherited is None and not stolen

    @property
    def signals_leader_alone(self) -> bool:
        """Whether the leader gets the kill signal and ends the others; once it exited, they do."""
        return self.kill_mode is wire.KillMode.LEADER and self.leader_lives

    @property
    def may_be_ended(self) -> bool:
        """Whether no ending has begun."""
        return Step.END in MOVES[self.phase]

    @property
    def may_be_killed(self) -> bool:
        """Whether the tree does not get SIGKILL yet."""
        return Step.KILL in MOVES[self.phase]

    @property
    def due(self) -> Instant:
        """When the run needs attention even if nothing happens."""
        first = min(self.limit, self.look_at)
        if self.deadlines and self.may_be_ended:
            return Instant(min(first, *self.deadlines.values()))
        return first

    def passed_deadline(self, at: Instant) -> str | None:
        """Return the name of the kill deadline that has passed, the earliest first."""
        if not self.deadlines or not self.may_be_ended:
            return None
        name = min(self.deadlines, key=self.deadlines.__getitem__)
        return name if self.deadlines[name] <= at else None

    def summary(self, at: Instant) -> InheritedRun:
        """Return the one record from which a successor knows this run."""
        return (Gone if self.phase is Phase.GONE else InheritedRun)(
            uid=self.uid,
            at=at,
            output_path=self.output_path,
            pid=self.pid,
            start_ticks=self.start_ticks,
            exit=without_tail(self.exit) if self.exit else None,
            ended_by=self.ended_by,
            held_until=self.inherited.held_until if self.inherited else 0.0,
            marked=self.marked,
            task_variables=self.task_variables,
            forwarded=self.forwarded,
        )

    def record_spawned(self, pid: int, start_ticks: int, handle: int | None) -> None:
        """Set the leader; an ending may have begun before it lived."""
        self.pid, self.start_ticks, self.handle = pid, start_ticks, handle
        self._take(Step.SPAWNED, NEVER)

    def record_leader_exit(self, exit_seen: wire.Exit, at: Instant) -> None:
        """Set the leader's exit; the rest of its tree has the leftover grace."""
        self.exit = exit_seen
        self._take(Step.LEADER_EXITED, Instant(at + self.leftover_grace))

    def end(self, at: Instant) -> None:
        """Begin to end the tree: the kill signal, then the grace."""
        self.signalling, self.ending_since = True, at
        self._take(Step.END, Instant(at + self.kill_grace))

    def record_signalled(self, at: Instant) -> None:
        """Count the grace from now on: the kill signal has reached the whole tree."""
        self.signalling = False
        self.limit = Instant(self.limit + (at - self.ending_since))

    def kill(self, at: Instant) -> None:
        """Let the tree get SIGKILL at every look from now on."""
        self.signalling = False
        self._take(Step.KILL, Instant(at + UNKILLABLE_AFTER))

    def record_killed(self, processes: list[Process], at: Instant) -> None:
        """Record who got SIGKILL; those who got it for the first time are looked at again soon."""
        if self.kills.record_killed(processes, at):
            self.interval = min(self.interval, LONGEST_INTERVAL[Phase.KILLED])

    def record_alive(self, at: Instant) -> None:
        """Extend the limit: processes were seen after the kill, each judged by its own SIGKILL."""
        if not self.unkillable:
            self.limit = Instant(at + UNKILLABLE_AFTER)

    def escalate(self, at: Instant) -> None:
        """Go on to what follows when the phase has lasted as long as it may."""
        match MOVES[self.phase].get(Step.TIME_UP):
            case Phase.SIGNALLED:
                self.end(at)
            case Phase.KILLED:
                self.kill(at)

    def record_unkillable(self, why: str) -> None:
        """Record that the run survives SIGKILL, or that this cannot be seen."""
        self.unkillable, self.trouble = True, why
        self.limit = NEVER

    def record_gone(self, complete: wire.Exit) -> None:
        """Set the complete exit: nothing of the tree is left."""
        self.exit = complete
        self._take(Step.EMPTIED, NEVER)

    def plan_look(self, at: Instant) -> None:
        """Set when to look again, unless the leader's handle will wake us."""
        was_signalled = self.phase is Phase.SIGNALLED and not self.signalling
        if self.phase is Phase.RUNNING or (was_signalled and self.leader_lives):
            self.look_at = NEVER
            return
        self.look_at = Instant(at + self.interval)
        most = LONGEST_INTERVAL_UNKILLABLE if self.unkillable else LONGEST_INTERVAL[self.phase]
        self.interval = min(2 * self.interval, most)

    def _take(self, step: Step, limit: Instant) -> None:
        """Move as `MOVES` allows; the new phase ends at `limit`."""
        if (phase := MOVES[self.phase].get(step)) is not None:
            self.phase, self.limit = phase, limit
            self.look_at, self.interval = NEVER, FIRST_INTERVAL


def without_tail(exit_: wire.Exit) -> wire.Exit:
    """Return the exit without the output's end, which the output still has."""
    return msgspec.structs.replace(exit_, tail="") if exit_.tail else exit_
