"""Several daemons on one server work off many tasks; the workers themselves watch the limits."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from tests.e2e.helpers import submit_all
from tests.e2e.world import Daemon, World
from tests.eventually import eventually
from tests.postgres import Postgres

DAEMONS = 4
SLOTS = 4

#: Tasks of the queue `few` that run at once on a node.
FEW = 2

#: Tasks of the queue `rare` that run at once on all nodes.
RARE = 3

#: The queues of the tasks, in turn.
QUEUES = ("few", "default", "rare", "default")

#: A worker leaves a file for its task, which none may find. It stands in a directory of its node,
#: and of its queue there, while it runs, and counts who else does.
#: It needs two other programs alone.
WORKER = """\
set -C
true > "$0/tasks/$DISPATCHER_TASK_ID" || exec touch "$0/twice/$DISPATCHER_TASK_ID"
mine="$DISPATCHER_STATE_DIR/../inside"
true > "$mine/all/$DISPATCHER_TASK_ID"
true > "$mine/$DISPATCHER_QUEUE/$DISPATCHER_TASK_ID"
set -- "$mine/all/"*
[ $# -le 4 ] || echo "$# on a node" >> "$0/over"
set -- "$mine/few/"*
[ $# -le 2 ] || echo "$# of few on a node" >> "$0/over"
true > "$0/queues/$DISPATCHER_QUEUE/$DISPATCHER_TASK_ID"
set -- "$0/queues/rare/"*
[ $# -le 3 ] || echo "$# of rare" >> "$0/over"
sleep 0.1
rm "$0/queues/$DISPATCHER_QUEUE/$DISPATCHER_TASK_ID" \\
    "$mine/all/$DISPATCHER_TASK_ID" "$mine/$DISPATCHER_QUEUE/$DISPATCHER_TASK_ID"
"""


@dataclass(frozen=True)
class Run:
    task: int
    outcome: str
    node: str
    queue: str
    began: int
    ended: int


class Crowd:
    """The worlds of the daemons, and what their workers leave."""

    def __init__(self, worlds: Sequence[World], directory: Path, server: Postgres, schema: str):
        self.worlds = worlds
        self.directory = directory
        self._server, self._schema = server, schema
        for name in ("tasks", "twice", *(f"queues/{queue}" for queue in QUEUES)):
            (directory / name).mkdir(parents=True, exist_ok=True)
        for world in worlds:
            for name in ("all", *QUEUES):
                (world.directory / "inside" / name).mkdir(parents=True, exist_ok=True)
            world.configure(
                store={"url": server.url(), "schema": schema},
                node={"slots": SLOTS},
                logs={"level": "info"},
                **{
                    "queues.few": {"concurrency": FEW},
                    "queues.rare": {"global_concurrency": RARE},
                },
            )

    def work_off(self, tasks: int) -> list[Daemon]:
        """Let all daemons work off so many tasks, each in the next of the queues."""
        command = ["sh", "-c", WORKER, str(self.directory)]
        queues = islice(cycle(QUEUES), tasks)
        lines = [{"command": command, "queue": queue} for queue in queues]
        with ExitStack() as stack:
            daemons = [stack.enter_context(world.daemon(alone=False)) for world in self.worlds]
            submit_all(self.worlds[0], *lines)
            eventually(lambda: self._expect_finished(tasks), patience=60 + tasks / 10, every=0.5)
        return daemons

    def _expect_finished(self, tasks: int) -> None:
        ((finished,),) = self._server.sql(
            f"SELECT count(*) FROM {self._schema}.tasks WHERE finished_at IS NOT NULL"
        )
        assert tasks == finished

    def runs(self) -> list[Run]:
        rows = self._server.sql(
            "SELECT task_id, outcome, node, queue, runs.started_at, runs.ended_at"
            f" FROM {self._schema}.runs JOIN {self._schema}.tasks ON tasks.id = task_id"
        )
        return [Run(*row) for row in rows]


def most_at_once(runs: Sequence[Run]) -> int:
    """Return how many of these runs there were at the fullest instant, by their stamps."""
    changes = sorted(change for run in runs for change in ((run.began, 1), (run.ended, -1)))
    at_once = most = 0
    for _, change in changes:  # at one instant those that end come first
        at_once += change
        most = max(most, at_once)
    return most


def judge(crowd: Crowd, daemons: Sequence[Daemon], tasks: int, server: Postgres) -> Counter[str]:
    """Fail for a task that ran twice, a limit that was exceeded or a conflict on the server.

    Return how many runs each node had.
    """
    runs = crowd.runs()
    assert [] == list((crowd.directory / "twice").iterdir())
    assert not (over := crowd.directory / "over").exists(), over.read_text()
    assert tasks == len(list((crowd.directory / "tasks").iterdir()))
    assert {"succeeded": tasks} == Counter(run.outcome for run in runs)
    assert tasks == len({run.task for run in runs})
    assert RARE >= most_at_once([run for run in runs if run.queue == "rare"])
    nodes = Counter(run.node for run in runs)
    for node in nodes:
        here = [run for run in runs if run.node == node]
        assert SLOTS >= most_at_once(here)
        assert FEW >= most_at_once([run for run in here if run.queue == "few"])
    for daemon in daemons:
        refused = [*daemon.events("store.refused"), *daemon.events("store.unavailable")]
        assert not refused, refused
    log = (server.directory / "log").read_text(errors="replace")
    assert not [line for line in log.splitlines() if "deadlock" in line or "serialize" in line]
    return nodes


@contextmanager
def crowd_on(server: Postgres, directory: Path, bytecode: Path, schema: str) -> Iterator[Crowd]:
    with ExitStack() as stack:
        worlds = []
        for number in range(DAEMONS):
            (own := directory / f"host-{number}").mkdir()
            worlds.append(stack.enter_context(closing(World(own, bytecode))))
        (files := directory / "files").mkdir()
        try:
            yield Crowd(worlds, files, server, schema)
        finally:
            server.sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
