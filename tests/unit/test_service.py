"""Installing and removing a service: files written, files left alone, refusals."""

import configparser
import os
import pwd
import shutil
from pathlib import Path
from typing import Any

import pytest

from dispatcher.config.config import load
from dispatcher.errors import DispatcherError
from dispatcher.service import install as service
from dispatcher.service import systemd
from dispatcher.service import units as unit_files
from dispatcher.service.files import is_as_written, sealed
from dispatcher.service.install import Place
from tests.command import Command

pytestmark = pytest.mark.skipif(
    not shutil.which("systemctl"), reason="there is no systemctl (Debian: apt install systemd)"
)

#: The environment of a user's manager.
MANAGER = {"XDG_RUNTIME_DIR": "/run/user/1000"}

NAMES = ["dispatcher-executor.service", "dispatcher.service"]


@pytest.fixture
def command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "states"))
    monkeypatch.setattr(systemd, "in_use", lambda *_, **__: [])  # of no real service
    return Command(tmp_path, capsys, monkeypatch)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    return tmp_path / "config" / "systemd" / "user"


def did(command: Command, *words: str) -> list[tuple[str, str]]:
    """Run a verb for a user's service; return what it did, of each thing the name."""
    report = command(*words, "--user", "--json").json
    return [(step["did"], Path(step["what"]).name) for step in report["steps"]]


def section(path: Path) -> dict[str, str]:
    parser: Any = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read(path)
    return dict(parser["Service"])


def test_a_users_service_is_written_with_a_configuration_that_it_needs(
    command: Command, units: Path, tmp_path: Path
) -> None:
    done = did(command, "install-service")

    assert [
        ("made", "dispatcher"),
        ("wrote", "dispatcher.toml"),
        *(("wrote", name) for name in NAMES),
    ] == done
    file = tmp_path / "config" / "dispatcher" / "dispatcher.toml"
    config = load(str(file), MANAGER)
    assert ("external", tmp_path / "states" / "dispatcher") == (
        config.executor.mode,
        config.state_dir,
    )
    assert 0o600 == file.stat().st_mode & 0o777
    started = section(units / "dispatcher.service")["ExecStart"]
    assert started.endswith(f" -m dispatcher run --config {file}")
    assert NAMES == sorted(path.name for path in units.iterdir())


def test_r88_doing_it_again_changes_nothing(command: Command, units: Path) -> None:
    did(command, "install-service")
    before = {path: (path.read_text(), path.stat().st_ino) for path in units.iterdir()}

    assert [("unchanged", name) for name in NAMES] == did(command, "install-service")
    assert before == {path: (path.read_text(), path.stat().st_ino) for path in units.iterdir()}


@pytest.mark.parametrize("name", ["jobs.toml", '5% of "my jobs" for $1.toml'])
def test_doing_it_again_keeps_the_configuration_that_was_named(
    command: Command, units: Path, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    did(command, "install-service", "--instance", "z", "--config", str(file))
    before = {path: path.read_text() for path in units.iterdir()}
    command.configure("")  # DISPATCHER_CONFIG names another one

    assert {"unchanged"} == {what for what, _ in did(command, "install-service", "--instance", "z")}
    assert before == {path: path.read_text() for path in units.iterdir()}
    assert ("left", name) == did(command, "uninstall-service", "--instance", "z")[-1]


def test_doing_it_again_keeps_the_user_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "SYSTEM_UNITS", tmp_path)
    unit = (unit_files.SHIPPED / "dispatcher.service").read_text()
    (tmp_path / "dispatcher@q.service").write_text(unit.replace("User=dispatcher", "User=ada"))

    def place(instance: str, run_as: str | None = None) -> Place:
        return service.place(user=False, instance=instance, named=None, run_as=run_as)

    assert ("ada", "bob") == (place("q").run_as, place("q", "bob").run_as)
    assert "dispatcher" == place("new").run_as


