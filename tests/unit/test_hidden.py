"""Which pids are asked for where /proc hides processes."""

from __future__ import annotations

import os

import pytest

from dispatcher import hidden
from dispatcher.hidden import HiddenPids, pids_to_ask_for


@pytest.mark.parametrize(
    ("before", "last", "asked"),
    [
        (None, 3, [1, 2, 3, 4, 5, 6, 7, 8, 9]),  # also above the last: they have come round
        (3, 3, []),
        (3, 5, [4, 5]),
        (7, 2, [8, 9, 1, 2]),
    ],
)
def test_after_all_pids_those_are_asked_for_that_were_given_out_since(
    before: int | None, last: int, asked: list[int]
) -> None:
    assert asked == list(pids_to_ask_for(before, last, 10))


def test_whoever_has_a_pid_is_found_whatever_proc_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden, "pids_to_ask_for", lambda *_: [os.getpid(), 1, 2**22 + 1])
    assert {os.getpid(), 1} == HiddenPids().look()
