"""The lease protocol in plain Python: what the store must hold, and answer, after each operation.

Nothing here knows SQL, and nothing is copied from the store: it is docs/protocol.md 1, written
a second time. `protocol.py` compares the two after every step.
"""

from copy import deepcopy
from dataclasses import dataclass, field

from msgspec.structs import replace

from dispatcher.model import Declared, Liveness, Outcome, TaskState
from dispatcher.words import Declaration, Refused
from dispatcher.worker_api import WorkerError

MAX_ATTEMPTS, MAX_DEFERRALS, MAX_ORPHANS = 2, 1, 1

DECLARED = {
    Declared.SUCCEED: Outcome.SUCCEEDED,
    Declared.FAIL: Outcome.FAILED,
    Declared.DEFER: Outcome.DEFERRED,
    Declared.HOLD: Outcome.HELD,
}

EXITS = {0: Outcome.SUCCEEDED, 75: Outcome.DEFERRED, 78: Outcome.HELD}

FINAL = {
    Outcome.SUCCEEDED: TaskState.SUCCEEDED,
    Outcome.HELD: TaskState.HELD,
    Outcome.CANCELLED: TaskState.CANCELLED,
    Outcome.RELEASED: TaskState.READY,
}


@dataclass
class RunModel:
    """One run: its row, and the lock that only its worker knows."""

    uid: str
    lock: str
    fence: int
    attempt: int
    declared: Declaration | None = None
    exit_code: int | None = None
    outcome: Outcome | None = None

    @property
    def daemons_to_renew(self) -> bool:
        return self.declared is not None or self.exit_code is not None


@dataclass
class TaskModel:
    """One task; while it runs, its last run is the current claim."""

    id: int
    liveness: Liveness
    ttl: int
    created: int
    """The second of the submit orders the tasks of a priority, as a clock may be set back."""
    state: TaskState = TaskState.READY
    attempts: int = 0
    deferrals: int = 0
    orphans: int = 0
    runs: list[RunModel] = field(default_factory=list)
    expires: int = 0
    """Means nothing unless the task runs."""
    beaten: int | None = None
    progress: float | None = None
    ending: Outcome | None = None
    intent: str | None = None
    """An operator's last intent, while it runs."""
    finished: int | None = None

    @property
    def running(self) -> bool:
        return self.state is TaskState.RUNNING

    @property
    def run(self) -> RunModel:
        return self.runs[-1]

    def holds(self, lock: str) -> bool:
        """Return whether a lock is that of the current claim, and the claim is not ending."""
        return self.running and self.ending is None and lock == self.run.lock

    def refusal(self, lock: str) -> Refused:
        """Return why a lock that does not hold is refused."""
        if not self.running:
            last = self.runs[-1].attempt if self.runs else 0
            return Refused(WorkerError.NOT_RUNNING, self.state, last)
        earlier = any(lock == run.lock for run in self.runs[:-1])
        error = WorkerError.SUPERSEDED if earlier else WorkerError.NOT_OWNER
        return Refused(error, TaskState.RUNNING, self.run.attempt)

    @property
    def may_expire(self) -> bool:
        """Return whether only the worker's beats renew this lease: no one else's, and no ending."""
        beats = self.running and self.liveness is Liveness.WORKER
        return beats and self.ending is None and not self.run.daemons_to_renew

    def expired(self, now: int) -> bool:
        """Return whether the reaper must find this one: expired, or of a clock that was wrong."""
        return self.may_expire and not now < self.expires <= now + 2 * self.ttl

    # Operations that change something -----------------------------------------------------

    def claim(self, run: RunModel, now: int) -> None:
        self.runs.append(run)
        self.state, self.expires = TaskState.RUNNING, now + self.ttl

    def beat(self, progress: float | None, now: int) -> None:
        self.expires, self.beaten = now + self.ttl, now
        self.progress = self.progress if progress is None else progress

    def settle(self, now: int) -> Outcome:
        """Close the run, charge its outcome, and move the task, by an operator's intent if any."""
        outcome = self.run.outcome = self._outcome()
        self.state = self._next_state(outcome, self.run.declared)
        if self.intent is not None and outcome is not Outcome.SUCCEEDED:
            self.state = self._intended(self.intent)
        finished = {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED}
        self.finished = now if self.state in finished else None
        self.beaten = self.progress = self.ending = self.intent = None
        return outcome

    def _outcome(self) -> Outcome:
        """Return declared > ending > exit code > nobody knows."""
        run = self.run
        if run.declared is not None:
            return DECLARED[run.declared.word]
        if self.ending is not None:
            return self.ending
        if run.exit_code is not None:
            return EXITS.get(run.exit_code, Outcome.FAILED)
        return Outcome.ORPHANED

    def _intended(self, intent: str) -> TaskState:
        if intent == "retry":
            self.attempts = self.deferrals = self.orphans = 0
        if intent == "release" and self.attempts >= MAX_ATTEMPTS:
            return self.state
        return {"cancel": TaskState.CANCELLED, "hold": TaskState.HELD}.get(intent, TaskState.READY)

    def _next_state(self, outcome: Outcome, declared: Declaration | None) -> TaskState:
        if outcome in FINAL:
            return FINAL[outcome]
        if outcome is Outcome.DEFERRED:
            self.deferrals += 1
            return TaskState.HELD if self.deferrals > MAX_DEFERRALS else TaskState.SCHEDULED
        if outcome is Outcome.ORPHANED:
            self.orphans += 1
            return TaskState.HELD if self.orphans > MAX_ORPHANS else TaskState.READY
        self.attempts += 1
        for_good = declared is not None and not declared.retry
        used_up = self.attempts >= MAX_ATTEMPTS
        return TaskState.FAILED if for_good or used_up else TaskState.SCHEDULED

    @property
    def is_ending(self) -> bool:
        return self.running and (self.ending is not None or self.run.daemons_to_renew)

    def cancel(self, now: int) -> None:
        if self.running:
            self._end("cancel", Outcome.CANCELLED)
        elif self.state not in {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED}:
            self.state, self.finished = TaskState.CANCELLED, now

    def hold(self) -> None:
        if self.running:
            self._end("hold", Outcome.HELD)
        elif self.state in {TaskState.SCHEDULED, TaskState.READY}:
            self.state = TaskState.HELD

    def _end(self, intent: str, ending: Outcome) -> None:
        if self._outcome() is Outcome.SUCCEEDED:
            return
        self.intent = intent
        if self.run.exit_code is None:
            self.ending = self.ending or ending

    def retry(self) -> None:
        if self.is_ending:
            if self._outcome() is not Outcome.SUCCEEDED:
                self.intent = "retry"
        elif self.state in {TaskState.FAILED, TaskState.CANCELLED, TaskState.HELD}:
            self.state, self.finished = TaskState.READY, None
            self.attempts = self.deferrals = self.orphans = 0

    def release(self) -> None:
        if self.state is TaskState.HELD and self.attempts < MAX_ATTEMPTS:
            self.state = TaskState.READY
        elif self.is_ending and self._may_be_released():
            self.intent = "release"

    def _may_be_released(self) -> bool:
        would_be = self._ahead(self.intent), self._ahead("release")
        return would_be == (TaskState.HELD, TaskState.READY)

    def _ahead(self, intent: str | None) -> TaskState:
        """Return the state that it would have if its run were settled now with an intent."""
        twin = deepcopy(self)
        twin.intent = intent
        twin.settle(0)
        return twin.state


def same_words(one: Declaration, other: Declaration) -> bool:
    """Return whether two declarations are equal but for their locks."""
    return replace(one, lock="") == replace(other, lock="")
