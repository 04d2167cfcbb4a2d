"""A database copied while others write, and a copy put in its place."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pysqlite3 import dbapi2

from dispatcher.errors import AlreadyHeld, DispatcherError, StoreUnavailable, StoreUnusable
from dispatcher.execution import Claim
from dispatcher.model import Outcome, TaskState
from dispatcher.store import migrate, migrations
from dispatcher.store.backup import BackedUp, back_up
from dispatcher.store.drafts import name_finished
from dispatcher.store.examine import examine
from dispatcher.store.names import DRAFT
from dispatcher.store.open import lock_database
from dispatcher.store.restore import LEAP, Restored, restore
from dispatcher.store.sql import SqlStore
from dispatcher.store.sqlite import SqliteEngine
from dispatcher.times import WallTime, from_iso
from dispatcher.words import Beat
from dispatcher.worker_api import WorkerError
from tests.contract.helpers import NODE, NOW, OneByOne, new_task
from tests.contract.sqlite_files import file_size_limit, files, meddle, opened
from tests.contract.test_forks import program

WHEN = WallTime(from_iso("2026-08-01T06:00:00Z"))
KEPT = "tasks.db.before-20260801T060000Z"

#: The milliseconds from 2020 until then.
SINCE_2020 = 207_727_200_000
DAY_MS = 86_400_000


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "backup" / "copy.db"


@pytest.fixture
def saved(path: Path, copy: Path) -> Path:
    """A backup of a database with one task."""
    make(path, copy)
    return copy


def make(path: Path, copy: Path, *, overwrite: bool = False) -> BackedUp:
    copy.parent.mkdir(exist_ok=True)
    return back_up(path, copy, overwrite=overwrite, patience=1.0)


def put_back(
    path: Path, copy: Path, *traces: str, remembered: str | None = None, now: int = WHEN
) -> Restored:
    return restore(path, copy, traces=traces, remembered=remembered, now=WallTime(now))


def ids(path: Path) -> list[int]:
    with closing(dbapi2.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM tasks ORDER BY id")]


def submit(path: Path, tasks: int = 1) -> list[int]:
    with closing(opened(path)) as store:
        return [OneByOne(store).new() for _ in range(tasks)]


def claimed(store: SqlStore) -> Claim:
    (claim,) = OneByOne(store).take()
    return claim


# Backing up --------------------------------------------------------------------------------


def test_a_backup_holds_what_was_committed_and_is_one_private_whole_file(
    path: Path, copy: Path
) -> None:
    with closing(opened(path)) as store:  # all of it in the WAL
        OneByOne(store).new()

        done = make(path, copy)

        assert (2, store.identity, len(migrations.MIGRATIONS)) == (
            done.tasks,
            done.identity,
            done.schema,
        )
    assert [1, 2] == ids(copy)
    assert ["copy.db"] == [file.name for file in copy.parent.iterdir()]
    assert (0o600, done.bytes) == (copy.stat().st_mode & 0o777, copy.stat().st_size)
    assert () == examine(copy, patience=0, check=lambda *_: None).problems


def test_a_backup_waits_for_no_writer_and_none_for_it_and_holds_nothing_uncommitted(
    path: Path, copy: Path
) -> None:
    with closing(opened(path)) as store:
        with store.transaction():
            store.submit([new_task()], now=NOW)
            make(path, copy)
            store.submit([new_task()], now=NOW)

        assert ([1], 3) == (ids(copy), len(OneByOne(store).ids()))


def test_r52_a_backup_drops_no_lock_of_a_store_that_the_same_process_has_open(
    path: Path, copy: Path
) -> None:
    """Opening and closing the file by other means would drop its lock."""
    with closing(opened(path)) as store, store.transaction():
        store.submit([new_task()], now=NOW)
        make(path, copy)
        other = "import sys; from pathlib import Path; from dispatcher.store.sqlite import *\n"
        other += "SqliteEngine(Path(sys.argv[1]), patience=0).begin(write=True)"
        done = subprocess.run(
            [sys.executable, "-c", other, str(path)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )

    assert "another process has held the write lock" in done.stderr


def test_a_file_is_overwritten_only_by_request_and_never_by_half(path: Path, saved: Path) -> None:
    before = files(saved)
    with pytest.raises(DispatcherError, match=r"copy\.db exists; .* --overwrite"):
        make(path, saved)
    with file_size_limit(65536), pytest.raises(StoreUnavailable, match=r"copy\.db: ") as full:
        make(path, saved, overwrite=True)
    assert DRAFT not in str(full.value)
    assert before == files(saved)

    submit(path)
    assert 2 == make(path, saved, overwrite=True).tasks
    assert [1, 2] == ids(saved)


@pytest.mark.parametrize("name", ["tasks.db", "tasks.db-wal", "tasks.db-journal", "link.db"])
def test_the_database_is_never_its_own_backup(path: Path, name: str) -> None:
    path.with_name("link.db").symlink_to(path)
    with closing(opened(path)) as store:
        OneByOne(store).new()
        with pytest.raises(DispatcherError, match="is the database itself"):
            make(path, path.with_name(name), overwrite=True)
        assert 3 == OneByOne(store).new()


def test_files_that_another_store_left_next_to_the_target_stay_out_of_the_backup(
    path: Path, saved: Path
) -> None:
    submit(saved, 5)
    with closing(opened(saved)) as store:
        OneByOne(store).new()
        left = files(saved)
    for name, content in left.items():  # as kill -9 leaves them
        saved.with_name(name).write_bytes(content)
    assert {"copy.db", "copy.db-wal", "copy.db-shm"} == set(left)
    submit(path, 2)

    assert 3 == make(path, saved, overwrite=True).tasks

    assert ["copy.db"] == list(files(saved))
    assert [1, 2, 3] == ids(saved)
    assert () == examine(saved, patience=0, check=lambda *_: None).problems


@pytest.mark.parametrize("tail", ["-wal", "-journal"])
def test_a_backup_is_refused_next_to_a_file_that_sqlite_would_read_as_part_of_it(
    path: Path, copy: Path, tail: str
) -> None:
    copy.parent.mkdir()
    Path(f"{copy}{tail}").write_bytes(b"of another database")

    with pytest.raises(DispatcherError, match=rf"copy\.db{tail} is left of .*; remove it, or name"):
        make(path, copy)

    assert [f"copy.db{tail}"] == list(files(copy))


@pytest.mark.parametrize("harm", ["a configuration", "another program's", "empty"])
def test_a_file_that_is_not_our_database_is_not_overwritten(
    path: Path, saved: Path, harm: str
) -> None:
    if harm == "another program's":
        songs(saved)
    else:
        saved.write_text("[node]\nslots = 4\n" * 50 if harm == "a configuration" else "")
    before = files(saved)

    with pytest.raises(DispatcherError, match=r"not a dispatcher database .*; remove it, or name"):
        make(path, saved, overwrite=True)

    assert before == files(saved)


def test_a_database_at_work_is_not_overwritten(path: Path, saved: Path) -> None:
    with program("holder.py", saved) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreUnavailable, match=r"copy\.db is open in another process; .*fuser"):
            make(path, saved, overwrite=True)
    state = saved.parent / "state"
    # The lock of a daemon that does not have it open.
    with closing(lock_database(f"sqlite://{saved}", state_dir=state)):
        message = rf"copy\.db is in use by pid {os.getpid()}, state directory {state}"
        with pytest.raises(AlreadyHeld, match=message):
            make(path, saved, overwrite=True)

    assert [1] == ids(saved)


def test_a_symbolic_link_to_a_backup_stays_one(path: Path, saved: Path) -> None:
    link = path.parent.parent / "newest.db"
    link.symlink_to(saved)
    submit(path)

    make(path, link, overwrite=True)

    assert link.is_symlink()
    assert [1, 2] == ids(saved)


def test_a_missing_directory_is_named(path: Path, tmp_path: Path) -> None:
    message = rf"cannot write copy\.db in {tmp_path}/missing: No such file or directory; "
    with pytest.raises(DispatcherError, match=message) as failed:
        back_up(path, tmp_path / "missing/copy.db", overwrite=False, patience=1.0)
    assert DRAFT not in str(failed.value)


def test_a_damaged_database_is_not_backed_up_in_silence(path: Path, saved: Path) -> None:
    damage(path)

    with pytest.raises(StoreUnusable, match=r"tasks\.db is damaged"):
        make(path, saved, overwrite=True)

    assert [1] == ids(saved)
    assert ["copy.db"] == [file.name for file in saved.parent.iterdir()]


def damage(path: Path) -> None:
    """Write over what an index holds: the file opens, and is not whole."""
    with closing(dbapi2.connect(path)) as database:
        ((page,),) = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'tasks_resting'"
        )
    with path.open("r+b") as file:
        file.seek(4096 * (page - 1))
        file.write(b"\xff" * 4096)


def test_a_missing_database_is_not_backed_up(path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="does not exist; there is nothing to back up"):
        make(tmp_path / "missing.db", path, overwrite=True)


# Restoring ---------------------------------------------------------------------------------


def test_a_restored_database_is_another_store_with_the_tasks_of_the_backup(
    path: Path, saved: Path
) -> None:
    submit(path, 2)
    with closing(opened(path)) as store:
        before = store.identity

    done = put_back(path, saved)

    assert {"tasks.db", KEPT} == set(files(path))
    assert ([1], [1, 2, 3]) == (ids(path), ids(path.with_name(KEPT)))
    with closing(opened(path)) as store:
        assert done.identity == store.identity != before
    assert (1, 0, 4, path.with_name(KEPT)) == (done.tasks, done.running, done.next_id, done.kept)
    assert 0o600 == path.stat().st_mode & 0o777


def test_no_id_is_given_twice_and_every_fence_is_beyond_those_that_were(
    path: Path, saved: Path
) -> None:
    submit(path, 4)  # 2 to 5 are of after the backup
    with closing(opened(path)) as store:
        old = claimed(store)
        assert (1, 1) == (old.task_id, old.fence)

    put_back(path, saved)

    with closing(opened(path)) as store:
        new = claimed(store)
        assert (1, SINCE_2020 + 1) == (new.task_id, new.fence)
        assert new.run_id > old.run_id
        assert 6 == OneByOne(store).new()
        refused = OneByOne(store).heartbeat([Beat(task_id=1, lock=old.lock)], now=NOW)[0]
        assert WorkerError.NOT_OWNER is refused.error


def test_the_same_backup_restored_again_repeats_neither(path: Path, saved: Path) -> None:
    put_back(path, saved)
    submit(path, 2)
    with closing(opened(path)) as store:
        assert SINCE_2020 + 1 == claimed(store).fence

    put_back(path, saved)

    with closing(opened(path)) as store:
        assert SINCE_2020 + 2 == claimed(store).fence
        assert 4 == OneByOne(store).new()
    again = path.with_name(f"{KEPT}-again")
    assert [1, 2, 3] == ids(again)


@pytest.mark.parametrize("harm", ["damaged", "garbage", "missing", "all but its WAL"])
def test_ids_leap_if_the_database_before_cannot_be_read(path: Path, saved: Path, harm: str) -> None:
    wal, journal = path.with_name("tasks.db-wal"), path.with_name("tasks.db-journal")
    if harm == "damaged":
        os.truncate(path, 5000)
    elif harm == "garbage":
        path.write_bytes(b"garbage " * 1000)
        wal.write_bytes(b"its WAL")
    elif harm == "all but its WAL":
        wal.write_bytes(b"its WAL")
        journal.write_bytes(b"and its journal")
        path.unlink()
    else:
        path.unlink()
    before = files(path)

    done = put_back(path, saved)

    assert SINCE_2020 + 2 == done.next_id
    assert [SINCE_2020 + 2] == submit(path)
    kept = {name.replace("tasks.db", KEPT): content for name, content in before.items()}
    assert kept.items() <= files(path).items()
    assert (done.kept is None) is (harm == "missing")


def test_a_damaged_database_is_not_believed_how_far_it_was(path: Path, saved: Path) -> None:
    submit(path, 2)
    damage(path)

    assert 3 + SINCE_2020 + 1 == put_back(path, saved).next_id


@pytest.mark.parametrize("there", ["a new one", "one as old as the backup", "the one before"])
def test_ids_leap_if_the_database_before_does_not_know_all_ids_that_were_used(
    path: Path, saved: Path, there: str
) -> None:
    """Made by a mere look at a lost state directory, put back by hand, or not the last that ran."""
    submit(path, 3)
    remembered = "of another" if there == "the one before" else None
    if there == "a new one":
        shutil.rmtree(path.parent.parent / "state")
        path.unlink()
        submit(path, 2)
    elif there == "one as old as the backup":
        submit(path, 2)
        newer = path.with_name("newer.db")
        make(path, newer)
        shutil.copy(saved, path)
        saved = newer

    done = put_back(path, saved, remembered=remembered)

    last = {"a new one": 2, "one as old as the backup": 6, "the one before": 4}[there]
    assert last + SINCE_2020 + 1 == done.next_id


@pytest.mark.parametrize("apart", [DAY_MS, 1000, 3], ids=["a day", "a second", "3 ms"])
def test_a_backup_put_back_twice_after_all_was_lost_repeats_no_id_and_no_fence(
    path: Path, saved: Path, apart: int
) -> None:
    given = []
    for again in range(2):
        shutil.rmtree(path.parent.parent / "state")
        path.unlink()
        put_back(path, saved, now=WHEN + again * apart)
        with closing(opened(path)) as store:
            given.append((claimed(store).fence, [OneByOne(store).new() for _ in range(3)]))

    first = SINCE_2020 + 1
    assert [
        (first, [first + 1, first + 2, first + 3]),
        (first + apart, [first + apart + 1, first + apart + 2, first + apart + 3]),
    ] == given


@pytest.mark.parametrize("date", ["1970-01-01T00:00:00Z", "2020-01-01T00:10:00Z"])
def test_a_clock_that_was_never_set_makes_a_leap_of_a_million(
    path: Path, saved: Path, date: str
) -> None:
    path.unlink()

    assert LEAP + 2 == put_back(path, saved, now=from_iso(date)).next_id
    with closing(opened(path)) as store:
        assert LEAP + 1 == claimed(store).fence


def test_restored_once_and_again_ids_go_on_from_the_last_whichever_backup_it_was(
    path: Path, saved: Path
) -> None:
    later = saved.with_name("later.db")
    put_back(path, saved)
    submit(path, 2)  # 2 and 3
    make(path, later)
    submit(path)

    assert 5 == put_back(path, saved).next_id
    assert 5 == put_back(path, later).next_id
    assert 5 == put_back(path, saved).next_id


def test_traces_of_runs_that_nobody_knows_make_ids_leap(path: Path, saved: Path) -> None:
    with closing(opened(path)) as store:
        known = claimed(store).run_uid

    assert 2 == put_back(path, saved, f"{known}.log", "notes.txt").next_id
    done = put_back(path, saved, f"{known}.log", '{"uid":"' + "5f" * 16 + '"}')

    assert SINCE_2020 + 2 == done.next_id


def test_a_run_that_was_open_stays_so_for_the_daemon_to_judge(path: Path, copy: Path) -> None:
    with closing(opened(path)) as store:
        claim = claimed(store)
        make(path, copy)

    assert 1 == put_back(path, copy).running

    with closing(opened(path)) as store:
        each = OneByOne(store)
        assert [claim.run_uid] == [run.run_uid for run in each.open_runs(NODE)]
        assert each.end(claim, outcome=Outcome.ORPHANED, state=TaskState.READY)
        assert SINCE_2020 + 2 == claimed(store).fence


def test_an_older_backup_is_brought_up_to_date(path: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    old.touch()
    with closing(SqliteEngine(old, patience=0)) as engine:
        migrate.create(engine, migrations.MIGRATIONS[:1])

    put_back(path, old)

    assert len(migrations.MIGRATIONS) == examine(path, patience=0).schema
    with closing(SqliteEngine(old, patience=0)) as engine:
        assert 1 == migrate.version_of(engine)[0]


def test_a_backup_on_a_disk_that_nobody_can_write_is_restored(path: Path, saved: Path) -> None:
    script = f"""
