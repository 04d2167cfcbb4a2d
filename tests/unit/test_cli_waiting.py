"""What `submit --wait` reports when it is interrupted."""

from collections.abc import Sequence

import pytest

from dispatcher.cli.waiting import late_text, remaining_text
from dispatcher.quantities.durations import parse

EVERY_OTHER = range(1, 51, 2)
FIRST_TWENTY = " ".join(map(str, EVERY_OTHER[:20]))


@pytest.mark.parametrize(
    ("task_ids", "message"),
    [
        ([1], "task 1 goes on; dispatcher cancel 1 ends it"),
        ([1, 3], "2 tasks go on; dispatcher cancel 1 3 ends them"),
        ([7, *range(12, 41), 3], "31 tasks go on; dispatcher cancel 3 7 12-40 ends them"),
        (EVERY_OTHER, f"25 tasks go on; dispatcher cancel {FIRST_TWENTY} ends the first 20"),
    ],
)
def test_the_command_that_cancels_the_remaining_tasks_can_be_pasted(
    task_ids: Sequence[int], message: str
) -> None:
    assert message == remaining_text(task_ids)


def test_the_tasks_that_are_late_are_named_by_ranges() -> None:
    assert "29 tasks are not done after 1h: 12-40" == late_text(range(12, 41), parse("1h"))
