"""The store's contract, one Protocol for each audience: tests/contract proves each sentence.

All methods but `transaction`, `snapshot`, `identity` and `close` run inside a transaction. They
take the `now` that `transaction` returned, so that all writes of a tick carry one time.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from dispatcher.calendar import Calendar, Setting
from dispatcher.dependency import Dependency, TaskKey
from dispatcher.environment import Environment
from dispatcher.events import Ledger, StoreEvent
from dispatcher.execution import (
    NO_ROWS,
    BegunEnding,
    Claim,
    Claims,
    GivenUp,
    Held,
    OpenRun,
    Rows,
    Settlement,
    StartedRun,
)
from dispatcher.handover import Handover
from dispatcher.history import History, Postponed
from dispatcher.model import (
    FINISHED,
    NO_LABELS,
    Leases,
    Node,
    Outcome,
    PausedQueue,
    Pruned,
    Run,
    Submitted,
    Task,
    TaskFilter,
    TaskState,
)
from dispatcher.named_limits import NO_RULES, Closing, Given, Rule
from dispatcher.new_task import NewTask
from dispatcher.nodes import Requiring
from dispatcher.selection import Match
from dispatcher.store.bell import Bell
from dispatcher.times import StoreTime, WallTime
from dispatcher.wire import Exit, RunUid
from dispatcher.words import Accepted, Beat, Declaration, Note, Refused, Renewed

if TYPE_CHECKING:
    from dispatcher.hooks import Hooks
    from dispatcher.limit_views import LimitView
    from dispatcher.schedules import ScheduleChange, ScheduleState

#: What `Transactions.version` returns, to be compared.
Version = tuple[int, int, int | None]


class Transactions(Protocol):
    """For all: transactions on one database.

    Any method raises `StoreUnavailable` when the database does not answer in time (the transaction
    is rolled back), `StoreUnusable` when it is damaged or replaced, and `StoreRefused` when a write
    breaks a rule of the schema. After an error the transaction can only roll back: any other call
    raises the same error.
    """

    @property
    def identity(self) -> str:
        """The store's id (a UUID): made with the database, changed when a backup is restored."""

    @property
    def history(self) -> History:
        """Which commits the store has, as of the last transaction that may write.

        Another one means that a replica took over the server: commits may be forgotten.
        """

    def transaction(self) -> AbstractContextManager[StoreTime]:
        """Open a transaction that may write; return the store's time.

        Commits at the end, rolls back on any exception. Raises `CommitUnknown` when the outcome of
        the commit is unknown; the next transaction then opens a fresh connection. `CommitUnknown`
        is not a `StoreUnavailable`, after which a caller may safely repeat its work.

        A transaction that gives daemons work rings the store's bell once (see `bell`): one that
        makes a task ready, or due before all others; that writes an intent, a declaration or an
        ending; that edits, cancels or holds a task, or resumes a queue. Beats and notes never do.
        """

    def snapshot(self) -> AbstractContextManager[StoreTime]:
        """Open a read-only transaction; it neither blocks writers nor waits for them."""

    def version(self) -> Version | None:
        """Return what is another one once there may be work that was not there before.

        That is after whatever rings, here or in another process (protocol 1.14), and on an embedded
        store after each commit of another process. What others commit to a shared store shows only
        once its bell has rung. None: it is not known, the database's files were replaced, or the
        host's clock was set. In a transaction or outside; never fails.
        """

    @property
    def announces(self) -> bool:
        """Whether this transaction has written what gives daemons work."""

    def act_as(self, who: str) -> None:
        """Name who changes the store, for events (`events.Actor`).

        Otherwise it is the user of this process, and who called sudo.
        """

    def use_hooks(self, hooks: Hooks | None) -> None:
        """Let each later transaction submit the tasks that hooks have for what happens in it.

        They are submitted with it or not at all. What happens to tasks of hooks has none.
        """

    def watch_clock(self) -> Setting:
        """Return the last setting of the host's clock; record it if it is new.

        A step is a difference of at least a second. Within a boot no step moves the store's time.
        A new boot starts from the host's clock, but never before the last setting, the nodes, the
        newest task and run, the last finish and the last beat of open runs.
        """

    def lock_rows(self, tasks: Rows, runs: Rows = NO_ROWS) -> None:
        """Lock tasks with their open runs, then other open runs: those that others may change.

        The first call of a transaction that decides by what it reads of them, or changes several:
        what is read after it stays until the commit, and it alone may wait for others. The tasks of
        a node include those that it is claiming, also by a commit whose answer was lost: their
        commit is waited for. An embedded store has one writer at a time, and locks nothing.
        """

    def lock_free(self, wanted: Rows, *, node: str) -> Held:
        """Lock what nobody else has locked, and the node's own row; return what others have.

        Waits for nothing. For a daemon whose transactions failed with `StoreLocked`.
        """

    def lock_holder(self, held: Held, *, node: str) -> str | None:
        """Describe the session that has locked these rows, as far as it is known."""

    def server_step(self) -> int:
        """Return by how many ms a shared store's time was set since `accept_server_step`.

        0 if it was not, and on an embedded store. As far as this process can see: against its
        host's boot clock, from its first transaction on. Steps of up to a second do not count.
        """

    def accept_server_step(self) -> None:
        """Count from the server's clock as it is now."""


