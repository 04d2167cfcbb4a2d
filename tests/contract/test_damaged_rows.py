"""Rows changed by hand: the trouble of one task, named, and of no other."""

from contextlib import suppress
from typing import Any

import pytest
from msgspec.structs import asdict
from pysqlite3 import dbapi2

from dispatcher.errors import StoreRefused
from dispatcher.execution import RetryPolicy
from dispatcher.model import Intent, Liveness, Outcome, TaskFilter, TaskState
from dispatcher.store.claims import MOST_DAMAGED
from dispatcher.store.rows import DAMAGE_REMEDY, DAMAGED
from tests.contract.helpers import EMBEDDED, NODE, NOW, OneByOne, later

#: Changes by hand, as SQL; the schema refuses some of them.
DAMAGE = {
    "kill_grace_ms = 'x'": "kill_grace_ms: expected an integer, got a text in quotes",
    "run_timeout_ms = 'x'": "run_timeout_ms: expected an integer, got a text in quotes",
    "lease_ttl_ms = 'x'": "lease_ttl_ms: expected an integer, got a text in quotes",
    "command = 'nope'": "command: not JSON: invalid character (byte 4)",
    "command = '[]x'": "command: not JSON: trailing characters (byte 3)",
    "command = CAST(x'5b22ff225d' AS TEXT)": (
        "command: not JSON: invalid escape character in string (byte 4)"
    ),
    "env = '{\"A\":1}'": "env: expected a text in quotes, got an integer",
    "rules = '[]'": "rules: expected an object, got a list",
    "cwd = x'ff'": "cwd: expected a text in quotes, got bytes",
    "kill_signal = 1.5": "kill_signal: expected an integer, got a number with a fraction",
    "attempts_used = 'x'": "attempts_used: expected an integer, got a text in quotes",
    "fence = 'x'": "fence: expected an integer, got a text in quotes",
    "fence = 9223372036854775807": "fence: expected an integer <= 9007199254740992",
    "lease_ttl_ms = 9223372036854775807": "lease_ttl_ms: expected an integer <= 315360000000",
    "kill_grace_ms = 9223372036854775807": "kill_grace_ms: expected an integer <= 315360000000",
    "run_timeout_ms = 9223372036854775807": "run_timeout_ms: expected an integer <= 315360000000",
    "attempts_used = 9223372036854775807": "attempts_used: expected an integer <= 2147483647",
    "kill_signal = 65": "kill_signal: expected an integer <= 64",
    'rules = \'{"0":"bogus"}\'': "rules: 0: 'bogus' is not a rule",
    'rules = \'{"lost":"bogus"}\'': "rules: lost: 'bogus' is not a rule",
}


#: Those that the columns of PostgreSQL take: texts for texts, integers for integers.
TEXTS = [
    change
    for change in DAMAGE
    if change.startswith(("command = '", "env", "rules"))
    or (change[-1].isdigit() and "." not in change)
]

each_damage = pytest.mark.parametrize(
    ("url", "change"),
    [("sqlite", change) for change in DAMAGE] + [("postgresql", change) for change in TEXTS],
    indirect=["url"],
)


def each_value(*values: str) -> pytest.MarkDecorator:
    """Return the mark of a test with each value; on PostgreSQL with those that texts can be."""
    texts = [value for value in values if value in ("'x'", "'{'")]
    return pytest.mark.parametrize(
        ("url", "value"),
        [("sqlite", value) for value in values] + [("postgresql", value) for value in texts],
        indirect=["url"],
    )


def damage(store: OneByOne, task_id: int, change: str) -> None:
    with store.raw.transaction():
        store.raw.engine.change(f"UPDATE tasks SET {change} WHERE id = :id", {"id": task_id})


@each_damage
def test_r81_a_damaged_row_is_held_where_it_would_be_claimed_and_its_neighbours_are_claimed(
    store: OneByOne, change: str
) -> None:
    tasks = [store.new(labels={"a": "b"}) for _ in range(3)]
    damage(store, tasks[0], change)

    claims = store.take(limit=1)

    assert [tasks[1]] == [claim.task_id for claim in claims]
    assert TaskState.HELD is store.states()[tasks[0]]
    found = store.task(tasks[0])
    assert f"{DAMAGED}{DAMAGE[change]}{DAMAGE_REMEDY}" == found.reason
    listed = store.tasks(TaskFilter(label=("a", "b")))
    assert {tasks[0], tasks[1], tasks[2]} == {task.id for task in listed}


