"""A database has one name: by a second one, commits would be lost."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher.errors import AlreadyHeld, StoreUnusable
from dispatcher.store.examine import examine
from dispatcher.store.filesystems import is_mounted_alone
from dispatcher.store.names import WHOLE
from dispatcher.store.open import lock_database, open_store
from tests.contract.helpers import NOW, new_task
from tests.contract.sqlite_files import files, opened
from tests.contract.test_filesystems import MOUNTS


def second_name(path: Path, where: str) -> Path:
    name = {
        "next to it": path.with_name("other.db"),
        "in another directory": path.parent.parent / "elsewhere" / "tasks.db",
    }[where]
    name.parent.mkdir(exist_ok=True)
    name.hardlink_to(path)
    return name


@pytest.mark.parametrize("where", ["next to it", "in another directory"])
def test_r83_a_database_with_two_names_is_refused_by_both_untouched_with_the_remedy(
    path: Path, where: str
) -> None:
    name = second_name(path, where)
    before = [files(path), files(name)]

    for each in (path, name):
        for use in (opened, lambda file: examine(file, patience=0)):
            with pytest.raises(StoreUnusable, match=rf"{each} has 2 names.*find / -xdev -inum"):
                use(each)

    assert before == [files(path), files(name)]
    name.unlink()
    opened(path).close()


def test_a_second_name_made_while_the_store_is_open_costs_its_holder_nothing(path: Path) -> None:
    with closing(opened(path)) as store:
        name = second_name(path, "in another directory")
        with pytest.raises(StoreUnusable, match="has 2 names"):
            opened(name)
        with store.transaction():
            assert 2 == store.submit([new_task()], now=NOW)[0].task_id


@pytest.mark.parametrize("name", ["tasks.db", "tasks[1].db", "tasks*.db"])
def test_the_name_that_a_dead_maker_left_is_removed(path: Path, name: str) -> None:
    path = path.rename(path.with_name(name))
    draft = path.with_name(f"{name}.new-0a1b2c3d") / WHOLE
    draft.parent.mkdir()
    draft.hardlink_to(path)
    other = path.with_name(f"{name}.new-ffffffff") / WHOLE
    other.parent.mkdir()
    other.touch()

    with closing(opened(path)) as store, store.snapshot():
        assert 1 == len(store.ids())

    assert not draft.exists()
    assert other.exists()  # of who makes one now, perhaps


def test_a_symbolic_link_is_not_a_second_name_and_finds_the_same_lock_and_wal(
    path: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    urls = [f"sqlite://{name}" for name in (path, link)]

    with closing(lock_database(urls[0], state_dir=tmp_path)):
        with pytest.raises(AlreadyHeld, match=r"tasks\.db\.lock"):
            lock_database(urls[1], state_dir=tmp_path)
        with closing(opened(path)) as first, closing(opened(link)) as second:
            with first.transaction():
                first.submit([new_task()], now=NOW)
            with second.snapshot():
                assert 2 == len(second.ids())


def test_a_file_that_is_mounted_without_its_directory_is_refused(
    path: Path, tmp_path: Path
) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        "22 1 8:1 / / rw - ext4 /dev/vda rw\n"
        f"23 22 8:1 /srv/tasks.db {path.resolve()} rw - ext4 /dev/vda rw\n"
    )

    with pytest.raises(StoreUnusable, match=r"tasks\.db is mounted without its directory"):
        open_store(f"sqlite://{path}", state_dir=tmp_path, patience=0, mountinfo=mountinfo)


def test_only_a_mount_of_the_file_itself_is_one() -> None:
    answers = [
        is_mounted_alone(Path(path), MOUNTS) for path in ("/usb", "/with space", "/usb/tasks.db")
    ]

    assert [True, True, False] == answers


def test_a_mounted_file_is_refused_and_a_mounted_directory_shares_the_lock(
    path: Path, tmp_path: Path
) -> None:
    script = f"""
import sys
from pathlib import Path
from dispatcher.errors import DispatcherError
from dispatcher.store.names import WHOLE
from dispatcher.store.open import lock_database, open_store
for name in {[str(tmp_path / "alone.db"), str(tmp_path / "room" / "tasks.db")]!r}:
    for use in (lambda: lock_database("sqlite://" + name, state_dir=Path("/s")),
                lambda: open_store("sqlite://" + name, state_dir=Path(name).parent, patience=0)):
        try:
            use()
            sys.stdout.write("fine\\n")
        except DispatcherError as error:
            sys.stdout.write(f"{{error}}\\n")
"""
    (tmp_path / "alone.db").touch()
    (tmp_path / "room").mkdir()
    mounts = (
        f"mount --bind {path} {tmp_path}/alone.db && mount --bind {path.parent} {tmp_path}/room"
    )
    with closing(lock_database(f"sqlite://{path}", state_dir=tmp_path)):
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "-", sys.executable, "-"],
            input=script,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")

    alone, room = done.stdout.splitlines()[:2], done.stdout.splitlines()[2:]
    assert "mounted without its directory" in alone[1]
    assert "is in use by pid" in room[0]
    assert "fine" == room[1]
