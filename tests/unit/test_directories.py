"""An executor finds its directories, whatever the other mistakes of the file."""

from pathlib import Path

import pytest

from dispatcher.config.directories import despite_mistakes, load
from dispatcher.errors import ConfigError
from dispatcher.host.node import node_id
from tests.command import Command

ENVIRON = {"HOME": "/nowhere", "STATE_DIRECTORY": "/of/systemd", "RUNTIME_DIRECTORY": "/run/of"}


class File:
    """A configuration file, and the state directory of a node that was started once."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "dispatcher.toml"
        self.state_dir = directory / "state"
        self.node = f"[node]\nstate_dir = '{self.state_dir}'\nruntime_dir = '/run/ours'\n"
        node_id(self.state_dir)

    def read(self, text: str) -> tuple[Path, Path, str]:
        """Return the directories that a text names, and its mistakes."""
        self.path.write_text(text)
        config, mistakes = load(str(self.path), ENVIRON)
        return config.state_dir, config.runtime_dir, "\n".join(mistakes)


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path)


def test_a_right_file_has_no_mistakes(file: File) -> None:
    assert (file.state_dir, Path("/run/ours"), "") == file.read(file.node)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("[leases]\nttl = 5\n", "leases.ttl"),
        ("[leasse]\n", "leasse: unknown section"),
        ("slots = 0\n", "node.slots"),
        ("slotz = 4\n", "node.slotz: unknown key"),
        ("[store]\nurl = 'mysql://x'\n", "store.url: only SQLite and"),
        ("[profiles.a]\n", "profiles.a: needs a command"),
        ("['profiles.gpu']\ncommand = ['true']\n", '"profiles.gpu": unknown section'),
        ("[executor]\nmode = 'external\n", "not TOML"),
        ("slots = four\n", "not TOML"),
        ("[profiles.a\ncommand = ['x']\n", "not TOML"),
        ('[profiles.a]\ncommand = ["x"\n', "not TOML"),
        ("[logs]\nlevel = 'info'\nlevel = 'debug'\n", "not TOML"),
    ],
)
def test_a_mistake_elsewhere_is_named_and_costs_nothing(
    file: File, mistake: str, message: str
) -> None:
    found = file.read(file.node + mistake)

    assert (file.state_dir, Path("/run/ours")) == found[:2]
    assert message in found[2]


def test_directories_that_the_file_leaves_to_systemd_are_certain_too(file: File) -> None:
    found = file.read("[leases]\nttl = 5\n")

    assert (Path("/of/systemd"), Path("/run/of")) == found[:2]


@pytest.mark.parametrize(
    "text",
    [
        "[nod]\nslots = 1\n",
        "[node]\nslotz = 4\n",
        "[node]\nstate_dirr = '/x'\n",
        "[node]\nstate_dir = 5\n",
        "[node]\nstate_dir = 'x'\n",
        "[leases]\nstate_dir = '/x'\n",
        "state_dir = '/x'\n",
        "'node.runtime_dir' = '/x'\n",
        "['node.x']\nruntime_dir = '/x'\n",
    ],
)
def test_a_mistake_that_may_be_about_them_is_refused(file: File, text: str) -> None:
    with pytest.raises(ConfigError):
        file.read(text)


@pytest.mark.parametrize(
    "text",
    [
        "[broken\n",
        "[broken\n[node]\nslots = 4\n",
        "[broken\n[node]\nstate_dir = '{dir}'\nruntime_dri = '/run/x'\n",
        "[broken\n[profiles.x]\ncommand = ['sh', '''\n[node]\nstate_dir = '{dir}'\n''']\n",
        "[broken\n[node]\nstate_dir '{dir}'\n",
        "[broken\n[node]\nstate_dir = '{dir}\n",
        "[broken\n[node]\nstate_dir = 5\n",
        "[broken\n[node]\nstate_dir = '{dir}'\nruntime_dir /run/x\n",
        "[broken\n[node]\nstate_dir = '{dir}'\n[node]\nstate_dir = '{dir}'\n",
        "node.runtime_dir = '/run/x'\n[broken\n[node]\nstate_dir = '{dir}'\n",
        "[broken\n[node]\nstate_dir = '{dir}'\n[leases]\nruntime_dir = '/run/x'\n",
        "[broken\n[node]\nstate_dir = '{dir}'\n[leases]\n>runtime_dir = '/run/x'\n",
        "[node] runtime_dir = '/run/x'\n[node]\nstate_dir = '{dir}'\n",
        "[broken\n[node]\nstate_dir = '/where/no/node/was/started'\n",
        "[broken\n[node]\nstate_dir = '{dir}'\nruntime_dir = 'relative'\n",
        "[broken\n[node]\nstate_dir = '{dir}'\nruntime_dir-x = '/run/x'\n",
        "[broken\n[node]\nstate_dir = '{dir}'\nslots = 4, runtime_dir = '/run/x'\n",
        "[broken\n[node]\nstate_dir = '{dir}'\nslots = '''\nruntime_dir = '/x'\n#'''\n",
        "[broken\n[node]\nstate_dir = '{dir}'\n[store]\nruntime_dir = '/run/x'\n",
        "[broken\n[node]\nstate_dir = '{dir}'\n# x\rruntime_dir = '/run/x'\n",
        "[broken\n['node']\nstate_dir = '{dir}'\n",
        "[broken\nx = '''\n[node]\nstate_dir = '{dir}'\n[y]\n'''\n",
    ],
)
def test_a_file_that_is_not_toml_and_names_them_not_beyond_doubt_is_refused(
    file: File, text: str
) -> None:
    with pytest.raises(ConfigError, match="not TOML"):
        file.read(text.replace("{dir}", str(file.state_dir)))


@pytest.mark.parametrize("end", ["\u2028", "\u0085", "\f"])
def test_no_directory_is_one_that_only_a_comment_names(file: File, end: str) -> None:
    found = file.read(
        f"[node]\r\nstate_dir = '{file.state_dir}'\n# before:{end}runtime_dir = '/x'\n[leases\n"
    )

    assert (file.state_dir, Path("/run/of")) == found[:2]
    assert "not TOML" in found[2]


@pytest.mark.parametrize("quotes", ["'''", '"""'])
def test_a_multi_line_text_after_the_directories_costs_nothing(file: File, quotes: str) -> None:
    script = f"{quotes}\nif true; then\n  [ -f /x ] || exit 1 # as above\nfi\n{quotes}"
    text = f"{file.node}slots = 4\n[profiles.a]\ncommand = ['sh', '-c', {script}]\n[leases\n"
    found = file.read(text)

    assert (file.state_dir, Path("/run/ours")) == found[:2]
    assert despite_mistakes(str(file.path), ENVIRON, with_store=True) is not None


