"""The phases of a run, and the one table of its moves.

STARTING ── spawned ──► RUNNING ── leader exited ──► LINGERING
    │                      │                             │
    │ end                  │ end                         │ end, time up
    ▼                      ▼                             ▼
    └──────────────────► SIGNALLED ◄─────────────────────┘
                             │ kill, time up
                             ▼
                           KILLED

An ending may begin with KILLED at once. LINGERING, SIGNALLED and KILLED lead to GONE once the tree
is empty.
"""

import enum
from collections.abc import Mapping


class Phase(enum.IntEnum):
    """How far a run is; a run only moves forwards."""

    STARTING = 0
    RUNNING = 1
    LINGERING = 2
    """The leader has exited; the rest of the tree has the leftover grace."""
    SIGNALLED = 3
    """The tree gets the kill signal, then has the kill grace."""
    KILLED = 4
    """The tree gets SIGKILL at every look."""
    GONE = 5


class Step(enum.IntEnum):
    """What moves a run to another phase."""

    SPAWNED = enum.auto()
    LEADER_EXITED = enum.auto()
    END = enum.auto()
    KILL = enum.auto()
    TIME_UP = enum.auto()
    EMPTIED = enum.auto()


#: A step that a phase does not list changes nothing: the leader of a run that is being ended exits,
#: or is spawned after its ending began.
MOVES: Mapping[Phase, Mapping[Step, Phase]] = {
    Phase.STARTING: {
        Step.SPAWNED: Phase.RUNNING,
        Step.END: Phase.SIGNALLED,
        Step.KILL: Phase.KILLED,
    },
    Phase.RUNNING: {
        Step.LEADER_EXITED: Phase.LINGERING,
        Step.END: Phase.SIGNALLED,
        Step.KILL: Phase.KILLED,
    },
    Phase.LINGERING: {
        Step.END: Phase.SIGNALLED,
        Step.KILL: Phase.KILLED,
        Step.TIME_UP: Phase.SIGNALLED,
        Step.EMPTIED: Phase.GONE,
    },
    Phase.SIGNALLED: {
        Step.KILL: Phase.KILLED,
        Step.TIME_UP: Phase.KILLED,
        Step.EMPTIED: Phase.GONE,
    },
    Phase.KILLED: {Step.EMPTIED: Phase.GONE},
    Phase.GONE: {},
}