from pathlib import Path
from dispatcher.store.restore import restore
restore(Path({str(path)!r}), Path({str(saved)!r}), traces=(), now={WHEN})
"""
    mount = f"mount --bind -o ro {saved.parent} {saved.parent}"
    remount = f"mount -o remount,bind,ro {saved.parent}"
    mounted = f'{mount} && {remount} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounted, "-", sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")

    assert (0, "") == (done.returncode, done.stderr)
    assert path.with_name(KEPT).exists()


def test_a_copy_with_its_wal_next_to_it_is_restored_with_it(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "copied" / "tasks.db"
    other.parent.mkdir()
    with closing(opened(path)) as store:
        OneByOne(store).new()
        for tail in ("", "-wal"):
            Path(f"{other}{tail}").write_bytes(Path(f"{path}{tail}").read_bytes())

    assert 2 == put_back(path, other).tasks


# A refusal changes nothing -----------------------------------------------------------------


def nothing(copy: Path) -> None:
    copy.unlink()


def songs(copy: Path) -> None:
    copy.unlink()
    meddle(copy, "CREATE TABLE songs (title TEXT)")


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (nothing, r"copy\.db does not exist, or is not a file; name a backup"),
    "empty": (lambda copy: os.truncate(copy, 0), r"copy\.db is damaged, or not .*; name another"),
    "garbage": (
        lambda copy: copy.write_bytes(b"garbage " * 1000),
        r"copy\.db is damaged, or not a dispatcher database .*; name another backup",
    ),
    "another program's": (songs, r"copy\.db is damaged, or not .*; name another backup"),
    "damaged within": (damage, r"copy\.db is damaged.*; name another backup"),
    "of a newer version": (
        lambda copy: meddle(copy, "UPDATE meta SET value = '99' WHERE key <> 'store_id'"),
        r"copy\.db was made by a newer dispatcher \(schema 99, .*; upgrade this dispatcher",
    ),
}


@pytest.mark.parametrize(("harm", "message"), BAD.values(), ids=BAD.keys())
def test_an_incomplete_store_is_refused_and_changes_nothing(
    path: Path, saved: Path, harm: Callable[[Path], object], message: str
) -> None:
    harm(saved)
    before = files(path)

    with pytest.raises(DispatcherError, match=message):
        put_back(path, saved)

    assert before == files(path)


def test_a_database_that_another_process_has_open_is_not_replaced(path: Path, saved: Path) -> None:
    with program("holder.py", path) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreUnavailable, match=r"open in another process; .*fuser -v"):
            put_back(path, saved)

    assert {"tasks.db"} == {name for name in files(path) if name in {"tasks.db", KEPT}}
    assert [1, 2] == [*ids(path), *submit(path)]


def fails(monkeypatch: pytest.MonkeyPatch, call: str, nth: int, code: int) -> list[int]:
    """Let one call of the kernel fail, and have later ones do what they do; list the answers."""
    real, answers = getattr(os, call), []

    def call_or_fail(old: str, new: str, **how: Any) -> None:
        if len(answers) + 1 == nth:
            answers.append(code)
            raise OSError(code, os.strerror(code), str(old), None, str(new))
        real(old, new, **how)
        answers.append(0)

    monkeypatch.setattr(os, call, call_or_fail)
    return answers


@pytest.mark.parametrize(
    ("was", "message"), [("nothing", ""), ("a database", "; the old database is kept: .*")]
)
def test_a_database_that_is_made_meanwhile_is_not_overwritten(
    path: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was: str, message: str
) -> None:
    def after_another_submit(draft: Path, file: Path) -> None:
        monkeypatch.undo()
        made.extend(submit(path))
        name_finished(draft, file)

    if was == "nothing":  # as on another host
        path.unlink()
    (tmp_path / "state" / "store-id").unlink()
    made: list[int] = []
    monkeypatch.setattr("dispatcher.store.restore.name_finished", after_another_submit)

    with pytest.raises(StoreUnavailable, match=f"run dispatcher restore again{message}$"):
        put_back(path, saved)

    assert made == ids(path)
    assert (was == "a database") is path.with_name(KEPT).exists()
    assert [] == list(path.parent.glob(f"*{DRAFT}*"))


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSPC, errno.EMLINK, errno.EIO])
@pytest.mark.parametrize(
    ("there", "call", "nth"),
    [
        ("a database", "rename", 1),
        ("a database", "link", 1),
        ("a database", "link", 2),
        ("its parts", "rename", 1),
        ("its parts", "rename", 2),
        ("its parts", "link", 2),
    ],
)
def test_a_restore_that_fails_leaves_all_as_it_was(
    path: Path,
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: str,
    call: str,
    nth: int,
    code: int,
) -> None:
    """A filesystem without hard links fails at the first, before anything is set aside."""
    if there == "its parts":
        path.unlink()
        for tail in ("-wal", "-journal"):
            Path(f"{path}{tail}").write_bytes(tail.encode())
    before = ids(path) if path.exists() else files(path)
    renamed = fails(monkeypatch, "rename", nth if call == "rename" else 0, code)
    linked = fails(monkeypatch, "link", nth if call == "link" else 0, code)

    with pytest.raises(DispatcherError, match=f"tasks.db.*{os.strerror(code)}; ") as failed:
        put_back(path, saved)

    assert code in renamed + linked
    assert before == (ids(path) if path.exists() else files(path))
    assert [] == list(path.parent.glob("*.before-*"))
    assert [] == list(path.parent.glob(f"*{DRAFT}*"))
    assert "kept" not in str(failed.value)
    if (call, nth) == ("link", 1):
        assert [] == renamed


def test_a_database_that_cannot_be_put_back_is_named(
    path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, "link", 2, errno.EPERM)
    fails(monkeypatch, "rename", 2, errno.EROFS)

    with pytest.raises(DispatcherError, match=rf"kept: {path}\.before-.*; rename it to {path} "):
        put_back(path, saved)

    assert [1] == ids(path.with_name(KEPT))


def test_a_restore_whose_draft_another_command_removes_in_the_end_has_succeeded(
    path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def before_another_submit(draft: Path, file: Path) -> None:
        name_finished(draft, file)
        assert 2 == path.stat().st_nlink
        submit(path)

    monkeypatch.setattr("dispatcher.store.restore.name_finished", before_another_submit)

    assert path.with_name(KEPT) == put_back(path, saved).kept
    assert [1, 2] == ids(path)


def test_the_database_is_not_restored_from_itself(path: Path) -> None:
    with pytest.raises(DispatcherError, match="is the database itself"):
        put_back(path, path)


def test_a_symbolic_link_to_the_database_stays_one(path: Path, saved: Path) -> None:
    link = path.parent.parent / "link.db"
    link.symlink_to(path)

    done = put_back(link, saved)

    assert link.is_symlink()
    assert path.with_name(KEPT) == done.kept
    assert [1] == ids(path)
