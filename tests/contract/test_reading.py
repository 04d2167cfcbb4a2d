import pytest
from msgspec.structs import replace

from dispatcher.model import Leases, Outcome, TaskFilter, TaskState
from dispatcher.store import search
from dispatcher.words import Beat
from tests.contract.helpers import NOW, TTL, OneByOne, later, new_task


def test_an_unknown_task_is_none_and_has_no_runs(store: OneByOne) -> None:
    assert None is store.task(7)
    assert store.runs(7) == []


def test_a_task_is_shown_without_its_lock(store: OneByOne) -> None:
    claim = store.claimed()

    assert claim.lock not in repr(store.task(claim.task_id))
    assert claim.lock not in repr(store.runs(claim.task_id))


def test_runs_come_oldest_first(store: OneByOne) -> None:
    first = store.claimed()
    store.end(first, outcome=Outcome.LOST, state=TaskState.READY)
    (second,) = store.take("own")

    runs = store.runs(first.task_id)

    assert [first.run_uid, second.run_uid] == [run.uid for run in runs]
    assert [run.outcome for run in runs] == [Outcome.LOST, None]


def test_lease_and_beats_of_the_open_run_are_the_live_ones(store: OneByOne) -> None:
    first = store.claimed()
    store.end(first, outcome=Outcome.LOST, state=TaskState.READY)
    store.take("own", now=later(1))
    with store.raw.transaction():
        store.sql(
            "UPDATE runs SET last_heartbeat_at = 17, progress = 0.5, note = 'half'"
            " WHERE outcome IS NULL"
        )

    closed, live = store.runs(first.task_id)

    assert (later(1 + TTL), 17, 0.5, "half") == (
        live.lease_expires_at,
        live.last_heartbeat_at,
        live.progress,
        live.note,
    )
    assert (later(TTL), None, None, None) == (
        closed.lease_expires_at,
        closed.last_heartbeat_at,
        closed.progress,
        closed.note,
    )


def test_payloads_are_read_only_where_they_are_wanted(store: OneByOne) -> None:
    task_id = store.new(payload="[1]")

    wanted = TaskFilter()
    assert ["[1]"] == [task.payload for task in store.tasks(wanted)]
    for light in (
        store.tasks(wanted, payload=False),
        store.tasks(replace(wanted, oldest_first=True), payload=False),
        store.foremost(TaskState.READY, queue="default", limit=1),
    ):
        assert [(task_id, None)] == [(task.id, task.payload) for task in light]


def test_tasks_come_newest_first(store: OneByOne) -> None:
    ids = [store.new() for _ in range(3)]

    assert ids[::-1] == [task.id for task in store.tasks(TaskFilter())]


def test_a_page_ends_at_the_limit_and_the_next_begins_behind_it(store: OneByOne) -> None:
    ids = [store.new() for _ in range(5)][::-1]

    first = [task.id for task in store.tasks(TaskFilter(limit=2))]
    second = [task.id for task in store.tasks(TaskFilter(limit=2, before_id=first[-1]))]

    assert (ids[:2], ids[2:4]) == (first, second)


def listed(store: OneByOne, **wanted: object) -> list[int]:
    """Return the ids of the tasks that a filter lists."""
    return [task.id for task in store.tasks(TaskFilter(**wanted))]


def test_tasks_are_listed_by_state(store: OneByOne) -> None:
    ready, scheduled, running = store.new(), store.new(delay_ms=1), store.claimed().task_id

    assert [ready] == listed(store, states=frozenset({TaskState.READY}))
    both = frozenset({TaskState.RUNNING, TaskState.SCHEDULED})
    assert [running, scheduled] == listed(store, states=both)
    assert listed(store, states=frozenset({TaskState.FAILED})) == []
    assert listed(store, states=frozenset()) == []


def test_tasks_are_listed_by_queue(store: OneByOne) -> None:
    one = store.new(queue="one")
    store.new(queue="two")

    assert [one] == listed(store, queue="one")
    assert listed(store, queue="three") == []


@pytest.mark.parametrize("name", ["team", "a.b", '"quoted"', "$", "ü"])
def test_tasks_are_listed_by_label(store: OneByOne, name: str) -> None:
    tagged = store.new(labels={name: "x", "other": "y"})
    store.new(labels={name: "xx"})
    store.new(labels={"another": "x"})
    store.new(labels={"x": name})
    store.new()

    assert [tagged] == listed(store, label=(name, "x"))
    assert listed(store, label=(name, "X")) == []


def test_tasks_are_listed_by_profile_by_text_and_by_time(store: OneByOne) -> None:
    store.submit([new_task(command=["echo", "a b"])], now=later(1))
    store.submit([new_task(command=["echo", "a", 'b"\\', "ü"], profile="p")], now=later(2))

    assert [2] == listed(store, profile="p")
    assert [2, 1] == listed(store, text="o a b")
    assert [2] == listed(store, text='b"\\ ü')
    assert listed(store, text="%") == []
    assert listed(store, text="") == []
    named = store.new(labels={"name": 'a "needle"', "other": "hay"})
    assert [named] == listed(store, text='"needle"')
    assert listed(store, text="hay") == []
    assert [2] == listed(store, since=later(2))
    assert [named, 1] == listed(store, until=later(2))
    assert [1, 2, named] == listed(store, oldest_first=True)