def test_units_of_another_release_are_brought_up_to_date(command: Command, units: Path) -> None:
    did(command, "install-service")
    old = sealed("dispatcher.service", "[Unit]\n", user=True)
    (units / "dispatcher.service").write_text(old)

    shown = command("install-service", "--user").stdout

    assert f"replaced {units}/dispatcher.service" in shown
    assert "systemctl --user restart dispatcher   # workers go on" in shown
    assert "restart dispatcher-executor" not in shown
    assert "ExecStart" in section(units / "dispatcher.service")

    (units / "dispatcher-executor.service").write_text(old)
    shown = command("install-service", "--user").stdout
    assert "systemctl --user restart dispatcher-executor   # when nothing runs" in shown
    assert "restart dispatcher " not in shown


@pytest.mark.parametrize("verb", ["install-service", "uninstall-service"])
def test_a_unit_that_was_changed_by_hand_is_named_and_left_alone(
    command: Command, units: Path, verb: str
) -> None:
    did(command, "install-service")
    changed = units / "dispatcher.service"
    changed.write_text(changed.read_text().replace("WatchdogSec=30", "WatchdogSec=60"))
    other = units / "dispatcher-executor.service"
    before = (changed.read_text(), other.read_text())

    report = command(verb, "--user", exits=1).stderr

    assert f"{changed} was changed by hand" in report
    assert f"{changed}.d/*.conf" in report
    assert "--force" in report
    assert str(other) not in report
    assert before == (changed.read_text(), other.read_text())
    assert did(command, verb, "--force")


def test_a_unit_from_elsewhere_is_left_alone(command: Command, units: Path) -> None:
    """A unit that a package copied there, or the link of a masked one."""
    units.mkdir(parents=True)
    (units / "dispatcher.service").symlink_to(os.devnull)

    command("install-service", "--user", exits=1)

    assert ["dispatcher.service"] == [path.name for path in units.iterdir()]


def test_uninstalling_takes_back_what_was_written_and_leaves_configuration_and_state(
    command: Command, units: Path, tmp_path: Path
) -> None:
    did(command, "install-service")
    file = tmp_path / "config" / "dispatcher" / "dispatcher.toml"
    command("submit", "--config", file, "--", "true")
    drop_in = units / "dispatcher.service.d" / "override.conf"
    drop_in.parent.mkdir()
    drop_in.touch()

    done = did(command, "uninstall-service")

    left = [("left", "dispatcher.service.d"), ("left", "dispatcher.toml")]
    assert [*(("removed", name) for name in NAMES), *left] == done
    assert [drop_in.parent] == list(units.iterdir())
    assert (tmp_path / "states" / "dispatcher" / "tasks.db").exists()
    assert "no service is installed here" in command("uninstall-service", "--user", exits=1).stderr


def test_an_executor_makes_the_home_that_its_unit_sets(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: None)
    home = command.state_dir / "home"
    command("executor")
    assert not home.exists()

    monkeypatch.setenv("HOME", str(home))
    command("executor")
    assert 0o700 == home.stat().st_mode & 0o777
    command("executor")


def test_each_instance_has_its_own_units_file_and_state(command: Command, units: Path) -> None:
    for instance in ("a", "b-1"):
        did(command, "install-service", "--instance", instance)

    directories = set()
    for instance in ("a", "b-1"):
        service = section(units / f"dispatcher@{instance}.service")
        file = service["ExecStart"].split()[-1]
        assert file.endswith(f"/dispatcher/{instance}.toml")
        shown = command("install-service", "--user", "--instance", instance).stdout
        assert f"  dispatcher status --config {file}   # each verb takes --config" in shown
        directories.add(load(file, MANAGER).state_dir)
    assert 2 == len(directories)

    did(command, "uninstall-service", "--instance", "a")
    assert 2 == len(list(units.iterdir()))
    assert "unchanged" == did(command, "install-service", "--instance", "b-1")[0][0]


@pytest.mark.parametrize("name", ["", ".", "-a", "a/b", "a b", "ä", "%i", "x" * 31])
def test_a_name_that_no_unit_can_have_is_refused(command: Command, name: str) -> None:
    assert "--instance" in command("install-service", f"--instance={name}", exits=2).stderr


