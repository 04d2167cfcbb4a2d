"""Every event of the two logs: its meaning, its level, the fields of its line.

An event that is not here, or a line that does not match, fails the tests. docs/events.md is made
from it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec
from msgspec import Struct, field

Level = Literal["debug", "info", "warning", "error"]

#: The types of fields, as `msgspec.convert` checks them.
Fields = Mapping[str, object]


class Event(Struct, frozen=True):
    meaning: str
    """What happened, in one sentence."""
    level: Level = "info"
    fields: Fields = field(default_factory=dict)
    """The fields of each line."""
    optional: Fields = field(default_factory=dict)
    """Further fields of some lines."""
    same_by: tuple[str, ...] | None = None
    """The fields by which two lines are equal: equal lines are left out and counted
    (`dispatcher.logs.repeats`). None: every line is written."""

    def mistakes(self, line: Mapping[str, object]) -> list[str]:
        """Return what is wrong with a line."""
        wanted = {**EVERY_LINE, **self.fields}
        allowed = {**wanted, **SOME_LINES, **self.optional}
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


#: The fields of every line, and those that any line may have.
EVERY_LINE: Fields = {"timestamp": str, "level": str, "event": str, "sequence": int}
SOME_LINES: Fields = {"node": str, "left_out": int, "exception": str}

#: The fields that name a run.
RUN: Fields = {
    "task_id": int,
    "run_id": int,
    "attempt": int,
    "fence": int,
    "queue": str,
    "pid": int | None,
}

#: The fields that name a run in the executor's lines, and its task if the executor knows it.
UID: Fields = {"uid": str}
TASK: Fields = {"task_id": int}

#: The events of both logs.
_USER_CHANGED = Event(
    "Root started this process on the state directory of another user; the process became that"
    " user. `path` belongs to that user.",
    fields={"user_id": int, "user": str, "path": str},
)
_STRAY = Event(
    "A process was found that any of several runs may have started.",
    "warning",
    fields={"pid": int, "name": str, "candidates": list[str]},
)
_CEASED = Event(
    "A repetition ended: no line for a minute. `left_out` counts those since the last one written.",
    fields={"of": str, "same": dict[str, object], "left_out": int},
)
_DROPPED = Event(
    "Lines before this one are lost: the reader of this log had stopped and its queue (1 MiB) was"
    " full, or the reader had left, or the disk was full.",
    "warning",
    fields={"lines": int},
)
_LOST = Event(
    "The runtime directory, or a socket or lock of this process in it, is missing and cannot be"
    " made again yet; this is tried each second.",
    "warning",
    fields={"reason": str},
    same_by=("reason",),
)
_RESTORED = Event(
    "The missing files of the runtime directory are there again; connections went on meanwhile.",
    "warning",
    fields={"names": list[str]},
    same_by=(),
)
_UNJOURNALED = Event(
    "No journald takes records: the log goes on as lines on stdout or stderr. The next start tries"
    " again; for the daemon `dispatcher reload` does so too.",
    "warning",
    fields={"reason": str},
    same_by=("reason",),
)

#: The events of the daemon.
DAEMON: Mapping[str, Event] = MappingProxyType(
    {
        "user.changed": _USER_CHANGED,
        "daemon.started": Event(
            "The daemon holds its locks, the store answered, and the loop runs.",
            fields={"pid": int, "slots": int},
        ),
        "node.watched": Event(
            "Another daemon wrote this node's row in the shared store, in another boot, pid"
            " namespace or host (`hostname`). This daemon watches the row for `timeout_s` before it"
            " does anything: if the row is written, it exits. An outage begins the watch anew.",
            "warning",
            fields={"hostname": str, "timeout_s": float},
        ),
        "node.registered": Event(
            "The node's row in the shared store is this daemon's. `before`: the host that wrote"
            " it until then.",
            fields={"before": str | None},
        ),
        "node.left_draining": Event(
            "`run --drain` ends although tasks may be left: an operator lets this node take no more"
            " work.",
            "warning",
            fields={"reason": str},
        ),
        "daemon.signalled": Event(
            "A signal arrived that stops the daemon or makes it reload its configuration.",
            fields={"signal": str},
        ),
        "daemon.stopping": Event(
            "The daemon stops: it claims nothing more.",
            fields={"how": str, "runs": int, "timeout_s": float, "message": str},
        ),
        "run.left_behind": Event(
            "The daemon stops before a run has ended; the executor goes on ending it.",
            "error",
            fields=RUN,
        ),
        "daemon.stopped": Event("The daemon stops now; no line follows."),
        "daemon.waiting": Event(
            "The daemon waits for something that it needs.",
            "warning",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "control.unannounced": Event(
            "The state directory could not record where this daemon listens: only clients with the"
            " same configuration and environment find it.",
            "warning",
            fields={"reason": str},
        ),
        "runtime.lost": _LOST,
        "runtime.restored": _RESTORED,
        "workers.unreachable": Event(
            "Workers cannot connect, as the executor cannot make their sockets again: their leases"
            " wait.",
            "warning",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "workers.reachable": Event(
            "The executor made the workers' sockets again: each lease is renewed once, as a worker"
            " may have failed to connect.",
            "warning",
            fields={"leases": int},
            same_by=(),
        ),
        "daemon.was_away": Event(
            "Leases expired while the daemon was away: each was renewed once, not reaped. After a"
            " start `gap_ms` is an upper bound: with runs, 5 s more than the absence.",
            "warning",
            fields={"leases": int, "gap_ms": int},
            same_by=(),
        ),
        "executor.started": Event(
            "The daemon started an executor, as none was listening.",
            fields={"executor_pid": int},
            same_by=(),
        ),
        "executor.connected": Event(
            "An executor greeted the daemon and listed its runs.",
            fields={"executor_pid": int, "epoch": int},
            same_by=(),
        ),
        "executor.incompatible": Event(
            "The executor uses another version of the protocol; nothing new is started.",
            "error",
            fields={"version": int, "wanted": int},
            same_by=(),
        ),
        "executor.exited": Event(
            "An executor that the daemon had started ended; `reason` is its last error.",
            "warning",
            fields={"executor_pid": int, "exit_code": int, "reason": str | None},
            same_by=("exit_code", "reason"),
        ),
        "executor.lost": Event(
            "The connection to the executor ended; its last report stands.",
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
            "A claim was settled: no executor answers for it and none of its processes lives here,"
            " or a local claim has expired.",
            "warning",
            fields={**RUN, "owner": str, "reason": str},
        ),
        "claim.lost": Event(
            "Another node has taken a claim of this one, which was silent or cut off for too long:"
            " its run is ended here, and nothing of it is recorded.",
            "warning",
            fields=RUN,
        ),
        "task.claimed": Event(
            "A task was claimed; its run is open and about to start.", fields=RUN
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
        "run.started": Event("The run's first process was started.", fields=RUN),
        "run.extended": Event("A worker requested more time and got it.", "debug", fields=RUN),
        "run.ending": Event(
            "The daemon decided to end a run; its lock is void from now on.",
            fields={**RUN, "ending": str, "reason": str | None},
        ),
        "run.settled": Event(
            "The run's whole process tree is gone, and its outcome is recorded.",
            fields={**RUN, "outcome": str, "reason": str, "state": str},
            optional={"exit_code": int | None, "signal": int | None},
        ),
        "run.reconciled": Event(
            "The executor's knowledge of a run was compared with the store.",
            fields={**RUN, "state": str},
        ),
        "run.unknown": Event(
            "The executor has a run that is not open in the store; it is ended.",
            "warning",
            fields={"run": str, "pid": int | None},
        ),
        "run.stranded": Event(
            "No executor answers for an open run, and processes of it may live on this host: it"
            " stays open until they are gone. `pid` is its leader's, if the store has it.",
            "warning",
            fields={**RUN, "owner": str, "reason": str},
        ),
        "run.declared": Event(
            "A worker declared its outcome, effective when its process is gone.",
            fields={"task_id": int},
            optional={**RUN, "declared": str, "peer_pid": int},
        ),
        "limit.closed": Event(
            "A worker closed a limit that its task takes: nothing that takes it starts until then.",
            fields={"task_id": int, "limit": str, "seconds": float},
        ),
        "limit.gone": Event(
            "A reload removed limits that unfinished tasks take. They limit nothing any more, but"
            " can still be closed.",
            "warning",
            fields={"limits": list[str]},
        ),
        "lease.renewed": Event(
            "A worker's heartbeat renewed its lease.", "debug", fields={"task_id": int}
        ),
        "lease.refused": Event(
            "A worker used a claim that is not its own; nothing was written.",
            "warning",
            fields={"task_id": int, "error": str},
            optional={"peer_pid": int},
            same_by=("error",),
        ),
        "peer.refused": Event(
            "A process of another user connected to a socket of the daemon and was refused: allowed"
            " are only the users of the daemon and of its runs, and root.",
            "warning",
            fields={"peer_uid": int, "peer_pid": int, "allowed": list[int]},
            same_by=("peer_uid",),
        ),
        "lease.expired": Event(
            "A worker sent no heartbeat in time; its run is being ended.",
            "warning",
            fields={**RUN, "ttl_s": float},
        ),
        "worker.leader_exited": Event(
            "A worker's first process exited; other processes of its tree may live.",
            fields={"exit_code": int | None},
            optional={**RUN, "run": str},
        ),
        "worker.leftover_ended": Event(
            "Processes outlived their worker's first process and were ended.",
            "warning",
            fields={**RUN, "names": list[str]},
        ),
        "worker.leftover_reported": Event(
            "Processes outlived their worker's first process; its profile lets them go on.",
            fields={**RUN, "names": list[str]},
        ),
        "worker.stray": _STRAY,
        "worker.unsignalled": Event(
            "Processes of a run belong to another user; the executor may not signal them.",
            "warning",
            fields={"reason": str},
            optional={**RUN, "run": str},
        ),
        "worker.unkillable": Event(
            "A run could not be ended and is not proved gone; it keeps its slot and claim.",
            "error",
            fields={"reason": str},
            optional={**RUN, "run": str},
        ),
        "hook.refused": Event(
            "A hook of the configuration made no task for what happened.",
            "error",
            fields={"hook": str, "profile": str, "error": str},
            optional={"task_id": int | None},
            same_by=("hook", "error"),
        ),
        "limits.differ": Event(
            "Files of nodes say different things of a limit, and each node obeys its own; let all"
            " say the same.",
            "warning",
            fields={"limit": str, "reason": str},
        ),
        "schedule.fired": Event(
            "The time of a schedule has come, and its task is submitted.",
            fields={"schedule": str, "time": str, "task_id": int},
        ),
        "schedule.skipped": Event(
            "The time of a schedule has no task, as an earlier task has not ended.",
            fields={"schedule": str, "time": str, "task_id": int},
        ),
        "schedule.missed": Event(
            "Times of a schedule have no task, as no daemon was there.",
            fields={"schedule": str, "since": str, "until": str},
        ),
        "schedule.refused": Event(
            "The task of a schedule cannot be made; it is tried again.",
            "error",
            fields={"schedule": str, "error": str},
            same_by=("schedule", "error"),
        ),
        "node.paused": Event(
            "This host cannot start processes; nothing is claimed for a while.",
            "error",
            fields={"reason": str, "seconds": float},
            same_by=("reason",),
        ),
        "queue.left_paused": Event(
            "A drain ended with tasks left, as their queues are paused.",
            "warning",
            fields={"queues": list[str]},
        ),
        "node.resumed": Event(
            "This host can start processes again.", fields={"reason": str}, same_by=("reason",)
        ),
        "store.created": Event(
            "The schema held no store: the daemon made one. `other_schemas` of the database hold"
            " stores of other dispatchers, or the one that was meant.",
            fields={"store": str, "other_schemas": list[str]},
        ),
        "rows.locked": Event(
            "Another session has locked rows of this node for longer than a moment: what concerns"
            " them waits, and all else goes on.",
            "warning",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "rows.unlocked": Event(
            "No row of this node is locked any more.", fields={"waited_s": float}, same_by=()
        ),
        "store.unavailable": Event(
            "The store did not answer, took a right from this daemon, or did not take this node's"
            " row; nothing was written, and workers go on.",
            "warning",
            fields={"error": str},
            same_by=(),
        ),
        "store.recovered": Event(
            "The store answers again.", fields={"silent_for_s": float}, same_by=()
        ),
        "work.postponed": Event(
            "The store refused work that may wait, as on a full disk; all other work goes on.",
            "warning",
            fields={"work": str, "error": str},
            same_by=("work",),
        ),
        "work.resumed": Event(
            "The store accepted work that had to wait.",
            fields={"work": str, "waited_s": float},
            same_by=("work",),
        ),
        "store.refused": Event(
            "An operation broke a rule of the schema and was left out.",
            "error",
            fields={"operation": str, "error": str},
            same_by=("operation",),
        ),
        "store.reconciling": Event(
            "It is unknown whether a commit succeeded, or the store has a claim of this node that"
            " the daemon does not know: store and executor are compared.",
            "warning",
            same_by=(),
        ),
        "store.failed_over": Event(
            "A replica took over the store's server, and may lack the last commits: runs and store"
            " are compared anew.",
            "warning",
            fields={"timeline": int},
        ),
        "store.clock_stepped": Event(
            "The clock of the store's server was set by `gap_ms` (negative: back). Each lease of"
            " this node was renewed, and takeovers wait.",
            "warning",
            fields={"gap_ms": int},
        ),
        "claims.postponed": Event(
            "No node claims anything yet after a failover or a restore: workers of claims that the"
            " store forgot may still live.",
            "warning",
            fields={"reason": str},
        ),
        "claims.resumed": Event("Tasks are claimed again after a failover or a restore."),
        "clock.stepped": Event(
            "The host's clock was set by `gap_ms` (negative: back). This makes no task due.",
            "warning",
            fields={"gap_ms": int, "message": str},
            same_by=(),
        ),
        "metrics.unwritten": Event(
            "The file of metrics cannot be written; logged once until the reason changes.",
            "warning",
            fields={"path": str, "reason": str},
            same_by=("reason",),
        ),
        "metrics.written": Event(
            "The file of metrics is written again.", fields={"path": str}, same_by=()
        ),
        "bell.silent": Event(
            "No notifications of the store arrive: changes by others are found by polling alone.",
            "warning",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "bell.restored": Event("Notifications of the store arrive again.", fields={}, same_by=()),
        "listener.started": Event(
            "Other nodes may read the output of runs here, at this address.",
            fields={"address": str},
        ),
        "listener.failed": Event(
            "Other nodes cannot read the output of runs here; it is tried again.",
            "warning",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "listener.refused": Event(
            "A peer asked this node's listener for output, and got none.",
            "warning",
            fields={"peer": str, "reason": str},
            same_by=("peer", "reason"),
        ),
        "output.uncapped": Event(
            "The filesystem of the output cannot punch holes: `run_budget` is not kept.",
            "warning",
            fields={"reason": str},
        ),
        "output.removed": Event(
            "Output of finished runs was removed.",
            fields={"reason": str, "files": int, "freed_bytes": int},
        ),
        "output.overflowed": Event(
            "Output or the disk is over its bound, and no more output may be removed.",
            "warning",
            fields={"reason": str, "output_bytes": int, "free_bytes": int, "message": str},
        ),
        "config.reloaded": Event(
            "The configuration was reloaded: what changed, and what was kept.",
            fields={"changed": dict[str, object], "kept": dict[str, object]},
        ),
        "config.refused": Event(
            "The file has mistakes; the previous configuration stays in force.",
            "error",
            fields={"mistakes": list[str]},
        ),
        "config.mistaken": Event(
            "Profiles, or their `env_file`, have mistakes. They stay as they were before a reload;"
            " otherwise they cannot be used, and their tasks are held. The rest is in force.",
            "warning",
            fields={"mistakes": list[str]},
        ),
        "error.ceased": _CEASED,
        "log.dropped": _DROPPED,
        "log.unjournaled": _UNJOURNALED,
    }
)

#: The events of the executor.
EXECUTOR: Mapping[str, Event] = MappingProxyType(
    {
        "user.changed": _USER_CHANGED,
        "executor.started": Event(
            "The executor holds its locks and takes over what its predecessor left.",
            fields={"pid": int, "state_dir": str, "embedded": bool},
        ),
        "config.mistaken": Event(
            "The configuration has mistakes. The executor needs only its directories, which are"
            " certain, and starts.",
            "error",
            fields={"mistakes": list[str]},
        ),
        "executor.refused": Event("The executor cannot run here.", "error", fields={"error": str}),
        "executor.stopping": Event("SIGTERM: every run is being ended.", fields={"runs": int}),
        "run.left_behind": Event(
            "The executor was stopped and leaves a run whose processes survive SIGKILL; the next"
            " executor goes on ending it. Exit code 1.",
            "error",
            fields={**UID, "pid": int | None},
            optional=TASK,
        ),
        "executor.left": Event("The executor stops now; no line follows.", fields={"pid": int}),
        "executor.failed": Event(
            "A bug ended the executor; the next one ends its runs.", "error", fields={"error": str}
        ),
        "runtime.lost": _LOST,
        "runtime.restored": _RESTORED,
        "daemon.greeted": Event(
            "A daemon connected and received the list of runs.",
            fields={"epoch": int, "runs": int},
            same_by=(),
        ),
        "daemon.dropped": Event(
            "The connection to the daemon ended; the runs go on.",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "daemon.shut_out": Event(
            "A daemon could not connect: the executor is out of descriptors.",
            "warning",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "run.start_failed": Event(
            "A run could not be started; `fault` is the task's or the host's.",
            "warning",
            fields={**UID, "fault": str, "error": str},
            optional=TASK,
        ),
        "run.ending": Event(
            "A run is being ended: the kill signal follows.",
            fields={**UID, "reason": str},
            optional=TASK,
        ),
        "run.escalated": Event(
            "Processes did not end in time; the next step follows.",
            fields={**UID, "phase": str, "names": list[str]},
            optional=TASK,
        ),
        "run.inherited": Event(
            "A run of a dead executor has no recorded end; its remaining processes get SIGKILL.",
            "warning",
            fields={**UID, "pid": int | None},
            optional=TASK,
        ),
        "run.forget_refused": Event(
            "The daemon wanted to forget a run that still lives.",
            "warning",
            fields={**UID, "state": str},
            optional=TASK,
        ),
        "worker.leftover_ended": Event(
            "Processes outlived their worker's first process and are being ended.",
            "warning",
            fields={**UID, "names": list[str]},
            optional=TASK,
        ),
        "worker.leftover_reported": Event(
            "Processes outlived their worker's first process; its profile lets them go on.",
            fields={**UID, "names": list[str]},
            optional=TASK,
        ),
        "worker.stray": _STRAY,
        "worker.unsignalled": Event(
            "Processes of a run belong to another user; the executor may not signal them.",
            "warning",
            fields={"uid": str, "pid": int | None, "reason": str},
        ),
        "worker.unkillable": Event(
            "A run could not be ended and is not proved gone; it keeps its slot and claim.",
            "error",
            fields={**UID, "pid": int | None, "reason": str},
            optional=TASK,
        ),
        "output.held_back": Event(
            "Output that a profile wants in systemd's journal waits in its files: no journald takes"
            " it.",
            "warning",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "output.unforwarded": Event(
            "Bytes of a run's output are not in systemd's journal, although its profile wants them"
            " there. Its file has them, unless `run_budget` dropped them.",
            "warning",
            fields={**UID, "bytes": int, "reason": str},
            optional=TASK,
            same_by=("reason",),
        ),
        "output.uncapped": Event(
            "A run's output cannot be kept within its budget.",
            "warning",
            fields={"path": str, "reason": str},
            same_by=("reason",),
        ),
        "mark.unavailable": Event(
            "Runs get no mark here; escaped processes are found by their environment or output.",
            "warning",
            fields={"reason": str},
        ),
        "run.oom_killed": Event(
            "The kernel ended a run's first process, or one that it waited for, for lack of memory."
            " `doubtful`: the kernel killed a process for that, maybe not one of this run.",
            "warning",
            fields={**UID, "pid": int | None, "doubtful": bool},
            optional=TASK,
        ),
        "protection.inherited": Event(
            "Workers inherit this executor's protection from the out-of-memory killer, as its score"
            " cannot be changed: the kernel may end the executor, or other programs, instead.",
            "warning",
            fields={"reason": str},
            same_by=("reason",),
        ),
        "host.short": Event(
            "The host lacks resources to examine processes; they are examined again.",
            "warning",
            fields={"error": str},
            same_by=("error",),
        ),
        "journal.damaged": Event(
            "Lines of the predecessor's journal could not be read and were skipped; `first` is the"
            " number of the first one, 1 for the header.",
            "error",
            fields={"path": str, "lines": int, "first": int},
        ),
        "journal.write_failed": Event(
            "The journal could not be compacted; it goes on as it was, and this is tried again.",
            "error",
            fields={"error": str},
            same_by=("error",),
        ),
        "error.ceased": _CEASED,
        "log.dropped": _DROPPED,
        "log.unjournaled": _UNJOURNALED,
    }
)
