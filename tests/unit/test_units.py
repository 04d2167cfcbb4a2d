"""The systemd units: accepted by systemd, closed, and in agreement with the configuration."""

import configparser
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatcher.config.config import Config, load
from dispatcher.config.peer_settings import PeersSection
from dispatcher.config.report_settings import MetricsSection
from dispatcher.executor.kills import UNKILLABLE_AFTER
from dispatcher.exit_codes import ExitCode
from dispatcher.logs.journald import identifier
from dispatcher.service.units import NAMES, SHIPPED, Installation, argument, unit_texts

PROGRAM = "/usr/local/bin/dispatcher"

TEMPLATES = tuple(name.replace(".service", "@.service") for name in NAMES)

#: The highest exposure that `systemd-analyze security` may report of each, in tenths; a unit that
#: closes nothing has 9.6 of 10.
MOST_EXPOSED = {"dispatcher": "5", "dispatcher-executor": "35"}

#: The directives that forbid a network.
NETWORK = ("PrivateNetwork", "IPAddressDeny", "RestrictAddressFamilies")

LISTENING = {"listen": "127.0.0.1:7373", "token_file": "/token"}

#: Names of which each part is quoted or doubled in a unit; systemd takes no quote in a program's.
ODD = 'a b/50% $HOME "x" \\y; #z'
ODD_PROGRAM = "a b/50%h $HOME; #z/dispatcher"

analyzed = pytest.mark.skipif(
    not shutil.which("systemd-analyze"),
    reason="there is no systemd-analyze (Debian: apt install systemd)",
)


def unit(name: str, section: str = "Service") -> configparser.SectionProxy:
    return section_of((SHIPPED / name).read_text("utf-8"), section)


def section_of(text: str, section: str = "Service") -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser[section]


def shipped(directory: str, names: tuple[str, ...]) -> Mapping[str, str]:
    """Return shipped units that start a program which is there."""
    texts = {name: (SHIPPED / directory / name).read_text("utf-8") for name in names}
    return {name: text.replace(PROGRAM, "/bin/true") for name, text in texts.items()}


def written(
    *,
    instance: str | None = None,
    user: bool = False,
    run_as: str = "dispatcher",
    program: str = "/bin/true",
    systemd: int = 252,
    **settings: object,
) -> Mapping[str, str]:
    """Return the units of an installation."""
    environ = {"STATE_DIRECTORY": "/var/lib/dispatcher", "RUNTIME_DIRECTORY": "/run/dispatcher"}
    config: Config = msgspec.structs.replace(
        load(os.devnull, environ), file=Path("/etc/dispatcher/x.toml"), **settings
    )
    return unit_texts(
        Installation(
            command=(program,),
            config=config,
            instance=instance,
            account=None if user else (run_as, run_as),
            documentation=SHIPPED.parent.parent / "docs" / "operations.md",
            systemd=systemd,
        )
    )


def in_odd_places(tmp_path: Path) -> Mapping[str, str]:
    program = tmp_path / ODD_PROGRAM
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    state = tmp_path / ODD / "state"
    return written(program=str(program), state_dir=state, runtime_dir=state / "run")


OF_THE_HOST: Mapping[str, Callable[[Path], Mapping[str, str]]] = {
    "shipped": lambda _: shipped("", NAMES),
    "templates": lambda _: shipped("", TEMPLATES),
    "written": lambda _: written(),
    "written for an instance": lambda _: written(instance="gpu"),
    "written for odd places": in_odd_places,
    "written for another user": lambda _: written(run_as="daemon"),
}

OF_A_USER: Mapping[str, Callable[[Path], Mapping[str, str]]] = {
    "shipped for users": lambda _: shipped("user", NAMES),
    "templates for users": lambda _: shipped("user", TEMPLATES),
    "written for a user": lambda _: written(user=True),
}


@analyzed
@pytest.mark.parametrize("which", [*OF_THE_HOST, *OF_A_USER])
def test_systemd_finds_no_fault_with_the_units(tmp_path: Path, which: str) -> None:
    texts = {**OF_THE_HOST, **OF_A_USER}[which](tmp_path)
    for name, text in texts.items():
        (tmp_path / name).write_text(text)

    manager = "--user" if which in OF_A_USER else "--system"
    verified = analyze(tmp_path, "verify", manager, *texts)

    assert (0, "", "") == (verified.returncode, verified.stdout, verified.stderr)


@analyzed
@pytest.mark.parametrize("which", OF_THE_HOST)
def test_the_units_are_as_closed_as_their_exposure_limit(tmp_path: Path, which: str) -> None:
    for name, text in OF_THE_HOST[which](tmp_path).items():
        (tmp_path / name).write_text(text)
        most = MOST_EXPOSED[name.partition(".")[0].partition("@")[0]]

        looked = analyze(tmp_path, "security", "--offline=true", f"--threshold={most}", f"./{name}")

        assert 0 == looked.returncode, looked.stdout + looked.stderr


