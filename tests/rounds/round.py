"""One round: workers and faults by a seed, and what there is when all of it is over."""

import os
import random
import signal
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pysqlite3 import dbapi2 as sqlite3

from dispatcher import times
from tests.e2e.helpers import stored, submit_all
from tests.e2e.world import World
from tests.eventually import eventually
from tests.rounds import cast, faults, left
from tests.rounds.actor import lines, lives
from tests.rounds.faults import Fault
from tests.rounds.node import Identity, Node, send

#: Seconds for what must come some time, however slow the host is.
PATIENCE = 180.0

#: Seconds between two looks at the store.
LOOK_EVERY = 0.25

OVER = {"succeeded", "failed", "cancelled", "held"}

_SETTINGS: dict[str, dict[str, object]] = {
    "node": {"slots": 24},
    "daemon": {"poll": "200ms", "drain_timeout": "0s"},
    "retry": {"backoff_min": "50ms", "backoff_max": "200ms", "cooldown": "100ms"},
}

#: In every second round; with the 2 s that the executor adds, shorter than the longest stop.
ABSENCE_LIMIT = "1s"

_TASKS = "SELECT id, state, reason FROM tasks ORDER BY id"
_RUNS = (
    "SELECT task_id, fence, outcome, exit_code, signal, claimed_at, ended_at, lease_expires_at"
    " FROM runs ORDER BY task_id, fence"
)


@dataclass
class Seen:
    """The actions of a round, and the state afterwards."""

    absence_limit: bool
    faults: list[Fault]
    workers_killed: set[Identity] = field(default_factory=set)
    executors_killed: list[int] = field(default_factory=list)
    kills: int = 0
    stops: int = 0
    tasks: list[tuple[Any, ...]] = field(default_factory=list)
    runs: list[tuple[Any, ...]] = field(default_factory=list)
    files: dict[str, list[list[str]]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    until_normal: list[float] = field(default_factory=list)
    integrity: str = ""
    began_at: float = 0.0
    """When this host started, in the store's time."""


class Round:
    """A round in a world of its own."""

    def __init__(self, seed: int, world: World, node: Node) -> None:
        self._chance = random.Random(seed)
        absence_limit = self._chance.random() < 0.5
        self.seen = Seen(absence_limit, list(faults.deal(self._chance)))
        self._world = world
        self._node = node
        self._token = f"round-{seed}-{os.getpid()}-"
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._looks_at = 0.0
        limit = {"absence_limit": ABSENCE_LIMIT} if absence_limit else {}
        world.configure(**_SETTINGS, executor=limit)

    def play(self) -> Seen:
        """Let it take place, and look at what is left."""
        seen, node = self.seen, self._node
        submit_all(self._world, *cast.deal(self._chance, self._world.directory, self._token))
        node.start()
        self._until(lambda: self._file("births"))
        for fault in seen.faults:
            self._later(fault.at, self._befall, fault)
        self._until(self._is_over)
        # Before anybody stops: a run that is settled has nobody left.
        seen.left = self._left()
        node.stop()
        self._until(lambda: node.daemon is None or node.daemon.process.poll() is not None)
        with suppress(AssertionError):
            eventually(lambda: expect(not node.family.living()))
        seen.left += [
            name for pid in node.family.living() if (name := left.name(pid)) not in seen.left
        ]
        self._read()
        return seen

    def unsettled(self) -> list[str]:
        """Return the tasks that are not over, and why."""
        tasks = stored(self._world, _TASKS)
        return [f"task {t} is {state}: {reason}" for t, state, reason in tasks if state not in OVER]

    # What happens -------------------------------------------------------------------------

    def _befall(self, fault: Fault) -> None:
        daemon, executor = fault.target in {"daemon", "both"}, fault.target in {"executor", "both"}
        if not daemon and not executor:
            self._befall_worker(fault)
        elif fault.kills:
            self.seen.kills += self._node.kill(daemon=daemon, executor=executor)
            if self._node.daemon is None:
                self._later(fault.seconds, self._start)
        else:
            found = self._node.executor() if executor else None
            process = self._node.daemon.process if daemon and self._node.daemon else None
            if process is not None:
                process.send_signal(signal.SIGSTOP)
                self._later(fault.seconds, process.send_signal, signal.SIGCONT)
            self._stop(found, fault.seconds)
            self.seen.stops += found is not None or process is not None

    def _befall_worker(self, fault: Fault) -> None:
        workers = [
            (int(pid), int(ticks))
            for _, _, role, pid, ticks, _ in self._file("births")
            if role == fault.target and lives(int(pid), int(ticks))
        ]
        if not workers:
            if not self._is_settled():
                self._later(LOOK_EVERY, self._befall_worker, fault)
            return
        worker = self._chance.choice(workers)
        if fault.kills:
            self.seen.workers_killed.add(worker)
            self.seen.kills += send(worker, signal.SIGKILL)
        else:
            self._stop(worker, fault.seconds)
            self.seen.stops += 1

    def _stop(self, process: Identity | None, seconds: float) -> None:
        if process is not None and send(process, signal.SIGSTOP):
            self._later(seconds, send, process, signal.SIGCONT)

    def _start(self) -> None:
        if self._node.daemon is None:
            self._node.start()

    def _later(self, seconds: float, act: Callable[..., object], *arguments: Any) -> None:
        self._due.append((times.instant() + seconds, lambda: act(*arguments)))

    # Waiting, and looking ------------------------------------------------------------------

    def _until(self, condition: Callable[[], object]) -> None:
        """Wait for something; meanwhile do what is due, and be the init that reaps."""

        def probe() -> None:
            now = times.instant()
            due = [act for at, act in self._due if at <= now]
            self._due = [(at, act) for at, act in self._due if at > now]
            for act in due:
                act()
            self._node.family.living()
            expect(condition())

        eventually(probe, patience=PATIENCE)

    def _is_over(self) -> bool:
        if self._due or times.instant() < self._looks_at:
            return False
        self._node.expect_alive()
        self._looks_at = times.instant() + LOOK_EVERY
        return self._is_settled()

    def _is_settled(self) -> bool:
        with suppress(AssertionError):  # the daemon has it
            return {state for _, state, _ in stored(self._world, _TASKS)} <= OVER
        return False

    def _left(self) -> list[str]:
        uids = [uid for (uid,) in stored(self._world, "SELECT uid FROM runs")]
        births = [(int(words[3]), int(words[4])) for words in self._file("births")]
        return left.behind(self._token, uids, births)

    def _read(self) -> None:
        seen = self.seen
        seen.tasks, seen.runs = stored(self._world, _TASKS), stored(self._world, _RUNS)
        seen.files = {name: self._file(name) for name in ("births", "stamps", "ends", "twins")}
        seen.began_at = times.wall_clock() - 1000 * times.instant()
        seen.executors_killed = self._node.executors_killed
        seen.until_normal = self._node.until_normal()
        with closing(sqlite3.connect(self._world.state_dir / "tasks.db")) as store:
            (seen.integrity,) = store.execute("PRAGMA integrity_check").fetchone()

    def _file(self, name: str) -> list[list[str]]:
        return lines(Path(self._world.directory / name))


def expect(condition: object) -> None:
    assert condition
