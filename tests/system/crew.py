"""Twenty workers of mixed kinds on a booted host, and the proof that none was lost or ran twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.eventually import eventually
from tests.system.booted import Machine

PLACE = "/var/lib/crew"

#: Works until there is a file `go`. Its lock is held by whatever lives of its run, so that a second
#: run of its task finds it held: then it was a twin.
_PROGRAM = """\
import fcntl, os, signal, socket, sys, time
from worker_stub import Worker
kind, task, fence = sys.argv[1], os.environ["DISPATCHER_TASK_ID"], os.environ["DISPATCHER_FENCE"]
os.chdir("/var/lib/crew")

def note(word):
    ledger = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(ledger, f"{word} {task} {fence}\\n".encode())
    os.close(ledger)

lock = os.open(f"{task}.lock", os.O_RDWR | os.O_CREAT, 0o600)
os.set_inheritable(lock, True)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    note("twin")
if kind == "ignores":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if kind == "forks" and os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while not os.path.exists("go"):
            time.sleep(0.2)
    os._exit(0)
if kind == "beats":
    worker = Worker().__enter__()
if kind == "notifies":
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.connect(os.environ["NOTIFY_SOCKET"].replace("@", "\\0", 1))
    manager.send(b"READY=1")
note("born")
while not os.path.exists("go"):
    if kind == "notifies":
        manager.send(b"WATCHDOG=1\\nSTATUS=at work")
    if kind == "floods":
        os.write(1, b"All work and no play makes Jack a dull boy.\\n" * 2000)
    time.sleep(0.2)
note("done")
raise SystemExit(3 if kind == "fails" else 0)
"""

#: No lease ends by itself in a test: every settle has another reason.
_LEASE = {"liveness": "worker", "lease_ttl": "1h"}

#: How many there are of each kind, and the options of its submit.
KINDS: Mapping[str, tuple[int, Mapping[str, object]]] = {
    "sleeps": (5, {}),
    "beats": (4, _LEASE),
    "notifies": (4, _LEASE),
    "forks": (3, {}),
    "ignores": (2, {}),
    "fails": (1, {"max_attempts": 1}),
    "floods": (1, {}),
}

SIZE = sum(number for number, _ in KINDS.values())

#: Seconds that a run gets to end.
KILL_GRACE = 1

_CONFIGURATION = f"""
[node]
slots = {SIZE}
state_dir = "/var/lib/dispatcher"
runtime_dir = "/run/dispatcher"

[executor]
mode = "external"

[leases]
kill_grace = "{KILL_GRACE}s"

[retry]
max_orphans = 100

[output]
run_budget = "1MiB"
"""


@dataclass(frozen=True)
class Crew:
    """The tasks of the twenty, by their kinds, on the machine where they run."""

    machine: Machine
    kinds: dict[int, str]

    @classmethod
    def employ(cls, machine: Machine) -> Crew:
        """Install and start the service, and have all of them at work."""
        machine.run("dispatcher", "install-service")
        machine.path("/etc/dispatcher/dispatcher.toml").write_text(_CONFIGURATION)
        machine.run("install", "--directory", "--owner=dispatcher", PLACE)
        machine.path("/opt/crew.py").write_text(_PROGRAM)
        machine.systemctl("daemon-reload")
        machine.systemctl("enable", "--now", "dispatcher-executor", "dispatcher")
        kinds = [kind for kind, (number, _) in KINDS.items() for _ in range(number)]
        tasks = [{"command": ["python3", "/opt/crew.py", kind], **KINDS[kind][1]} for kind in kinds]
        machine.path("/opt/tasks").write_text("\n".join(map(json.dumps, tasks)))
        crew = cls(machine, dict(enumerate(kinds, start=1)))
        crew.dispatcher("submit", "--json", "--from", "/opt/tasks")
        crew.expect_at_work({1})
        return crew

    def dispatcher(self, *words: str) -> Any:
        printed = self.machine.run("dispatcher", *words, user="dispatcher").stdout
        return json.loads(printed) if printed.strip() else None

    def ledger(self, word: str) -> list[tuple[int, int]]:
        """Return the tasks that have written a word, each with its fence."""
        path = self.machine.path(f"{PLACE}/ledger")
        lines = path.read_text().splitlines() if path.exists() else []
        notes = (line.split() for line in lines)
        return [(int(task), int(fence)) for noted, task, fence in notes if noted == word]

    def last_fences(self) -> dict[int, int]:
        return dict(self.ledger("born"))

    def expect_at_work(self, fences: Iterable[int] | None = None) -> None:
        """Wait until the current run of each task works, with one of these fences; None: any."""

        def probe() -> None:
            tasks = {task["id"]: task for task in self.dispatcher("list", "--json", "--limit=100")}
            assert self.kinds.keys() == tasks.keys()
            assert {"running"} == {task["state"] for task in tasks.values()}
            born = self.last_fences()
            assert {task: one["fence"] for task, one in tasks.items()} == born
            assert fences is None or set(fences) >= set(born.values()), born

        eventually(probe, every=0.2)

    def runs(self) -> dict[int, list[dict[str, Any]]]:
        """Return the runs of each task, first to last."""
        return {task: self.dispatcher("show", str(task), "--json")["runs"] for task in self.kinds}

    def expect_outcomes(self, fits: Callable[[Sequence[str]], bool]) -> None:
        """Let all finish; none was lost, none ran twice, and what ended before fits."""
        self.machine.path(f"{PLACE}/go").touch()
        last = {
            task: "failed" if kind == "fails" else "succeeded" for task, kind in self.kinds.items()
        }

        def probe() -> None:
            tasks = self.dispatcher("list", "--json", "--limit=100")
            assert last == {task["id"]: task["state"] for task in tasks}

        eventually(probe, every=0.2)
        assert [] == self.ledger("twin")
        done = self.ledger("done")
        assert sorted(self.kinds) == sorted(task for task, _ in done)
        for task, runs in self.runs().items():
            assert [*range(1, len(runs) + 1)] == [run["fence"] for run in runs], (task, runs)
            assert (task, runs[-1]["fence"]) in done
            outcomes = [run["outcome"] for run in runs]
            assert last[task] == outcomes[-1], (task, outcomes)
            assert fits(outcomes[:-1]), (task, self.kinds[task], outcomes)