def analyze(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "notice", "XDG_RUNTIME_DIR": str(directory)},
    )


def test_the_packaged_configuration_is_the_one_the_units_need() -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/dispatcher", "RUNTIME_DIRECTORY": "/run/dispatcher"}
    config = load(str(SHIPPED / "dispatcher.toml"), environ)

    assert ("external", "leave") == (config.executor.mode, config.on_stop)
    for name in NAMES:
        service = unit(name)
        assert ("dispatcher", "dispatcher") == (service["User"], service["StateDirectory"])
        assert service["ExecStart"].endswith(" --config /etc/dispatcher/dispatcher.toml")
    assert Path("/run/dispatcher") / "executor.sock" == config.executor_socket


def test_an_operators_shell_means_the_same_store_as_the_units() -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/dispatcher", "RUNTIME_DIRECTORY": "/run/dispatcher"}
    file = str(SHIPPED / "dispatcher.toml")

    assert load(file, environ) == load(file, {"HOME": "/root", "XDG_RUNTIME_DIR": "/run/user/0"})


@pytest.mark.parametrize("directory", ["", "user"])
def test_the_executor_has_the_time_to_end_its_runs(directory: str) -> None:
    leases = load(str(SHIPPED / "dispatcher.toml"), {"STATE_DIRECTORY": "/v"}).leases
    service = unit(f"{directory}/dispatcher-executor.service".lstrip("/"))

    ending = leases.kill_grace_ms / 1000 + leases.leftover_grace_ms / 1000 + UNKILLABLE_AFTER
    assert int(service["TimeoutStopSec"]) > ending
    # Or the executor's own death leaves workers.
    assert "mixed" == service["KillMode"]


@pytest.mark.parametrize("name", [*TEMPLATES, *(f"user/{name}" for name in TEMPLATES)])
def test_an_instance_logs_by_the_name_that_its_unit_has(name: str) -> None:
    """systemd names its printed lines, and it names its records itself."""
    program = Path(name).name.partition("@")[0]
    variable, _, instance = unit(name)["Environment"].partition("=")

    assert unit(name)["SyslogIdentifier"] == identifier(program, {variable: instance})
    assert f"{program}@%i" == unit(name)["SyslogIdentifier"]


@pytest.mark.parametrize("name", NAMES)
def test_a_restart_leaves_the_sockets_of_the_other(name: str) -> None:
    assert "yes" == unit(name)["RuntimeDirectoryPreserve"]


@pytest.mark.parametrize("name", [*NAMES, *TEMPLATES, *(f"user/{name}" for name in NAMES)])
def test_a_shutdown_ends_the_runs_while_the_daemon_still_answers(name: str) -> None:
    """A unit started later is stopped earlier (systemd.unit(5), Before=)."""
    if "executor" not in name:
        assert unit(name, "Unit")["Before"] == name.rpartition("/")[2].replace(
            "dispatcher", "dispatcher-executor", 1
        ).replace("@", "@%i")
        assert "dispatcher" not in unit(name, "Unit").get("After", "")


@pytest.mark.parametrize("name", [*NAMES, *TEMPLATES, *(f"user/{name}" for name in NAMES)])
def test_an_executor_that_was_stopped_stays_so_when_the_daemon_starts(name: str) -> None:
    for pulls in ("Wants", "Requires", "BindsTo", "Upholds", "PartOf"):
        assert "dispatcher" not in unit(name, "Unit").get(pulls, "")


@pytest.mark.parametrize("name", NAMES)
def test_r35_a_unit_is_started_again_however_often_it_failed(name: str) -> None:
    assert "always" == unit(name)["Restart"]
    assert "0" == unit(name, "Unit")["StartLimitIntervalSec"]


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_is_not_started_again_after_a_mistake_in_its_configuration(name: str) -> None:
    service = unit(name)

    assert ("always", str(ExitCode.CONFIG.value)) == (
        service["Restart"],
        service["RestartPreventExitStatus"],
    )
    assert "notify" == service["Type"]
    assert (
        int(service["WatchdogSec"]) >= 10
    )  # a store may keep a tick waiting, a spawn the executor


def test_the_kernel_takes_a_worker_before_the_executor_when_memory_is_short() -> None:
    service = unit("dispatcher-executor.service")

    assert ("-500", "continue") == (service["OOMScoreAdjust"], service["OOMPolicy"])


def test_workers_get_the_soft_limit_of_open_files_that_programs_expect() -> None:
    assert "1024:65536" == unit("dispatcher-executor.service")["LimitNOFILE"]


