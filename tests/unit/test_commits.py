"""A commit without an answer is never called "nothing was written"."""

from collections.abc import Callable
from typing import Any

import pytest

from dispatcher.cli import lines
from dispatcher.client import Client
from dispatcher.errors import CommitUnknown, StoreRefused, StoreUnavailable, StoreUnusable
from dispatcher.model import TaskState
from dispatcher.words import Accepted, Renewed
from tests.command import Command
from tests.contract.sqlite_files import file_size_limit
from tests.unit.test_supervisor import Unwell

UNKNOWN = "the commit has an unknown outcome"


@pytest.fixture
def client(client: Client) -> Client:
    client.store = Unwell(client.store)  # type: ignore[assignment]
    return client


def fail(client: Client, *failures: tuple[Exception, bool]) -> None:
    """Let the next transactions fail so, committed or not."""
    store: Any = client.store
    store.failures = [*failures]


def doubt(client: Client, *, committed: bool) -> None:
    fail(client, (CommitUnknown(UNKNOWN), committed))


either = pytest.mark.parametrize("committed", [True, False])


def test_an_unknown_commit_is_not_a_silence_of_the_store() -> None:
    assert not issubclass(CommitUnknown, StoreUnavailable)


@either
def test_a_submit_with_a_key_is_looked_up_and_made_once(client: Client, *, committed: bool) -> None:
    doubt(client, committed=committed)

    submitted = client.submit(command=["true"], key="report")

    assert [submitted.task_id] == [task.id for task in client.tasks()]


@either
def test_a_submit_without_a_key_is_not_repeated_and_the_remedy_is_reported(
    client: Client, *, committed: bool
) -> None:
    doubt(client, committed=committed)

    with pytest.raises(CommitUnknown, match=r"it may have been done or not: see `dispatcher list`"):
        client.submit(command=["true"])

    assert committed is bool(client.tasks())


def test_many_are_looked_up_only_where_each_has_a_key(client: Client) -> None:
    def many(*keys: str | None) -> list[Any]:
        text = "\n".join(
            '{"command": ["true"]' + (f', "key": "{key}"' if key else "") + "}" for key in keys
        )
        return lines.read(text.encode().splitlines(), client.config, {}, {})

    doubt(client, committed=False)
    with pytest.raises(CommitUnknown):
        client.submit_many(many("a", None))
    doubt(client, committed=True)
    submitted = client.submit_many(many("a", "b"))

    assert [2, 1] == [task.id for task in client.tasks()]
    assert [1, 2] == [one.task_id for one in submitted]


@either
def test_a_claim_without_an_answer_is_found_by_its_run(client: Client, *, committed: bool) -> None:
    client.submit(command=["true"])
    doubt(client, committed=committed)

    claim = client.claim()

    assert claim is not None
    assert 1 == claim.fence
    assert isinstance(client.heartbeat(claim.task_id), Renewed)


MOVES: list[tuple[str, Callable[[Client], object], object]] = [
    ("cancel", lambda client: client.cancel(1), TaskState.READY),
    ("hold", lambda client: client.hold(1), TaskState.READY),
    ("retry", lambda client: client.retry(2), TaskState.CANCELLED),
    ("release", lambda client: client.release(3), TaskState.HELD),
    ("edit", lambda client: client.edit(3, priority=5) and client.release(3), TaskState.HELD),
    ("pause", lambda client: client.pause("default"), True),
    ("resume", lambda client: client.resume("other"), True),
]


@either
@pytest.mark.parametrize(("name", "move", "before"), MOVES, ids=[move[0] for move in MOVES])
def test_a_repeatable_change_is_repeated_and_returns_the_state_before(
    client: Client, name: str, move: Callable[[Client], object], before: object, *, committed: bool
) -> None:
    for _ in range(3):
        client.submit(command=["true"])
    client.cancel(2)
    client.hold(3)
    client.pause("other")
    doubt(client, committed=committed)

    first, second = move(client), move(client)

    assert before == first
    assert before != second, f"{name} was not done"