@pytest.mark.parametrize("text", ["[", "]", '["', '"]', '","', "nrm", "\\n", "u0001"])
def test_a_text_is_looked_for_in_the_arguments_and_not_in_how_they_are_stored(
    store: OneByOne, text: str
) -> None:
    store.new(command=("sh", "-c", "cd /tmp\nrm x \x01", "end"))
    there = store.new(command=("echo", f"a{text}b"))

    assert [there] == listed(store, text=text)


def test_a_text_is_looked_for_past_a_damaged_command(store: OneByOne) -> None:
    damaged, other = store.new(), store.new(command=("echo", "damaged"))
    with store.raw.transaction():
        store.raw.engine.change(
            "UPDATE tasks SET command = 'damaged [' WHERE id = :id", {"id": damaged}
        )

    assert [other] == listed(store, text="damaged")


def test_tasks_are_found_part_by_part_wherever_they_stand(
    store: OneByOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "WINDOW", 3)
    hour = search.STEP_BACK
    ids = [store.submit([new_task()], now=later(number * hour))[0].task_id for number in range(20)]
    for gone in (1, 7, 8, 9, 10, 11, 20):
        with store.raw.transaction():
            store.sql("DELETE FROM tasks WHERE id = :id", {"id": gone})
    there = [task_id for task_id in ids if task_id not in {1, 7, 8, 9, 10, 11, 20}]

    def found(**wanted: object) -> list[int]:
        return [task.id for task in search.each_task(store.raw, TaskFilter(**wanted))]

    assert there[::-1] == found()
    assert there[::-1][:4] == found(limit=4)
    assert there[:4] == found(limit=4, oldest_first=True)
    assert [14, 13, 12, 6] == found(since=later(5 * hour), until=later(14 * hour))
    assert [15, 14] == found(after_id=13, before_id=16)
    assert found(after_id=13, before_id=13) == []
    assert found(since=later(30 * hour)) == found(until=later(-30 * hour)) == []


def test_a_search_in_nothing_finds_nothing(store: OneByOne) -> None:
    wanted = TaskFilter(since=NOW, until=NOW)

    assert list(search.each_task(store.raw, wanted)) == []


def test_filters_narrow_together(store: OneByOne) -> None:
    wanted = store.new(queue="q", labels={"a": "b"})
    store.new(queue="q")
    store.new(labels={"a": "b"})
    store.new(queue="q", labels={"a": "b"}, delay_ms=1)

    states = frozenset({TaskState.READY})
    assert [wanted] == listed(store, queue="q", label=("a", "b"), states=states)


def test_counts_are_by_queue_and_state_without_zeros(store: OneByOne) -> None:
    assert store.counts() == {}

    store.new(queue="a")
    store.new(queue="a")
    store.new(queue="a", delay_ms=1)
    store.finished(queue="b")

    expected = {
        "a": {TaskState.READY: 2, TaskState.SCHEDULED: 1},
        "b": {TaskState.SUCCEEDED: 1},
    }
    assert expected == store.counts()


def test_a_queue_is_ready_since_its_oldest_ready_task_is(store: OneByOne) -> None:
    assert store.ready_since() == {}

    claim = store.claimed(queue="a")
    store.take("a", now=later(1))
    released = {"outcome": Outcome.RELEASED, "state": TaskState.READY}
    store.end(claim, now=later(5_000), **released)
    store.submit([new_task(queue="a")], now=later(7_000))
    store.submit([new_task(queue="b")], now=later(8_000))
    store.submit([new_task(queue="c", delay_ms=1)], now=NOW)

    # Not since its submit, nor since it was due: it ran meanwhile.
    assert {"a": later(5_000), "b": later(8_000)} == store.ready_since()


def test_closed_runs_are_counted_by_outcome(store: OneByOne) -> None:
    store.finished()
    store.finished()
    store.claimed()

    assert {Outcome.SUCCEEDED: 2} == store.outcomes()


def test_leases_report_the_oldest_renewal_the_oldest_beat_and_the_next_expiry(
    store: OneByOne,
) -> None:
    assert Leases(0, None, None, None) == store.leases()

    one = store.claimed(lease_ttl_ms=10_000)
    store.claimed(lease_ttl_ms=90_000)
    store.heartbeat([Beat(task_id=one.task_id, lock=one.lock)], now=later(2_000))

    assert Leases(2, later(12_000), NOW, later(2_000)) == store.leases()


def test_no_node_is_known_at_first(store: OneByOne) -> None:
    assert list(store.nodes()) == []


def test_times_are_those_that_were_passed_in(store: OneByOne) -> None:
    task = store.task(store.finished(now=later(5)))

    assert (NOW, later(5)) == (task.created_at, task.finished_at)
