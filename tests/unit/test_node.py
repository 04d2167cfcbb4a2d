import os
import threading
from pathlib import Path

import pytest

from dispatcher.errors import ConfigError
from dispatcher.host import sockets
from dispatcher.host.node import expect_same, hold_name, known_node_id, node_id, refuse_copy


def test_a_node_id_is_made_once_and_kept(tmp_path: Path) -> None:
    state_dir = tmp_path / "deep" / "state"

    assert known_node_id(state_dir) is None
    made = node_id(state_dir)

    assert made == node_id(state_dir) == known_node_id(state_dir)
    assert [state_dir / "node-id"] == list(state_dir.iterdir())
    assert 0o700 == state_dir.stat().st_mode & 0o777


def test_processes_that_make_a_node_id_at_once_all_get_the_same(tmp_path: Path) -> None:
    found: list[str] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        found.append(node_id(tmp_path))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 8 == len(found)
    assert 1 == len(set(found))


@pytest.mark.parametrize("content", ["", "hello\n", "0" * 36, "\xff\xfe"])
def test_a_damaged_node_id_is_never_replaced(tmp_path: Path, content: str) -> None:
    file = tmp_path / "node-id"
    file.write_text(content, "latin-1")

    with pytest.raises(ConfigError, match=r"node-id: damaged, .*; restore it from a backup"):
        node_id(tmp_path)

    assert content == file.read_text("latin-1")


def test_a_state_directory_that_cannot_be_made_is_reported_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=r"cannot make .*Not a directory; set \[node\] state_dir"):
        node_id(tmp_path / "file" / "state")


def test_a_node_has_one_executor_on_a_host_whichever_directory_it_serves(tmp_path: Path) -> None:
    me = node_id(tmp_path / "one")
    held = hold_name(me, tmp_path / "one")
    assert held is not None

    with held:
        # Not the words of an executor: nobody knows what this process serves.
        assert hold_name(me, tmp_path / "one") is None
        refuse_copy(me, tmp_path / "two")
    successor = hold_name(me, tmp_path / "one")

    assert successor is not None
    successor.close()


@pytest.mark.parametrize("ours", ["one", "link", "one/../one"])
def test_a_directory_is_the_same_by_whatever_name(tmp_path: Path, ours: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to("one")

    expect_same("me", tmp_path / ours, tmp_path / "one", 42)


@pytest.mark.parametrize("there", [True, False])
def test_a_copy_is_refused_with_both_directories_and_what_to_do(
    tmp_path: Path, there: bool
) -> None:
    (tmp_path / "copy").mkdir()
    if there:
        (tmp_path / "one").mkdir()

    with pytest.raises(ConfigError) as refusal:
        expect_same("me", tmp_path / "copy", tmp_path / "one", 42)

    for word in (f"{tmp_path}/copy is a copy of {tmp_path}/one", "pid 42", "copy/node-id"):
        assert word in str(refusal.value)


def test_a_stranger_who_holds_the_name_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any user may bind any abstract name, and the node's id is public."""
    me = node_id(tmp_path / "one")
    held = hold_name(me, tmp_path / "one")
    assert held is not None
    monkeypatch.setattr(sockets, "credentials", lambda _: (os.getpid(), 4712))  # not root
    with held:
        refuse_copy(me, tmp_path / "two")
        assert hold_name(me, tmp_path / "two") is None
