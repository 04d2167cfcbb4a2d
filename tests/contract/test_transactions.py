import uuid
from pathlib import Path

import pytest

from dispatcher.errors import StoreRefused
from dispatcher.store.open import open_store
from dispatcher.store.sql import SqlStore
from dispatcher.times import wall_clock
from tests.contract.helpers import NOW, OneByOne, new_task


class Interruption(BaseException):
    """An unexpected error."""


def test_a_transaction_gives_the_stores_time(raw: SqlStore) -> None:
    before = wall_clock()
    with raw.transaction() as now:
        pass

    assert before <= now <= wall_clock()


def test_others_see_the_writes_of_a_transaction_after_it_and_not_before(
    raw: SqlStore, url: str, tmp_path: Path
) -> None:
    other = open_store(url, state_dir=tmp_path / "state", patience=0)
    with raw.transaction():
        task_id = raw.submit([new_task()], now=NOW)[0].task_id
        with other.snapshot():
            unseen = other.task(task_id)
    with other.snapshot():
        seen = other.task(task_id)
    other.close()

    assert None is unseen
    assert seen is not None


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Interruption])
def test_any_exception_rolls_all_of_it_back(
    raw: SqlStore, store: OneByOne, error: type[BaseException]
) -> None:
    kept = store.new()

    def work() -> None:
        with raw.transaction():
            raw.submit([new_task()], now=NOW)
            raw.cancel(kept, "not needed", now=NOW)
            raise error

    with pytest.raises(error):
        work()

    assert {kept: "ready"} == store.states()


def test_after_an_error_a_transaction_can_only_roll_back(raw: SqlStore, store: OneByOne) -> None:
    refusals = []

    def work() -> None:
        with raw.transaction():
            for queue in ("fine", "", "fine"):
                try:
                    raw.submit([new_task(queue=queue)], now=NOW)
                except StoreRefused as refused:
                    refusals.append(refused)

    with pytest.raises(StoreRefused) as at_the_end:
        work()

    assert [at_the_end.value] * 2 == refusals
    assert store.states() == {}
    store.new()


def test_methods_work_inside_a_transaction_alone(raw: SqlStore) -> None:
    with pytest.raises(RuntimeError, match="no transaction"):
        raw.submit([new_task()], now=NOW)
    with raw.transaction():
        pass
    with pytest.raises(RuntimeError, match="no transaction"):
        raw.task(1)


def test_a_snapshot_waits_for_no_writer(raw: SqlStore, url: str, tmp_path: Path) -> None:
    other = open_store(url, state_dir=tmp_path / "state", patience=0)
    with raw.transaction(), other.snapshot():
        counts = other.counts()
    other.close()

    assert counts == {}


def test_no_writer_waits_for_a_snapshot_and_it_sees_one_moment(
    raw: SqlStore, url: str, tmp_path: Path
) -> None:
    other = open_store(url, state_dir=tmp_path / "state", patience=0)
    with raw.snapshot():
        before = raw.counts()
        with other.transaction():
            other.submit([new_task()], now=NOW)
        after = raw.counts()
    other.close()

    assert before == after == {}


def test_the_identity_is_a_uuid_and_stays(raw: SqlStore, url: str, tmp_path: Path) -> None:
    other = open_store(url, state_dir=tmp_path / "state", patience=0)
    identity = other.identity
    other.close()

    assert identity == raw.identity
    assert identity == str(uuid.UUID(identity))


def test_close_is_idempotent_and_final(raw: SqlStore) -> None:
    raw.close()
    raw.close()

    with pytest.raises(RuntimeError, match="closed"), raw.transaction():
        pass


def test_closing_inside_a_transaction_rolls_it_back(
    raw: SqlStore, url: str, tmp_path: Path
) -> None:
    def work() -> None:
        with raw.transaction():
            raw.submit([new_task()], now=NOW)
            raw.close()

    with pytest.raises(RuntimeError, match="no transaction"):
        work()

    other = open_store(url, state_dir=tmp_path / "state", patience=0)
    with other.snapshot():
        counts = other.counts()
    other.close()
    assert counts == {}
