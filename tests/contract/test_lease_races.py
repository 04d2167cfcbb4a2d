"""Beats against the reaper at the boundary, and whatever else is proved by trying often."""

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.execution import Claim
from dispatcher.model import Liveness, Outcome, TaskState
from dispatcher.store.api import Store
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from dispatcher.wire import Exit
from dispatcher.words import Beat, Refused, Renewed
from tests.contract.helpers import NODE, NOW, TTL, OneByOne, later, settlement

BEATER = Path(__file__).with_name("beater.py")
LATE = later(TTL + 1)
ROUNDS = 200
LOST = {"outcome": Outcome.LOST, "state": TaskState.READY, "attempts_used": 1}

#: What a beat may be answered when the reaper was first.
REAPED = {"not_owner", "not_running", "superseded"}

Answers = Sequence[str]


def reap(store: Store) -> None:
    """End what has expired, as one tick does; then settle it, as a later one does."""
    with store.transaction():
        found = store.expired(NODE, limit=9, now=LATE)
        for run in found:
            assert store.begin_ending(run.run_uid, Outcome.LOST, "silent", now=LATE)
    for run in found:
        with store.transaction():
            assert store.settle([settlement(run, **LOST)], now=LATE)


def judge(store: OneByOne, claim: Claim, answers: Answers) -> bool:
    """Check that either the beats won or the reaper, never a mix; return whether the beats won."""
    (run,) = store.runs(claim.task_id)
    state = store.task(claim.task_id).state
    if set(answers) == {"ok"}:
        assert (TaskState.RUNNING, None) == (state, run.outcome)
        assert (LATE + TTL, LATE) == (run.lease_expires_at, run.last_heartbeat_at)
        return True
    assert set(answers) <= REAPED
    assert (TaskState.READY, Outcome.LOST) == (state, run.outcome)
    assert (later(TTL), None) == (run.lease_expires_at, run.last_heartbeat_at)
    return False


def race(
    store: OneByOne, beats: Callable[[Claim, random.Random, Callable[[], None]], Answers], n: int
) -> None:
    """Race n times over one expired lease, begun at moments a little apart."""
    rng = random.Random(8)
    won = 0
    for number in range(n):
        claim = store.claimed(queue=f"round-{number}", liveness=Liveness.WORKER)
        dawdle = rng.randrange(0, 50_000)

        def reaper(dawdle: int = dawdle) -> None:
            for _ in range(dawdle):
                pass
            reap(store.raw)

        won += judge(store, claim, beats(claim, rng, reaper))
        store.end(claim)
    assert 0 < won < n, "one side always won: no race was run"


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Let threads take turns far more often than each 5 ms: a race is won in less."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_threads")
def test_ac8_r08_beats_in_threads_race_the_reaper(
    store: OneByOne, url: str, tmp_path: Path
) -> None:
    beaters = 3

    def opened() -> SqlStore:
        mine = open_store(url, state_dir=tmp_path / "state", patience=20)
        assert isinstance(mine, SqlStore)
        return mine

    own = threading.local()

    def beat(claim: Claim, dawdle: int, start: threading.Barrier) -> str:
        if not hasattr(own, "store"):
            own.store = opened()
        start.wait()
        for _ in range(dawdle):
            pass
        with own.store.transaction():
            answer = own.store.heartbeat([Beat(task_id=claim.task_id, lock=claim.lock)], now=LATE)[
                0
            ]
        return answer.error if isinstance(answer, Refused) else "ok"

    with ThreadPoolExecutor(beaters) as pool:

        def beats(claim: Claim, rng: random.Random, reaper: Callable[[], None]) -> Answers:
            start = threading.Barrier(beaters + 1)
            futures = [
                pool.submit(beat, claim, rng.randrange(0, 40_000), start) for _ in range(beaters)
            ]
            start.wait()
            reaper()
            return [answer.result() for answer in futures]

        race(store, beats, ROUNDS)
        closed = threading.Barrier(beaters)
        for _ in range(beaters):
            pool.submit(lambda: (closed.wait(), own.store.close()))


