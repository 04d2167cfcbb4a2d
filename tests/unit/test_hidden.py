"""Which pids are probed if /proc hides processes."""

import os
import threading
from collections.abc import Iterator

import pytest

from dispatcher.host import hidden
from dispatcher.host.hidden import HiddenPids, pids_to_probe


@pytest.mark.parametrize(
    ("before", "last", "probed"),
    [
        (None, 3, [1, 2, 3, 4, 5, 6, 7, 8, 9]),  # also above the last: they have come round
        (None, 12, [*range(1, 13)]),  # pid_max was lowered since
        (3, 3, []),
        (3, 5, [4, 5]),
        (7, 2, [8, 9, 1, 2]),
    ],
)
@pytest.mark.parametrize("overlap", [0, 2])
@pytest.mark.parametrize("chunk", [2, 100])
def test_after_all_pids_those_that_were_given_out_since_are_probed(
    monkeypatch: pytest.MonkeyPatch,
    before: int | None,
    last: int,
    probed: list[int],
    chunk: int,
    overlap: int,
) -> None:
    monkeypatch.setattr(hidden, "_CHUNK", chunk)
    monkeypatch.setattr(hidden, "_OVERLAP", overlap)
    if before is not None:  # those may have been given out and not be seen yet
        probed = [*range(before + 1 - overlap, before + 1), *probed]
    assert probed == [pid for pids in pids_to_probe(before, last, 10) for pid in pids]


class Host:
    """Pids that are given out as a test requires."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.last = 100
        self.forks = 100
        self.probed: list[int] = []
        self.moves: Iterator[int] = iter(())
        monkeypatch.setattr(hidden, "_last_pid", self.last_pid)
        monkeypatch.setattr(hidden, "_pid_max", lambda: 400)
        monkeypatch.setattr(hidden, "_forks", lambda: self.forks)
        monkeypatch.setattr(hidden, "_getsid", self.getsid)
        monkeypatch.setattr(hidden, "_leads", lambda _: True)

    def last_pid(self) -> int:
        self.last = next(self.moves, self.last)
        return self.last

    def getsid(self, pid: int) -> int:
        self.probed.append(pid)
        return 0 if pid in {7, self.last} else -1


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_a_later_look_probes_the_pids_found_before_and_new_ones(host: Host) -> None:
    pids = HiddenPids()
    assert ({7, 100}, True) == pids.look()
    assert 399 == len(host.probed)

    host.probed.clear()
    host.moves, host.forks = iter([103, 103]), 103
    found, whole = pids.look()
    assert whole
    assert {7, 103} <= found

    assert {7, *range(100 - hidden._OVERLAP + 1, 104)} == set(host.probed)


def test_all_pids_are_probed_again_when_they_may_have_wrapped_since(host: Host) -> None:
    pids = HiddenPids()
    pids.look()
    host.probed.clear()
    host.forks += 300

    pids.look()

    assert 399 <= len(host.probed)


def test_a_process_that_always_moves_to_the_next_pid_keeps_a_look_incomplete(host: Host) -> None:
    """It forked while the pids before it were probed: twins ran, and nobody had seen it."""
    host.moves = iter(range(101, 10_000))

    assert not HiddenPids().look()[1]


def test_a_process_that_stops_forking_is_found(host: Host) -> None:
    host.moves = iter([101, 102, 103, 103])

    found, whole = HiddenPids().look()

    assert whole
    assert 103 in found


def test_a_thread_is_not_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number was taken for a process's, and no survivor with threads could be looked at."""
    ready, go = threading.Event(), threading.Event()
    ids: list[int] = []

    def live() -> None:
        ids.append(threading.get_native_id())
        ready.set()
        go.wait()

    thread = threading.Thread(target=live)
    thread.start()
    ready.wait()
    probed = [{os.getpid(), *ids}]
    monkeypatch.setattr(hidden, "pids_to_probe", lambda *_: iter(probed))
    found, _ = HiddenPids().look()
    go.set()
    thread.join()

    assert ids[0] not in found
    assert os.getpid() in found


def test_every_process_with_a_pid_is_found_whatever_proc_lists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probed = [{os.getpid(), 1, 2**22 + 1}]
    monkeypatch.setattr(hidden, "pids_to_probe", lambda *_: iter(probed))
    assert {os.getpid(), 1} <= HiddenPids().look()[0]
