"""Texts and numbers at the edges mean the same on every engine."""

from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest

from dispatcher.errors import StoreRefused
from dispatcher.model import Declared, TaskFilter, TaskState
from dispatcher.store.engine import Batch
from dispatcher.store.open import open_store
from dispatcher.words import Beat, Declaration
from tests.contract.helpers import NOW, SHARED, OneByOne
from tests.postgres import Postgres

#: Names in the order of their bytes, which is no language's.
ORDERED = ["A-1", "B", "Z", "a.b", "aB", "a_c", "ab", "b", "z"]

#: Texts that a database, or JSON on the way there, might change.
TEXTS = [
    "",
    " blank ends ",
    "tab\tnewline\ncarriage\r\n",
    "\x01\x1f\x7f",
    "\x85 next line, and \u2028 separators \u2029",
    "é is not e\u0301",
    "astral \U0001f600 and the last \U0010ffff",
    "\ufffe\uffff\ufeff",
    r"\u0000 \x00 \\ ' \" % %% %(x)s :name ::cast $1 {braces}",
    "1e5",
    "0x10",
    "null",
]

#: Ids that no task has: the largest that a column holds, and its neighbour, which none does.
FAR = [2**63 - 1, -(2**63), 0]


def test_queues_take_turns_in_the_order_of_their_bytes(store: OneByOne) -> None:
    for queue in reversed(ORDERED):
        store.new(queue=queue)

    assert ORDERED == store.ready_queues(after="", limit=100)
    assert ORDERED[3:] + ORDERED[:3] == store.ready_queues(after="Z", limit=100)
    assert ORDERED == list(store.counts())


def test_nodes_and_paused_queues_are_listed_in_that_order(store: OneByOne) -> None:
    for name in reversed(ORDERED):
        store.pause(name, "why not", now=NOW)

    assert ORDERED == [one.queue for one in store.paused_queues()]


#: What makes a database of a language, on servers that know it in one way or another.
LANGUAGES = (
    "LC_COLLATE 'en_US.UTF-8' LC_CTYPE 'en_US.UTF-8'",
    "LC_COLLATE 'en_US.utf8' LC_CTYPE 'en_US.utf8'",
    "LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'",
)


@pytest.fixture
def of_a_language(postgres: Postgres) -> str:
    """The URL of a database that orders texts as people do in some language."""
    for language in LANGUAGES:
        with suppress(psycopg.Error):
            return postgres.url(
                postgres.new_database(f"TEMPLATE template0 ENCODING 'UTF8' {language}")
            )
    pytest.skip("neither the server nor its host has the language en-US")


def test_a_language_of_the_database_changes_neither_order_nor_what_is_found(
    of_a_language: str, tmp_path: Path
) -> None:
    with closing(open_store(of_a_language, state_dir=tmp_path, patience=5)) as raw:
        store = OneByOne(raw)
        assert [(True,)] == in_one(store, "SELECT 'a' < 'B'"), "otherwise this proves nothing"
        for queue in reversed(ORDERED):
            store.new(queue=queue, labels={"said": TEXTS[4]})

        assert ORDERED == store.ready_queues(after="", limit=100)
        assert ORDERED == list(store.counts())
        assert len(ORDERED) == len(store.matching(TaskFilter(label=("said", TEXTS[4]))))


@SHARED
def test_every_text_of_a_server_sorts_by_its_bytes(store: OneByOne) -> None:
    """Whatever the database's language is, and also after an upgrade of the host's locales."""
    assert [] == in_one(
        store,
        "SELECT attrelid, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
        " WHERE relnamespace = CAST(current_schema AS regnamespace) AND attnum > 0"
        " AND attcollation <> 0 AND attcollation <> ("
        "SELECT oid FROM pg_collation WHERE collname = 'C')",
    )


def in_one(store: OneByOne, statement: str) -> list[tuple[object, ...]]:
    with store.raw.transaction():
        return store.sql(statement)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_as_it_was_and_is_found(store: OneByOne, text: str) -> None:
    task_id = store.new(command=("echo", text), labels={"said": text}, env={"X": text}, key="k")
    other = store.new(command=("echo", "other"), labels={"said": "other"})
    store.hold(other, text, now=NOW)
    task, held = store.task(task_id), store.task(other)

    assert (("echo", text), {"said": text}, {"X": text}) == (task.command, task.labels, task.env)
    assert text == held.reason
    assert [task_id] == [one.id for one in store.matching(TaskFilter(label=("said", text)))]
    if text:
        assert [task_id] == [one.id for one in store.matching(TaskFilter(text=text))]