class ReaderStore(Transactions, Protocol):
    """For readers: `status`, `list`, `show`, metrics, and every part of the supervisor."""

    def calendar(self) -> Calendar:
        """Return the difference between store time and the host's clock, now and earlier."""

    def task(self, task_id: int, *, payload: bool = True) -> Task | None:
        """Return one task, without its payload if that is not needed: it may be long."""

    def tasks(self, wanted: TaskFilter, *, payload: bool = True) -> list[Task]:
        """Return tasks, newest first unless the filter has another order.

        Reads every row between `after_id` and `before_id` until there are enough: set both.
        """

    def matching(self, wanted: TaskFilter) -> list[Match]:
        """Return id and state of the tasks that `tasks` would return, lowest id first."""

    def matching_among(self, task_ids: Collection[int], wanted: TaskFilter) -> list[Match]:
        """Return the same of these tasks alone, without the filter's limit."""

    def ids(self) -> range:
        """Return the range of task ids."""

    def submitted_from(self, task_id: int) -> tuple[int, StoreTime] | None:
        """Return id and time of submission of the first task with at least this id."""

    def environment(self, environment_id: int) -> Environment | None:
        """Return a stored environment; None if it is missing or damaged by hand."""

    def environment_size(self, environment_id: int) -> int:
        """Return the bytes of a stored environment without reading it; 0 if it is missing."""

    def parents(self, task_ids: Collection[int], *, limit: int) -> list[Dependency]:
        """Return at most `limit` dependencies of tasks on their parents, lowest ids first."""

    def children(self, task_id: int, *, limit: int) -> list[Dependency]:
        """Return at most `limit` dependencies of others on a task, lowest id first."""

    def handovers(self, task_ids: Collection[int]) -> dict[int, Handover]:
        """Return what the last runs of tasks left for the next ones, for those that left any."""

    def runs(self, task_id: int) -> list[Run]:
        """Return a task's runs, oldest first; lease and beats of the open one are current."""

    def last_run(self, task_id: int) -> Run | None:
        """Return a task's last run as `runs` does, but without the end of its output."""

    def foremost(self, state: TaskState, *, queue: str | None = None, limit: int) -> list[Task]:
        """Return at most `limit` tasks of a state, of one queue or all, without their payloads.

        Running ones come by owner; ready ones, of one queue, in the order of claims; scheduled ones
        in the order in which they are due; held ones, of one queue, by descending id; finished ones
        the last finished first, those of one queue by descending id.
        """

    def asking(self, *, queue: str | None = None, limit: int) -> list[Task]:
        """Return at most `limit` held tasks with a question that nobody answered, newest first.

        Without their payloads.
        """

    def before(self, task: Task, *, limit: int) -> int:
        """Return how many ready tasks of its queue precede a ready task, counting to `limit`."""

    def open_run(self, uid: RunUid) -> OpenRun | None:
        """Return a run that is not closed; None if it is closed or unknown."""

    def open_runs_among(self, uids: Collection[RunUid]) -> Mapping[RunUid, OpenRun]:
        """Return those of these runs that are not closed."""

    def known_runs(self, uids: Iterable[RunUid]) -> set[RunUid]:
        """Return which of these runs have a row."""

    def counts(self) -> Mapping[str, Mapping[TaskState, int]]:
        """Return the number of tasks by queue and state, without zeros."""

    def ready_since(self, *, anywhere: bool = False) -> Mapping[str, StoreTime]:
        """Return, by queue, since when the ready task that waits longest is ready.

        With `anywhere`, of the tasks that require no labels: it reads all ready ones.
        """

    def requiring(self, *, limit: int) -> list[Requiring]:
        """Return at most `limit` groups of ready tasks that require labels, by queue and labels."""

    def outcomes(self) -> Mapping[Outcome, int]:
        """Return the number of closed runs by outcome, without zeros."""

    def wrong_counts(self) -> Mapping[tuple[str, str], int]:
        """Return how many more tasks there are than `counts` says, by queue and state.

        By an empty name and an outcome, how many more closed runs than `outcomes` says. Only tables
        that were loaded or emptied by hand can differ. Reads every task and run.
        """

    def leases(self) -> Leases:
        """Return the state of all running tasks' leases, local claims included."""

    def nodes(self) -> Sequence[Node]:
        """Return every node that recorded itself and was not forgotten, by hostname."""

    def node(self, node_id: str) -> Node | None:
        """Return one node's row."""

    def running_in(self, queue: str) -> int:
        """Return how many tasks of a queue run, local claims left out."""

    def closings(self) -> list[Closing]:
        """Return the limits that were closed, or that daemons share, by name."""

    def limit_views(self, rules: Mapping[str, Rule], *, now: StoreTime) -> Mapping[str, LimitView]:
        """Return the limits that have a rule or a row, or are held, by name.

        A running task holds what it takes, also as a local claim. What was started counts for a
        limit with a rate.
        """

    def limits_taken(self) -> set[str]:
        """Return the limits that unfinished tasks take."""

    def running_by_node(self) -> Mapping[str, int]:
        """Return how many open runs each node has, without zeros."""

    def paused_queues(self) -> list[PausedQueue]:
        """Return the paused queues, by name."""

    def prunable(self, *, before: StoreTime, states: Collection[TaskState] = FINISHED) -> int:
        """Return the number of tasks in these states that finished before a time."""

    def last_events(self, ledger: Ledger, *, before: int, limit: int) -> list[StoreEvent]:
        """Return at most `limit` events of a ledger with ids below `before`, the newest first."""

    def new_events(
        self, ledger: Ledger, *, after: int, gaps: Sequence[range] = (), limit: int
    ) -> list[StoreEvent]:
        """Return the events in ranges of ids, then at most `limit` with ids above `after`, by id.

        A shared store gives ids before the commit: one that is missing may still come.
        """

    def task_events(self, task_id: int) -> list[StoreEvent]:
        """Return what happened to a task, the oldest first, with its claims."""

    def schedules(self) -> list[ScheduleState]:
        """Return the schedules that daemons of this store had, or have, by name."""

    def unfinished_of(self, origin: str, *, limit: int) -> list[Match]:
        """Return the last tasks of an origin that have not ended, but for held ones."""

    def coming(self) -> int:
        """Return how many tasks of accepted bulk submits are not tasks yet."""

    def damaged_parts(self) -> list[str]:
        """Return which accepted parts were damaged by hand, and how: at most ten.

        Only those before the first sound part of each bulk submit.
        """