def test_the_daemon_may_open_the_connections_of_as_many_workers_as_an_executor_may_have() -> None:
    most = unit("dispatcher-executor.service")["LimitNOFILE"].partition(":")[2]
    assert most == unit("dispatcher.service")["LimitNOFILE"]
    assert most == unit("dispatcher@.service")["LimitNOFILE"]


@pytest.mark.parametrize("directive", ["RestrictSUIDSGID", "LockPersonality", "PrivateTmp"])
def test_directives_that_break_workers_are_not_in_the_executors_unit(directive: str) -> None:
    assert directive not in unit("dispatcher-executor.service")


def test_a_reload_waits_for_the_daemons_answer() -> None:
    """`kill -HUP` returns before the file is read, and 0 whatever is in it."""
    assert (
        f"{PROGRAM} reload --config /etc/dispatcher/dispatcher.toml"
        == (unit("dispatcher.service")["ExecReload"])
    )


def test_an_installation_has_its_own_command_file_and_documentation() -> None:
    texts = written(instance="gpu", program="/opt/x/bin/dispatcher")
    daemon = texts["dispatcher@gpu.service"]

    service = section_of(daemon)
    assert "/opt/x/bin/dispatcher run --config /etc/dispatcher/x.toml" == service["ExecStart"]
    assert "/opt/x/bin/dispatcher reload --config /etc/dispatcher/x.toml" == service["ExecReload"]
    page = section_of(daemon, "Unit")["Documentation"]
    assert Path(page.removeprefix("file://")).is_file()


@pytest.mark.parametrize(
    ("word", "in_a_unit"),
    [
        ("/a/b", "/a/b"),
        ("/a b", '"/a b"'),
        ("/50%h", "/50%%h"),
        ("/$HOME", "/$$HOME"),
        ('/a"b\\c', '"/a\\"b\\\\c"'),
        ("/a;b", '"/a;b"'),
        ("/ä", "/ä"),
    ],
)
def test_an_argument_means_itself_in_a_unit(word: str, in_a_unit: str) -> None:
    assert in_a_unit == argument(word)


def test_systemd_makes_the_directories_it_can_and_the_daemon_may_write_to_the_others() -> None:
    state = Path("/var/lib/a/b")
    usual = section_of(written(state_dir=state)["dispatcher.service"])
    assert ("a/b", "dispatcher") == (usual["StateDirectory"], usual["RuntimeDirectory"])
    elsewhere = section_of(
        written(state_dir=Path("/srv/d"), runtime_dir=Path("/srv/d/run"))["dispatcher.service"]
    )
    assert not [key for key in elsewhere if key.startswith(("StateDir", "RuntimeDir"))]
    assert elsewhere["ReadWritePaths"] == "-/var/lib/dispatcher"  # the last: where the store is


def test_a_directory_of_figures_is_open_to_the_daemon_and_its_loss_stops_no_unit() -> None:
    figures = MetricsSection(textfile="/srv/my figures/d.prom")
    executor, daemon = (section_of(written(metrics=figures)[name]) for name in NAMES)

    assert '"-/srv/my figures"' == daemon["ReadWritePaths"]
    assert "ReadWritePaths" not in executor


@pytest.mark.parametrize(
    "settings",
    [{"store_url": "postgresql://db.example/jobs"}, {"peers": PeersSection(**LISTENING)}],
    ids=["store", "listener"],
)
def test_the_daemon_has_a_network_if_its_store_or_its_peers_are_there(
    settings: Mapping[str, Any],
) -> None:
    closed, opened = (
        section_of(texts["dispatcher.service"]) for texts in (written(), written(**settings))
    )

    assert ("yes", "any", "AF_UNIX") == tuple(map(closed.get, NETWORK))
    assert (None, None, "AF_UNIX AF_INET AF_INET6 AF_NETLINK") == tuple(map(opened.get, NETWORK))


def test_workers_have_a_home_below_the_state_directory_or_that_of_their_own_user() -> None:
    name = "dispatcher-executor.service"
    assert "HOME=/var/lib/dispatcher/home" == unit(name)["Environment"]
    template = (SHIPPED / TEMPLATES[0]).read_text("utf-8")
    assert "\nEnvironment=HOME=/var/lib/dispatcher-%i/home\n" in template
    elsewhere = written(state_dir=Path("/srv/a b"))[name]
    assert '\nEnvironment="HOME=/srv/a b/home"\n' in elsewhere
    assert "HOME=" not in written(run_as="ada")[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_stop_removes_no_shared_memory_of_a_users_other_programs(name: str) -> None:
    assert "yes" == section_of(written()[name])["RemoveIPC"]
    assert "RemoveIPC" not in section_of(written(run_as="ada")[name])


def test_a_directive_that_an_older_systemd_does_not_know_is_left_out() -> None:
    assert "ProtectProc" in section_of(written(systemd=247)["dispatcher.service"])
    assert "ProtectProc" not in section_of(written(systemd=245)["dispatcher.service"])