@pytest.mark.parametrize("text", TEXTS)
def test_what_a_worker_sends_comes_back_as_it_was(store: OneByOne, text: str) -> None:
    claim = store.claimed()
    store.heartbeat([Beat(task_id=claim.task_id, lock=claim.lock, note=text)], now=NOW)
    store.end(claim, run_reason=text, output_tail=text, left_alone=(text,))
    (run,) = store.runs(claim.task_id)

    assert [text] * 3 == [run.note, run.reason, run.output_tail]
    assert (text,) == run.left_alone


WITH_NUL: dict[str, Callable[[OneByOne], object]] = {
    "cancel": lambda store: store.cancel(1, "a\0b", now=NOW),
    "hold": lambda store: store.hold(1, "a\0b", now=NOW),
    "pause": lambda store: store.pause("default", "a\0b", now=NOW),
    "pause a queue": lambda store: store.pause("a\0b", "reason", now=NOW),
    "resume": lambda store: store.resume("a\0b", now=NOW),
    "filter by queue": lambda store: store.tasks(TaskFilter(queue="a\0b")),
    "filter by profile": lambda store: store.matching(TaskFilter(profile="a\0b")),
    "filter by text": lambda store: store.matching(TaskFilter(text="a\0b")),
    "filter by label": lambda store: store.matching_among([1], TaskFilter(label=("a", "\0"))),
}


@pytest.mark.parametrize("door", WITH_NUL)
def test_a_nul_is_refused_on_every_engine(store: OneByOne, door: str) -> None:
    """SQLite would keep it, and cut the text there for its own functions."""
    store.new()
    with pytest.raises(StoreRefused, match="NUL"):
        WITH_NUL[door](store)


def test_a_batch_with_a_nul_is_refused_and_one_with_its_escape_is_not() -> None:
    assert r'[{"note":"\\u0000"}]' == Batch([{"note": r"\u0000"}]).as_json()
    with pytest.raises(StoreRefused, match="note: holds a NUL"):
        Batch([{"note": "fine"}, {"note": "\0"}]).as_json()


def test_an_escape_of_a_nul_in_a_payload_and_a_result_is_kept(store: OneByOne) -> None:
    payload = r'{"text":"a\u0000b"}'
    claim = store.claimed(payload=payload)
    declaration = Declaration(
        task_id=claim.task_id, lock=claim.lock, word=Declared.SUCCEED, result=payload
    )
    store.declare(declaration, now=NOW)

    assert payload == claim.payload
    assert payload == store.runs(claim.task_id)[0].result


@pytest.mark.parametrize("task_id", FAR)
def test_an_id_at_the_edge_is_that_of_no_task(store: OneByOne, task_id: int) -> None:
    store.new()

    assert store.task(task_id) is None
    assert store.cancel(task_id, "no", now=NOW) is None
    assert [] == store.runs(task_id)
    assert {} == store.open_runs_among([])


@pytest.mark.parametrize("task_id", [2**63, -(2**63) - 1, 2**200])
def test_an_id_that_no_column_holds_is_refused(store: OneByOne, task_id: int) -> None:
    for verb in (store.task, store.runs, lambda one: store.retry(one, now=NOW)):
        with pytest.raises(StoreRefused):
            verb(task_id)


def test_priorities_and_times_are_ordered_as_numbers(store: OneByOne) -> None:
    low, high, zero = (store.new(priority=one) for one in (-(2**31), 2**31 - 1, 0))

    assert [high, zero, low] == [one.task_id for one in store.take(limit=3)]


def test_a_number_with_a_fraction_comes_back_exactly(store: OneByOne) -> None:
    for progress in (0.0, 1.0, 0.1, 5e-324, 1 - 2**-53):
        claim = store.claimed()
        store.heartbeat([Beat(task_id=claim.task_id, lock=claim.lock, progress=progress)], now=NOW)
        store.end(claim, cpu_seconds=progress * 1e9, max_rss_bytes=2**62)
        (run,) = store.runs(claim.task_id)

        assert (progress, progress * 1e9, 2**62) == (
            run.progress,
            run.cpu_seconds,
            run.max_rss_bytes,
        )


def test_states_compare_as_texts_without_regard_to_blanks(store: OneByOne) -> None:
    """As CHAR would compare them."""
    store.new(queue="q")

    assert [] == store.matching(TaskFilter(queue="q "))
    assert {TaskState.READY: 1} == store.counts()["q"]
