"""The plays on the stage: a few tasks that meet everything a run can meet."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dispatcher import times
from dispatcher.model import TaskState
from dispatcher.supervisor.stop import Stop
from tests.crash import workers
from tests.crash.declaring import Declaring
from tests.crash.mortal import Fate, Point
from tests.crash.parts import Part, Play
from tests.crash.stage import Stage


class Work:
    """Exit 0, 7, 7 and again, 75; no such program; a cancel; a process that escapes."""

    parts = (
        Part("exits-0", TaskState.SUCCEEDED, "succeeded"),
        Part("exits-7", TaskState.FAILED, "failed"),
        Part("exits-7-at-first", TaskState.SUCCEEDED, "failed succeeded"),
        Part("defers-at-first", TaskState.SUCCEEDED, "(deferred )+succeeded"),
        Part("no-program", TaskState.FAILED, "spawn_failed"),
        # Cancelled while it waits to run again, no run of it is cancelled.
        Part("cancelled", TaskState.CANCELLED, "(cancelled)?", endless=True),
        Part("escapes", TaskState.SUCCEEDED, "succeeded"),
    )

    def __init__(self) -> None:
        self._cancelled = False

    def begin(self, stage: Stage) -> None:
        stage.submit(workers.EXITS_0)
        stage.submit(workers.EXITS_7)
        stage.submit(workers.EXITS_7_AT_FIRST, attempts=2)
        stage.submit(workers.DEFERS_AT_FIRST)
        stage.submit_command("/no/such/program")
        self._to_cancel = stage.submit(workers.STAYS)
        stage.submit(workers.ESCAPES)

    def operate(self, stage: Stage) -> bool:
        # The one run that is long enough for its start to be written by itself.
        if not self._cancelled and any(run.pid for run in stage.runs(self._to_cancel)):
            self._cancelled = True
            stage.cancel(self._to_cancel)
        return not self._cancelled


class Interrupted:
    """A task runs while daemon or executor gets SIGTERM; it is released, and then it may end."""

    parts = (
        Part("exits-0", TaskState.SUCCEEDED, "(released )*succeeded"),
        Part("released", TaskState.SUCCEEDED, "(released )*succeeded", endless=True),
    )

    def __init__(self, whom: str) -> None:
        self._whom = whom
        self._interrupted: object = None

    def begin(self, stage: Stage) -> None:
        self._gate = stage.directory / "gate"
        stage.submit(workers.EXITS_0)
        self._released = stage.submit(workers.STAYS_UNTIL_ALLOWED, str(self._gate))

    def operate(self, stage: Stage) -> bool:
        if self._gate.exists():
            return False
        if not stage.diary(self._released).started():
            return True
        goes = ("daemon", "executor") if self._whom == "daemon" else ("executor",)
        interrupted = getattr(stage, self._whom)
        if all(stage.has_left[name] for name in goes):
            self._gate.touch()
            for name in goes:
                stage.has_left[name] = False
        elif interrupted is not None and interrupted is not self._interrupted:
            self._interrupted = interrupted
            self._interrupt(stage)
        return True

    def _interrupt(self, stage: Stage) -> None:
        if self._whom == "daemon":
            stage.daemon.supervisor.stop(Stop.DRAIN, at=times.instant())
            stage.step_daemon()
        else:
            stage.executor.executor.shut_down()
            stage.step_executor()


PLAYS = {
    "work": Work,
    "drain": lambda: Interrupted("daemon"),
    "shutdown": lambda: Interrupted("executor"),
    "declaring": Declaring,
}


@dataclass(frozen=True)
class Cast:
    """The process that dies, those that die with it, and when they are started again."""

    mortal: str
    together: bool = False
    """The other one dies at the same instant."""
    lingers: bool = False
    """The executor is alone until all but the endless runs are over."""


CASTS = {
    "daemon": Cast("daemon"),
    "daemon-lingering": Cast("daemon", lingers=True),
    "executor": Cast("executor"),
    "both": Cast("daemon", together=True),
}


@dataclass
class Played:
    """The state after a play, for the judges."""

    stage: Stage
    parts: tuple[Part, ...]
    cast: Cast
    fates: Mapping[str, Fate] = field(default_factory=dict)


def perform(name: str, stage: Stage, cast: Cast, point: Point | None = None) -> Played:
    """Play to the end: each process that dies is started again."""
    play: Play = PLAYS[name]()
    fates = {who: stage.fate_of(who) for who in stage.has_left}
    if point is not None:
        fates[cast.mortal] = Fate(point)
    stage.die_together = cast.together
    play.begin(stage)
    stage.start_executor(fates["executor"])
    stage.start_daemon(fates["daemon"])
    while play.operate(stage) or not stage.is_over:
        if cast.lingers and stage.daemon is None and not stage.has_left["daemon"]:
            linger(stage, endless={i for i, part in enumerate(play.parts, 1) if part.endless})
        stage.revive()
        stage.turn()
    return Played(stage, play.parts, cast, fates)


def linger(stage: Stage, *, endless: set[int]) -> None:
    """Let the executor be alone while it has something to do but wait for endless tasks."""
    left_alone = {run.uid for task_id in endless for run in stage.runs(task_id)}
    stage.until(
        lambda: (
            stage.executor is None
            or not (
                stage.executor.has_news
                or any(
                    run.exit is None
                    for uid, run in stage.executor.runs.items()
                    if uid not in left_alone
                )
            )
        )
    )
