"""What `submit --wait` reports when it is interrupted."""

import pytest

from dispatcher.cli.waiting import remaining_text

FIRST_TWENTY = " ".join(map(str, range(1, 21)))


@pytest.mark.parametrize(
    ("many", "message"),
    [
        (1, "task 1 goes on; dispatcher cancel 1 ends it"),
        (2, "2 tasks go on; dispatcher cancel 1 2 ends them"),
        (
            25,
            f"25 tasks go on; dispatcher cancel {FIRST_TWENTY} ends the first 20",
        ),
    ],
)
def test_the_command_that_cancels_the_remaining_tasks_can_be_pasted(
    many: int, message: str
) -> None:
    assert message == remaining_text(range(1, many + 1))
