"""Four daemons on one server; `make test-system` has more tasks."""

from pathlib import Path

from tests.e2e.crowd import DAEMONS, crowd_on, judge
from tests.postgres import Postgres

TASKS = 120


def test_each_task_of_four_daemons_runs_once_and_no_limit_is_exceeded(
    postgres: Postgres, tmp_path: Path, bytecode: Path
) -> None:
    with crowd_on(postgres, tmp_path, bytecode, "crowd") as crowd:
        daemons = crowd.work_off(TASKS)

        nodes = judge(crowd, daemons, TASKS, postgres)

    assert DAEMONS == len(nodes)
