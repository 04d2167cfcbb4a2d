"""Random kills and stops: no run twice, no process left, no exit code but the real one.

These are of a few seeds. `python -m tests.rounds` plays as many as you like, or one seed again.
"""

from pathlib import Path

import pytest

from tests.rounds.play import play


#: Chosen so that between them everybody is killed, and everybody stopped, and soon.
@pytest.mark.parametrize("seed", [29479, 8863, 11155, 15185])
def test_no_task_has_two_trees_and_no_run_a_wrong_code_under_random_kills_and_stops(
    seed: int, bytecode: Path
) -> None:
    seen, verdict = play(seed, bytecode)

    lines = [f"seed {seed}: {'; '.join(map(str, seen.faults))}", *verdict.complaints]
    assert not verdict.complaints, "\n".join(lines)
