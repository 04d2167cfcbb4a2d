"""Every event of the two logs: what it says, how grave it is, what its line carries.

An event that is not here, or a line that does not match, fails the tests. docs/events.md is made
from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import msgspec

Level = Literal["debug", "info", "warning", "error"]

#: What a field may hold, as `msgspec.convert` checks it.
Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the catalogue."""

    says: str
    """What happened, in one sentence."""
    level: Level = "info"
    fields: Fields = field(default_factory=dict)
    """What every line of it carries."""
    perhaps: Fields = field(default_factory=dict)
    """What some lines carry beside."""
    same_by: tuple[str, ...] | None = None
    """The fields by which two of these lines tell of the same: repeated, they are left out and
    counted (`dispatcher.logs.repeats`). None: every line is written."""

    def mistakes(self, line: Mapping[str, object]) -> list[str]:
        """Return what a line has that it should not, or has not; nothing when it is right."""
        wanted = {**EVERY_LINE, **self.fields}
        allowed = {**wanted, **SOME_LINES, **self.perhaps}
        found = [f"lacks {name}" for name in wanted if name not in line]
        if line.get("level", self.level) != self.level:
            found.append(f"is {line['level']}, not {self.level}")
        for name, value in line.items():
            try:
                msgspec.convert(value, allowed[name])
            except KeyError:
                found.append(f"has {name}, which its entry does not name")
            except msgspec.ValidationError as error:
                found.append(f"{name}: {error}")
        return found


#: What each line has, and what any may have.
EVERY_LINE: Fields = {"timestamp": str, "level": str, "event": str, "sequence": int}
SOME_LINES: Fields = {"node": str, "left_out": int, "exception": str}

#: What names a run in every line about one.
RUN: Fields = {
    "task_id": int,
    "run_id": int,
    "attempt": int,
    "fence": int,
    "queue": str,
    "pid": int | None,
}

#: What names a run in the executor's lines, and its task, where the executor knows it.
UID: Fields = {"uid": str}
TASK: Fields = {"task_id": int}

#: What ends a repetition, in either log.
_CEASED = Event(
    "What was repeated and left out did not come for a minute: how often since its last line.",
    fields={"of": str, "same": dict[str, object], "left_out": int},
)

#: What follows a reader's standstill, in either log.
_DROPPED = Event(
    "So many lines before this one are lost: the reader of this log had stopped, and more came than"
    " were queued for it (1 MiB), or it had left, or the disk was full.",
    "warning",
    fields={"lines": int},
)

#: What becomes of the names in the runtime directory, in either log.
_LOST = Event(
    "The runtime directory, or a socket or lock of this process in it, is missing, and cannot be"
    " made again for now; it is tried each second.",
    "warning",
    fields={"reason": str},
    same_by=("reason",),
)
_RESTORED = Event(
    "What was missing in the runtime directory is there again; connections went on meanwhile.",
    "warning",
    fields={"names": list[str]},
    same_by=(),
)

#: What is said where `[logs] format = "journal"` cannot be had, in either log.
_UNJOURNALED = Event(
    "Records were asked for and no journald takes them: the log goes on as lines, on stdout or"
    " stderr. After the next start or, of the daemon, `dispatcher reload` it is tried again.",
    "warning",
    fields={"reason": str},
    same_by=("reason",),
)

