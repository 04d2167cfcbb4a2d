"""A mistake of one profile: it blocks that profile, for submit and daemon, and nothing else."""

import re
from pathlib import Path

import pytest

from dispatcher.cli.offers import offer
from dispatcher.config import environment_file
from dispatcher.config.config import Config, Mistaken, load
from dispatcher.config.reload import reload
from dispatcher.errors import ConfigError, InvalidTask
from dispatcher.submission import new_task
from tests.command import Command

GOOD = "[profiles.good]\ncommand = ['true']\n"


def read(file: Path, text: str) -> Config:
    file.write_text(f"[node]\nstate_dir = '/s'\nruntime_dir = '/r'\nslots = 3\n{GOOD}{text}")
    return load(str(file), {})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[profiles.bad]\ncommand = 'true'\n", ":8: profiles.bad.command: expected a list"),
        ("[profiles.bad]\n", ":7: profiles.bad: needs a command"),
        ("[profiles.bad]\ncommand = ['a']\ncomand = ['a']\n", ":9: profiles.bad.comand: unknown"),
        ("[profiles.bad]\ncommand = ['a']\nrun_timeout = 5\n", ":9: profiles.bad.run_timeout: 5"),
        ("[profiles.bad]\ncommand = ['a']\nstart_timeout = '0s'\n", ":9: profiles.bad.start_time"),
    ],
)
def test_the_rest_of_the_file_holds(tmp_path: Path, text: str, line: str) -> None:
    file = tmp_path / "f.toml"

    config = read(file, text)

    assert (3, {"good"}) == (config.slots, config.profiles.keys())
    assert {"bad"} == config.mistaken_profiles.keys()
    assert f"{file}" in config.mistakes[0]
    assert line in config.mistakes[0]
    assert ("true",) == new_task(config, (), {"profile": "good"}).command
    with pytest.raises(ConfigError, match=f"'bad' has a mistake in {file}: dispatcher check-conf"):
        new_task(config, (), {"profile": "bad"})
    with pytest.raises(InvalidTask, match="there is no 'goof'; did you mean 'good'"):
        new_task(config, (), {"profile": "goof"})


@pytest.mark.parametrize(
    "text",
    [
        "[profiles.bad]\ncommand = ['a']\nslots = 1\n",  # of [node]
        "[profiles.bad]\ncommand = ['a']\nttl = '1s'\n",  # of [leases]
        "[profiles.bad]\ncommand = ['a']\nconcurrency = 1\n",  # of a queue
        "[profiles.bad]\ncommand = ['a']\nruntime_dir = '/x'\n",
        "[profiles.bad]\ncommand = ['a']\nstore_url = '/x.db'\n",
        "[profiles.bad]\ncommand = ['a']\nx = 'sqlite:///x/y.db'\n",
        "[profile.bad]\ncommand = ['a']\n",
        "[profiles.bad]\n[leases]\nttl = 5\n",
    ],
)
def test_a_mistake_that_may_concern_more_than_a_profile_is_one_of_the_file(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(Mistaken):
        read(tmp_path / "f.toml", text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[profiles]\ncommand = ['true']\n", ":2: profiles.command: is not a table"),
        ("[profiles]\nstate_dir = '/x'\n", ":2: profiles.state_dir: is not a table"),
        ("[[profiles]]\n", ": profiles: is a section"),
    ],
)
def test_profiles_without_names_are_a_mistake_of_the_file(
    tmp_path: Path, text: str, line: str
) -> None:
    file = tmp_path / "f.toml"
    file.write_text(text)

    with pytest.raises(Mistaken, match=re.escape(line)):
        load(str(file), {})


