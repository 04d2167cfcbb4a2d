"""Drafts next to a database: removed after their maker's death, by any cause, and not before."""

import os
import shutil
import signal
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.store.backup import back_up
from dispatcher.store.drafts import draft_of, remove_abandoned
from dispatcher.store.names import DRAFT
from dispatcher.store.open import lock_database
from tests.contract.sqlite_files import opened


def drafts(directory: Path) -> list[str]:
    return [name.name for name in directory.glob(f"*{DRAFT}*")]


def left_by_a_killed_maker(file: Path) -> str:
    """Return the name of what a process that was killed while it made a file left behind."""
    before = drafts(file.parent)
    ready, go = os.pipe()
    maker = os.fork()
    if not maker:
        with draft_of(file) as draft:
            draft.write_bytes(b"half of it")
            draft.with_name(f"{draft.name}-wal").write_bytes(b"and its WAL")
            os.write(go, b".")
            signal.pause()
    os.read(ready, 1)
    os.kill(maker, signal.SIGKILL)
    os.waitpid(maker, 0)
    os.close(ready)
    os.close(go)
    (name,) = set(drafts(file.parent)) - set(before)
    return name


@pytest.mark.parametrize("next_one", ["backup", "backup by another name", "daemon"])
def test_the_draft_of_a_killed_maker_is_removed_by_the_next_one(
    path: Path, tmp_path: Path, next_one: str
) -> None:
    file = path if next_one == "daemon" else path.with_name("copy.db")
    left_by_a_killed_maker(file)

    if next_one == "daemon":
        lock_database(f"sqlite://{path}", state_dir=tmp_path).close()
    else:
        name = "copy.db" if next_one == "backup" else "copy-of-tuesday.db"
        back_up(path, path.with_name(name), overwrite=False, patience=1.0)

    assert [] == drafts(path.parent)
    with closing(opened(path)) as store, store.snapshot():
        assert 1 == len(store.ids())


def test_a_draft_in_progress_stays(path: Path) -> None:
    left = left_by_a_killed_maker(path)
    with draft_of(path) as draft:
        draft.write_bytes(b"half of it")
        with draft_of(path.with_name("other.db")) as other:
            remove_abandoned(path.parent)

            assert {draft.parent.name, other.parent.name} == set(drafts(path.parent))
            assert left not in drafts(path.parent)
            assert b"half of it" == draft.read_bytes()

    assert [] == drafts(path.parent)


def test_a_file_with_only_the_name_of_a_draft_stays(path: Path) -> None:
    others = [
        path.with_name(f"{name}{DRAFT}{digits}")
        for name, digits in [
            ("photos", "0a1b2c3d"),
            ("tasks.db", "0a1b2c3d-mine"),
            ("link", "11111111"),
        ]
    ]
    kept = path.parent.parent / "kept"
    for directory in (others[0], others[1], kept):
        directory.mkdir()
        (directory / "mine").touch()
    shutil.copy(path, kept / "draft.db")
    others[2].symlink_to(kept)
    file = path.with_name(f"file{DRAFT}0a1b2c3d")
    file.touch()

    remove_abandoned(path.parent)

    assert all((name / "mine").exists() for name in others)
    assert (kept / "draft.db").exists()
    assert file.exists()
