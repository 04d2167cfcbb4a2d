"""Every way to beat is the same operation.

One daemon has tasks in every state that a beat can meet. `ENTRIES` lists the ways; a new
one is two lines there.
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pysqlite3 import dbapi2 as sqlite3

from dispatcher.store.open import open_store
from dispatcher.words import Beat, Renewed
from tests.e2e.helpers import stored
from tests.e2e.world import DISPATCHER, World
from tests.eventually import PATIENCE, eventually
from worker_stub import Refused, Worker
from worker_stub.daemon_socket import Unreachable

#: Seconds; nobody beats for the tasks that stand by, so longer than all these tests.
TTL = 300.0

#: The advice to a refused worker, and its exit code.
ADVICE, EXIT = "exit 79", 79


@dataclass(frozen=True)
class BeatResult:
    """The result of one beat: an error's name, or none; and its message."""

    error: str | None
    message: str = ""


Entry = Callable[[World, int, str], BeatResult]


def by_store(world: World, task_id: int, lock: str) -> BeatResult:
    url = f"sqlite://{world.state_dir}/tasks.db"
    mine = open_store(url, state_dir=world.state_dir, patience=PATIENCE)
    with closing(mine) as store, store.transaction() as now:
        answer = store.heartbeat([Beat(task_id=task_id, lock=lock)], now=now)[0]
    return BeatResult(None) if isinstance(answer, Renewed) else BeatResult(answer.error, ADVICE)


def by_socket(world: World, task_id: int, lock: str) -> BeatResult:
    """Send a beat as a program without the SDK does: again while the store is busy."""

    def probe() -> BeatResult:
        answer = sent_by_socket(world, task_id, lock)
        assert answer.error != "store_unavailable", answer
        return answer

    return eventually(probe)


def sent_by_socket(world: World, task_id: int, lock: str) -> BeatResult:
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(PATIENCE)
        try:
            line.connect(str(world.runtime_dir / "worker.sock"))
        except OSError:
            return BeatResult("unreachable")
        line.sendall(json.dumps({"op": "heartbeat", "task_id": task_id, "lock": lock}).encode())
        line.sendall(b"\n")
        answer = json.loads(line.makefile().readline())
    return BeatResult(None) if answer["ok"] else BeatResult(answer["error"], answer["message"])


def _claim(world: World, task_id: int, lock: str) -> dict[str, str]:
    """Return what a worker finds in its environment."""
    return {
        "DISPATCHER_TASK_ID": str(task_id),
        "DISPATCHER_CLAIM_LOCK": lock,
        "DISPATCHER_SOCKET": str(world.runtime_dir / "worker.sock"),
        "DISPATCHER_LEASE_TTL": f"{TTL:g}",
        "DISPATCHER_HEARTBEAT_INTERVAL": f"{TTL / 3:.3f}",
    }


def by_worker(world: World, task_id: int, lock: str) -> BeatResult:
    worker = Worker(beats="calls", environ=_claim(world, task_id, lock))
    try:
        worker.heartbeat()
    except Refused as refusal:
        return BeatResult(refusal.error if refusal.lost else "not lost", refusal.message)
    except Unreachable:
        return BeatResult("unreachable")
    finally:
        worker.__exit__(None, None, None)
    return BeatResult(None)


