"""A store is made once, remembered, and never made over what existed."""

import ctypes
import shutil
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dispatcher.errors import ConfigError, StoreUnavailable, StoreUnusable
from dispatcher.store import open as opening
from dispatcher.store.names import DRAFT
from dispatcher.store.open import (
    database_path,
    open_store,
    remember_identity,
    remembered_identity,
)
from dispatcher.times import HostClock, Instant, WallTime
from tests.contract.sqlite_files import file_size_limit, opened


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """Return the state directory that `opened` uses."""
    return tmp_path / "state"


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def mode(path: Path) -> int:
    """Return a file's permissions."""
    return stat.S_IMODE(path.stat().st_mode)


# URLs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/tasks.db", "/var/lib/tasks.db"),
        ("sqlite:////var/lib/tasks.db", "/var/lib/tasks.db"),
        ("sqlite:///var/lib/a%20b?c#d.db", "/var/lib/a%20b?c#d.db"),
    ],
)
def test_a_url_names_a_file(url: str, path: str) -> None:
    assert Path(path) == database_path(url)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_url_may_name_memory(url: str) -> None:
    assert database_path(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:tasks.db",
        "sqlite://tasks.db",
        "sqlite://./tasks.db",
        "sqlite:///tasks.db",
        "sqlite:////tasks.db",
        "sqlite:///",
        "/var/lib/tasks.db",
        "mysql://host/db",
        "postgresql",
        "",
    ],
)
def test_any_other_url_is_an_error_that_names_its_key(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^store\.url: "):
        open_store(url, state_dir=tmp_path, patience=0)


# Making ------------------------------------------------------------------------------------


def test_a_missing_store_is_made_private_with_its_directories(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "tasks.db"
    with closing(opened(path)) as store:
        assert {0o600} == {mode(file) for file in path.parent.iterdir()}
        identity = store.identity

    assert {"tasks.db"} == names(path.parent)
    assert mode(path.parent) == 0o700
    assert path.stat().st_nlink == 1
    with closing(opened(path)) as again:
        assert identity == again.identity


def test_a_client_may_refuse_to_make_one(tmp_path: Path, state_dir: Path) -> None:
    with pytest.raises(StoreUnusable, match="does not exist"):
        open_store(f"sqlite://{tmp_path}/tasks.db", state_dir=state_dir, patience=0, create=False)

    assert set() == names(tmp_path)


def test_a_store_is_made_where_a_symbolic_link_points(tmp_path: Path) -> None:
    link, path = tmp_path / "x" / "link.db", tmp_path / "disk" / "tasks.db"
    link.parent.mkdir()
    link.symlink_to(path)

    opened(link).close()

    assert {"tasks.db"} == names(path.parent)
    assert {"link.db"} == names(link.parent)


@pytest.mark.parametrize("room", [0, 8192, 65536])
def test_a_store_that_cannot_be_written_whole_is_not_made(tmp_path: Path, room: int) -> None:
    path = tmp_path / "store" / "tasks.db"
    with file_size_limit(room), pytest.raises(StoreUnavailable, match=r"tasks\.db"):
        opened(path)

    assert set() == names(path.parent)
    opened(path).close()


def test_the_embedded_stores_clock_is_the_callers(tmp_path: Path) -> None:
    clock = HostClock(lambda: WallTime(42), lambda: Instant(7.0), lambda: "boot")
    store = open_store("sqlite://", state_dir=tmp_path, patience=0, clock=clock)
    with closing(store), store.transaction() as now:
        assert now == 42


# Remembering -------------------------------------------------------------------------------


def test_the_first_store_is_remembered(path: Path, state_dir: Path) -> None:
    with closing(opened(path)) as store:
        assert store.identity == remembered_identity(state_dir)

    assert {"store-id"} == names(state_dir)
    assert mode(state_dir) == 0o700


def test_nothing_is_remembered_at_first(state_dir: Path) -> None:
    assert remembered_identity(state_dir) is None


def test_r50_a_missing_store_that_is_remembered_is_not_made_again(
    path: Path, state_dir: Path
) -> None:
    identity = remembered_identity(state_dir)
    path.unlink()

    with pytest.raises(StoreUnusable) as refused:
        opened(path)

    message = str(refused.value)
    assert set() == names(path.parent)
    assert all(fact in message for fact in (str(path), f"{state_dir}/store-id", str(identity)))


def test_a_forgotten_store_is_made_anew(path: Path, state_dir: Path) -> None:
    identity = remembered_identity(state_dir)
    path.unlink()
    (state_dir / "store-id").unlink()

    with closing(opened(path)) as store:
        assert identity != store.identity
        assert store.identity == remembered_identity(state_dir)


def test_an_emptied_memory_still_refuses(path: Path, state_dir: Path) -> None:
    (state_dir / "store-id").write_text("")
    path.unlink()

    with pytest.raises(StoreUnusable):
        opened(path)


def test_another_store_than_the_remembered_one_is_the_callers_to_judge(
    path: Path, state_dir: Path
) -> None:
    remember_identity(state_dir, "another")

    opened(path).close()

    assert remembered_identity(state_dir) == "another"


def test_a_remembered_identity_is_replaced_whole(state_dir: Path) -> None:
    remember_identity(state_dir, "one")
    remember_identity(state_dir, "two")

    assert remembered_identity(state_dir) == "two"
    assert {"store-id"} == names(state_dir)


# Permission --------------------------------------------------------------------------------


@contextmanager
def without_privilege() -> Iterator[None]:
    """Let permissions bind this thread, also where it is root's."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    kept, less = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, kept) == 0
    less[:] = kept[:]
    less[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: effective, not permitted
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert libc.capset(header, kept) == 0


@pytest.mark.parametrize("denied", ["store/tasks.db", "store", "state/store-id"])
def test_a_store_that_may_not_be_written_is_refused_in_words(
    path: Path, tmp_path: Path, denied: str
) -> None:
    (tmp_path / denied).chmod(0)
    with without_privilege(), pytest.raises(StoreUnusable, match=r"permission") as refused:
        opened(path)
    (tmp_path / denied).chmod(0o700)

    assert denied in str(refused.value)
    opened(path).close()


def test_a_read_only_directory_is_refused_in_words(path: Path) -> None:
    path.parent.chmod(0o500)
    with without_privilege(), pytest.raises(StoreUnusable, match=r"tasks\.db.* permission"):
        opened(path)
    path.parent.chmod(0o700)

    assert {"tasks.db"} == names(path.parent)


def test_a_read_only_file_is_refused_in_words(path: Path) -> None:
    path.chmod(0o400)
    with (
        without_privilege(),
        pytest.raises(StoreUnusable, match=r"tasks\.db.* permission"),
        closing(opened(path)) as store,
        store.transaction(),
    ):
        pass


def test_nothing_can_be_made_in_a_read_only_directory(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o500)
    for path in ("store/tasks.db", "store/deeper/tasks.db"):
        with without_privilege(), pytest.raises(StoreUnusable, match=r"store/.* permission"):
            opened(tmp_path / path)


def test_a_state_directory_that_may_not_be_written_is_refused_in_words(
    path: Path, state_dir: Path
) -> None:
    shutil.rmtree(state_dir)
    state_dir.mkdir(mode=0o500)
    with without_privilege(), pytest.raises(StoreUnusable, match=r"state/store-id.* permission"):
        opened(path)

    assert set() == names(state_dir)


def test_a_file_in_the_place_of_a_directory_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable, match="Not a directory"):
        opened(tmp_path / "file" / "tasks.db")


# Network filesystems -----------------------------------------------------------------------


def test_r54_a_network_filesystem_is_refused_and_named(tmp_path: Path, state_dir: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        f"23 22 0:50 / {tmp_path} rw,relatime shared:2 - nfs4 server:/export rw\n"
    )
    with pytest.raises(StoreUnusable, match=r"store/tasks\.db is on nfs4.*local disk"):
        open_store(
            f"sqlite://{tmp_path}/store/tasks.db",
            state_dir=state_dir,
            patience=0,
            mountinfo=mountinfo,
        )

    assert {"mountinfo"} == names(tmp_path)


def test_the_mounts_of_this_process_are_looked_at() -> None:
    assert Path("/proc/self/mountinfo") == opening.MOUNTINFO


def test_no_message_names_the_draft_of_a_database(tmp_path: Path) -> None:
    path = tmp_path / "store" / ("t" * 250)  # with more than that its name would be too long

    with pytest.raises(StoreUnusable, match=f"{path}: File name too long; ") as failed:
        opened(path)

    assert DRAFT not in str(failed.value)