@contextmanager
def beating(url: str, state_dir: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(BEATER), url, str(state_dir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


def test_ac8_r08_beats_of_other_processes_race_the_reaper(
    store: OneByOne, url: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        beaters = [stack.enter_context(beating(url, tmp_path / "state")) for _ in range(2)]

        def beats(claim: Claim, rng: random.Random, reaper: Callable[[], None]) -> Answers:
            for beater in beaters:
                request = {
                    "task_id": claim.task_id,
                    "lock": claim.lock,
                    "now": LATE,
                    "dawdle": rng.randrange(0, 40_000),
                }
                beater.stdin.write(json.dumps(request) + "\n")
                beater.stdin.flush()
            reaper()
            return [beater.stdout.readline().strip() for beater in beaters]

        race(store, beats, ROUNDS // 2)


# Any beat at all ---------------------------------------------------------------------------

STATES = st.sampled_from(
    ["running", "ending", "declared", "exited", "ready", "succeeded", "held", "superseded"]
)
LOCKS = st.sampled_from(["own", "own", "own", "cut", "longer", "upper", "empty", "another's"])
EXPIRIES = st.one_of(
    st.sampled_from([1, NOW - 1, NOW, NOW + 1, LATE, LATE + 10 * TTL]), st.integers(1, 2**40)
)


@given(state=STATES, kind=LOCKS, expiry=EXPIRIES, attempts=st.integers(0, 2))
@settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_ac6_a_beat_is_ok_exactly_when_the_expiry_moved(
    state: str, kind: str, expiry: int, attempts: int
) -> None:
    """For any state, lock, attempt and expiry; and a refused one writes nothing at all."""
    raw = open_store("sqlite://", state_dir=Path("/nonexistent"), patience=0)
    with closing(raw):
        store = OneByOne(raw)
        claim = _brought_into(store, state, attempts)
        other = store.claimed(queue="other", liveness=Liveness.WORKER)
        lock = {
            "own": claim.lock,
            "cut": claim.lock[:-1],
            "longer": claim.lock + "0",
            "upper": claim.lock.upper() + "A",
            "empty": "",
            "another's": other.lock,
        }[kind]
        with raw.transaction():
            rewind = "UPDATE runs SET lease_expires_at = :expiry WHERE outcome IS NULL"
            raw.engine.change(rewind, {"expiry": expiry})
        before = _rows(store)

        answer = store.heartbeat([Beat(task_id=claim.task_id, lock=lock)], now=LATE)[0]

        after = store.lease("lease_expires_at", claim.task_id)
        ok = isinstance(answer, Renewed)
        assert ok == (kind == "own" and state in {"running", "declared", "exited"})
        assert ok == (before != _rows(store))
        if ok:
            assert answer == Renewed(after)
            assert after == LATE + TTL


def _brought_into(store: OneByOne, state: str, attempts: int) -> Claim:
    """Bring a task into a state; return the claim whose lock is tried."""
    store.new(queue="own", liveness=Liveness.WORKER)
    for number in range(attempts):
        (earlier,) = store.take("own")
        store.end(earlier, **{**LOST, "attempts_used": number + 1})
    (claim,) = store.take("own")
    if state == "ending":
        store.begin_ending(claim.run_uid, Outcome.CANCELLED, "operator", now=NOW)
    elif state == "declared":
        with store.raw.transaction():
            declared = "UPDATE runs SET declared = 'succeed' WHERE uid = :uid"
            store.raw.engine.change(declared, {"uid": claim.run_uid})
    elif state == "exited":
        store.record_leader_exits({claim.run_uid: Exit(at=0.0, exit_code=0)}, now=NOW)
    elif state == "superseded":
        store.end(claim, **LOST)
        store.take("own")
    elif state != "running":
        store.end(claim, state=TaskState(state))
    return claim


def _rows(store: OneByOne) -> list[object]:
    with store.raw.transaction():
        return [store.sql(f"SELECT * FROM {table} ORDER BY id") for table in ("tasks", "runs")]
