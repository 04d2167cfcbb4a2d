"""The daemon's report about itself, as it crosses the control socket."""

import msgspec

from dispatcher.daemon_report import DaemonReport, ExecutorState
from tests.reports import report


def test_the_worst_stands_first_in_the_line() -> None:
    waiting = report(busy=1, executor="waiting")
    worst = report(
        busy=1,
        stopping="drain",
        paused="no memory",
        unkillable=1,
        executor="silent",
        store_silent_for_s=3.0,
    )

    assert "1 of 2 slots busy" == report(busy=1).in_a_line()
    assert "waits for the executor; 1 of 2 slots busy" == waiting.in_a_line()
    assert worst.in_a_line() == (
        "the store does not answer; the executor does not answer; 1 runs cannot be killed;"
        " paused: no memory; stopping (drain); 1 of 2 slots busy"
    )


def test_a_report_of_an_older_or_a_newer_daemon_is_read() -> None:
    line = (
        b'{"pid":7,"node":"n","hostname":"h","slots":2,"busy":1,"executor":"connected",'
        b'"unkillable_because":{"4":"in D state"},"not_known_yet":[]}'
    )

    found = msgspec.json.decode(line, type=DaemonReport)

    assert report(busy=1, unkillable_because={4: "in D state"}) == found


def test_a_state_of_the_executor_that_only_a_newer_daemon_knows_is_read_as_unknown() -> None:
    line = msgspec.json.encode(report()).replace(b'"connected"', b'"sweeping"')

    assert ExecutorState.UNKNOWN is msgspec.json.decode(line, type=DaemonReport).executor
