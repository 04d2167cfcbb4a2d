"""A caller learns whether its submit was accepted, whatever ended it early."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dispatcher import commits, control
from dispatcher.client import Client
from dispatcher.config.config import Config
from dispatcher.errors import CommitUnknown, StoreUnavailable
from dispatcher.model import Submitted
from dispatcher.store.submits import CONTINUE_AFTER
from tests.command import Command
from tests.unit.test_bulk_submit import (
    ALL,
    BEFORE,
    PARTS,
    TASK,
    TASKS,
    client,
    command,
    fail_at,
    go_on,
    kept,
)

__all__ = ["client", "command"]

MANY = [TASK] * (TASKS * PARTS)


class Alarm(BaseException):
    """The exception of a signal handler."""


@pytest.mark.parametrize("number", range(ALL))
@pytest.mark.parametrize("error", [KeyboardInterrupt(), Alarm("time is over")], ids=repr)
def test_r68_an_interruption_of_a_commit_that_was_made_carries_its_result(
    client: Client, number: int, error: BaseException
) -> None:
    fail_at(client, number, error, committed=True)

    with pytest.raises((CommitUnknown, type(error))) as raised:
        client.submit_many(MANY)

    if number < BEFORE:
        assert raised.value is error
        assert (0, 0, 0) == kept(client)
    else:
        assert str(raised.value).startswith("all 12 tasks are accepted: do not submit them again")
        assert str(raised.value).endswith(f"({str(error) or 'interrupted'})")
        go_on(client, CONTINUE_AFTER + 1)
        assert TASKS * PARTS == kept(client)[0]


@pytest.mark.parametrize("committed", [True, False])
def test_r68_an_acceptance_that_cannot_be_looked_up_is_reported_as_unknown(
    client: Client, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    fail_at(client, BEFORE, KeyboardInterrupt(), committed=committed)

    @contextmanager
    def silent() -> Iterator[None]:
        raise StoreUnavailable("locked")
        yield

    monkeypatch.setattr(client.store, "snapshot", silent, raising=False)

    with pytest.raises(CommitUnknown, match=r"all 12 tasks are accepted, or none is: see `dispatc"):
        client.submit_many(MANY)


def test_r68_an_acceptance_that_became_tasks_meanwhile_is_not_taken_for_none(
    client: Client,
) -> None:
    """A daemon made them tasks before our look-up."""
    accept = client.store.accept

    def accepted(uid: str, *, now: Any) -> bool:
        done = accept(uid, now=now)
        while client.store.admit(uid, now=now):
            pass
        return done

    client.store.accept = accepted  # type: ignore[method-assign]
    fail_at(client, BEFORE, KeyboardInterrupt(), committed=True)

    with pytest.raises(CommitUnknown, match="all 12 tasks are accepted: "):
        client.submit_many(MANY)

    assert TASKS * PARTS == kept(client)[0]


def test_r68_a_callback_that_fails_once_all_is_accepted_hides_nothing_of_it(
    client: Client,
) -> None:
    def report(_done: int, total: int | None = None) -> None:
        if total is not None:
            raise ValueError("no such bar")

    with pytest.raises(CommitUnknown, match=r"all 12 tasks are accepted: .*\(no such bar\)"):
        client.submit_many(MANY, report=report)

    go_on(client, CONTINUE_AFTER + 1)
    assert TASKS * PARTS == kept(client)[0]


def test_r68_a_callback_that_fails_before_leaves_nothing(client: Client) -> None:
    def report(_done: int) -> None:
        raise ValueError("no such bar")

    with pytest.raises(ValueError, match="no such bar"):
        client.submit_many(MANY, report=report)

    assert (0, 0, 0) == kept(client)


@pytest.mark.parametrize(
    ("submit", "message"),
    [
        (lambda client: client.submit(TASK), "it may have been done or not: see `dispatcher list`"),
        (lambda client: client.submit_many([TASK]), "it may have been done or not: see `dispa"),
        (lambda client: client.submit_many(MANY), "all 12 tasks are accepted: do not submit them"),
    ],
)
def test_r68_ctrl_c_while_the_daemon_is_woken_hides_no_acceptance(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    submit: Callable[[Client], object],
    message: str,
) -> None:
    def interrupted(_: Config) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(control, "wake", interrupted)

    with pytest.raises(CommitUnknown, match=message):
        submit(client)

    assert kept(client)[0] > 0


@pytest.mark.parametrize("lines", [None, 1, TASKS * PARTS])
def test_r68_the_command_line_reports_what_ctrl_c_interrupted(
    command: Command, monkeypatch: pytest.MonkeyPatch, lines: int | None
) -> None:
    command("list")
    transact = commits._transact

    def interrupted(store: Any, do: Callable[[Any], Any]) -> Any:
        done = transact(store, do)
        if store.snapshot and _ids(store):
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(commits, "_transact", interrupted)
    if lines is None:
        raised = command("submit", "--", "true", exits=74).stderr
    else:
        stdin = b'{"command": ["true"]}\n' * lines
        raised = command("submit", "--from", "-", stdin=stdin, exits=74).stderr

    assert "interrupted" in raised
    assert "dispatcher list" in raised or "all 12 tasks are accepted" in raised


def _ids(store: Any) -> range:
    with store.snapshot():
        ids: range = store.ids()
    return ids


def test_ids_that_were_not_read_go_with_the_client(command: Command, client: Client) -> None:
    with command.client() as other:
        submitted = other.submit_all(MANY)
        next(submitted)
        assert (TASKS * PARTS, 1, PARTS) == kept(client)

    assert (TASKS * PARTS, 0, 0) == kept(client)
    assert [] == list(submitted)


def test_ids_that_nobody_wants_go_at_once(client: Client) -> None:
    client.submit_all(MANY)

    assert (TASKS * PARTS, 0, 0) == kept(client)


@pytest.mark.parametrize("many", [0, 1, TASKS * PARTS])
def test_a_submit_can_be_closed_however_many_tasks_it_has(client: Client, many: int) -> None:
    submitted: Iterator[Submitted] = client.submit_all([TASK] * many)

    submitted.close()  # type: ignore[attr-defined]

    assert (many, 0, 0) == kept(client)


def test_r68_a_submit_whose_record_is_gone_at_its_look_up_is_not_reported_as_refused(
    client: Client,
) -> None:
    """It stood still for an hour in its commit: a daemon made all of it tasks and cleaned up."""
    store: Any = client.store
    accept = store.accept

    def accepted(uid: str, *, now: Any) -> bool:
        done = accept(uid, now=now)
        while store.admit(uid, now=now):
            pass
        while store.remove_parts(uid):
            pass
        return bool(done)

    store.accept = accepted
    fail_at(client, BEFORE, KeyboardInterrupt(), committed=True)

    with pytest.raises(CommitUnknown, match="all 12 tasks are accepted, or none is: "):
        client.submit_many(MANY)