class SubmitterStore(Transactions, Protocol):
    """For submitters. A bulk submit takes all of many tasks or none, in small transactions.

    Its parts are first staged: staged tasks are invisible, and their keys are not in use. Once
    accepted, each part becomes tasks as `submit` would make them then, even if the client dies.
    """

    def submit(self, tasks: Sequence[NewTask], *, now: StoreTime) -> list[Submitted]:
        """Create tasks: `scheduled` with a delay, otherwise `ready`; their ids grow in this order.

        One with unfinished parents is `waiting`; parents named by key may be any of `tasks`. One
        whose parent does not exist, or did not succeed, is held or cancelled, as it says itself.

        If a task of the same queue has the same key, or one before it in the list, write nothing
        and return that task's id, and whether its command or payload differs. Equal environments
        are stored once.
        """

    def missing_parents(self, tasks: Sequence[NewTask]) -> list[int | TaskKey]:
        """Return the parents of these tasks that do not exist, and are not among them."""

    def stage(self, uid: str, part: int, tasks: Sequence[NewTask], *, now: StoreTime) -> bool:
        """Stage a part of a bulk submit. Parts count from 0; a repeated part changes nothing.

        False, and nothing written, if the bulk submit was removed after an hour of silence.
        """

    def accept(self, uid: str, *, now: StoreTime) -> bool:
        """Let all staged parts become tasks; False if the bulk submit was removed."""

    def accepted(self, uid: str) -> bool | None:
        """Return whether a bulk submit is accepted; None if it was removed."""

    def admit(self, uid: str, *, now: StoreTime) -> bool:
        """Turn the next accepted part into tasks; False if none is left.

        Skips parts damaged by hand, which stay until they are repaired.
        """

    def submitted(self, uid: str, part: int) -> list[Submitted] | None:
        """Return the tasks of a part; None if it has none yet, or was removed."""

    def remove_parts(self, uid: str) -> bool:
        """Remove some parts of a bulk submit, never a task; return whether more are left.

        Removes nothing of an accepted one until all its parts are tasks.
        """

    def continue_silent(self, *, now: StoreTime) -> bool:
        """Take one step for a bulk submit whose client is silent; False if none needs one.

        After 10 s of silence admit another accepted part; after an hour remove records of admitted
        parts, and whatever was never accepted.
        """