def test_a_value_in_the_place_of_a_profile_is_a_mistake_of_that_one(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("[profiles]\nbad = 5\ngood.command = ['true']\n")

    config = load(str(file), {})

    assert (["good"], ["bad"]) == (list(config.profiles), list(config.mistaken_profiles))


def test_mistaken_profiles_are_left_out_of_the_rest_despite_other_mistakes(
    tmp_path: Path,
) -> None:
    with pytest.raises(Mistaken) as caught:
        read(tmp_path / "f.toml", "[leases]\nttl = 5\n[profiles.bad]\n")

    assert ["good"] == list(caught.value.rest.profiles)
    assert ["bad"] == list(caught.value.rest.mistaken_profiles)
    assert 2 == len(caught.value.mistakes)


def test_every_verb_works_and_warns_and_only_the_profile_is_refused(command: Command) -> None:
    command.configure(f"{GOOD}[profiles.bad]\ncomand = ['x']\n")

    done = command("submit", "--profile", "good")
    refused = command("submit", "--profile", "bad", exits=78)
    line = b'{"profile": "bad"}'
    bulk = command("submit", "--from", "-", stdin=line, exits=78)

    assert "1\n" == done.stdout
    warned, *_ = done.stderr.splitlines()
    assert f"dispatcher: {command.config_file}:6: profiles.bad.comand: unknown key" in warned
    assert warned.endswith("did you mean 'command'? (profile bad is left out)")
    for one in (refused, bulk):
        assert one.stderr.splitlines()[-1].startswith("dispatcher: profile: 'bad' has a mistake in")
    for typed in ("submit -- true", "claim", "list", "prune", "config", "status"):
        assert f"{warned}\n" in command(*typed.split()).stderr
    found = command("doctor", "--json", exits=1).json
    first, second = [one for one in found if one["check"] == "profile"]
    assert {"bad"} == {first["level"], second["level"]}
    assert "profiles.bad.comand: unknown key" in first["finding"]


def test_check_config_reports_it_and_exits_78(command: Command) -> None:
    command.configure("[profiles.bad]\ncomand = ['x']\n[profiles.b]\ncommand = 5\n")

    lines = command("check-config", exits=78).stderr.splitlines()

    assert 3 == len(lines), lines
    assert [
        f"dispatcher: {command.config_file}:{number}: " in line
        for number, line in zip((4, 3, 6), lines, strict=True)
    ] == [True] * 3


def test_a_completion_prints_no_warning(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command.configure(f"{GOOD}[profiles.bad]\n")
    monkeypatch.setattr("dispatcher.cli.configuration.named_file", lambda: None)

    offered = offer("profiles", "")

    assert ["good"] == [item.value for item in offered]
    assert ("", "") == capsys.readouterr()


# Secrets ------------------------------------------------------------------------------------


def with_file(command: Command, named: str) -> None:
    command.configure(f"[profiles.p]\ncommand = ['true']\nenv_file = '{named}'\n{GOOD}")


@pytest.mark.parametrize("content", [None, "A='hunter2\n", "directory"])
def test_a_profile_whose_file_of_secrets_cannot_be_read_refuses_at_submit(
    command: Command, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "p.env"
    with_file(command, str(file))
    if content == "directory":
        file.mkdir()
    elif content is not None:
        file.write_text(content)

    refused = command("submit", "--profile", "p", exits=78)
    bulk = command("submit", "--from", "-", stdin=b'{"profile": "p"}', exits=78)

    assert f"dispatcher: profile: the env_file of 'p': {file}" in refused.stderr
    assert refused.stderr == bulk.stderr
    assert "hunter2" not in refused.stderr
    assert "1\n" == command("submit", "--profile", "good").stdout


def test_a_file_that_may_be_missing_may_be_missing(command: Command, tmp_path: Path) -> None:
    with_file(command, f"-{tmp_path / 'p.env'}")

    assert "1\n" == command("submit", "--profile", "p").stdout


def test_a_file_that_changes_between_two_submits_is_read_again(
    command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "p.env"
    file.write_text("A=1\n")
    with_file(command, str(file))
    for _ in range(2):
        command("submit", "--profile", "p")

    file.write_text("A='1\n")
    command("submit", "--profile", "p", exits=78)
    file.unlink()
    command("submit", "--profile", "p", exits=78)
    file.write_text("A=1\n")
    command("submit", "--profile", "p")


def test_an_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, times = tmp_path / "p.env", []
    file.write_text("A=1\n")
    read_file = environment_file.read
    monkeypatch.setattr(
        environment_file, "read", lambda named: times.append(named) or read_file(named)
    )

    for _ in range(3):
        environment_file.check(str(file))

    assert [str(file)] == times


# The daemon ---------------------------------------------------------------------------------


def test_a_profile_with_a_mistake_after_a_reload_stays_as_it_was(tmp_path: Path) -> None:
    file, secrets = tmp_path / "f.toml", tmp_path / "p.env"
    secrets.write_text("A=1\n")
    profile = f"[profiles.p]\ncommand = ['a']\nenv_file = '{secrets}'\n"
    old = read(file, profile)
    before = environment_file.read_all(old)

    read(file, f"{profile}run_timeout = 5\n")
    reloaded = reload(old, {})
    after = environment_file.read_all(reloaded.config, before)

    assert ({}, {}) == (reloaded.changed, reloaded.kept)
    assert old.profiles == reloaded.config.profiles
    assert ({"good": {}, "p": {"A": "1"}}, {}, []) == (after.of, after.unusable, after.unread)
    assert 1 == len(reloaded.config.mistakes)


def test_a_file_of_secrets_that_is_gone_after_a_reload_leaves_the_variables_of_before(
    tmp_path: Path,
) -> None:
    file, secrets = tmp_path / "f.toml", tmp_path / "p.env"
    secrets.write_text("A=1\n")
    config = read(file, f"[profiles.p]\ncommand = ['a']\nenv_file = '{secrets}'\n")
    before = environment_file.read_all(config)
    secrets.unlink()

    after = environment_file.read_all(config, before)
    at_start = environment_file.read_all(config)

    why = f"{file}: profiles.p.env_file: {secrets} is missing; make it, or write -{secrets} if it"
    assert ({"good": {}, "p": {"A": "1"}}, {}) == (after.of, after.unusable)
    assert ({"good": {}}, {"p": f"{why} may be"}) == (at_start.of, at_start.unusable)
    assert [f"{why} may be"] == after.unread == at_start.unread


def test_a_profile_with_a_mistake_at_the_start_cannot_be_used(tmp_path: Path) -> None:
    config = read(tmp_path / "f.toml", "[profiles.bad]\ncommand = ['a']\nenv_fil = '/x'\n")

    found = environment_file.read_all(config)

    assert {"good": {}} == found.of
    assert ["bad"] == list(found.unusable)
    assert "profiles.bad.env_fil: unknown key; did you mean 'env_file'?" in found.unusable["bad"]


def test_a_daemon_without_a_file_reads_the_one_that_is_there_at_a_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "system.toml"
    monkeypatch.setattr("dispatcher.config.config.SYSTEM_FILE", file)
    environ = {
        "XDG_CONFIG_HOME": str(tmp_path / "none"),
        "XDG_STATE_HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": "/run/user/0",
    }
    old = load(None, environ)
    assert old.file is None

    file.write_text("[node]\nstate_dir = '/elsewhere'\nslots = 77\n")
    reloaded = reload(old, environ)

    assert (file, 77, old.state_dir) == (
        reloaded.config.file,
        reloaded.config.slots,
        reloaded.config.state_dir,
    )
    assert ["node.slots"] == list(reloaded.changed)
    assert "node.state_dir" in reloaded.kept
