"""What the documentation tells people to type works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from dispatcher.cli.app import VERBS
from tests.e2e.world import World

pytestmark = pytest.mark.timeout(60)

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
        ("python", "python", '{"lines":42}'),
        pytest.param(
            "javascript",
            "node",
            '{"by":"node"}',
            marks=pytest.mark.skipif(not shutil.which("node"), reason="node is not installed"),
        ),
    ],
)
def test_the_examples_for_workers_work(
    world: World, language: str, program: str, result: str
) -> None:
    script = world.directory / "example"
    script.write_text(example(language))
    with world.daemon():
        task_id = world.submit(
            program, str(script), liveness="worker", lease_ttl="20s", env=f"PATH={PATH}"
        )
        (run,) = world.until(task_id, "succeeded", "failed")["runs"]

    assert ("succeeded", result) == (run["outcome"], run["result"]), run


def test_the_shell_examples_work(world: World) -> None:
    with world.daemon():
        task_id = world.submit(
            "sh", "-c", example("sh"), liveness="worker", lease_ttl="20s", env=f"PATH={PATH}"
        )
        (run,) = world.until(task_id, "succeeded", "failed")["runs"]
    assert ("succeeded", "half way") == (run["outcome"], run["note"]), run


def test_every_verb_and_option_that_the_pages_name_exists(world: World) -> None:
    named: dict[str, set[str]] = {}
    for page in PAGES:
        for command in re.findall(r"(?:^|[`$(] ?)dispatcher ([a-z-]+[^`\n#|)]*)", page.read_text()):
            verb, *words = command.split()
            if verb in VERBS:
                before = words[: words.index("--")] if "--" in words else words
                named.setdefault(verb, set()).update(
                    word.split("=")[0] for word in before if word.startswith("--")
                )
    assert len(named) > 10
    for verb, options in named.items():
        known = world.cli(verb, "--help").stdout
        assert not [option for option in options if option not in known], verb


def test_the_configuration_in_the_readme_is_right_and_its_profile_can_be_submitted(
    world: World,
) -> None:
    text = (ROOT / "README.md").read_text()
    (file,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (submit,) = re.findall(r"^\$ dispatcher (submit --profile .*)$", text, re.MULTILINE)
    world.config_file.write_text(file.replace("/var/lib/dispatcher", str(world.state_dir)))

    world.cli("check-config")
    world.cli(*shlex.split(submit))

    assert ["gzip", "-9", "big.log"] == world.show(1)["command"]


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
