"""The store's contract: every sentence here is a test in tests/contract, on every engine.

All methods but `transaction`, `snapshot`, `identity` and `close` work inside a transaction; they
take `now`, which `transaction` gave, so that everything one tick writes carries one time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from dispatcher.calendar import Calendar, Setting
from dispatcher.model import (
    FINISHED,
    Claim,
    GivenUp,
    Leases,
    NewTask,
    Node,
    OpenRun,
    Outcome,
    PausedQueue,
    Pruned,
    Run,
    Settlement,
    Submitted,
    Task,
    TaskFilter,
    TaskState,
)
from dispatcher.times import StoreTime
from dispatcher.wire import RunUid
from dispatcher.words import Accepted, Beat, Declaration, Note, Refused, Renewed

if TYPE_CHECKING:
    from dispatcher.policy import RetryPolicy


class Store(Protocol):
    """Tasks, runs and nodes, durable.

    Any method raises `StoreUnavailable` when the database does not answer in time (nothing is
    written: the transaction is rolled back), `StoreUnusable` when it is not what was left, and
    `StoreRefused` when a write breaks a rule of the schema. After an error a transaction can only
    roll back: whatever else is asked of it raises the same error.
    """

    @property
    def identity(self) -> str:
        """The store's id (a UUID): made with the database, changed when a backup is restored."""

    def transaction(self) -> AbstractContextManager[StoreTime]:
        """Open a transaction that may write, and give the store's time.

        Commits at the end, rolls back on any exception. Raises `CommitUnknown` when the commit
        got no clear answer; the connection is then fresh at the next transaction. That is no
        `StoreUnavailable`: whoever catches one alone may do the same again.
        """

    def snapshot(self) -> AbstractContextManager[StoreTime]:
        """Open a transaction for reading alone: it waits for no writer, and none for it."""

    def close(self) -> None:
        """Close the connection. Idempotent."""

    # The host's clock ------------------------------------------------------------------

    def watch_clock(self) -> Setting:
        """Return how the host's clock was set last; write it down if nobody has.

        Less than a second is no step. None within a boot moves the store's time. Over a boot that
        follows the host's clock, but never back behind the last setting, the nodes, the newest task
        and run, what finished last and the last beat of what runs.
        """

    def calendar(self) -> Calendar:
        """Return how the host's clock stands, and how it stood."""

    # Submitting ------------------------------------------------------------------------

    def submit(self, task: NewTask, *, now: StoreTime) -> Submitted:
        """Accept a task: `scheduled` with a delay, else `ready`.

        With a key that a task of the same queue carries already, nothing is written and that
        task's id comes back, with what of the command and the payload differs.
        """

    # A bulk submit: all of many tasks or none, in small transactions. What is put aside is no task:
    # nobody sees it, nor do its keys keep anybody out. Accepted, all of it becomes tasks, part by
    # part and each as `submit` would make it then, whatever becomes of who submitted it.

    def stage(self, uid: str, part: int, tasks: Sequence[NewTask], *, now: StoreTime) -> bool:
        """Put a part of a bulk submit aside: the parts count from 0, and each twice is harmless.

        False, and nothing written, if it is no more: it was silent for an hour.
        """

    def accept(self, uid: str, *, now: StoreTime) -> bool:
        """Let all that was put aside become tasks; False if it is no more."""

    def accepted(self, uid: str) -> bool | None:
        """Return whether it was accepted; None if it is no more."""

    def admit(self, uid: str, *, now: StoreTime) -> bool:
        """Make the next part of what was accepted tasks; False if none was left.

        A part that was damaged by hand keeps no other from it, and stays as it is until it is
        mended.
        """

    def submitted(self, uid: str, part: int) -> list[Submitted] | None:
        """Return what the tasks of a part have become; None if nothing yet, or it is no more."""

    def coming(self) -> int:
        """Return how many tasks are accepted that are none yet."""

    def damaged_parts(self) -> list[str]:
        """Return which accepted parts were damaged by hand, and how.

        Of a bulk submit those that stand before what is not damaged; not more than ten.
        """

    def forget(self, uid: str) -> bool:
        """Remove some of a bulk submit, and say whether there is more of it to remove.

        Of one that was accepted nothing, until all its parts are tasks; no task ever.
        """

    def go_on(self, *, now: StoreTime) -> bool:
        """Take one step for bulk submits whose client is silent, if there is one to take.

        10 s after it was heard last, another part of what it had accepted becomes tasks; after an
        hour the record of what became tasks, and all that was never accepted, is removed.
        """

    # The daemon's work -----------------------------------------------------------------

    def move_due(self, *, limit: int, now: StoreTime) -> int:
        """Move at most `limit` scheduled tasks whose time has come to `ready`; return how many."""

    def next_due(self) -> StoreTime | None:
        """Return the earliest `run_at` of a scheduled task."""

    def give_up(self, *, limit: int, now: StoreTime) -> list[GivenUp]:
        """Fail at most `limit` tasks whose time is over while they do not run; return them.

        A ready one's queue time-out counts from when it became ready, anew each time; the total
        time-out from the submit, or from an operator's `retry`, in whatever state it waits.
        """

    def next_failure(self) -> StoreTime | None:
        """Return the earliest time at which a task that does not run is over its time."""

    def ready_queues(self, *, after: str, limit: int) -> list[str]:
        """Return at most `limit` names of queues with ready tasks.

        In order of their names, from the first behind `after`, and then from the beginning, so
        that a caller who passes the last queue served goes round fairly. None twice.
        """

    def claim(
        self,
        queue: str,
        *,
        limit: int,
        node: str,
        output_dir: str,
        kill_grace_ms: int | None = None,
        until: StoreTime | None = None,
        now: StoreTime,
    ) -> list[Claim]:
        """Claim at most `limit` ready tasks of a queue: highest priority first, then lowest id.

        Mints lock, run uid and fence (+1), opens the run with
        `output_path = <output_dir>/<uid>.log`, resets every per-run field, and sets the lease
        to `now` + the task's ttl. `kill_grace_ms` is the node's, for tasks without one of their
        own: what holds is fixed with the run, so that a reload changes nothing of it. Unless the
        claim is confirmed again, another node may take it once `until` and the run's kill grace
        are over; None: never. Nothing of a paused queue. A task whose row was damaged by hand is
        held instead, with what is wrong as its reason.

        The claim names the outputs of the task's runs on this node that may have had a process, the
        latest first; those whose leftovers were left alone are not among them.
        """

    def claim_local(
        self,
        queue: str,
        *,
        owner: str,
        output_dir: str,
        task_id: int | None = None,
        lease_ttl_ms: int | None = None,
        now: StoreTime,
    ) -> Claim | None:
        """Claim the next ready task of a queue, or one that is named, outside of any node.

        `owner` begins with `model.LOCAL`. Like `claim`, but whatever the task's liveness is, only
        beats renew the lease, and the instant of takeover is always its expiry. A `lease_ttl_ms`
        is the task's from then on. No beat moves the expiry beyond the claim's deadline: the run
        time-out counts from the claim, the total one as ever, the earlier is the deadline. None if
        there is nothing to claim; of a paused queue there never is, nor is a task that is named.
        """

    def record_started(
        self, uid: RunUid, *, pid: int, started_at: StoreTime, now: StoreTime
    ) -> bool:
        """Write an open run's pid and start; its lease begins anew. False if not open."""

    def record_leader_exit(
        self, uid: RunUid, *, exit_code: int | None, signal: int | None, now: StoreTime
    ) -> bool:
        """Write how an open run's leader ended while its tree is not gone. False if not open."""

    # Workers -----------------------------------------------------------------------------

    def heartbeat(self, beat: Beat, *, now: StoreTime) -> Renewed | Refused:
        """Renew a lease and stamp liveness, together: the lease ends at `now` + the task's ttl.

        Only the whole, current lock of a run that is not ending will do, and of a local claim only
        before its deadline. Else nothing is written: `not_owner` (not this run's lock, it is
        ending, or its deadline has passed), `superseded` (an earlier run's lock while a newer one
        runs), `not_running`, `unknown_task`. Another progress or note than before also stamps
        `progressed_at`.
        """

    def note(self, note: Note, *, now: StoreTime) -> Accepted | Refused:
        """Write what a worker is at, guarded like a heartbeat; renew nothing, stamp no liveness.

        Another note than before stamps `progressed_at`.
        """

    def lock_of(self, uid: RunUid) -> tuple[int, str] | None:
        """Return the task of a run and the lock that its claim had; None for no such run."""

    def declare(self, declaration: Declaration, *, now: StoreTime) -> Accepted | Refused:
        """Store a worker's word on its outcome, guarded like a heartbeat.

        The same again is accepted, by the run's original lock, also after the settle: a reply was
        lost. Another one is `already_declared`.
        """

    def renew(self, node: str, *, now: StoreTime) -> int:
        """Renew the leases that are the daemon's to renew, of this node; return how many.

        Those of runs with liveness `process`, and of all that are ending, declared, or whose leader
        has exited.
        """

    def renew_short(self, node: str, *, gap_ms: int, now: StoreTime) -> int:
        """Renew this node's leases of which half is shorter than a gap; return how many."""

    def expired(self, node: str, *, limit: int, now: StoreTime) -> list[OpenRun]:
        """Return at most `limit` of this node's `worker` runs whose lease has expired.

        Also an expiry further ahead than twice the ttl has: a clock was wrong. Not those whose
        lease is the daemon's to renew.
        """

    def next_expiry(self, node: str) -> StoreTime | None:
        """Return when the next of this node's `worker` leases expires."""

    def open_run(self, uid: RunUid) -> OpenRun | None:
        """Return one run that is not closed, as it is now; None if closed or unknown."""

    def open_runs(self, node: str) -> list[OpenRun]:
        """Return every open run of a node, oldest first."""

    def endings(self, node: str) -> list[OpenRun]:
        """Return the node's open runs whose task carries an ending, oldest first."""

    def begin_ending(self, uid: RunUid, ending: Outcome, reason: str, *, now: StoreTime) -> bool:
        """Decide to end an open run, durably, and replace its lock by a value nobody keeps.

        The first ending wins: False, and nothing written, if there is one or the run is closed.
        """

    def settle(self, settlement: Settlement, *, now: StoreTime) -> bool:
        """Close a run and move its task, once. False, and nothing written, if closed before.

        Facts that the settlement does not carry (None) stay as they were recorded. An operator's
        intent ends with it: `policy.settle` has moved the task accordingly.
        """

    # Takeover ----------------------------------------------------------------------------

    def confirm(self, node: str, until: StoreTime | None) -> int:
        """Say until when all claims of a node stand (None: for ever); return how many there are.

        Another may take each once that and the kill grace fixed with its run are over.
        """

    def abandoned(self, *, limit: int, now: StoreTime) -> list[OpenRun]:
        """Return at most `limit` local claims that are over and may be settled.

        Those whose `takeover_at` has come, that are ending or declared, or whose expiry is further
        ahead than twice the ttl.
        """

    def stranded(self, node: str, *, now: StoreTime) -> list[OpenRun]:
        """Return the runs of other nodes that may be settled once nothing of them lives here.

        Those whose `takeover_at` has come; in an embedded store all, oldest first: its only node is
        the one that asks, and a restored or moved database has runs of those that it had before.
        """

    def next_takeover(self, node: str, *, now: StoreTime) -> StoreTime | None:
        """Return the earliest `takeover_at` to come of claims that are not this node's."""

    def declared(self, node: str) -> list[RunUid]:
        """Return the node's open runs that declared their end."""

    def has_unfinished(self, *, but: Iterable[str] = ()) -> bool:
        """Tell whether any task is ready, scheduled or running, `but` those of some queues.

        Or comes, as it is accepted and not damaged.
        """

    def record_node(self, node: Node) -> None:
        """Write or overwrite the node's row."""

    # Operators -------------------------------------------------------------------------
    #
    # What an operator says of a running task is kept with it as its intent until the run is
    # settled, and says where the task goes then, whatever the run's outcome is. The last one holds.

    def cancel(self, task_id: int, reason: str, *, now: StoreTime) -> TaskState | None:
        """Cancel a task; return the state it was in before, None if there is no such task.

        One that waits in any way is `cancelled` at once; a finished one stays as it is, as does
        one whose run has declared its success or exited so. Of any other running one the intent is
        kept, and the ending `cancelled` begun: the first ending wins, and none is begun once the
        leader has exited.
        """

    def retry(self, task_id: int, *, now: StoreTime) -> TaskState | None:
        """Make a `failed`, `cancelled` or `held` task `ready` with all its budgets restored.

        Of a running one whose end has begun (an ending, a declaration, its leader's exit), and is
        no success, the intent is kept. Return the state it was in before, None if there is no such
        task; any other state: nothing is written.
        """

    def hold(self, task_id: int, reason: str, *, now: StoreTime) -> TaskState | None:
        """Park a task until it is released; return the state it was in, None if there is none.

        Of a running one the intent is kept, and the ending `held` begun as `cancel` does it; a
        finished one, and one that is held already, stays as it is.
        """

    def release(self, task_id: int, *, policy: RetryPolicy, now: StoreTime) -> TaskState | None:
        """Make a `held` task `ready`, with the budgets it had; return the state it was in before.

        Not one without an attempt left. Of a running one that would be held when its run is
        settled by `policy`, and could be released then, the intent is kept. None if there is no
        such task; any other state: nothing is written.
        """

    def pause(self, queue: str, reason: str, *, now: StoreTime) -> bool:
        """Let nobody claim from a queue, in whatever way; False when it was paused already."""

    def resume(self, queue: str) -> bool:
        """Let tasks of a queue be claimed again; False when it was not paused."""

    def paused_queues(self) -> list[PausedQueue]:
        """Return the queues that are paused, by name."""

    def prune(
        self, *, before: StoreTime, limit: int, states: Collection[TaskState] = FINISHED
    ) -> Pruned:
        """Delete at most `limit` rows: tasks in these states, and their runs.

        Each 64 KiB of a payload count as one more. Only those that finished before a time; of each
        state the oldest first. A task goes after all its runs, so that one with very many goes in
        several steps.
        """

    def known_runs(self, uids: Iterable[RunUid]) -> set[RunUid]:
        """Return which of these runs have a row."""

    def prunable(self, *, before: StoreTime, states: Collection[TaskState] = FINISHED) -> int:
        """Return how many tasks in these states finished before a time."""

    # Reading ---------------------------------------------------------------------------

    def task(self, task_id: int) -> Task | None:
        """Return one task."""

    def tasks(self, wanted: TaskFilter) -> list[Task]:
        """Return tasks, newest first or as wanted.

        Looks at every row between `after_id` and `before_id` until there are enough: bound it.
        """

    def ids(self) -> range:
        """Return the ids from the first task's to the last one's."""

    def submitted_from(self, task_id: int) -> tuple[int, StoreTime] | None:
        """Return id and time of submission of the first task from an id on, None without one."""

    def runs(self, task_id: int) -> list[Run]:
        """Return a task's runs, oldest first; of the open one lease and beats are the live ones."""

    def counts(self) -> Mapping[str, Mapping[TaskState, int]]:
        """Return how many tasks are in each state, by queue; states without tasks are left out."""

    def ready_since(self) -> Mapping[str, StoreTime]:
        """Return since when the ready task of each queue that has waited longest is ready."""

    def outcomes(self) -> Mapping[Outcome, int]:
        """Return how many closed runs of each outcome are kept; outcomes of none are left out."""

    def leases(self) -> Leases:
        """Return how the leases of all running tasks stand, local claims included."""

    def nodes(self) -> Sequence[Node]:
        """Return every node that ever wrote its row."""
