"""Where a daemon says that it listens."""

from __future__ import annotations

from pathlib import Path

from dispatcher import control
from dispatcher.config.config import Config, load


def test_a_client_of_another_environment_finds_the_daemon(tmp_path: Path) -> None:
    daemons, clients = configured(tmp_path, "daemons"), configured(tmp_path, "clients")

    assert None is control.announce(daemons)
    assert daemons.control_socket == control.find(clients)


def test_what_is_said_already_is_not_written_again(tmp_path: Path) -> None:
    """R-35: a full disk would not take it, and does not have to."""
    config = configured(tmp_path, "run")
    control.announce(config)
    take_the_drafts_place(tmp_path)

    assert None is control.announce(config)
    assert config.control_socket == control.find(config)


def test_where_it_cannot_be_said_nobody_is_sent_to_the_wrong_place(tmp_path: Path) -> None:
    """R-35."""
    before, now = configured(tmp_path, "before"), configured(tmp_path, "now")
    control.announce(before)
    take_the_drafts_place(tmp_path)

    error = control.announce(now)

    assert error is not None
    assert "control-socket.new" in str(error)
    assert now.control_socket == control.find(now)


def take_the_drafts_place(directory: Path) -> None:
    (directory / "state/control-socket.new/in the way").mkdir(parents=True)


def configured(directory: Path, runtime: str) -> Config:
    state = directory / "state"
    state.mkdir(exist_ok=True)
    file = directory / "dispatcher.toml"
    file.write_text(f'[node]\nstate_dir = "{state}"\nruntime_dir = "/tmp/{runtime}"\n', "utf-8")
    return load(str(file), {})
