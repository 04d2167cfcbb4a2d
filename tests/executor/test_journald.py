"""Output for systemd's journal, by a real executor with a socket as journald."""

from collections.abc import Iterator

import pytest

from dispatcher import wire
from tests.eventually import eventually
from tests.executor.conftest import Home
from tests.journald import Journald

NAMES = {"DISPATCHER_TASK_ID": "42", "DISPATCHER_CLAIM_LOCK": "hunter2"}


@pytest.fixture
def journald() -> Iterator[Journald]:
    with Journald() as journald:
        yield journald


def expect_messages(journald: Journald, wanted: list[bytes]) -> None:
    def probe() -> None:
        assert wanted == [record["MESSAGE"] for record in journald.take()]

    eventually(probe)


def test_a_settled_run_is_kept_until_its_output_was_forwarded_by_a_successor_too(
    home: Home, journald: Journald
) -> None:
    journald.leave()
    executor = home.executor(env=dict(journald.environ))
    daemon = home.daemon()
    command = ["sh", "-c", "echo one; echo two"]
    uid = daemon.start(command, home.output(), env=NAMES, to_journald=True)
    daemon.expect(wire.Exited, uid)
    daemon.send(wire.Forget(uid=uid))
    daemon.ping()
    executor.kill()
    executor.wait()

    journald.listen()
    home.executor(env=dict(journald.environ))
    daemon = home.daemon()
    assert wire.RunState.GONE is daemon.runs[uid].state
    daemon.send(wire.Forget(uid=uid))
    daemon.ping()
    expect_messages(journald, [b"one", b"two"])
    assert {b"42"} == {record["DISPATCHER_TASK_ID"] for record in journald.records}
    assert not [record for record in journald.records if b"hunter2" in record.values()]
    assert "hunter2" not in home.journal.read_text()

    def forgotten() -> None:
        assert {} == home.daemon().runs

    eventually(forgotten)
    assert [] == home.events("output.unforwarded")


def test_a_successor_does_not_forward_lines_again(home: Home, journald: Journald) -> None:
    executor = home.executor(env=dict(journald.environ))
    daemon = home.daemon()
    command = ["sh", "-c", "echo one; exec sleep 600"]
    uid = daemon.start(command, home.output(), env=NAMES, to_journald=True)
    daemon.expect(wire.Started, uid)
    expect_messages(journald, [b"one"])
    daemon.ping()
    executor.kill()
    executor.wait()

    home.executor(env=dict(journald.environ))
    assert wire.RunState.GONE is home.daemon().runs[uid].state
    home.processes[-1].terminate()
    home.processes[-1].wait()
    expect_messages(journald, [b"one"])


def test_a_run_whose_output_is_for_its_file_alone_sends_nothing(
    home: Home, journald: Journald
) -> None:
    home.executor(env=dict(journald.environ))
    daemon = home.daemon()
    uid = daemon.start(["echo", "one"], home.output(), env=NAMES)
    daemon.expect(wire.Exited, uid)
    daemon.send(wire.Forget(uid=uid))
    daemon.ping()

    assert [] == journald.take()


def test_a_line_about_a_run_that_did_not_start_names_its_task(home: Home) -> None:
    home.executor()
    daemon = home.daemon()
    uid = daemon.start(["no-such-program"], home.output(), env=NAMES)
    daemon.expect(wire.StartFailed, uid)
    daemon.ping()

    assert [(uid, 42)] == [
        (event["uid"], event["task_id"]) for event in home.events("run.start_failed")
    ]


def test_a_flood_reaches_the_journal_whole_while_others_are_served(
    home: Home, journald: Journald
) -> None:
    home.executor(env=dict(journald.environ))
    daemon = home.daemon()
    flood = ["sh", "-c", "seq 1 400000"]
    with journald.taking():
        loud = daemon.start(flood, home.output(), env=NAMES, to_journald=True)
        calm = daemon.start(["echo", "hello"], home.output("calm"), to_journald=True)
        daemon.expect(wire.Exited, calm)
        daemon.expect(wire.Exited, loud)
        daemon.send(wire.Forget(uid=loud), wire.Forget(uid=calm))
        daemon.ping()

        def probe() -> None:
            assert {} == home.daemon().runs

        eventually(probe)

    texts = [record["MESSAGE"] for record in journald.found(DISPATCHER_RUN=loud)]
    assert [b"%d" % number for number in range(1, 400_001)] == b"\n".join(texts).split(b"\n")
    assert 1 == len(journald.found(DISPATCHER_RUN=calm, MESSAGE="hello"))