@either
def test_beats_and_declarations_are_repeated(client: Client, *, committed: bool) -> None:
    client.submit(command=["true"])
    assert client.claim() is not None

    doubt(client, committed=committed)
    assert isinstance(client.heartbeat(1), Renewed)
    doubt(client, committed=committed)
    assert Accepted() == client.complete(1)

    assert ["succeeded"] == [run.outcome for run in client.runs(1)]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda client: client.submit(command=["true"], key="k"), "with the same key"),
        (lambda client: client.cancel(1), "`dispatcher show 1`"),
        (lambda client: client.pause("q"), "pause it again"),
        (lambda client: client.resume("q"), "resume it again"),
        (lambda client: client.claim(), "`lost` when its lease expires"),
        (lambda client: client.heartbeat(1, lock="l"), "beat again"),
        (lambda client: client.complete(1, lock="l"), "declare the same again"),
        (lambda client: client.prune(older_than_ms=0), "prune again"),
    ],
)
def test_a_lasting_doubt_is_reported_with_the_remedy(
    client: Client, change: Callable[[Client], object], remedy: str
) -> None:
    client.submit(command=["true"])
    fail(client, (CommitUnknown(UNKNOWN), True), (StoreUnavailable("locked"), False))

    with pytest.raises(CommitUnknown, match=f"{UNKNOWN}; it may have been done or not") as raised:
        change(client)

    assert remedy in str(raised.value)


@pytest.mark.parametrize(
    ("again", "message"),
    [
        (CommitUnknown(UNKNOWN), "`dispatcher show 1`"),
        (StoreUnavailable("locked"), "`dispatcher show 1`"),
        (StoreUnusable("damaged; restore it"), "`dispatcher show 1`; tried again: damaged; rest"),
        (StoreRefused("CHECK failed"), "`dispatcher show 1`; tried again: CHECK failed"),
    ],
)
@either
def test_nothing_that_fails_the_second_time_ends_the_doubt_of_the_first(
    client: Client, again: Exception, message: str, *, committed: bool
) -> None:
    client.submit(command=["true"])
    fail(client, (CommitUnknown(UNKNOWN), committed), (again, False))

    with pytest.raises(CommitUnknown, match=f"{UNKNOWN}; it may have been done or not: ") as known:
        client.cancel(1)

    assert message in str(known.value)
    assert committed is (client.task(1).state is TaskState.CANCELLED)  # type: ignore[union-attr]


def test_the_command_line_reports_it_with_an_exit_code_of_its_own(
    command: Command, client: Client
) -> None:
    client.submit(command=["true"])

    with file_size_limit(0):  # of the commit's files none can grow
        message = command("submit", "--", "true", exits=74).stderr

    assert UNKNOWN in message
    assert "see `dispatcher list` first; a --key makes it safe" in message


CHANGES = [
    lambda client: client.submit(command=["true"]),
    lambda client: client.submit(command=["true"], key="k"),
    *(move for _, move, _ in MOVES),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_interrupted_in_its_commit_is_reported_as_unknown_and_not_repeated(
    client: Client, change: Callable[[Client], object]
) -> None:
    for _ in range(3):
        client.submit(command=["true"])
    fail(client, (KeyboardInterrupt(), True), (AssertionError("again"), False))  # type: ignore[arg-type]

    with pytest.raises(CommitUnknown, match=r"^interrupted; it may have been done or not: "):
        change(client)


def test_ctrl_c_before_the_commit_leaves_nothing_and_no_doubt(client: Client) -> None:
    store: Any = client.store
    submit = store.submit

    def interrupted(*args: Any, **named: Any) -> None:
        submit(*args, **named)
        raise KeyboardInterrupt

    store.submit = interrupted
    with pytest.raises(KeyboardInterrupt):
        client.submit(command=["true"])

    assert [] == client.tasks()


def test_ctrl_c_at_the_second_try_ends_no_doubt_of_the_first(client: Client) -> None:
    client.submit(command=["true"])
    fail(client, (CommitUnknown(UNKNOWN), True), (KeyboardInterrupt(), False))  # type: ignore[arg-type]

    with pytest.raises(CommitUnknown, match=f"{UNKNOWN}; it may have been done or not"):
        client.cancel(1)


def test_ctrl_c_just_before_the_commit_leaves_no_transaction_open(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = client.store
    engine = store.engine

    def interrupted() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as pressed:
        pressed.setattr(engine, "commit", interrupted)
        with pytest.raises(CommitUnknown, match="interrupted"):
            client.submit(command=["true"])

    assert 1 == client.submit(command=["true"]).task_id
