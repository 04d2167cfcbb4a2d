"""One verb for many tasks, typed where somebody sits, and where nobody does."""

import subprocess

import pytest

from tests.e2e.helpers import listed, on_a_terminal, submit_all
from tests.e2e.world import World

#: More tasks than are changed without a question.
MANY = 25


def states(world: World) -> set[str]:
    return {task["state"] for task in listed(world).values()}


@pytest.mark.parametrize(
    ("answer", "exits", "state"), [("25\n", 0, "cancelled"), ("y\n", 1, "ready")]
)
def test_many_tasks_are_cancelled_for_their_count(
    world: World, answer: str, exits: int, state: str
) -> None:
    submit_all(world, *[{"command": ["true"]}] * MANY)

    code, shown = on_a_terminal(world, "cancel", "--queue", "default", answer=answer)

    assert f"cancel {MANY} tasks ({MANY} ready)? Type {MANY} to go on: " in shown
    assert (exits, {state}) == (code, states(world))
    assert (f"cancelled: {MANY} tasks" in shown) == (exits == 0)
    assert ("nothing was changed; --yes" in shown) == (exits == 1)


def test_the_question_appears_where_its_answer_is_typed(world: World) -> None:
    submit_all(world, *[{"command": ["true"]}] * MANY)

    code, shown = on_a_terminal(
        world, "cancel", "--queue", "default", answer="y\n", stderr=subprocess.DEVNULL
    )

    assert f"cancel {MANY} tasks ({MANY} ready)? " in shown
    assert (1, {"ready"}) == (code, states(world))


def test_a_running_batch_is_cancelled_with_all_that_waits_and_is_retried(world: World) -> None:
    world.configure(node={"slots": 2})
    with world.daemon():
        ids = submit_all(world, *[{"command": ["sleep", "1000"], "label": {"n": "1"}}] * MANY)
        world.until(ids[0], "running")
        world.cli("cancel", "--label", "n=1")
        for task_id in ids:
            world.until(task_id, "cancelled")
        world.cli("pause", "--all")
        shown = world.cli("retry", f"{ids[0]}-{ids[-1]}", "--state", "cancelled").stdout

    assert f"ready: {MANY} tasks\n" == shown