def test_a_claim_by_hand_holds_it_too(store: OneByOne) -> None:
    task = store.new()
    damage(store, task, "command = 'nope'")

    for where in ({"task_id": task}, {}):
        assert (
            store.claim_local("default", owner="local:1", output_dir="/out", now=NOW, **where)
            is None
        )

    assert TaskState.HELD is store.states()[task]


def test_one_call_holds_so_many_damaged_tasks_and_the_next_calls_the_rest(store: OneByOne) -> None:
    tasks = [store.new() for _ in range(2 * MOST_DAMAGED + 1)]
    for task in tasks[:-1]:
        damage(store, task, "command = 'nope'")

    held = []
    while not (claims := store.take(limit=3)):
        held.append(list(store.states().values()).count(TaskState.HELD))

    assert [MOST_DAMAGED, 2 * MOST_DAMAGED] == held
    assert [tasks[-1]] == [claim.task_id for claim in claims]


def test_labels_that_nobody_can_read_are_shown_as_damaged_and_hide_no_other_task(
    store: OneByOne,
) -> None:
    damaged, other = store.new(labels={"a": "b"}), store.new(labels={"a": "b"})
    damage(store, damaged, "labels = '{'")

    found = {task.id: task for task in store.tasks(TaskFilter())}

    assert {damaged, other} == found.keys()
    assert f"{DAMAGED}labels: not JSON: it ends too early; submitted" == found[damaged].reason
    assert {} == found[damaged].labels
    assert [other] == [task.id for task in store.tasks(TaskFilter(label=("a", "b")))]


@pytest.mark.parametrize(
    "text", ["", "nope", "{", "[1]", '["a"', '{"a": 1}', '{"a": "\\x"}', '{"a": "\\ud800"}', "\n"]
)
@pytest.mark.parametrize("column", ["labels", "command"])
def test_no_text_keeps_a_search_from_finding_others(
    store: OneByOne, column: str, text: str
) -> None:
    damaged, other = (store.new(labels={"a": "it's"}, command=("echo", "it's")) for _ in range(2))
    with store.raw.transaction():
        store.sql(f"UPDATE tasks SET {column} = :text WHERE id = {damaged}", {"text": text})

    by_label = {task.id for task in store.tasks(TaskFilter(label=("a", "it's")))}
    by_text = {task.id for task in store.tasks(TaskFilter(text="echo it's"))}

    assert {other} == (by_label if column == "labels" else by_text)
    assert {damaged, other} == (by_text if column == "labels" else by_label)


@pytest.mark.parametrize("text", ['"', "\\", "\n", "é", "😀", "\x01", "a:b", "%s", "{0}"])
def test_any_text_is_found_again(store: OneByOne, text: str) -> None:
    task = store.new(labels={"a": text, "name": f"the {text} one"}, command=("echo", text))
    store.new(labels={"a": "b", "name": "other"}, command=("echo", "x"))

    for wanted in (
        TaskFilter(label=("a", text)),
        TaskFilter(text=f"the {text} one"),
        TaskFilter(text=f"echo {text}"),
    ):
        assert [task] == [found.id for found in store.tasks(wanted)]


@each_damage
def test_the_task_of_a_run_whose_row_is_damaged_meanwhile_is_held_once_that_is_over(
    store: OneByOne, change: str
) -> None:
    claim = store.claimed()
    damage(store, claim.task_id, change)

    (run,) = store.open_runs(NODE)

    if change.startswith(("cwd", "command", "env", "kill_grace_ms", "lease_ttl_ms", "fence")):
        assert run.intent is None  # what an open run does not need
    else:
        assert Intent.HOLD is run.intent
        assert f"{DAMAGED}{DAMAGE[change]}{DAMAGE_REMEDY}" == run.intent_reason
    assert store.end(claim, outcome=Outcome.FAILED, state=TaskState.HELD)
    assert TaskState.HELD is store.states()[claim.task_id]


@EMBEDDED
@pytest.mark.parametrize("column", asdict(RetryPolicy()))
def test_a_damaged_retry_policy_reads_as_the_default_and_its_task_is_held_once_its_run_is_over(
    store: OneByOne, column: str
) -> None:
    claim = store.claimed(cooldown_ms=1, max_orphans=2)
    damage(store, claim.task_id, f"{column} = 'x'")

    (run,) = store.open_runs(NODE)

    given = {"cooldown_ms": 1, "max_orphans": 2}
    given.pop(column, None)
    assert RetryPolicy(**given) == run.retry
    assert Intent.HOLD is run.intent
    assert f"{DAMAGED}{column}: expected an integer" in (run.intent_reason or "")


