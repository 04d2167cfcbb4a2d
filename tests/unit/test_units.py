"""The systemd units: accepted by systemd, and in agreement with the configuration's defaults."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dispatcher.config.config import load
from dispatcher.executor.run import UNKILLABLE_AFTER
from dispatcher.wire import ExitCode

UNITS = Path(__file__).parents[2] / "systemd"
NAMES = ("dispatcher.service", "dispatcher-executor.service")

PROGRAM = "/usr/local/bin/dispatcher"


def unit(name: str, section: str = "Service") -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser[section]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_has_nothing_to_say_of_the_units(tmp_path: Path) -> None:
    for name in NAMES:
        text = (UNITS / name).read_text("utf-8").replace(PROGRAM, "/bin/true")
        (tmp_path / name).write_text(text)

    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *NAMES],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "notice"},
    )

    assert (0, "", "") == (verified.returncode, verified.stdout, verified.stderr)


def test_the_packaged_configuration_is_the_one_the_units_need() -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/dispatcher", "RUNTIME_DIRECTORY": "/run/dispatcher"}
    config = load(str(UNITS / "dispatcher.toml"), environ)

    assert ("external", "leave") == (config.executor.mode, config.on_stop)
    for name in NAMES:
        service = unit(name)
        assert ("dispatcher", "dispatcher") == (service["User"], service["StateDirectory"])
        assert service["ExecStart"].endswith(" --config /etc/dispatcher/dispatcher.toml")
    assert Path("/run/dispatcher") / "executor.sock" == config.executor_socket


def test_an_operators_shell_means_the_same_store_as_the_units() -> None:
    told = {"STATE_DIRECTORY": "/var/lib/dispatcher", "RUNTIME_DIRECTORY": "/run/dispatcher"}
    file = str(UNITS / "dispatcher.toml")

    assert load(file, told) == load(file, {"HOME": "/root", "XDG_RUNTIME_DIR": "/run/user/0"})


def test_the_executor_has_the_time_to_end_its_runs() -> None:
    leases = load(str(UNITS / "dispatcher.toml"), {"STATE_DIRECTORY": "/v"}).leases
    service = unit("dispatcher-executor.service")

    ladder = leases.kill_grace_ms / 1000 + leases.leftover_grace_ms / 1000 + UNKILLABLE_AFTER
    assert int(service["TimeoutStopSec"]) > ladder
    # Or the daemon's restart would end the workers, and the executor's own death leave them.
    assert "mixed" == service["KillMode"]
    assert "yes" == service["RuntimeDirectoryPreserve"]


@pytest.mark.parametrize("name", NAMES)
def test_r35_what_may_mend_itself_is_started_again_however_often_it_failed(name: str) -> None:
    assert "always" == unit(name)["Restart"]
    assert "0" == unit(name, "Unit")["StartLimitIntervalSec"]


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_mend_itself_is_not_started_again(name: str) -> None:
    service = unit(name)

    assert ("always", str(ExitCode.CONFIG.value)) == (
        service["Restart"],
        service["RestartPreventExitStatus"],
    )
    assert "notify" == service["Type"]
    assert (
        int(service["WatchdogSec"]) >= 10
    )  # a store may keep a tick waiting, a spawn the executor
