"""The lines of a log on a terminal."""

import pytest

from dispatcher.logs import console

TIME = {"timestamp": "2026-11-28T02:13:55.123Z", "sequence": 9}
RUN = {"task_id": 7, "run_id": 1, "attempt": 1, "fence": 2, "queue": "nightly", "pid": 4711}
SETTLED = {
    **TIME,
    "level": "info",
    "event": "run.settled",
    **RUN,
    "outcome": "failed",
    "reason": "exit code 3",
    "state": "scheduled",
    "exit_code": 3,
    "signal": None,
}


@pytest.mark.parametrize("columns", [30, 60, 80, 120])
def test_an_event_takes_one_line_of_a_terminal(columns: int) -> None:
    line = console.line(SETTLED, columns=columns, colours=False)

    whole = console.line(SETTLED, columns=None, colours=False)
    assert len(line) <= columns
    assert whole[: columns - 1] == line[: columns - 1]
    assert "…" == line[-1]


def test_fields_of_this_event_alone_come_before_the_common_ones() -> None:
    assert (
        "02:13:55 run.settled task_id=7 outcome=failed reason='exit code 3' state=scheduled"
        " exit_code=3 attempt=1 queue=nightly pid=4711 run_id=1 fence=2"
    ) == console.line(SETTLED, columns=None, colours=False)


def test_a_message_comes_first_without_quotes() -> None:
    message = "waits up to 60 s for its runs; a second signal ends them now\x1b"
    fields = {**TIME, "level": "info", "event": "daemon.stopping", "how": "drain"}

    line = console.line({**fields, "message": message}, columns=80, colours=False)

    assert (
        "02:13:55 daemon.stopping waits up to 60 s for its runs; a second signal ends th…" == line
    )
    whole = console.line({**fields, "message": message}, columns=None, colours=False)
    assert whole.endswith(r"ends them now\x1b how=drain")


@pytest.mark.parametrize("level", ["warning", "error"])
def test_a_warning_and_an_error_are_whole_as_they_name_the_remedy(level: str) -> None:
    reason = "the disk is full; make room" * 5
    fields = {**TIME, "level": level, "event": "node.paused", "reason": reason, "seconds": 1.5}

    line = console.line(fields, columns=80, colours=False)

    assert f"02:13:55 {level} node.paused reason={reason!r} seconds=1.5" == line


def test_an_exception_follows_and_colours_add_no_width() -> None:
    fields = {**TIME, "level": "error", "event": "loop.failed", "exception": "Traceback\n  x\n"}

    assert "02:13:55 error loop.failed\nTraceback\n  x" == console.line(
        fields, columns=80, colours=False
    )
    painted = console.line(SETTLED, columns=80, colours=True)
    assert "\x1b[36mrun.settled\x1b[0m" in painted
    assert 80 == len(painted.replace("\x1b[36m", "").replace("\x1b[0m", ""))


def test_text_that_a_terminal_would_obey_is_escaped() -> None:
    fields = {**TIME, "level": "info", "event": "daemon.signalled", "signal": "a\x1b[2Jb\nc"}

    assert r"signal='a\x1b[2Jb\nc'" in console.line(fields, columns=None, colours=False)
