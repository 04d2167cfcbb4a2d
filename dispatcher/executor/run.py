"""One run as the executor sees it, and the ladder by which it ends.

STARTING ── spawned ──► RUNNING ── leader exited ──► LINGERING
                           │ end, deadline              │ end, deadline, leftover_grace
                           └────────────► ASKED ◄───────┘
                                            │ kill_grace, at_once
                                            ▼
                                          KILLED     and from each, once its tree is empty: GONE
"""

from __future__ import annotations

import enum
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field

from dispatcher import wire, worker_api
from dispatcher.executor.killing import UNKILLABLE_AFTER, Killing
from dispatcher.executor.system.procfs import Process
from dispatcher.times import NEVER, Instant

#: Seconds between a signal and the first look at what it did; it doubles from look to look.
FIRST_PAUSE = 0.001

#: Names of leftovers told with an exit; a worker may leave thousands.
MAX_LEFTOVERS = 20

#: Runs named with a stray, those that started last.
MAX_CANDIDATES = 20


class Phase(enum.IntEnum):
    """How far a run is; it only moves forwards."""

    STARTING = 0
    RUNNING = 1
    LINGERING = 2
    ASKED = 3
    KILLED = 4
    GONE = 5


#: Seconds at most between two looks at a tree that should become empty.
LONGEST_PAUSE = {Phase.LINGERING: 0.25, Phase.ASKED: 0.25, Phase.KILLED: 0.1}
LONGEST_PAUSE_UNKILLABLE = 10.0


def ids(uid: wire.RunUid, whose: Mapping[str, str]) -> dict[str, str | int]:
    """Return what names a run in a line of the log: its task too, where its variables have it."""
    task = whose.get(worker_api.TASK_VARIABLE, "")
    return {"uid": uid, "task_id": int(task)} if task.isdecimal() else {"uid": uid}