class WorkerStore(Transactions, Protocol):
    """For workers, and for those who serve them."""

    def heartbeat(self, beats: Sequence[Beat], *, now: StoreTime) -> list[Renewed | Refused]:
        """Renew leases and stamp liveness at once: a lease ends at `now` + the task's ttl.

        Requires the current lock of a run that is not ending; a local claim must also be before its
        deadline. Otherwise writes nothing and answers `not_owner` (wrong lock, ending, or past the
        deadline), `superseded` (an earlier run's lock while a newer one runs), `not_running` or
        `unknown_task`. A changed progress or note also stamps `progressed_at`. A checkpoint is kept
        for the next run.
        """

    def note(self, note: Note, *, now: StoreTime) -> Accepted | Refused:
        """Record a worker's note, guarded like a heartbeat, without renewing lease or liveness.

        A changed note stamps `progressed_at`.
        """

    def lock_limits(self, names: Collection[str]) -> set[str]:
        """Lock limits that workers close; return those that others have locked. Waits for none."""

    def declare(self, declaration: Declaration, *, now: StoreTime) -> Accepted | Refused:
        """Record a worker's declared outcome, guarded like a heartbeat.

        A repetition with the run's lock is accepted, even after the settle, as its reply may have
        been lost. A different declaration is `already_declared`. A question is kept for an answer.
        One that closes a limit closes it in the same transaction, for longer but never for less;
        it is `not_taken` if the task does not take that, and then nothing is written.
        """

    def locks_of(self, uids: Iterable[RunUid]) -> dict[RunUid, tuple[int, str]]:
        """Return the task of each of these runs that is open, and the lock of its claim."""

    def declared(self, node: str) -> list[RunUid]:
        """Return the node's open runs that have declared an outcome."""

    def renew_short(
        self, node: str, *, gap_ms: int, but: Collection[RunUid] = (), now: StoreTime
    ) -> int:
        """Renew this node's leases whose half is shorter than a gap; return how many.

        `but` these runs, which others have locked.
        """


