"""Four daemons on one server and thousands of tasks; `tests/e2e/test_crowd.py` has fewer."""

from pathlib import Path

import pytest

from tests.e2e.crowd import DAEMONS, crowd_on, judge
from tests.postgres import running

TASKS = 5_000


@pytest.mark.timeout(0)
def test_each_of_5000_tasks_of_four_daemons_runs_once_and_no_limit_is_exceeded(
    tmp_path: Path, bytecode: Path, server_files: Path
) -> None:
    with (
        running(server_files) as server,
        crowd_on(server, tmp_path, bytecode, "crowd") as crowd,
    ):
        daemons = crowd.work_off(TASKS)

        nodes = judge(crowd, daemons, TASKS, server)

    print(f"runs of each node: {sorted(nodes.values())}")  # noqa: T201
    assert DAEMONS == len(nodes)