@dataclass(slots=True, eq=False)
class TrackedRun:
    """A run that the executor knows and was not told to forget."""

    uid: wire.RunUid
    output_path: str
    phase: Phase = Phase.STARTING
    pid: int | None = None
    start_ticks: int | None = None
    handle: int | None = None
    """The leader's pidfd, until it was seen to exit."""
    kill_signal: int = signal.SIGTERM
    kill_mode: wire.KillMode = wire.KillMode.TREE
    kill_grace: float = 0.0
    leftover_grace: float = 0.0
    report_leftovers: bool = False
    deadlines: dict[str, float] = field(default_factory=dict)
    longest: float | None = None
    """Instant to which the worker itself may move its run time-out; None: it has none."""
    until: float | None = None
    """Instant until which it asked to go on."""
    exit: wire.Exit | None = None
    """The leader's end; whole, with what the tree used, only once the run is gone."""
    ended_by: str | None = None
    """Who began the ending, when the leader still lived then."""
    leftovers: tuple[str, ...] = ()
    unkillable: bool = False
    """A process lives long after its SIGKILL, or for as long nobody can say whether one does."""
    killing: Killing = field(default_factory=Killing)
    why_held: str = ""
    """Why it is `unkillable`: who survived, or what cannot be seen. Before that: who may not be
    signalled."""
    held_until: float | None = None
    """Of a dead executor's run: the last instant at which its leader was surely not reaped."""
    marked: bool = False
    """Its processes carry its mark."""
    whose: Mapping[str, str] = field(default_factory=dict)
    """The variables of its environment that name its task: `worker_api.IDENTITY_VARIABLES`."""
    forwarded: int | None = None
    """Bytes of its output that were forwarded to systemd's journal, or cannot be; None: none are
    to be."""
    forget_later: bool = False
    """It is to be forgotten once its output was forwarded."""
    exit_noted: bool = False
    """The leader's end was journaled, because it was not yet the run's."""
    asking: bool = False
    """The kill signal is still to be sent, or on its way through the tree."""
    asked_at: Instant = NEVER
    """When the sending of the kill signal began."""
    limit: Instant = NEVER
    """When the phase ends, whatever the processes do."""
    look_at: Instant = NEVER
    pause: float = FIRST_PAUSE

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
        """What names it in a line of the log."""
        return ids(self.uid, self.whose)

    @property
    def inherited(self) -> bool:
        """Whether an executor before this one started the run."""
        return self.held_until is not None

    @property
    def leader_lives(self) -> bool:
        """Whether a leader of our own has not been seen to exit."""
        return self.exit is None and not self.inherited

    @property
    def holds_leader(self) -> bool:
        """Whether the leader is ours and not reaped, so that nobody else can have its pid."""
        stolen = self.exit is not None and self.exit.exit_code is None and self.exit.signal is None
        return not self.inherited and not stolen

    @property
    def asks_leader_alone(self) -> bool:
        """Whether the kill signal is for the leader, who ends the others; without it, for them."""
        return self.kill_mode is wire.KillMode.LEADER and self.leader_lives

    @property
    def may_be_ended(self) -> bool:
        """Whether no ending has begun."""
        return self.phase <= Phase.LINGERING

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

    def spawned(self, pid: int, start_ticks: int, handle: int | None) -> None:
        """Take note of the leader; an ending may have been asked for before it lived."""
        self.pid, self.start_ticks, self.handle = pid, start_ticks, handle
        if self.phase is Phase.STARTING:
            self.phase = Phase.RUNNING

    def leader_exited(self, exit_seen: wire.Exit, at: Instant) -> None:
        """Take note of the leader's end; what is left of its tree has the leftover grace."""
        self.exit = exit_seen
        if self.phase is Phase.RUNNING:
            self._move(Phase.LINGERING, Instant(at + self.leftover_grace))

    def ask(self, at: Instant) -> None:
        """Begin to end the tree: the kill signal, then the grace."""
        self.asking, self.asked_at = True, at
        self._move(Phase.ASKED, Instant(at + self.kill_grace))

    def was_asked(self, at: Instant) -> None:
        """Count the grace from now on: the last process of the tree has got the kill signal."""
        self.asking = False
        self.limit = Instant(self.limit + (at - self.asked_at))

    def kill(self, at: Instant) -> None:
        """From now on the tree gets SIGKILL at every look."""
        self.asking = False
        self._move(Phase.KILLED, Instant(at + UNKILLABLE_AFTER))

    def was_killed(self, processes: list[Process], at: Instant) -> None:
        """Take note of who got SIGKILL; those who are new are not left alone for long."""
        if self.killing.note_killed(processes, at):
            self.pause = min(self.pause, LONGEST_PAUSE[Phase.KILLED])

    def is_alive(self, at: Instant) -> None:
        """Take note that processes were seen after the kill: each is judged by its own SIGKILL."""
        if not self.unkillable:
            self.limit = Instant(at + UNKILLABLE_AFTER)

    def escalate(self, at: Instant) -> None:
        """Go on to what follows when the phase has lasted as long as it may."""
        match self.phase:
            case Phase.LINGERING:
                self.ask(at)
            case Phase.ASKED:
                self.kill(at)
            case Phase.KILLED:
                self.unkillable = True
                self.limit = NEVER

    def gone(self, exit_whole: wire.Exit) -> None:
        """Nothing of the tree is left."""
        self.exit = exit_whole
        self._move(Phase.GONE, NEVER)

    def looked(self, at: Instant) -> None:
        """Set when to look again, unless the leader's handle will tell."""
        was_asked = self.phase is Phase.ASKED and not self.asking
        if self.phase is Phase.RUNNING or (was_asked and self.leader_lives):
            self.look_at = NEVER
            return
        self.look_at = Instant(at + self.pause)
        most = LONGEST_PAUSE_UNKILLABLE if self.unkillable else LONGEST_PAUSE[self.phase]
        self.pause = min(2 * self.pause, most)

    def _move(self, phase: Phase, limit: Instant) -> None:
        self.phase = phase
        self.limit = limit
        self.look_at = NEVER
        self.pause = FIRST_PAUSE
