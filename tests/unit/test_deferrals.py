"""A worker defers until a date, and closes a limit: what it sends, and what becomes of it."""

from typing import Any

import pytest

from dispatcher.model import Declared
from dispatcher.times import WallTime
from dispatcher.words import Declaration, encode_request, parse_request
from worker_stub import Worker, __main__, names

ENVIRON = {
    names.TASK_ID: "1",
    names.CLAIM_LOCK: "secret",
    names.LEASE_TTL: "60",
    names.HEARTBEAT_INTERVAL: "20",
    names.SOCKET: "/nowhere",
}

#: Noon, by the clock of the host.
NOON = WallTime(1_785_585_600_000)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What workers declare."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(Worker, "_declare", lambda _, request: found.append(request))
    return found


def parsed(**facts: object) -> Declaration:
    message = parse_request(encode_request("defer", 1, "lock", **facts))
    assert isinstance(message, Declaration)
    return message


def test_a_deferral_has_a_delay_or_a_date_by_the_hosts_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dispatcher.words.wall_clock", lambda: NOON)

    assert (Declared.DEFER, 1_500) == (parsed(delay=1.5).word, parsed(delay=1.5).delay_ms)
    assert (None, None) == (parsed().delay_ms, parsed().until)
    until = parsed(until="2026-08-01T12:00:09Z")
    assert (9_000, NOON + 9_000) == (until.delay_ms, until.until)
    over = parsed(until="2026-08-01T11:00:00Z")
    assert (None, NOON - 3_600_000) == (over.delay_ms, over.until), "the cool-down follows"
    assert 9_000 == parsed(until="2026-08-01T14:00:09+02:00").delay_ms


def test_a_deferral_closes_a_limit_with_its_reason() -> None:
    found = parsed(delay=60, close="provider", reason="429")

    assert ("provider", "429", 60_000) == (found.close, found.reason, found.delay_ms)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"until": "soon"}, "until: 'soon' is not a time; write a date with its zone"),
        ({"until": "2026-08-01T12:00:00Z", "delay": 5}, "until: delay says when too"),
        ({"close": "provider"}, "close: needs until, or a delay"),
        ({"delay": 5, "close": "a\0b"}, "close: holds a NUL character"),
    ],
    ids=str,
)
def test_a_mistaken_deferral_is_refused(facts: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parsed(**facts)


def test_the_workers_half_sends_what_is_given(
    sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    date = "2026-08-01T12:00:00Z"

    def typed(*words: str) -> int:
        for name, value in ENVIRON.items():  # a worker takes its lock out of them
            monkeypatch.setenv(name, value)
        return __main__.main(["defer", *words])

    Worker(beats="calls", environ=dict(ENVIRON)).defer(60, close="provider", reason="429")

    assert 0 == typed()
    assert 0 == typed("--delay", "5")
    assert 0 == typed("--until", date, "--close", "x", "--reason", "y")

    assert [
        {"op": "defer", "delay": 60, "close": "provider", "reason": "429"},
        {"op": "defer"},
        {"op": "defer", "delay": 5.0},
        {"op": "defer", "until": date, "close": "x", "reason": "y"},
    ] == sent
