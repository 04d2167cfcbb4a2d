import json
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dispatcher.model import Submitted
from dispatcher.store.open import open_store
from tests.contract.helpers import NOW, OneByOne, new_task

CLAIMER = Path(__file__).with_name("claimer.py")
CLAIMERS = 8
TASKS = 200
SUBMITTERS = 50


def test_r58_each_task_is_claimed_by_one_of_eight_processes(
    store: OneByOne, url: str, tmp_path: Path
) -> None:
    with store.raw.transaction():
        ids = [store.raw.submit([new_task()], now=NOW)[0].task_id for _ in range(TASKS)]
    command = [sys.executable, str(CLAIMER), url, str(tmp_path / "state")]
    claimers = [
        subprocess.Popen(
            [*command, f"node-{n}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for n in range(CLAIMERS)
    ]
    assert [claimer.stdout.readline() for claimer in claimers] == ["ready\n"] * CLAIMERS
    for claimer in claimers:
        claimer.stdin.write("go\n")
        claimer.stdin.flush()
    claimed = [claim for claimer in claimers for claim in json.loads(claimer.communicate()[0])]

    assert dict.fromkeys(ids, 1) == Counter(task_id for task_id, _, _ in claimed)
    assert {1} == {fence for _, fence, _ in claimed}
    assert len({lock for _, _, lock in claimed}) == TASKS
    assert [len(store.runs(task_id)) for task_id in ids] == [1] * TASKS


def test_r55_fifty_submits_at_once_with_one_key_make_one_task(
    store: OneByOne, url: str, tmp_path: Path
) -> None:
    start = threading.Barrier(SUBMITTERS)

    def submit(number: int) -> Submitted:
        mine = open_store(url, state_dir=tmp_path / "state", patience=20)
        try:
            start.wait()
            with mine.transaction() as now:
                return mine.submit([new_task(key="k", priority=number)], now=now)[0]
        finally:
            mine.close()

    with ThreadPoolExecutor(SUBMITTERS) as pool:
        submitted = list(pool.map(submit, range(SUBMITTERS)))

    assert len({answer.task_id for answer in submitted}) == 1
    assert sum(answer.created for answer in submitted) == 1
    assert len(store.states()) == 1


def test_two_that_find_no_database_make_one(unmade: str, tmp_path: Path) -> None:
    start = threading.Barrier(SUBMITTERS)

    def identity(_: int) -> str:
        start.wait()
        mine = open_store(unmade, state_dir=tmp_path / "state", patience=20)
        mine.close()
        return mine.identity

    with ThreadPoolExecutor(SUBMITTERS) as pool:
        identities = set(pool.map(identity, range(SUBMITTERS)))

    assert len(identities) == 1
    assert {"store-id"} == {path.name for path in (tmp_path / "state").iterdir()}
    if unmade.startswith("sqlite:"):
        assert {"tasks.db"} == {path.name for path in (tmp_path / "store").iterdir()}
