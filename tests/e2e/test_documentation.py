"""The commands in the documentation work as written."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import pytest

from dispatcher.cli import app
from dispatcher.client import Client
from tests.e2e.consoles import Typed, blocks, configure, type_all
from tests.e2e.world import World

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


#: The environment's own Python first, which has the package.
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def example(language: str) -> str:
    found = re.search(
        rf"```{language}\n(.*?)```", (ROOT / "docs/workers.md").read_text(), re.DOTALL
    )
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("language", "program", "result"),
    [
        ("python", "python", {"lines": 42}),
        pytest.param(
            "javascript",
            "node",
            {"by": "node"},
            marks=pytest.mark.skipif(not shutil.which("node"), reason="node is not installed"),
        ),
    ],
)
def test_the_examples_for_workers_work(
    world: World, language: str, program: str, result: dict[str, object]
) -> None:
    script = world.directory / "example"
    script.write_text(example(language))
    with world.daemon():
        task_id = world.submit(
            program, str(script), liveness="worker", lease_ttl="20s", env=f"PATH={PATH}"
        )
        (run,) = world.until(task_id, "succeeded", "failed")["runs"]

    assert ("succeeded", result) == (run["outcome"], run["result"]), run


def test_the_example_for_the_python_client_works(world: World) -> None:
    found = re.search(r"```python\n(.*?)```", (ROOT / "docs/client.md").read_text(), re.DOTALL)
    assert found is not None
    done = subprocess.run(
        [sys.executable, "-c", found[1]],
        env=world.env,
        cwd=world.directory,
        capture_output=True,
        text=True,
        check=False,
    )

    expected = "submitted ready\ndone by ['succeeded']\nfailed 0\n"
    assert (expected, "") == (done.stdout, done.stderr)


def test_every_method_of_the_python_client_is_named_and_no_other() -> None:
    table = (ROOT / "docs/client.md").read_text().partition("| methods |")[2]
    rows = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert {name for name in dir(Client) if name[0] != "_"} - {"close"} == named


def test_the_shell_examples_work(world: World) -> None:
    with world.daemon():
        task_id = world.submit(
            "sh", "-c", example("sh"), liveness="worker", lease_ttl="20s", env=f"PATH={PATH}"
        )
        (run,) = world.until(task_id, "succeeded", "failed")["runs"]
    assert ("succeeded", "half way") == (run["outcome"], run["note"]), run


@pytest.mark.skipif(
    not shutil.which("systemd-notify"), reason="there is no systemd-notify (package systemd)"
)
def test_a_program_that_speaks_systemds_watchdog_needs_no_change(world: World) -> None:
    with world.daemon():
        task_id = world.submit(
            "bash", "-c", example("bash"), liveness="worker", lease_ttl="20s", env=f"PATH={PATH}"
        )
        (run,) = world.until(task_id, "succeeded", "failed")["runs"]
    assert ("succeeded", "part 3 of 3") == (run["outcome"], run["note"]), run
    assert run["last_heartbeat_at"] is not None


def test_every_verb_and_option_that_the_pages_name_exists(
    capsys: pytest.CaptureFixture[str],
) -> None:
    named: dict[str, set[str]] = {}
    for page in PAGES:
        for command in re.findall(r"(?:^|[`$(] ?)dispatcher ([a-z-]+[^`\n#|)]*)", page.read_text()):
            verb, *words = command.split()
            if verb in app.VERBS:
                before = words[: words.index("--")] if "--" in words else words
                named.setdefault(verb, set()).update(
                    word.split("=")[0] for word in before if word.startswith("--")
                )
    assert len(named) > 10
    for verb, options in named.items():
        assert 0 == app.run([verb, "--help"])
        known = capsys.readouterr().out
        assert not [option for option in options if option not in known], verb


#: Blocks that are not typed here, by their first line, and why.
NOT_TYPED: Mapping[str, str] = {
    "$ make demo     # sets up, compresses files next to workers that misbehave, "
    "kills the daemon half-way, proves every promise": "the suite itself; test_demo.py plays it",
    "# python3 -m venv /opt/dispatcher && /opt/dispatcher/bin/pip install .": "root, systemd",
    "# sudo -u dispatcher dispatcher status": "root, systemd",
    "# dispatcher install-service --instance gpu": "root, systemd",
    "$ dispatcher run --detach": "a second daemon; test_own_daemon.py does",
    "$ pipx install .        # or, in an environment of your own: pip install .": "an installation",
    "$ dispatcher stop                     # your own; it ends what still runs": (
        "a service; test_own_daemon.py and test_service.py do"
    ),
    "# systemctl disable --now dispatcher dispatcher-executor": "root, systemd",
    "$ dispatcher install-service --user": "the user's own manager; test_service.py does",
    "# systemctl stop dispatcher-executor dispatcher": "root, systemd",
}

#: Pages whose reader has a daemon that runs.
WITH_DAEMON = frozenset({"operations.md", "cookbook.md", "agents.md"})

#: The steps of the reader before a block, by its first line.
DONE_BEFORE: Mapping[str, str] = {
    "$ dispatcher submit --name fix --liveness worker --lease-ttl 15m --run-timeout 4h -- "
    'python -m worker_stub agent --kind claude --verify "make test" -- claude -p '
    '--output-format stream-json --verbose "fix the tests"': (
        f"printf '#!/bin/sh\ncat {ROOT}/tests/streams/claude/healthy.jsonl\n' > claude; "
        "chmod +x claude; export PATH=$PWD:$PATH; printf 'test:\n\t@echo green\n' > Makefile"
    ),
    "$ dispatcher check-config": "echo hello > big.log",
    "$ dispatcher submit -q builds --max-attempts 1 --run-timeout 30m "
    '--key "$(git rev-parse HEAD)" --wait -- make test': (
        "git() { echo 4f4eb61; }; printf 'test:\n\t@echo green\n' > Makefile"
    ),
    "$ dispatcher submit --script train.sh -- --epochs 3": (
        "printf '#!/bin/sh\n#DISPATCHER --queue gpu0 --name training\nexec true\n' > train.sh"
    ),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_console_block_prints_what_the_page_shows(world: World, page: Path) -> None:
    consoles = [block for block in blocks(page) if block.language == "console"]
    if all(block.name in NOT_TYPED for block in consoles):
        return
    daemon = world.daemon() if page.name in WITH_DAEMON else nullcontext()
    with daemon:
        for block in blocks(page):
            if block.language == "toml":
                configure(world, block.text)
            elif block.name not in NOT_TYPED:
                before = DONE_BEFORE.get(block.name)
                typed = [Typed(before)] if before else []
                type_all(world, [*typed, *block.typed()], {"PATH": PATH})


def test_every_block_that_is_not_run_is_on_a_page() -> None:
    there = {block.name for page in PAGES for block in blocks(page)}

    assert not [name for name in (*NOT_TYPED, *DONE_BEFORE) if name not in there]


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