@pytest.mark.parametrize("text", ["[broken\nurl = '/x/y.db'\n", "[nod]\nurl = 5\n"])
def test_places_that_the_environment_names_are_certain_whatever_the_file_is(
    file: File, text: str
) -> None:
    file.path.write_text(text)
    own = {"HOME": "/nowhere", "DISPATCHER_CONFIG": str(file.path)}
    places = {"DISPATCHER_STATE_DIR": "/s", "DISPATCHER_RUNTIME_DIR": "/r"}

    found = load(None, {**own, **places})

    assert (Path("/s"), Path("/r")) == (found.config.state_dir, found.config.runtime_dir)
    for less in ({**own, **places, "DISPATCHER_RUNTIME_DIR": "r"}, {**places, "HOME": "/"}):
        with pytest.raises(ConfigError):
            load(str(file.path), less)
    assert despite_mistakes(None, {**own, **places}, with_store=True) is None
    store = "sqlite:///x/tasks.db"
    every = {**own, **places, "DISPATCHER_STORE_URL": store}
    reached = despite_mistakes(None, every, with_store=True)
    assert reached is not None
    assert (Path("/s"), store) == (reached.state_dir, reached.store_url)
    wrong = {**every, "DISPATCHER_STORE_URL": "x"}
    assert despite_mistakes(None, wrong, with_store=True) is None


def test_a_file_that_cannot_be_read_is_refused(file: File) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(str(file.path), ENVIRON)


@pytest.mark.parametrize(
    "line",
    [
        '["st\\u006fre"]',
        '"state\\u005fdir" = "/x"',
        'node = { "runtime\\u005fdir" = "/x" }',
        '>"u\\u0072l" = "/x/y.db"',
        '"u\\u0072l = "/x/y.db"',
        'x = { a = 1, "u\\u0072l" = "/x/y.db" }',
    ],
)
def test_no_place_is_certain_that_an_escape_may_hide(file: File, line: str) -> None:
    file.path.write_text(f"[broken\n{line}\n{file.node}")

    assert despite_mistakes(str(file.path), ENVIRON, with_store=True) is None
    assert ("dir" in line) == (despite_mistakes(str(file.path), ENVIRON) is None)


@pytest.mark.parametrize(
    "line",
    [
        "command = ['curl', '-s']",
        "ttl = '5s'  # restore time of the store",
        '"\\u0000" = 1',
        'grace = "5s"  # of a url',
        'command = ["sed", "s/\\\\./x/", "a=b"]',
        '["no\\u0064e"]',
        'command = ["x", "--state_dir", "/x", "--url=/y"]',
        "# before:\u2028url = '/x/y.db'",
    ],
)
def test_a_line_without_a_stores_name_leaves_the_store_certain(file: File, line: str) -> None:
    file.path.write_text(f"[broken\n{line}\n{file.node}")

    assert despite_mistakes(str(file.path), ENVIRON, with_store=True) is not None