def test_the_name_of_the_only_services_file_is_refused_as_an_instance(
    command: Command, units: Path
) -> None:
    report = command("install-service", "--user", "--instance=dispatcher", exits=2).stderr

    assert "use another name" in report
    assert not units.exists()


def test_a_configuration_for_an_embedded_executor_is_refused_and_nothing_written(
    command: Command, units: Path
) -> None:
    report = command("install-service", "--user", "--config", command.config_file, exits=78).stderr

    assert 'mode = "external"' in report
    assert not units.exists()


def test_a_mistaken_configuration_is_refused_and_nothing_written(
    command: Command, units: Path
) -> None:
    command.configure("[executor]\nmode = 'externel'")

    report = command("install-service", "--user", "--config", command.config_file, exits=78).stderr

    assert "did you mean 'external'?" in report
    assert not units.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root installs services of the host")
def test_an_ordinary_user_is_refused_a_service_of_the_host(command: Command) -> None:
    assert "become root, or give --user" in command("install-service", exits=1).stderr


def test_a_host_without_systemd_gets_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")

    with pytest.raises(DispatcherError, match=r"no systemd .* dispatcher run"):
        systemd.version()


@pytest.mark.parametrize("verb", ["install-service", "uninstall-service"])
def test_a_fifo_where_a_unit_would_be_is_left_alone(
    command: Command, units: Path, verb: str
) -> None:
    units.mkdir(parents=True)
    os.mkfifo(units / "dispatcher.service")

    assert "was changed by hand" in command(verb, "--user", exits=1).stderr
    assert (units / "dispatcher.service").is_fifo()
    assert did(command, verb, "--force")


MANAGER_OF_RUN_USER = """\
#!/bin/sh
[ "$XDG_RUNTIME_DIR" = /run/user/$(id -u) ] || { echo "no bus at $XDG_RUNTIME_DIR" >&2; exit 1; }
printf 'Id=dispatcher-executor.service\\nActiveState=active\\nUnitFileState=enabled\\n\\n'
printf 'Id=dispatcher.service\\nActiveState=inactive\\nUnitFileState=\\n'
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of programs that go before the host's."""
    (directory := tmp_path / "programs").mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize("runtime", [None, "/run/user/of-another"])
def test_a_user_manager_is_found_without_its_variable(
    programs: Path, monkeypatch: pytest.MonkeyPatch, runtime: str | None
) -> None:
    program(programs / "systemctl", MANAGER_OF_RUN_USER)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if runtime is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)

    assert ["dispatcher-executor.service"] == systemd.in_use(NAMES, user=True)


def test_units_whose_manager_does_not_answer_are_removed_by_force_alone(
    tmp_path: Path,
    programs: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "states"))
    command = Command(tmp_path, capsys, monkeypatch)
    did(command, "install-service")
    program(programs / "systemctl", "#!/bin/sh\necho 'Failed to connect' >&2\nexit 1\n")

    report = command("uninstall-service", "--user", exits=1).stderr

    user = pwd.getpwuid(os.getuid()).pw_name
    assert f"the user manager of {user} does not answer" in report
    assert "Failed to connect" in report
    assert "--force" in report
    units = tmp_path / "config" / "systemd" / "user"
    assert NAMES == sorted(path.name for path in units.iterdir())
    (units / "default.target.wants").mkdir()
    (enabled := units / "default.target.wants" / NAMES[0]).symlink_to(units / NAMES[0])
    (units / "x.service.requires").mkdir()
    (required := units / "x.service.requires" / NAMES[1]).symlink_to(units / NAMES[1])
    steps = did(command, "uninstall-service", "--force")
    assert [2, 2] == [steps.count(("removed", name)) for name in NAMES]
    assert not required.is_symlink()
    assert not enabled.is_symlink()


def test_a_sealed_unit_is_recognised_and_any_change_is_seen() -> None:
    text = sealed("dispatcher.service", "[Unit]\nA=b\n", user=False)

    assert is_as_written(text)
    for changed in (text + "#\n", text.replace("A=b", "A=c"), "[Unit]\n", "", "\n" + text):
        assert not is_as_written(changed)
