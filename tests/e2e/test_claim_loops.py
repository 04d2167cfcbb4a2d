"""Loops of a shell that work through a queue by `claim --export`."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.helpers import shell
from tests.e2e.world import DISPATCHER, World

WORKERS = Path(__file__).parents[2] / "docs" / "workers.md"


@pytest.mark.parametrize("name", ["sh", "bash"])
def test_a_loop_of_a_shell_works_through_a_queue_and_ends(world: World, name: str) -> None:
    for number in range(3):
        world.submit("echo", f"it's {number}", queue="reviews", payload=f'{{"n": {number}}}')
    script = """
        while eval "$(dispatcher claim --queue reviews --export)"; do
            eval "$DISPATCHER_COMMAND" >> seen
            printf '%s %s\\n' "$DISPATCHER_TASK_ID" "$DISPATCHER_PAYLOAD" >> seen
            dispatcher complete > /dev/null
        done
        echo "${DISPATCHER_TASK_ID-none} ${DISPATCHER_CLAIM_LOCK-none}" >> seen
    """
    path = f"{Path(DISPATCHER).parent}:{world.env['PATH']}"

    subprocess.run(
        [name, *shell(script)[1:]],
        env={**world.env, "PATH": path},
        cwd=world.directory,
        stderr=subprocess.DEVNULL,
        check=True,
    )

    seen = (world.directory / "seen").read_text().splitlines()
    assert [
        *("it's 0", '1 {"n": 0}', "it's 1", '2 {"n": 1}', "it's 2", '3 {"n": 2}', "none none"),
    ] == seen
    assert ["succeeded"] * 3 == [world.show(task)["state"] for task in (1, 2, 3)]


@pytest.mark.parametrize("name", ["sh", "bash"])
def test_the_loop_of_the_page_ends_if_a_claim_is_killed_before_it_prints(
    world: World, name: str
) -> None:
    for number in range(3):
        world.submit("echo", f"task {number}", queue="reviews")
    loop = re.search(r"```bash\n(while .*?)```", WORKERS.read_text(), re.DOTALL)
    assert loop is not None
    second_claim_dies = f"""#!/bin/sh
        [ "$1" = claim ] && echo >> claims && [ "$(wc -l < claims)" -eq 2 ] && kill -9 $$
        exec {DISPATCHER} "$@"
    """
    program = world.directory / "bin" / "dispatcher"
    program.parent.mkdir()
    program.write_text(second_claim_dies)
    program.chmod(0o700)

    ran = subprocess.run(
        [name, "-c", loop[1]],
        env={**world.env, "PATH": f"{program.parent}:{world.env['PATH']}"},
        cwd=world.directory,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ["task 0"] == [line for line in ran.stdout.splitlines() if line.startswith("task")]
    assert ["succeeded", "ready", "ready"] == [world.show(n)["state"] for n in (1, 2, 3)]