class OperatorStore(ReaderStore, Protocol):
    """For operators, and for local claims. What they change is an event, with who changed it.

    An operator's verb on a running task is kept as its intent: the settle moves the task there,
    whatever the run's outcome. A later intent replaces an earlier one. The four verbs return the
    state before, None for an unknown task, and write nothing in states that they do not name.
    """

    def cancel(self, task_id: int, reason: str, *, now: StoreTime) -> TaskState | None:
        """Cancel a task: at once if it waits; if it runs, by intent, and begin its ending.

        Not once its run has declared success or exited with it. An earlier ending stays, and none
        begins once the leader has exited.
        """

    def retry(self, task_id: int, *, now: StoreTime) -> TaskState | None:
        """Make a `failed`, `cancelled` or `held` task `ready` with all its budgets restored.

        `waiting`, if parents of it have not finished. Tasks that it kept from running wait for it
        again. By intent, if its run is ending (ending, declaration, or leader's exit) without
        success.
        """

    def hold(
        self, task_id: int, reason: str, *, replace_reason: bool = True, now: StoreTime
    ) -> TaskState | None:
        """Keep an unfinished task until it is released; a running one is ended as by `cancel`.

        A held task gets the new reason if `replace_reason`, and otherwise keeps its own.
        """

    def release(self, task_id: int, *, now: StoreTime) -> TaskState | None:
        """Make a `held` task `ready` with its budgets as they are, if it has an attempt left.

        `waiting`, if parents of it have not finished; a `waiting` one no longer waits for them.

        By intent, if it would be held when its run is settled, and it could be released then.
        """

    def lock_for_edit(self, task_ids: Collection[int], queue: str | None) -> None:
        """Lock tasks as `lock_rows` does, before they are read for `edit`; with their new queue."""

    def answer(self, task_id: int, text: str, *, now: StoreTime) -> None:
        """Keep a person's answer to a task's question, in the place of an earlier one."""

    def lock_for_retry(self, task_ids: Collection[int]) -> None:
        """Lock tasks as `lock_rows` does, with those that wait for them again once they go on."""

    def edit(self, before: Task, after: Task, *, now: StoreTime) -> bool:
        """Write what differs between a task, as it is in this transaction, and its new value.

        Its id, key, payload and history stay. A state may become `ready` instead of `scheduled`,
        or the other way round. False, and nothing written, for a task that runs or has succeeded,
        and if its key is in use in the new queue. A new total time-out counts from the submit or
        `retry`; the queue time-out counts anew from `now` if either changes.
        """

    def mend_counts(self) -> bool:
        """Correct what `wrong_counts` returns; False if nothing is wrong."""

    def pause(self, queue: str, reason: str, *, now: StoreTime) -> bool:
        """Stop all claims from a queue; False if it was paused already."""

    def resume(self, queue: str, *, now: StoreTime) -> bool:
        """Allow claims from a queue again; False if it was not paused."""

    def close_limit(
        self, name: str, reason: str, *, until: StoreTime | None = None, now: StoreTime
    ) -> None:
        """Let nothing that takes a limit start until a time; None: until it is opened.

        Waits for the claims that are being made. A later call replaces the time.
        """

    def open_limit(self, name: str, *, now: StoreTime) -> bool:
        """Let what takes a limit start again; False if it was not closed."""

    def change_schedule(
        self,
        name: str,
        change: ScheduleChange,
        *,
        reason: str | None = None,
        at: WallTime,
        now: StoreTime,
    ) -> bool:
        """Pause a schedule, let it go on from a date, or delete its row; False if it is not so.

        A daemon that has it adds its row again.
        """

    def drain_node(self, node_id: str, reason: str, *, now: StoreTime) -> bool:
        """Let a node claim nothing more, for a new reason too; False if it has no row."""

    def resume_node(self, node_id: str, *, now: StoreTime) -> bool:
        """Allow a node to claim again; False if it was not draining."""

    def forget_node(self, node_id: str, *, now: StoreTime) -> bool:
        """Delete a node's row; False, and nothing written, while it may live.

        That is: while it has open runs, or was seen within three of its intervals and has not
        stopped. A daemon that lives writes its row again.
        """

    def prune(
        self, *, before: StoreTime, limit: int, states: Collection[TaskState] = FINISHED
    ) -> Pruned:
        """Delete at most `limit` rows of tasks in these states that finished before a time.

        Oldest first in each state; not those whose children have not finished. Each 64 KiB of
        payload count as a row. A task goes after all its runs, so one with many runs takes several
        calls.
        """

    def prune_each(self, task_ids: Sequence[int], wanted: TaskFilter, *, limit: int) -> Pruned:
        """Delete at most `limit` rows of the given tasks that match and have finished.

        Their order is kept; otherwise as `prune`.
        """

    def prune_events(self, *, before: StoreTime, limit: int) -> int:
        """Delete at most `limit` events of no task from before a time; return how many.

        Those of a task are deleted with it.
        """

    def claim_local(
        self,
        queue: str,
        *,
        owner: str,
        output_dir: str,
        task_id: int | None = None,
        lease_ttl_ms: int | None = None,
        labels: Mapping[str, str] = NO_LABELS,
        limits: Mapping[str, Rule] = NO_RULES,
        now: StoreTime,
    ) -> Claim | None:
        """Claim a queue's next ready task, or the named one, outside of any node; None if paused.

        The next one requires none but these labels; the named one may require any. Either needs
        room in the named limits that it takes, as in `claim`, but not in that of its queue; it
        waits for the claims that are being made with them.

        `owner` begins with `execution.LOCAL`. As `claim`, but only beats renew the lease, whatever
        the liveness, and takeover is at its expiry. A `lease_ttl_ms` becomes the task's. No beat
        extends the lease beyond the deadline: the end of the run time-out, counted from the claim,
        or of the total time-out, whichever is earlier. None although a task is ready and its queue
        not paused: damaged tasks were held; commit, and call again.
        """


