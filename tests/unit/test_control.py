"""Where a daemon announces its control socket."""

import errno
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest

from dispatcher import control
from dispatcher.config.config import Config, load
from dispatcher.host import files
from dispatcher.host.locks import DAEMON_LOCK, lock_file
from tests.eventually import PATIENCE, let_pass
from tests.reports import report


def test_a_client_of_another_environment_finds_the_daemon(tmp_path: Path) -> None:
    daemons, clients = configured(tmp_path, "daemons"), configured(tmp_path, "clients")

    assert None is control.announce(daemons)
    assert daemons.control_socket == control.find(clients)


def test_r35_an_announcement_that_holds_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk would not take it, and does not have to."""
    config = configured(tmp_path, "run")
    control.announce(config)
    monkeypatch.setattr(files, "replace", full_disk)

    assert None is control.announce(config)
    assert config.control_socket == control.find(config)


def test_r35_an_announcement_that_fails_sends_nobody_to_the_wrong_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, now = configured(tmp_path, "before"), configured(tmp_path, "now")
    control.announce(before)
    monkeypatch.setattr(files, "replace", full_disk)

    error = control.announce(now)

    assert error is not None
    assert errno.ENOSPC == error.errno
    assert now.control_socket == control.find(now)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe garbage",
        b"\x00" * 5000,
        b"%s relative",
        b"%s /a\x00b",
        b"%s /a\xff",
        b"%s /a\nb",
        b"%s /" + b"x" * 107,
    ],
    ids=lambda content: repr(content)[:20],
)
def test_garbage_in_its_place_sends_nobody_anywhere(tmp_path: Path, content: bytes) -> None:
    config = configured(tmp_path, "run")
    found = config.state_dir.stat()
    content = content.replace(b"%s", b"%d:%d" % (found.st_dev, found.st_ino))
    (config.state_dir / "control-socket").write_bytes(content + b"\n")

    assert config.control_socket == control.find(config)
    control.wake(config)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=lambda make: make.__name__)
def test_nobody_waits_for_a_fifo_or_device_in_its_place(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    config = configured(tmp_path, "run")
    make(config.state_dir / "control-socket")

    assert config.control_socket == control.find(config)


@contextmanager
def listening(backlog: int = 128) -> Iterator[tuple[socket.socket, Path]]:
    with TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listener:
        path = Path(short) / "control.sock"
        listener.bind(str(path))
        listener.listen(backlog)
        yield listener, path


def test_a_listener_that_is_not_a_daemon_gives_no_answer() -> None:
    with listening() as (stranger, path), ThreadPoolExecutor(1) as pool:
        pending = pool.submit(control.status, path)
        connection, _ = stranger.accept()
        with connection:
            connection.sendall(b"220 mail.example ESMTP\n")

            with pytest.raises(TimeoutError, match="no answer of a daemon"):
                pending.result()


def test_a_daemon_that_answers_late_on_a_busy_host_is_waited_for() -> None:
    with listening() as (daemon, path), ThreadPoolExecutor(1) as pool:
        pending = pool.submit(control.status, path)
        connection, _ = daemon.accept()
        with connection:
            let_pass(1.0)
            connection.sendall(msgspec.json.encode(report()) + b"\n")

            assert report() == pending.result()


def test_a_daemon_whose_queue_is_full_for_a_moment_is_waited_for() -> None:
    """As after many submits, each of which wakes it."""
    with listening(0) as (daemon, path), ExitStack() as others, ThreadPoolExecutor(1) as pool:
        fill(path, others)
        pending = pool.submit(control.status, path)
        let_pass(0.5)
        others.close()
        daemon.settimeout(PATIENCE)
        while True:
            connection, _ = daemon.accept()
            with connection:
                if connection.recv(100):
                    connection.sendall(msgspec.json.encode(report()) + b"\n")
                    break

        assert report() == pending.result()


def test_a_client_stopped_and_continued_while_the_queue_is_full_does_not_find_that_none_runs() -> (
    None
):
    """A signal ends such a connect(2), which Python takes for done."""
    with listening(0) as (_, path), ExitStack() as others:
        fill(path, others)
        before = signal.signal(signal.SIGALRM, lambda *_: None)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(TimeoutError, match="no answer"):
                control.status(path)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def fill(path: Path, others: ExitStack) -> None:
    """Connect until the queue of a listener is full."""
    with suppress(BlockingIOError):
        while True:
            other = others.enter_context(socket.socket(socket.AF_UNIX))
            other.setblocking(False)
            other.connect(str(path))


def test_clients_of_a_copied_state_directory_do_not_take_the_originals_daemon_for_theirs(
    tmp_path: Path,
) -> None:
    control.announce(configured(tmp_path, "daemons"))
    (tmp_path / "copy").mkdir()
    shutil.copytree(tmp_path / "state", tmp_path / "copy/state")
    clients = configured(tmp_path / "copy", "copys")

    assert clients.control_socket == control.find(clients)
    assert None is control.announce(clients)
    assert clients.control_socket == control.find(configured(tmp_path / "copy", "others"))


def test_a_state_directory_is_the_same_by_another_path_and_another_name(tmp_path: Path) -> None:
    daemons = configured(tmp_path, "daemons")
    control.announce(daemons)
    (tmp_path / "link").symlink_to(tmp_path)
    assert daemons.control_socket == control.find(configured(tmp_path / "link", "clients"))

    (tmp_path / "moved").mkdir()
    (tmp_path / "state").rename(tmp_path / "moved/state")
    assert daemons.control_socket == control.find(configured(tmp_path / "moved", "clients"))


@pytest.mark.parametrize(
    "content", ["", "/run/old/control.sock\n", "1:2 /run/x/control.sock\n", "\0"]
)
def test_an_announcement_of_no_directory_or_another_one_is_ignored(
    tmp_path: Path, content: str
) -> None:
    config = configured(tmp_path, "run")
    (tmp_path / "state/control-socket").write_text(content)

    assert config.control_socket == control.find(config)


def full_disk(path: Path, text: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def configured(directory: Path, runtime: str) -> Config:
    state = directory / "state"
    state.mkdir(exist_ok=True)
    file = directory / "dispatcher.toml"
    file.write_text(f'[node]\nstate_dir = "{state}"\nruntime_dir = "/tmp/{runtime}"\n', "utf-8")
    return load(str(file), {})


def test_another_dispatchers_daemon_in_our_runtime_directory_is_not_taken_for_ours() -> None:
    with TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as theirs:
        config = configured(Path(short), "run")
        (config.state_dir / "node-id").write_text("5a7c0c3e-0000-4000-8000-000000000001")
        config = msgspec.structs.replace(config, runtime_dir=Path(short))
        theirs.bind(str(config.control_socket))
        theirs.listen()
        for node in ("another", "5a7c0c3e-0000-4000-8000-000000000001"):
            with ThreadPoolExecutor(1) as pool:
                pending = pool.submit(control.report, config)
                connection, _ = theirs.accept()
                with connection:
                    connection.sendall(msgspec.json.encode(report(node=node)) + b"\n")
                    answer = pending.result()

            assert (None if node == "another" else report(node=node)) == answer


def test_a_daemon_that_lives_and_cannot_be_reached_is_named(tmp_path: Path) -> None:
    config = configured(tmp_path, "run")
    assert control.why_unreachable(config) is None

    with closing(lock_file(config.state_dir / DAEMON_LOCK, "it")):
        why = control.why_unreachable(config)
        assert why is not None
        assert f"(pid {os.getpid()}) lives" in why

    assert control.why_unreachable(config) is None