@each_value("'x'", "x'ff'", "CAST(x'ff' AS TEXT)", "1.5", "'{'", "NULL", "-1", "''")
@pytest.mark.parametrize("state", ["ready", "scheduled", "running", "held"])
def test_no_value_of_any_column_keeps_others_from_being_read_and_claimed(
    store: OneByOne, state: str, value: str
) -> None:
    other = store.new(queue="other", labels={"a": "b"})
    running = store.claimed(queue="alive")
    for column in columns(store, "tasks"):
        task = in_state(store, state)
        with suppress(dbapi2.Error, StoreRefused):
            damage(store, task, f"{column} = {value}")

        read_all(store, task)

    (claim,) = store.take("other")
    assert other == claim.task_id
    assert store.end(running)


@each_value("'x'", "x'ff'", "CAST(x'ff' AS TEXT)", "1.5", "'{'", "NULL", "-1")
def test_no_value_of_any_column_of_a_run_keeps_others_from_being_read(
    store: OneByOne, value: str
) -> None:
    for column in columns(store, "runs"):
        claim = store.claimed(queue=f"of-{column}")
        with suppress(dbapi2.Error, StoreRefused), store.raw.transaction():
            change = f"UPDATE runs SET {column} = {value} WHERE uid = :uid"
            store.raw.engine.change(change, {"uid": claim.run_uid})

        read_all(store, claim.task_id)


def test_no_duration_beyond_its_bounds_keeps_others_from_their_moves_and_renewals(
    store: OneByOne,
) -> None:
    damaged, due = store.new(delay_ms=5), store.new(delay_ms=5)
    damage(store, damaged, "queue_timeout_ms = 9223372036854775807")
    runs = [store.claimed(queue="alive", liveness=Liveness.WORKER) for _ in range(2)]
    with store.raw.transaction():
        most = "lease_ttl_ms = 9223372036854775807, kill_grace_ms = 9223372036854775807"
        store.sql(f"UPDATE runs SET {most} WHERE task_id = {runs[0].task_id}")

    assert 2 == store.move_due(limit=10, now=later(10))
    with store.raw.transaction():
        store.raw.renew(NODE, now=later(10))
        store.raw.renew_short(NODE, gap_ms=2**48, now=later(10))
        store.raw.confirm(NODE, until=later(10))
        store.raw.expired(NODE, limit=10, now=later(10))

    assert [TaskState.READY] * 2 == [store.states()[task] for task in (damaged, due)]
    leases = {run.task_id: run.lease_expires_at for run in store.open_runs(NODE)}
    assert later(10 + runs[1].lease_ttl_ms) == leases[runs[1].task_id]


def columns(store: OneByOne, table: str) -> list[str]:
    return [name for name in store.columns(table) if name not in ("id", "task_id")]


def in_state(store: OneByOne, state: str) -> int:
    if state == "running":
        return store.claimed(queue="mine", total_timeout_ms=10**6, queue_timeout_ms=5).task_id
    delay = {"delay_ms": 5} if state == "scheduled" else {}
    task = store.new(queue="mine", total_timeout_ms=10**6, queue_timeout_ms=5, **delay)
    if state == "held":
        store.hold(task, "so", now=NOW)
    return task


def read_all(store: OneByOne, task_id: int) -> None:
    """Do what a tick does, and the verbs that look at all tasks or at this one."""
    now = later(10)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("tasks", {"wanted": TaskFilter()}),
        ("counts", {}), ("outcomes", {}), ("leases", {}), ("ready_since", {}), ("ids", {}),
        ("open_runs", {"node": NODE}), ("endings", {"node": NODE}),
        ("expired", {"node": NODE, "limit": 100, "now": now}), ("next_expiry", {"node": NODE}),
        ("abandoned", {"limit": 100, "now": now}), ("stranded", {"node": "other", "now": now}),
        ("next_takeover", {"node": NODE, "now": now}),
        ("move_due", {"limit": 100, "now": now}), ("next_due", {}),
        ("give_up", {"limit": 100, "now": now}), ("next_failure", {}),
        ("ready_queues", {"after": "", "limit": 10}),
        ("claim", {"queue": "mine", "limit": 10, "node": NODE, "output_dir": "/o", "now": now}),
        ("renew", {"node": NODE, "now": now}),
        ("renew_short", {"node": NODE, "gap_ms": 1, "now": now}),
        ("confirm", {"node": NODE, "until": now}), ("prunable", {"before": now}),
    ]  # fmt: skip
    with store.raw.transaction():
        for name, facts in calls:
            wanted = facts.pop("wanted", None)
            getattr(store.raw, name)(*([wanted] if wanted else []), **facts)
        store.raw.task(task_id)
        store.raw.runs(task_id)
        store.raw.release(task_id, now=now)
