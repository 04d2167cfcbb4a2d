"""The judges of a round, each shown what it is there for."""

import os
import resource
import subprocess
from dataclasses import replace

import pytest

from tests.eventually import eventually
from tests.rounds import left
from tests.rounds.actor import start_ticks
from tests.rounds.judges import judge
from tests.rounds.round import Seen

UID = "0123456789abcdef0123456789abcdef"

#: Task 1 failed once with 3 and then succeeded; in milliseconds, and in seconds since the boot.
RIGHT = Seen(
    absence_limit=False,
    faults=[],
    tasks=[(1, "succeeded", "exit code 0")],
    runs=[
        (1, 1, "failed", 3, None, 1_000, 2_000, 61_000),
        (1, 2, "succeeded", 0, None, 3_000, 4_000, 63_000),
    ],
    files={
        "births": [["1", "1", "leader", "10", "5", "1.0"], ["1", "2", "leader", "11", "6", "3.0"]],
        "stamps": [["1", "1", "1.5"], ["1", "2", "3.5"]],
        "ends": [["1", "1", "10", "5", "3", "0", "1.6"], ["1", "2", "11", "6", "0", "0", "3.6"]],
        "twins": [],
    },
    integrity="ok",
)


def with_file(name: str, *lines: str) -> Seen:
    return replace(RIGHT, files={**RIGHT.files, name: [line.split() for line in lines]})


def with_first_run(outcome: str, code: int | None, signum: int | None = None) -> Seen:
    first = (1, 1, outcome, code, signum, 1_000, 2_000, 61_000)
    return replace(RIGHT, runs=[first, RIGHT.runs[1]])


def test_a_round_without_faults_has_no_complaints() -> None:
    assert [] == judge(RIGHT).complaints


@pytest.mark.parametrize(
    "seen",
    [
        with_file("stamps", "1 1 3.0", "1 2 3.5"),
        with_file("births", "1 1 leader 10 5 1.0", "1 1 grandchild 12 6 3.1", "1 2 leader 11 6 3"),
        with_file("twins", "1 2 10"),
    ],
    ids=["a stamp", "a birth", "seen by its successor"],
)
def test_an_earlier_run_that_lives_during_a_later_one_is_an_overlap(seen: Seen) -> None:
    assert 1 == len(judge(seen).overlaps)


@pytest.mark.parametrize(
    "seen",
    [
        with_first_run("failed", 4),
        with_first_run("failed", None, 15),
        with_first_run("succeeded", 3),
        with_first_run("orphaned", None),
        with_first_run("timed_out", 3),
        with_first_run("lost", 3),
    ],
)
def test_a_code_or_an_outcome_that_was_not_the_workers_is_wrong(seen: Seen) -> None:
    assert judge(seen).wrong_codes


def test_a_code_may_be_lost_with_the_executor_but_not_be_another() -> None:
    def with_a_death(seen: Seen) -> Seen:
        return replace(seen, executors_killed=[1_500])

    assert [] == judge(with_a_death(with_first_run("orphaned", None))).wrong_codes
    assert judge(with_a_death(with_first_run("failed", 4))).wrong_codes


def test_a_worker_that_ended_when_its_lease_did_may_be_lost() -> None:
    first = (1, 1, "lost", 3, None, 1_000, 2_000, 1_700)

    assert [] == judge(replace(RIGHT, runs=[first, RIGHT.runs[1]])).wrong_codes


def test_a_run_too_few_an_open_one_and_a_second_start_are_complaints() -> None:
    assert judge(replace(RIGHT, runs=RIGHT.runs[1:])).others
    assert judge(replace(RIGHT, runs=[(1, 1, None, None, None, 1_000, None, 61_000)])).others
    assert judge(replace(RIGHT, tasks=[(1, "ready", "was submitted")])).others
    births = ("1 1 leader 10 5 1.0", "1 1 leader 12 5 1.1", "1 2 leader 11 6 3.0")
    assert judge(with_file("births", *births)).others
    assert judge(replace(RIGHT, integrity="row 3 missing from index")).others


@pytest.mark.parametrize("by", ["mark", "name", "birth"])
def test_a_process_left_behind_is_found_by_mark_name_or_birth(by: str) -> None:
    token = f"left-behind-{os.getpid()}"
    with subprocess.Popen(
        ["sh", "-c", "read never", token if by == "name" else "sh"], stdin=-1
    ) as one:
        try:
            if by == "mark":
                _, hard = resource.prlimit(one.pid, resource.RLIMIT_RTTIME)
                resource.prlimit(one.pid, resource.RLIMIT_RTTIME, (left.mark(UID), hard))
            born = [(one.pid, start_ticks(one.pid))] if by == "birth" else []

            def probe() -> None:  # in the middle of its exec it has no command line yet
                assert [one.pid] == [int(f.split()[0]) for f in left.behind(token, [UID], born)]

            eventually(probe)
        finally:
            one.kill()
