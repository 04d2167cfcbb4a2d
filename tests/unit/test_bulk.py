"""Bulk work: how much goes into a transaction, and whose turn it is in between. In virtual time."""

import signal
from pathlib import Path

import pytest

from dispatcher.bulk import (
    AIM,
    FEWEST,
    FIRST,
    GAP,
    MOST,
    TURN_PATIENCE,
    TURN_RETRY,
    Turns,
)
from dispatcher.client import Client
from dispatcher.host.locks import try_directory_lock
from dispatcher.times import Instant
from tests.command import Command


class Slow:
    """Turns of work that takes so many seconds a row, and a clock that knows it."""

    def __init__(self, client: Client, row: float) -> None:
        self.now = Instant(1.0)
        self.waits: list[float] = []
        self.rows: list[int] = []
        self._row = row
        self._turns = Turns(
            client.store, client.config.state_dir, clock=lambda: self.now, wait=self.waits.append
        )

    def take(self) -> None:
        def work(_: object) -> None:
            self.rows.append(self._turns.rows)
            self.now = Instant(self.now + self._turns.rows * self._row)

        self._turns.take(work, remedy="none")


@pytest.mark.parametrize(
    ("row", "settled"),
    [(1.0, FEWEST), (AIM / 50, 50), (AIM / 400, 400), (1e-9, MOST)],
)
def test_r69_a_transaction_has_as_many_rows_as_take_its_time(
    client: Client, row: float, settled: int
) -> None:
    slow = Slow(client, row)

    for _ in range(9):
        slow.take()

    assert FIRST == slow.rows[0]
    assert settled == slow.rows[-1]
    assert pytest.approx([GAP] * 8) == slow.waits


def test_r69_between_two_steps_of_a_prune_others_write(command: Command) -> None:
    wrote: list[int] = []
    with command.client() as client, command.client() as other:
        for _ in range(2 * FIRST):
            client.cancel(client.submit(command=["true"]).task_id)

        def write(_: int) -> None:
            wrote.append(other.submit(command=["true"]).task_id)

        pruned = client.prune(older_than_ms=-1_000, report=write)

        assert 2 * FIRST == pruned.tasks
        assert len(wrote) > 1
        assert wrote == [task.id for task in reversed(client.tasks())]


def test_a_prune_deletes_the_tasks_finished_at_its_beginning_and_ends(client: Client) -> None:
    for _ in range(2 * FIRST):
        client.cancel(client.submit(command=["true"]).task_id)
    meanwhile: list[int] = []

    def finish(_: int) -> None:
        meanwhile.append(client.submit(command=["true"]).task_id)
        client.cancel(meanwhile[-1])

    client.prune(older_than_ms=0, report=finish)

    assert meanwhile
    assert set(meanwhile) <= {task.id for task in client.tasks()}


def test_no_ctrl_z_stops_a_process_while_others_wait_for_it(client: Client) -> None:
    def mask() -> set[int]:
        return set(signal.pthread_sigmask(signal.SIG_BLOCK, []))

    found = Turns(client.store, client.config.state_dir).take(lambda _: mask(), remedy="none")

    stops = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    assert stops == stops & found
    assert not stops & mask()


def stops_blocked() -> bool:
    """Return whether Ctrl-Z waits."""
    return signal.SIGTSTP in signal.pthread_sigmask(signal.SIG_BLOCK, [])


class Among:
    """Bulk work during other bulk work, whose turn lasts until the test ends it."""

    def __init__(self, client: Client) -> None:
        self.now = Instant(1.0)
        self.did: list[Instant] = []
        self.masks: list[bool] = []
        self.theirs = try_directory_lock(client.config.state_dir)
        self.theirs_until = Instant(1e9)
        self._turns = Turns(
            client.store, client.config.state_dir, clock=lambda: self.now, wait=self._wait
        )

    def _wait(self, seconds: float) -> None:
        self.now = Instant(self.now + seconds)
        self.masks.append(stops_blocked())
        if self.theirs is not None and self.now >= self.theirs_until:
            self.theirs.close()

    def take(self) -> None:
        self._turns.take(lambda _: self.did.append(self.now), remedy="none")


def test_r69_bulk_work_takes_turns_with_other_bulk_work_and_leaves_a_gap_after_it(
    client: Client,
) -> None:
    among = Among(client)
    among.theirs_until = Instant(1.1)

    among.take()

    (did,) = among.did
    assert 1.1 + GAP <= did <= 1.1 + GAP + 2 * TURN_RETRY
    assert all(among.masks), "Ctrl-Z might have stopped it in its turn"
    assert not stops_blocked()


def test_r69_bulk_work_that_is_stopped_in_its_turn_is_waited_for_once(client: Client) -> None:
    among = Among(client)

    for _ in range(3):
        among.take()

    first, second, third = (did - 1.0 for did in among.did)
    assert TURN_PATIENCE <= first <= TURN_PATIENCE + GAP + 2 * TURN_RETRY
    assert second - first <= GAP + TURN_RETRY
    assert third - second <= GAP + TURN_RETRY


def test_r69_a_turn_ends_with_its_transaction_also_where_that_fails(client: Client) -> None:
    turns = Turns(client.store, client.config.state_dir)

    def fail(_: object) -> None:
        assert try_directory_lock(client.config.state_dir) is None
        raise ValueError("no such row")

    with pytest.raises(ValueError, match="no such row"):
        turns.take(fail, remedy="none")

    held = try_directory_lock(client.config.state_dir)
    assert held is not None
    held.close()


def test_bulk_work_goes_on_if_its_directory_cannot_be_locked(client: Client) -> None:
    assert 1 == Turns(client.store, Path("/nonexistent")).take(lambda _: 1, remedy="none")
