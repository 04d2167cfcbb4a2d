"""Random rounds as on a real host: below an init that reaps, with pids that come round."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.places import Namespace

ROOT = Path(__file__).parents[2]

#: A round has a hundred processes at a time, and starts some three hundred.
SMALL = 700

ROUNDS = 4


@pytest.mark.usefixtures("privileged")
@pytest.mark.parametrize("pid_max", [None, SMALL], ids=["many-pids", "few-pids"])
def test_rounds_in_a_pid_namespace_leave_nobody_and_double_nothing(pid_max: int | None) -> None:
    with Namespace(pid_max=pid_max) as namespace:
        rounds = (sys.executable, "-m", "tests.rounds", "--rounds", str(ROUNDS), "--seed", "1")
        done = subprocess.run(
            [*namespace.prefix, f"--wdns={ROOT}", *rounds],
            capture_output=True,
            text=True,
            check=False,
        )

    print(done.stdout)  # noqa: T201
    assert (0, "") == (done.returncode, done.stderr), done.stdout + done.stderr
