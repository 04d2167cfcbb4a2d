"""A worker asks, a person answers, and the next run knows what the last one knew."""

import sys

from tests.e2e.helpers import shell
from tests.e2e.world import DISPATCHER, World

ASKS = f"""
if [ -z "$DISPATCHER_CHECKPOINT" ]; then
    {DISPATCHER} heartbeat --checkpoint '{{"step": 3}}' && exit 1
fi
if [ -z "$DISPATCHER_ANSWER" ]; then
    exec {sys.executable} -m worker_stub hold --reason "a person decides" --question "Which one?" \\
        --kind approval
fi
printf '%s\\n' "$DISPATCHER_CHECKPOINT" "$DISPATCHER_ANSWER"
"""


def test_an_answer_given_while_no_daemon_runs_reaches_the_next_run(world: World) -> None:
    task_id = world.submit(*shell(ASKS))
    with world.daemon():
        world.until(task_id, "held")

    (waits,) = world.cli("inbox", "--json").json
    assert (task_id, "Which one?", "approval") == (waits["id"], waits["question"], waits["kind"])
    assert "Which one?" in world.cli("inbox").stdout
    assert f"dispatcher answer {task_id} TEXT" in world.cli("why", task_id).stdout

    answered = world.cli("answer", task_id, "-", stdin="the second\n")

    assert f"{task_id} answered, ready\n" == answered.stdout
    assert "the daemon is not running" in answered.stderr
    assert [] == world.cli("inbox", "--json").json
    with world.daemon():
        world.until(task_id, "succeeded")
    checkpoint, answer = world.cli("logs", task_id).stdout.splitlines()
    assert '{"step": 3}' == checkpoint
    assert '"question":"Which one?","kind":"approval","answer":"the second\\n"' in answer
    shown = world.show(task_id)
    assert ({"step": 3}, "the second\n") == (shown["checkpoint"], shown["answer"])


def test_what_cannot_be_answered_is_refused_with_the_reason(world: World) -> None:
    task_id = world.submit("true")

    for words, wrong in (
        ((task_id, "yes"), f"task {task_id} is ready; only held ones are answered"),
        ((99, "yes"), "no task 99"),
    ):
        assert wrong in world.cli("answer", *words, exits=1).stderr
    world.cli("hold", task_id)
    assert "the answer is empty" in world.cli("answer", task_id, " ", exits=1).stderr
    for text in ("x" * 40_000, "\u00e9" * 20_000, "\u20ac" * 20_000):
        for given in ({}, {"stdin": text}):
            words = (task_id, "-" if given else text)
            assert "are more than" in world.cli("answer", *words, **given, exits=1).stderr
    colours = world.cli("answer", task_id, "-", stdin="\x1b" * 30_000, exits=1).stderr
    assert "with its question it is 180051 bytes of JSON" in colours, "no run could start with it"
    assert "held" == world.show(task_id)["state"]
