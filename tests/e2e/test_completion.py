"""The offers of a shell at the tab key."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.world import DISPATCHER, World


def offered(world: World, words: list[str], shell: str = "bash") -> list[str]:
    """Return what is offered for the last of these words; stderr must stay empty."""
    environ = {"_DISPATCHER_COMPLETE": f"{shell}_complete", "COMP_WORDS": " ".join(words)}
    environ["COMP_CWORD"] = words[-1] if shell == "fish" else str(len(words) - 1)
    done = subprocess.run(
        [DISPATCHER], env={**world.env, **environ}, capture_output=True, text=True, check=True
    )
    assert "" == done.stderr
    return [line for line in done.stdout.splitlines() if line]


def test_verbs_options_and_states_are_offered(world: World) -> None:
    verbs = ("retry", "release", "resume", "run", "restart", "reload", "restore")
    assert [f"plain,{verb}" for verb in verbs] == offered(world, ["dispatcher", "r"])
    assert ["plain,--state"] == offered(world, ["dispatcher", "list", "--st"])
    expected = ["plain,scheduled", "plain,succeeded"]
    assert expected == offered(world, ["dispatcher", "list", "--state", "s"])


def test_queues_profiles_and_tasks_are_offered(world: World) -> None:
    world.configure(**{"queues.ci": {"concurrency": 1}, "profiles.zip": {"command": ["gzip"]}})
    world.submit("sleep", "5", queue="nightly")
    world.submit("true")

    assert ["plain,ci"] == offered(world, ["dispatcher", "pause", "c"])
    expected = ["plain,ci", "plain,default", "plain,nightly"]
    assert expected == offered(world, ["dispatcher", "list", "--queue", ""])
    world.cli("pause", "nightly")
    assert ["plain,nightly"] == offered(world, ["dispatcher", "resume", ""])
    assert ["plain,zip"] == offered(world, ["dispatcher", "submit", "--profile", ""])
    assert ["plain,2\tready: true", "plain,1\tready: sleep 5"] == offered(
        world, ["dispatcher", "show", ""], "fish"
    )
    assert ["plain,1"] == offered(world, ["dispatcher", "logs", "-f", "1"])


def test_only_ids_are_offered_that_the_verb_can_act_on(world: World) -> None:
    for _ in range(4):
        world.submit("true")
    world.cli("cancel", 1)
    world.cli("hold", 2)
    world.cli("claim", "--task", 3, "--lock-file", str(world.directory / "lock"))

    def ids(*words: str) -> list[str]:
        return [one.removeprefix("plain,") for one in offered(world, ["dispatcher", *words, ""])]

    assert ["4", "3", "2"] == ids("cancel")
    assert ["4", "3"] == ids("hold")
    assert ["2"] == ids("release")
    assert ["2", "1"] == ids("retry")
    assert ["1"] == ids("prune")
    assert ["4", "3", "2", "1"] == ids("show")
    assert ["4"] == ids("claim", "--task")
    assert ["3"] == ids("fail", "--task")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["submit", "--from", "jo"], "file,jo"),
        (["submit", "--cwd", "di"], "dir,di"),
        (["submit", "--", "./sc"], "file,./sc"),
        (["submit", "--", "./script", "--in", "da"], "file,da"),
        (["submit", "--queue", "q", "gz"], "file,gz"),
        (["list", "--config", "et"], "file,et"),
        (["backup", "co"], "file,co"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_the_shell_completes_names_of_files(world: World, words: list[str], kind: str) -> None:
    assert [kind] == offered(world, ["dispatcher", *words])


def test_a_mistake_elsewhere_in_the_configuration_hides_no_task(world: World) -> None:
    world.submit("true")
    text = world.config_file.read_text()
    world.config_file.write_text(f'{text}\n[profiles.zip]\ncomand = ["gzip"]\n')

    assert ["plain,1"] == offered(world, ["dispatcher", "cancel", ""])
    assert ["plain,default"] == offered(world, ["dispatcher", "list", "--queue", "d"])


@pytest.mark.parametrize("trouble", ["no store", "no such file", "a mistake", "damaged"])
def test_completion_in_trouble_offers_prints_and_creates_nothing(
    world: World, trouble: str
) -> None:
    if trouble == "no such file":
        world.config_file.unlink()
    elif trouble == "a mistake":
        world.config_file.write_text("[nod")
    elif trouble == "damaged":
        world.submit("true")
        for file in world.state_dir.glob("tasks.db*"):
            file.write_bytes(b"no database " * 1_000)

    assert [] == offered(world, ["dispatcher", "list", "--queue", ""])
    assert [] == offered(world, ["dispatcher", "show", ""])
    assert [] == offered(world, ["dispatcher", "resume", ""])
    assert (trouble == "damaged") == world.state_dir.exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_lines_for_a_shell_work_in_it(world: World, shell: str) -> None:
    script = world.cli("completion", shell).stdout

    assert f"_DISPATCHER_COMPLETE={shell}_complete" in script
    if shutil.which(shell) is not None:
        checked = subprocess.run([shell, "-n"], input=script, text=True, check=False)
        assert 0 == checked.returncode


def test_bash_completes_a_state(world: World) -> None:
    script = """
        eval "$(dispatcher completion bash)"
        COMP_WORDS=(dispatcher list --state f) COMP_CWORD=3
        _dispatcher_completion dispatcher
        echo "${COMPREPLY[@]}"
    """
    path = f"{Path(DISPATCHER).parent}:{world.env['PATH']}"

    done = subprocess.run(
        ["bash", "-c", script],
        env={**world.env, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )

    assert ("failed\n", "") == (done.stdout, done.stderr)