class SupervisorStore(ReaderStore, WorkerStore, Protocol):
    """For the daemon's ticks, which also serve workers."""

    def move_due(self, *, limit: int, now: StoreTime) -> int:
        """Move at most `limit` due scheduled tasks to `ready`; return how many."""

    def next_due(self) -> StoreTime | None:
        """Return the earliest `run_at` of a scheduled task."""

    def next_due_or_keys(self) -> tuple[StoreTime | None, bool]:
        """Return what `next_due` does, and whether `give_keys` has something to do."""

    def give_keys(self, *, limit: int) -> Given:
        """Give concurrency keys that nobody has to the first ready tasks that wait for them.

        Of the tasks of a queue with the same key one has it, from when it may be claimed until it
        neither is ready nor runs; all others are ready, but in no claim's reach. Looks at the keys
        of at most `limit` tasks that were moved. Those that others have locked are left for later.
        """

    def resolve(self, *, limit: int, now: StoreTime) -> bool:
        """Pass the end of tasks on to those that wait for them; return whether to do so again.

        At most `limit` dependencies end. A task goes on once all its parents have succeeded, or
        finished where that is enough; once one has not, it is held or cancelled, as its submit
        said. Tasks that others have locked are left for later.
        """

    def give_up(self, *, limit: int, now: StoreTime) -> list[GivenUp]:
        """Fail at most `limit` tasks that do not run and whose time is over; return them.

        The queue time-out counts from each time a task becomes ready; the total time-out from the
        submit, or an operator's `retry`, in all states.
        """

    def next_failure(self) -> StoreTime | None:
        """Return when the next task that does not run is over its time."""

    def ready_queues(
        self, *, after: str, limit: int, node: str = "", session: str = ""
    ) -> list[str]:
        """Return at most `limit` queues with ready tasks, each once; none for a node that drains.

        By name, from the first after `after` and then from the beginning: a caller that passes the
        last queue served is fair to all.
        """

    def claim(
        self,
        queue: str,
        *,
        limit: int,
        node: str,
        output_dir: str,
        session: str = "",
        labels: Mapping[str, str] = NO_LABELS,
        limits: Mapping[str, Rule] = NO_RULES,
        lane: str = "",
        until: StoreTime | None = None,
        now: StoreTime,
    ) -> Claims:
        """Claim at most `limit` ready tasks of a queue: lowest `lanes.rank` first, then lowest id.

        Only those that require none but these `labels`. Of a queue whose tasks need different
        things it looks at a bounded number of lanes behind `lane`, and reports by `lane` where the
        next call goes on, if there are more. By `busy` it reports that others have locked some of
        the tasks that it would claim. Claims nothing while the node drains, or
        if its row belongs to another session.

        A task is claimed only if there is room in all limits that it takes (`limits`, with those of
        queues, of which each task of the queue takes one): no more of it is held by running tasks,
        or was started within its window, on all nodes. Local claims count, but not for a queue. A
        task that needs more than is left keeps that from those behind it, unless another limit
        keeps it. A limit that is closed has no room, one that is not among `limits` has, unless it
        is closed. One that another node is claiming with (see `add_limits`) has none, and `busy`
        reports that. `opens_at` reports when a limit may have more room by itself.

        Makes lock, run uid and the next fence, opens the run with the output path
        `<output_dir>/<uid>.log`, resets every per-run field, and sets the lease to `now` + the
        task's ttl. Unless the claim is confirmed again, another node may take it once `until` and
        the task's kill grace are over; None: never. Claims nothing from a paused queue. A task
        whose row was damaged by hand is held, with the damage as its reason: at most 100 in one
        call, which then claims nothing, and says so by `again`.

        A claim lists the outputs of the task's earlier runs on this node that may have had a
        process, latest first, without those whose leftovers may go on.
        """

    def take_runs(self, uids: Collection[RunUid]) -> dict[RunUid, OpenRun]:
        """Return those of these runs that are open, locked with their tasks.

        Without those of which others have locked the run or the task.

        Of what is then read, and decided, nothing changes until the commit.
        """

    def record_results(self, results: Mapping[str, int], *, now: StoreTime) -> None:
        """Count, by a queue's limit, runs that failed at the cost of an attempt.

        0: some have succeeded. A claim of a queue with a breaker decides by them whether it closes,
        and whether what starts is a probe.
        """

    def add_limits(self, names: Iterable[str]) -> None:
        """Prepare claims with these limits: before the first one."""

    def record_started(self, starts: Sequence[StartedRun], *, now: StoreTime) -> int:
        """Record pid and start of open runs, and begin their leases anew; return how many."""

    def record_leader_exits(self, exits: Mapping[RunUid, Exit], *, now: StoreTime) -> int:
        """Record how the leaders of open runs ended while their trees live; return how many."""

    def renew(self, node: str, *, but: Collection[RunUid] = (), now: StoreTime) -> int:
        """Renew the leases that this node's daemon keeps; return how many.

        Those of `process` runs, and of runs that are ending, declared, or without a leader; `but`
        these, which others have locked.
        """

    def expired(self, node: str, *, limit: int, now: StoreTime) -> list[OpenRun]:
        """Return at most `limit` of this node's `worker` runs whose lease has expired.

        After a wrong clock, a lease that expires later than twice its ttl from now counts too.
        Runs that `renew` covers are left out.
        """

    def next_expiry(self, node: str) -> StoreTime | None:
        """Return when the next of this node's `worker` leases expires."""

    def open_runs(self, node: str) -> list[OpenRun]:
        """Return every open run of a node, oldest first."""

    def endings(self, node: str, *, among: Container[RunUid] | None = None) -> list[BegunEnding]:
        """Return the endings of the node's open runs, oldest run first: all, or of some of these.

        Of the others it only reads the rows: very many may be ending already.
        """

    def begin_endings(self, endings: Sequence[BegunEnding], *, now: StoreTime) -> int:
        """Record decisions to end open runs, whose locks allow nothing from now on.

        The first ending of a run stays: nothing is written if there is one, or the run is closed,
        or others have its row locked. Return how many were begun.
        """

    def begin_ending(self, uid: RunUid, ending: Outcome, reason: str, *, now: StoreTime) -> bool:
        """Record the decision to end one run; return whether it was begun."""

    def take_schedules(
        self, definitions: Mapping[str, str], *, at: WallTime
    ) -> dict[str, ScheduleState]:
        """Return these schedules, locked, by name; those that others have locked are left out.

        New ones are added, which have no times until the date `at`.
        """

    def settle_schedule(self, state: ScheduleState, *, now: StoreTime) -> None:
        """Write what became of a schedule's times, which is locked: all but whether it is paused.

        Its last time and task stay if they are None.
        """

    def record_unkillable(self, uid: RunUid, reason: str, *, now: StoreTime) -> None:
        """Write the event of a run whose processes cannot be killed, once for each run."""

    def record_node_paused(self, node: str, reason: str, *, now: StoreTime) -> None:
        """Write the event of a node that claims nothing for a while, as it cannot start workers."""

    def settle(self, settlements: Sequence[Settlement], *, now: StoreTime) -> int:
        """Close runs and move their tasks, once; return how many were still open.

        Keeps recorded facts that a settlement leaves None. The operator's intent, which
        `policy.settle` has applied, is over with the run.
        """

    def confirm(
        self, node: str, until: StoreTime | None, *, but: Collection[RunUid] = ()
    ) -> set[RunUid]:
        """Confirm all claims of a node until a time (None: for ever); return their runs.

        Those that are left out, `but` these, are returned too: they are still the node's.

        Another node may take each after that time and its kill grace. A claim that was confirmed
        for longer, as by a daemon with a longer limit, keeps that: so does its executor. A run of
        this node that is not returned is no longer its own. Lock the rows of the node first.
        """

    def abandoned(self, *, limit: int, expired: bool = True, now: StoreTime) -> list[OpenRun]:
        """Return at most `limit` local claims that may be settled, locked with their tasks.

        Ending or declared; and if `expired`, those past `takeover_at`, or with an expiry beyond
        twice the ttl from now. Those that others have locked are left out.
        """

    def stranded(
        self, node: str, *, known: Collection[RunUid] = (), limit: int = 100, now: StoreTime
    ) -> list[OpenRun]:
        """Return other nodes' runs past `takeover_at`, to be settled once none of them lives here.

        All that are `known`, and at most `limit` others. An embedded store has one node, the
        caller: all other runs in it come from before a restore or a move, and are returned at once.
        They are locked with their tasks; those that others have locked are left out.
        """

    def passed_over(self, node: str, runs: Collection[RunUid], *, now: StoreTime) -> set[RunUid]:
        """Return which of these runs `abandoned` and `stranded` find, locked by others or not.

        None on an embedded store, where nobody else writes meanwhile; so with `passes_over`.
        """

    def passes_over(self, node: str, *, but: Collection[RunUid] = (), now: StoreTime) -> bool:
        """Return whether they find others, `but` these, also those that others have locked."""

    def next_takeover(self, node: str, *, now: StoreTime) -> StoreTime | None:
        """Return the next `takeover_at` of claims of other nodes."""

    def next_work(
        self,
        node: str,
        session: str = "",
        *,
        labels: Mapping[str, str] = NO_LABELS,
        now: StoreTime,
    ) -> StoreTime | None:
        """Return when a node without runs has something to do; None: not by itself.

        Ready tasks that require others than its `labels` give it nothing to do.

        `now` or before: there is something by now that a tick would find, locked or not.
        """

    def has_unfinished(
        self, *, but: Iterable[str] = (), labels: Mapping[str, str] | None = None
    ) -> bool:
        """Return whether any task is ready, scheduled or running, except in these queues.

        With `labels`, tasks that require others and do not run are left out. Sound parts of
        accepted bulk submits count.
        """

    def take_node(self, node: Node, *, was: Node | None) -> bool:
        """Make the node's row this session's, unless it was written since it was read as `was`.

        None: there was no row. When it was last seen stays. False, and nothing written, if another
        daemon wrote it meanwhile.
        """

    def record_node(self, node: Node) -> bool:
        """Write or overwrite the node's row, but not whether it drains.

        False, and nothing written, if the row belongs to another session.
        """

    def leave_node(self, node_id: str, session: str) -> None:
        """Give up a session's row: the next daemon of the node takes it at once."""

    def record_reconciled(self, node: str) -> None:
        """Record that a node has compared its runs with this history, and ended all others."""

    def postponed(self, *, now: StoreTime) -> Postponed | None:
        """Return what all claims wait for after a failover; None: nothing.

        Workers of claims that are forgotten may still live. So claims wait for each node that
        worked just before: until it has compared its runs with this history, or has ended its
        workers for want of confirmation; and for a moment in any case, or as long as any node's
        runs go on unconfirmed if it is uncertain which nodes are forgotten.
        """

    def postpone_takeovers(self, *, now: StoreTime) -> None:
        """Let nobody take over a claim, or settle a local one for its expiry, for a while.

        For as long as any node's runs go on unconfirmed. A failover does so too.
        """


class Store(SubmitterStore, OperatorStore, SupervisorStore, Protocol):
    """All of it: for the daemon's composition and the client."""

    @property
    def bell(self) -> Bell:
        """What wakes the daemons on this store."""

    def close(self) -> None:
        """Close the connection. Idempotent."""