def test_a_store_is_certain_where_no_line_may_name_one(file: File) -> None:
    broken = f"{file.node}[store]\n# url = 'sqlite:///x/y.db'\n[executor]\nslots = \n"
    file.path.write_text(broken)
    found = despite_mistakes(str(file.path), ENVIRON, with_store=True)
    assert found is not None
    assert f"sqlite://{file.state_dir}/tasks.db" == found.store_url

    for line in (
        "url = 'sqlite:///x/y.db'",
        'store.url = "x',
        "'store' = {url",
        ' "url" = 1',
        '[store] url = "sqlite:///x/y.db"',
        "+url = 'x'",
        ">URL = 'x'",
        "[store]\n'u\\u0072l' = 'x'",
        "ulr = 'sqlite:///x/y.db'",
        "[store]\nulr = '/x/y.db'",
        "store_url = '/x/y.db'",
        "ttl = 'it's # url = '/x/y.db'",
    ):
        file.path.write_text(f"{line}\n{broken}")
        assert despite_mistakes(str(file.path), ENVIRON, with_store=True) is None
        assert despite_mistakes(str(file.path), ENVIRON) is not None


@pytest.mark.parametrize(
    "mistake", ["slots = 'many'", "slots = 0", "slots = 4.0", "runtime_dir = '/run/d'\nslotz = 4"]
)
def test_verbs_that_look_or_stop_work_with_a_mistake_in_slots(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    mistake: str,
) -> None:
    command = Command(tmp_path, capsys, monkeypatch)
    command("submit", "--", "true")
    command.configure(mistake)

    for typed in ("status", "list", "why 1", "cancel 1"):
        assert "going on with the rest of it" in command(*typed.split()).stderr


@pytest.mark.parametrize("line", ['[store] url = "sqlite:///x/y.db"', "+url = 'x'", ">url = 'x'"])
def test_no_verb_works_on_another_store_where_a_mistaken_line_may_name_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    command = Command(tmp_path, capsys, monkeypatch)
    command("submit", "--", "true")
    node_id(command.state_dir)
    command.configure(f"{line}\n")

    message = command("cancel", 1, exits=78).stderr

    assert "not TOML" in message
    assert "reaches the daemon: --config PATH" in message
    command.configure("")
    assert "ready" == command("show", 1, "--json").json["state"]


def test_verbs_that_look_or_stop_work_with_a_file_that_is_not_toml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Command(tmp_path, capsys, monkeypatch)
    command("submit", "--", "true")
    node_id(command.state_dir)
    command.configure("slots = \n")

    for typed in ("status", "list", "why 1", "pause default --reason x", "cancel 1"):
        message = command(*typed.split()).stderr
        assert "not TOML" in message
        assert "going on with the rest of it" in message
    assert "not TOML" in command("submit", "--", "true", exits=78).stderr


@pytest.mark.parametrize("content", [b"x = ['fetch', '{url}'\n", b"\xff", None])
def test_a_worker_without_a_daemon_renews_and_completes_whatever_the_file_is(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
) -> None:
    command = Command(tmp_path, capsys, monkeypatch)
    command("submit", "--", "true")
    lock = command("claim", "--json").json["lock"]
    for name, value in load(str(command.config_file)).config.environment.items():
        monkeypatch.setenv(name, value)
    command.config_file.unlink()
    if content is not None:
        command.config_file.write_bytes(content)

    for typed in ("heartbeat", "complete"):
        done = command(typed, "--task", 1, "--lock", lock)
        assert "going on with the rest of it" in done.stderr
    command.configure("")
    assert "succeeded" == command("show", 1, "--json").json["state"]


@pytest.mark.parametrize("mode", ["'external'", '"external'])
def test_advice_to_start_a_service_is_right_with_a_file_that_is_not_toml(
    file: File, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr("dispatcher.config.config.SYSTEM_FILE", file.path)
    file.path.write_text(f"{file.node}[executor]\nmode = {mode}\n[leases\n")

    found = despite_mistakes(str(file.path), ENVIRON)
    assert found is not None
    assert "systemctl start dispatcher" == found.start_command()
    file.path.write_text(f"{file.node}[leases\n")
    found = despite_mistakes(None, {**ENVIRON, "DISPATCHER_CONFIG": str(file.path)})
    assert found is not None
    assert found.start_command().startswith("dispatcher run")