def by_verb(world: World, task_id: int, lock: str) -> BeatResult:
    """A shell script knows each by the exit code alone."""
    done = subprocess.run(
        [sys.executable, "-m", "worker_stub", "heartbeat"],
        env={**world.env, **_claim(world, task_id, lock)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        assert 0 < float(done.stdout) <= TTL
        return BeatResult(None)
    assert "" == done.stdout
    if done.returncode == 69:
        return BeatResult("unreachable")
    if done.returncode == 2:
        raise RuntimeError(done.stderr)
    assert EXIT == done.returncode
    _, error, message = done.stderr.split(": ", 2)
    return BeatResult(error, message)


def by_cli(world: World, task_id: int, lock: str) -> BeatResult:
    done = subprocess.run(
        [DISPATCHER, "heartbeat", "--task", str(task_id), "--lock", lock, "--json"],
        env=world.env,
        capture_output=True,
        text=True,
        check=False,
    )
    answer = json.loads(done.stdout)
    assert (0 if answer["ok"] else EXIT) == done.returncode
    return BeatResult(None) if answer["ok"] else BeatResult(answer["error"], answer["message"])


ENTRIES: Sequence[Entry] = (
    by_store,
    by_socket,
    by_worker,
    by_verb,
    by_cli,
)


@dataclass(frozen=True)
class Claims:
    """A daemon's tasks: one that runs for the second time, and one that is over."""

    world: World
    running: int
    lock: str
    earlier_lock: str
    other_lock: str
    done: int
    done_lock: str


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory, bytecode: Path) -> Iterator[Claims]:
    world = World(tmp_path_factory.mktemp("entries"), bytecode)
    world.configure(daemon={"drain_timeout": "50ms"})
    options = {"liveness": "worker", "lease_ttl": f"{TTL:g}s"}
    try:
        with world.daemon():
            second = "sh", "-c", "[ $DISPATCHER_FENCE = 2 ] || exit 1; exec sleep 99"
            running = world.submit(*second, **options)
            other = world.submit("sleep", "99", **options)
            done = world.submit("true", **options)
            world.until(done, "succeeded")
            world.until(other, "running")
            eventually(lambda: _require(2 == len(_locks(world, running))))
            eventually(lambda: _require(world.show(running)["runs"][1]["started_at"]))
            yield Claims(
                world,
                running=running,
                lock=_locks(world, running)[1],
                earlier_lock=_locks(world, running)[0],
                other_lock=_locks(world, other)[0],
                done=done,
                done_lock=_locks(world, done)[0],
            )
    finally:
        world.close()


def _require(truth: object) -> None:
    assert truth


def _locks(world: World, task_id: int) -> list[str]:
    query = f"SELECT lock FROM runs WHERE task_id = {task_id} ORDER BY fence"
    return [lock for (lock,) in stored(world, query)]


def _everything(world: World) -> list[Any]:
    return [stored(world, f"SELECT * FROM {table} ORDER BY id") for table in ("tasks", "runs")]


def _left(claims: Claims) -> float:
    """Return the seconds that the running task's lease still lasts."""
    query = (
        f"SELECT lease_expires_at FROM runs WHERE task_id = {claims.running} AND outcome IS NULL"
    )
    ((expiry,),) = stored(claims.world, query)
    return float(expiry) / 1000 - time.time()


@pytest.mark.parametrize("entry", ENTRIES)
def test_ac1_ac7_ac12_r01_a_beat_moves_the_expiry_and_stamps_life(
    claims: Claims, entry: Entry
) -> None:
    """By lock from the environment and by lock passed along: both branches."""
    with closing(sqlite3.connect(claims.world.state_dir / "tasks.db")) as store, store:
        # Not into the past: the reaper would be right to take it.
        store.execute(
            "UPDATE runs SET last_heartbeat_at = NULL,"
            " lease_expires_at = lease_expires_at - 200000 WHERE task_id = ?",
            (claims.running,),
        )
    before = _left(claims)

    result = entry(claims.world, claims.running, claims.lock)

    query = (
        f"SELECT last_heartbeat_at FROM runs WHERE task_id = {claims.running} AND outcome IS NULL"
    )
    assert BeatResult(None) == result
    assert before < TTL / 2 < _left(claims) <= TTL
    assert time.time() - 10 < stored(claims.world, query)[0][0] / 1000 < time.time() + 1


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    ("error", "wrong"),
    [
        ("not_owner", lambda c: (c.running, c.lock[:-1])),
        ("not_owner", lambda c: (c.running, c.lock + "0")),
        ("not_owner", lambda c: (c.running, ("0" if c.lock[0] != "0" else "1") + c.lock[1:])),
        ("not_owner", lambda c: (c.running, c.lock.upper() + "A")),
        ("not_owner", lambda c: (c.running, c.other_lock)),
        ("superseded", lambda c: (c.running, c.earlier_lock)),
        ("not_running", lambda c: (c.done, c.done_lock)),
        ("unknown_task", lambda c: (c.done + 1000, c.lock)),
    ],
)
def test_ac2_ac4_ac7_r02_r03_r11_a_refused_beat_gets_the_reason_and_writes_nothing(
    claims: Claims, entry: Entry, error: str, wrong: Callable[[Claims], tuple[int, str]]
) -> None:
    before = _everything(claims.world)

    result = entry(claims.world, *wrong(claims))

    assert error == result.error
    assert ADVICE in result.message
    assert before == _everything(claims.world)


@pytest.mark.parametrize("entry", [by_socket, by_worker, by_verb])
def test_r02_a_beat_that_nobody_reads_is_never_ok(
    claims: Claims, entry: Entry, tmp_path: Path, bytecode: Path
) -> None:
    deaf = World(tmp_path, bytecode)
    try:
        assert BeatResult("unreachable") == entry(deaf, claims.running, claims.lock)
    finally:
        deaf.close()


@pytest.mark.parametrize("entry", [by_worker, by_verb])
def test_ac3_ac12_a_worker_without_a_lock_gets_the_name_of_the_missing_variable(
    claims: Claims, entry: Entry
) -> None:
    """Never a silent ok, and never somebody's default identity in its place."""
    with pytest.raises(RuntimeError, match="DISPATCHER_CLAIM_LOCK is not set"):
        entry(claims.world, claims.running, "")
