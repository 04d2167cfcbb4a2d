"""Reading small files in whose place anything may stand."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dispatcher.config import directories, environment_file, toml
from dispatcher.errors import ConfigError, StoreUnusable
from dispatcher.executor.executor import ExecutorIdentity
from dispatcher.host import files, node
from dispatcher.host.files import Unfit, read
from dispatcher.store.open import remembered_identity


def test_a_file_is_read_whole_up_to_the_bound_and_also_through_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"12345")
    link.symlink_to(file)

    assert b"12345" == read(file, 5) == read(link, 5)
    with pytest.raises(Unfit, match="has more than 4 bytes"):
        read(file, 4)


def test_a_file_that_is_not_regular_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    for path in (fifo, "/dev/zero", "/dev/zero"):
        with pytest.raises(Unfit, match="is not a regular file"):
            read(path)
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nowhere")


def test_a_refused_file_is_closed(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    with pytest.raises(Unfit):
        files.opened(fifo)

    with pytest.raises(OSError, match="No such device"):  # nobody reads it
        os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)


READERS: list[tuple[str, Callable[[Path], object], type[Exception], str]] = [
    ("c.toml", toml.text_of, ConfigError, "c.toml: is not a regular file; let --config or "),
    ("c.toml", lambda file: directories.load(str(file)), ConfigError, "is not a regular file"),
    ("p.env", lambda file: environment_file.read(str(file)), ValueError, "name a regular file of"),
    ("node-id", lambda file: node.known_node_id(file.parent), ConfigError, "node-id: damaged, it"),
    ("store-id", lambda file: remembered_identity(file.parent), StoreUnusable, "restore it from"),
]


@pytest.mark.parametrize(("name", "reads", "error", "message"), READERS)
def test_no_reader_of_a_small_file_waits_for_a_fifo_in_its_place(
    tmp_path: Path,
    name: str,
    reads: Callable[[Path], object],
    error: type[Exception],
    message: str,
) -> None:
    os.mkfifo(tmp_path / name)

    with pytest.raises(error) as caught:
        reads(tmp_path / name)

    assert message in str(caught.value)


def test_an_executor_waits_for_no_fifo_in_the_place_of_the_stores_id(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "store-id")

    assert "" == ExecutorIdentity("n", str(tmp_path), "b", "p").store_id()


def test_the_null_device_reads_as_an_empty_file() -> None:
    """`--config /dev/null` means no file."""
    assert b"" == read(os.devnull)


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_whole_with_its_mode(tmp_path: Path, *, durable: bool) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    files.replace(path, "new", mode=0o644, durable=durable)

    assert ["x"] == [found.name for found in tmp_path.iterdir()]
    assert ("new", 0o644) == (path.read_text(), path.stat().st_mode & 0o777)


def test_a_file_that_keeps_its_group_needs_no_right_to_change_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's unit forbids the call, and the daemon writes its figures."""
    monkeypatch.delattr(os, "fchown")

    files.replace(tmp_path / "d.prom", "1", mode=0o644)

    assert 0o644 == (tmp_path / "d.prom").stat().st_mode & 0o777