#: What the daemon logs.
DAEMON: Mapping[str, Event] = MappingProxyType(
    {
        "user.changed": Event(
            "Root started it on the state directory of another user: it became that user. `path` is"
            " what belongs to that user.",
            fields={"user_id": int, "user": str, "path": str},
        ),
        "daemon.started": Event(
            "The daemon holds its locks, the store answered, the loop turns.",
            fields={"pid": int, "slots": int},
        ),
        "daemon.signalled": Event(
            "A signal arrived that stops the daemon or makes it read its file.",
            fields={"signal": str},
        ),
        "daemon.stopping": Event(
            "The daemon was asked to stop: it claims nothing more.",
            fields={"how": str, "runs": int, "timeout_s": float, "message": str},
        ),
        "run.left_behind": Event(
            "The daemon stops after waiting in vain for a run to end; the executor goes on ending"
            " it.",
            "error",
            fields=RUN,
        ),
        "daemon.stopped": Event("The daemon's last word."),
        "daemon.waiting": Event(
            "The daemon waits for something that it needs, and says for what.",
            "warning",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "control.unannounced": Event(
            "Where this daemon listens could not be written into the state directory: it is found"
            " only by clients whose configuration and environment say the same place.",
            "warning",
            fields={"reason": str},
        ),
        "runtime.lost": _LOST,
        "runtime.restored": _RESTORED,
        "workers.unreachable": Event(
            "Workers cannot speak, as the executor cannot make their sockets again: their leases"
            " wait.",
            "warning",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "workers.reachable": Event(
            "The executor made the workers' sockets again: each lease is renewed once, as a worker"
            " may have failed to speak.",
            "warning",
            fields={"leases": int},
            same_by=(),
        ),
        "daemon.was_away": Event(
            "Leases expired while the daemon was away: renewed once, not reaped. After a start"
            " `gap_ms` is at most so much: with runs, 5 s more than it was away.",
            "warning",
            fields={"leases": int, "gap_ms": int},
            same_by=(),
        ),
        "executor.started": Event(
            "The daemon started an executor, since none was listening.",
            fields={"executor_pid": int},
            same_by=(),
        ),
        "executor.connected": Event(
            "An executor greeted the daemon and named its runs.",
            fields={"executor_pid": int, "epoch": int},
            same_by=(),
        ),
        "executor.incompatible": Event(
            "The executor speaks another version; nothing new is started.",
            "error",
            fields={"version": int, "wanted": int},
            same_by=(),
        ),
        "executor.exited": Event(
            "An executor that the daemon had started ended, and its last error.",
            "warning",
            fields={"executor_pid": int, "exit_code": int, "reason": str | None},
            same_by=("exit_code", "reason"),
        ),
        "executor.lost": Event(
            "The connection to the executor ended; its last word stands.",
            "warning",
            fields={"reason": str, "runs": int},
            same_by=("reason",),
        ),
        "executor.silent": Event(
            "The executor did not answer in time; nothing is started.", "warning", same_by=()
        ),
        "executor.answered": Event(
            "The executor answers again after a silence.", "warning", same_by=()
        ),
        "claim.taken_over": Event(
            "A claim was settled: no executor answers for it and nothing of it lives here, or a"
            " claim by hand has expired.",
            "warning",
            fields={**RUN, "owner": str, "reason": str},
        ),
        "task.claimed": Event(
            "A task was claimed; its run is opened and about to start.", fields=RUN
        ),
        "task.timed_out": Event(
            "A task failed without a run: it waited longer than it may.",
            "warning",
            fields={"task_id": int, "queue": str, "timeout": str, "reason": str},
        ),
        "task.pruned": Event(
            "Tasks that finished before the retention were deleted, with their runs.",
            fields={"tasks": int},
        ),
        "run.started": Event("The run's process lives.", fields=RUN),
        "run.extended": Event("A worker asked for more time and has it.", "debug", fields=RUN),
        "run.ending": Event(
            "It was decided to end a run; its lock is void from here on.",
            fields={**RUN, "ending": str, "reason": str | None},
        ),
        "run.settled": Event(
            "The run's whole process tree is gone, its outcome is written.",
            fields={**RUN, "outcome": str, "reason": str, "state": str},
            perhaps={"exit_code": int | None, "signal": int | None},
        ),
        "run.reconciled": Event(
            "What the executor knows of a run was brought together with the store.",
            fields={**RUN, "state": str},
        ),
        "run.unknown": Event(
            "The executor has a run that the store does not know; it is ended.",
            "warning",
            fields={"run": str, "pid": int | None},
        ),
        "run.stranded": Event(
            "No executor answers for an open run, and something of it may live on this host: it"
            " stays until that is gone. `pid` is the leader's, where the store has it.",
            "warning",
            fields={**RUN, "owner": str, "reason": str},
        ),
        "run.declared": Event(
            "A worker said how it ends; effective when its process is gone.",
            fields={"task_id": int},
            perhaps={**RUN, "declared": str, "peer_pid": int},
        ),
        "lease.renewed": Event(
            "A worker's heartbeat renewed its lease.", "debug", fields={"task_id": int}
        ),
        "lease.refused": Event(
            "A worker spoke for a claim that is not its own; nothing was written.",
            "warning",
            fields={"task_id": int, "error": str},
            perhaps={"peer_pid": int},
            same_by=("error",),
        ),
        "peer.refused": Event(
            "A process of another user connected to a socket of the daemon and was not heard: only"
            " the users of the daemon and of its runs are, and root.",
            "warning",
            fields={"peer_uid": int, "peer_pid": int, "allowed": list[int]},
            same_by=("peer_uid",),
        ),
        "lease.expired": Event(
            "A worker did not beat in time; its run is being ended.",
            "warning",
            fields={**RUN, "ttl_s": float},
        ),
        "worker.leader_exited": Event(
            "A worker's first process exited; others of its tree may live.",
            fields={"exit_code": int | None},
            perhaps={**RUN, "run": str},
        ),
        "worker.leftover_ended": Event(
            "Processes outlived their worker's first process and were ended.",
            "warning",
            fields={**RUN, "names": list[str]},
        ),
        "worker.leftover_reported": Event(
            "Processes outlived their worker's first process; as its profile says, they go on.",
            fields={**RUN, "names": list[str]},
        ),
        "worker.stray": Event(
            "A process was found that several runs may have started.",
            "warning",
            fields={"pid": int, "name": str, "candidates": list[str]},
        ),
        "worker.unsignalled": Event(
            "Processes of a run belong to another user, and the executor may not signal them.",
            "warning",
            fields={"reason": str},
            perhaps={**RUN, "run": str},
        ),
        "worker.unkillable": Event(
            "A run could not be ended and is not proved gone; its slot and claim stay held.",
            "error",
            fields={"reason": str},
            perhaps={**RUN, "run": str},
        ),
        "node.paused": Event(
            "This host cannot start processes; nothing is claimed for a while.",
            "error",
            fields={"reason": str, "seconds": float},
            same_by=("reason",),
        ),
        "queue.left_paused": Event(
            "A drain ends, and tasks are left: their queue is paused until an operator resumes it.",
            "warning",
            fields={"queues": list[str]},
        ),
        "node.resumed": Event(
            "This host can start processes again.",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "store.unavailable": Event(
            "The store did not answer; nothing was written, workers go on.",
            "warning",
            fields={"error": str},
            same_by=(),
        ),
        "store.recovered": Event(
            "The store answers again.", fields={"silent_for_s": float}, same_by=()
        ),
        "work.postponed": Event(
            "The store did not take work that may wait, as on a full disk; all other work goes on.",
            "warning",
            fields={"work": str, "error": str},
            same_by=("work",),
        ),
        "work.resumed": Event(
            "The store took work that had to wait.",
            fields={"work": str, "waited_s": float},
            same_by=("work",),
        ),
        "store.refused": Event(
            "One operation broke a rule of the schema and was left out.",
            "error",
            fields={"operation": str, "error": str},
            same_by=("operation",),
        ),
        "store.reconciling": Event(
            "A commit got no clear answer; the store decides what happened.",
            "warning",
            same_by=(),
        ),
        "clock.stepped": Event(
            "The host's clock was set, by `gap_ms`; negative is back. Nothing is due for it.",
            "warning",
            fields={"gap_ms": int, "message": str},
            same_by=(),
        ),
        "metrics.unwritten": Event(
            "The file of metrics cannot be written; told once until it changes.",
            "warning",
            fields={"path": str, "reason": str},
            same_by=("reason",),
        ),
        "metrics.written": Event(
            "The file of metrics is written again.", fields={"path": str}, same_by=()
        ),
        "output.uncapped": Event(
            "Where output is written no part of a file can be dropped: `run_budget` is not kept.",
            "warning",
            fields={"reason": str},
        ),
        "output.removed": Event(
            "Output of runs that are over was removed.",
            fields={"reason": str, "files": int, "freed_bytes": int},
        ),
        "output.overflowed": Event(
            "Output or the disk is over its bound, and nothing is left that may be removed.",
            "warning",
            fields={"reason": str, "output_bytes": int, "free_bytes": int, "message": str},
        ),
        "config.reloaded": Event(
            "The configuration was read again: what changed, and what was kept.",
            fields={"changed": dict[str, object], "kept": dict[str, object]},
        ),
        "config.refused": Event(
            "The file has mistakes; the configuration that held before still does.",
            "error",
            fields={"mistakes": list[str]},
        ),
        "error.ceased": _CEASED,
        "log.dropped": _DROPPED,
        "log.unjournaled": _UNJOURNALED,
    }
)

#: What the executor logs.
EXECUTOR: Mapping[str, Event] = MappingProxyType(
    {
        "user.changed": Event(
            "Root started it on the state directory of another user: it became that user. `path` is"
            " what belongs to that user.",
            fields={"user_id": int, "user": str, "path": str},
        ),
        "executor.started": Event(
            "The executor holds its locks and looks after what its predecessor left.",
            fields={"pid": int, "state_dir": str, "embedded": bool},
        ),
        "config.mistaken": Event(
            "The configuration has mistakes. The executor needs only its directories, and these are"
            " certain: it starts.",
            "error",
            fields={"mistakes": list[str]},
        ),
        "executor.refused": Event(
            "The executor cannot run here, and says why.", "error", fields={"error": str}
        ),
        "executor.stopping": Event("SIGTERM: every run is being ended.", fields={"runs": int}),
        "run.left_behind": Event(
            "The executor was stopped and leaves a run of which something survives SIGKILL; the"
            " next one goes on ending it. Exit code 1.",
            "error",
            fields={**UID, "pid": int | None},
            perhaps=TASK,
        ),
        "executor.left": Event("The executor's last word.", fields={"pid": int}),
        "executor.failed": Event(
            "A bug ended the executor; the next one sweeps.", "error", fields={"error": str}
        ),
        "runtime.lost": _LOST,
        "runtime.restored": _RESTORED,
        "daemon.greeted": Event(
            "A daemon connected and was told every run.",
            fields={"epoch": int, "runs": int},
            same_by=(),
        ),
        "daemon.dropped": Event(
            "The connection to the daemon ended; the runs go on.",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "daemon.shut_out": Event(
            "A daemon could not be let in, for want of descriptors.",
            "warning",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "run.start_failed": Event(
            "A run could not be started, and whose fault that is.",
            "warning",
            fields={**UID, "fault": str, "error": str},
            perhaps=TASK,
        ),
        "run.ending": Event(
            "A run is being ended: the kill signal is next.",
            fields={**UID, "reason": str},
            perhaps=TASK,
        ),
        "run.escalated": Event(
            "What should have ended did not in time; the next step follows.",
            fields={**UID, "phase": str, "names": list[str]},
            perhaps=TASK,
        ),
        "run.inherited": Event(
            "A run of a dead executor has no end on record; what is left of it gets SIGKILL.",
            "warning",
            fields={**UID, "pid": int | None},
            perhaps=TASK,
        ),
        "run.forget_refused": Event(
            "The daemon would forget a run that still lives.",
            "warning",
            fields={**UID, "state": str},
            perhaps=TASK,
        ),
        "worker.leftover_ended": Event(
            "Processes outlived their worker's first process and are being ended.",
            "warning",
            fields={**UID, "names": list[str]},
            perhaps=TASK,
        ),
        "worker.leftover_reported": Event(
            "Processes outlived their worker's first process and are left alone.",
            fields={**UID, "names": list[str]},
            perhaps=TASK,
        ),
        "worker.stray": Event(
            "A process was found that several runs may have started.",
            "warning",
            fields={"pid": int, "name": str, "candidates": list[str]},
        ),
        "worker.unsignalled": Event(
            "Processes of a run belong to another user, and the executor may not signal them.",
            "warning",
            fields={"uid": str, "pid": int | None, "reason": str},
        ),
        "worker.unkillable": Event(
            "A run could not be ended and is not proved gone; its slot and claim stay held.",
            "error",
            fields={**UID, "pid": int | None, "reason": str},
            perhaps=TASK,
        ),
        "output.held_back": Event(
            "Output that a profile wants in systemd's journal waits in its files: nobody takes it"
            " there.",
            "warning",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "output.unforwarded": Event(
            "So many bytes of a run's output are not in systemd's journal, although its profile"
            " wants it there. Its file has them, unless `run_budget` dropped them.",
            "warning",
            fields={**UID, "bytes": int, "reason": str},
            perhaps=TASK,
            same_by=("reason",),
        ),
        "output.uncapped": Event(
            "A run's output cannot be kept within its budget.",
            "warning",
            fields={"path": str, "reason": str},
            same_by=("reason",),
        ),
        "mark.unavailable": Event(
            "Runs get no mark here; what escapes of them is found by its environment or output.",
            "warning",
            fields={"reason": str},
        ),
        "run.oom_killed": Event(
            "The kernel ended a run's first process, or one that it waited for, for lack of memory."
            " `doubtful`: fewer such kills were counted than runs died of SIGKILL at that moment.",
            "warning",
            fields={**UID, "pid": int | None, "doubtful": bool},
            perhaps=TASK,
        ),
        "protection.inherited": Event(
            "Workers inherit this executor's protection from the out-of-memory killer, as its score"
            " cannot be changed: the kernel may end the executor, or others, in their place.",
            "warning",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "host.short": Event(
            "The host lacks what it takes to look at processes; they are looked at again.",
            "warning",
            fields={"error": str},
            same_by=("error",),
        ),
        "journal.damaged": Event(
            "Lines of the predecessor's journal could not be read and were skipped: how many, and"
            " the number of the first; 1 is the header.",
            "error",
            fields={"path": str, "lines": int, "first": int},
        ),
        "journal.write_failed": Event(
            "The journal could not be written anew; it goes on as it was, and this is tried again.",
            "error",
            fields={"error": str},
            same_by=("error",),
        ),
        "error.ceased": _CEASED,
        "log.dropped": _DROPPED,
        "log.unjournaled": _UNJOURNALED,
    }
)
