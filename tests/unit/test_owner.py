"""The owner of a directory, and so the user that root becomes to work in it."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from dispatcher.client import Client
from dispatcher.config import toml
from dispatcher.config.config import load
from dispatcher.errors import ConfigError
from dispatcher.executor.bootstrap import lock_directory
from dispatcher.host import files, owner
from dispatcher.host.node import node_id
from dispatcher.host.owner import MOST_LINKS, owner_of, unknown_user
from dispatcher.store.open import lock_database, open_store, remember_identity
from tests.command import Command

ANN, BOB, UNKNOWN = 1000, 1001, 65534

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="owner-") as directory:
        yield Path(directory)


def users(directory: Path) -> Path:
    directory.mkdir()
    os.chown(directory, 12345, 12346)
    return directory


def without_keys(place: Path) -> str:
    file = place / "empty.toml"
    file.touch()
    return str(file)


class Files:
    """A filesystem: owners of directories, owners and targets of symbolic links."""

    def __init__(
        self, directories: Mapping[str, int], links: Mapping[str, tuple[int, str]]
    ) -> None:
        self._directories = directories
        self._links = links

    def lstat(self, path: Path) -> os.stat_result:
        kind, uid = stat.S_IFDIR, self._directories.get(str(path))
        if (link := self._links.get(str(path))) is not None:
            kind, uid = stat.S_IFLNK, link[0]
        if uid is None:
            raise FileNotFoundError(path)
        return os.stat_result((kind | 0o755, 1, 1, 1, uid, uid + 5, 0, 0, 0, 0))

    def readlink(self, path: Path) -> str:
        return self._links[str(path)][1]


FILES = Files(
    {
        **dict.fromkeys(("/", "/etc", "/etc/own", "/srv", "/home"), 0),
        **dict.fromkeys(("/home/ann", "/home/ann/state", "/home/ann/to"), ANN),
        "/home/ann/roots": 0,
        "/home/ann/bobs": BOB,
        "/mnt": UNKNOWN,
        "/mnt/own": 0,
    },
    {
        "/home/ann/link": (ANN, "/etc/own"),
        "/home/ann/up": (ANN, "../../etc"),
        "/srv/state": (0, "/home/ann/state"),
        "/srv/chain": (0, "/home/ann/link"),
        "/srv/etc": (0, "../etc"),
        "/srv/loop": (0, "loop"),
        "/srv/gone": (0, "/home/ann/gone/further"),
    },
)


@pytest.mark.parametrize(
    ("path", "uid", "place"),
    [
        ("/etc/own", None, None),
        ("/etc/own/missing/below", None, None),
        ("/srv/etc/own", None, None),
        ("/srv/loop/state", None, None),
        ("/home/ann/state", ANN, "/home/ann/state"),
        ("/home/ann/missing/below", ANN, "/home/ann"),
        ("/home/ann/roots", ANN, "/home/ann"),
        ("/home/ann/bobs/state", BOB, "/home/ann/bobs"),
        ("/home/ann/link", ANN, "/home/ann/link"),
        ("/home/ann/link/missing", ANN, "/home/ann/link"),
        ("/home/ann/up/own", ANN, "/home/ann/up"),
        ("/srv/state", ANN, "/home/ann/state"),
        ("/srv/chain", ANN, "/home/ann/link"),
        ("/srv/gone", ANN, "/home/ann"),
        ("/mnt/own", None, None),
        ("/mnt", None, None),
    ],
)
def test_the_owner_of_a_path_is_the_last_user_who_decides_where_it_leads(
    path: str, uid: int | None, place: str | None
) -> None:
    owner = owner_of(Path(path), unknown=UNKNOWN, lstat=FILES.lstat, readlink=FILES.readlink)

    assert uid == (owner and owner.uid)
    assert place == (owner and str(owner.place))
    assert owner is None or owner.gid == owner.uid + 5


def test_the_user_of_no_name_is_one_like_others_where_a_namespace_has_every_user() -> None:
    owner = owner_of(Path("/mnt"), unknown=None, lstat=FILES.lstat, readlink=FILES.readlink)

    assert owner is not None
    assert UNKNOWN == owner.uid


def test_as_many_links_are_followed_as_the_kernel_follows() -> None:
    links = {f"/{number}": (0, f"/{number + 1}") for number in range(1, MOST_LINKS + 1)}
    chain = Files({"/": 0, f"/{MOST_LINKS + 1}": ANN}, links)

    owner = owner_of(Path("/1"), unknown=None, lstat=chain.lstat, readlink=chain.readlink)

    assert owner is not None
    assert ANN == owner.uid


@pytest.mark.parametrize(
    ("mapped", "unknown"),
    [
        ("0 0 4294967295\n", None),
        ("0 100000 65536\n", None),
        ("0 1000 1\n", 65534),
        ("0 1000 1\n1 100000 65533\n", 65534),
        ("0 1000 1\n1 100000 65536\n", None),
    ],
)
def test_the_id_for_users_without_one_is_nobodys_unless_the_namespace_has_it(
    tmp_path: Path, mapped: str, unknown: int | None
) -> None:
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/overflowuid").write_text("65534\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self/uid_map").write_text(mapped)

    assert unknown == unknown_user(tmp_path)


@root_only
def test_a_program_of_roots_is_refused_in_a_users_state_directory(place: Path) -> None:
    state = users(place / "state")
    config = load(without_keys(place), environ={"STATE_DIRECTORY": str(state)})

    with pytest.raises(ConfigError) as refused:
        Client(config)

    assert str(refused.value) == (
        f"the state directory {state} belongs to uid 12345, and root does not work in another"
        " user's directory: sudo -u '#12345' dispatcher ..."
    )
    assert [] == list(state.iterdir())


@root_only
@pytest.mark.parametrize(
    "use",
    [
        node_id,
        lambda state: lock_directory(str(state)),
        lambda state: lock_database(f"sqlite://{state}/tasks.db", state_dir=state),
        lambda state: open_store(f"sqlite://{state}/tasks.db", state_dir=state, patience=0),
        lambda state: open_store(f"sqlite://{state}-of/tasks.db", state_dir=state, patience=0),
        lambda state: remember_identity(state, "0" * 32),
    ],
    ids=["node", "executor", "lock", "database", "state", "identity"],
)
@pytest.mark.parametrize("through", ["directory", "link"])
def test_root_makes_no_files_where_another_user_was_faster_to_make_the_directory(
    place: Path, use: Callable[[Path], object], through: str
) -> None:
    """In /tmp anybody can, after root has looked for the owner of what was missing."""
    place.chmod(0o1777)
    state = place / "state"
    assert owner.foreign_owner(state, {}) is None
    theirs = users(state) if through == "directory" else place / "etc"
    if through == "link":
        theirs.mkdir()
        state.symlink_to(theirs)
        os.chown(state, 12345, 12346, follow_symlinks=False)

    with pytest.raises(ConfigError, match=f"{state}.* belongs to uid 12345"):
        use(state)

    assert [] == list(theirs.iterdir())


@root_only
@pytest.mark.parametrize("named", ["runtime directory", "database"])
def test_root_makes_no_files_in_a_users_directory_for_its_own_state_directory(
    place: Path, named: str
) -> None:
    theirs = users(place / "theirs")
    key = f'runtime_dir = "{theirs}"'
    if named == "database":
        key = f'[store]\nurl = "sqlite://{theirs}/tasks.db"'
    file = place / "dispatcher.toml"
    file.write_text(f'[node]\nstate_dir = "{place}/own"\n{key}\n')

    with pytest.raises(ConfigError) as refused:
        Client(load(str(file), environ={}))

    assert f"the {named} {theirs}" in str(refused.value)
    assert "belongs to uid 12345" in str(refused.value)
    assert "let one user own both" in str(refused.value)
    assert [] == list(theirs.iterdir())


@root_only
def test_root_leaves_the_runtime_directory_of_another_users_session_alone(place: Path) -> None:
    session, theirs, own = users(place / "session"), users(place / "theirs"), place / "own"

    def runtime_dir(state: Path) -> Path:
        environ = {"XDG_RUNTIME_DIR": str(session), "STATE_DIRECTORY": str(state)}
        return load(without_keys(place), environ).runtime_dir

    assert own / "run" == runtime_dir(own)
    assert session == runtime_dir(theirs).parent


@root_only
@pytest.mark.parametrize(
    ("uid", "group", "mode", "user"),
    [
        (0, "daemon", 0o640, "daemon"),
        (0, "daemon", 0o600, "root"),
        (0, "root", 0o640, "root"),
        (0, "tty", 0o640, "root"),  # no user has that name
        (1, "root", 0o600, "daemon"),
        (4711, "daemon", 0o000, None),  # this user's own
    ],
)
def test_a_file_that_one_may_not_read_is_for_its_owner_or_the_user_of_its_group(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uid: int,
    group: str,
    mode: int,
    user: str | None,
) -> None:
    def denied(path: Path, most: int) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    file = tmp_path / "dispatcher.toml"
    file.touch()
    shutil.chown(file, uid, group)
    file.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(files, "read", denied)

    reader = owner.intended_reader(file)
    assert user == (None if reader is None else owner.name_of(reader))
    with pytest.raises(ConfigError, match="let --config") as caught:
        toml.text_of(file)
    whose = f"it is for user {user}: sudo -u {user} dispatcher ...; or "
    assert (whose in str(caught.value)) == (user is not None)


@root_only
@pytest.mark.parametrize("closed", [".config", ".config/dispatcher"])
def test_a_directory_of_roots_that_hides_a_users_own_file_is_to_be_given_to_the_user(
    place: Path, closed: str
) -> None:
    place.chmod(0o755)
    home = users(place / "home")
    file = home / ".config" / "dispatcher" / "dispatcher.toml"
    users(file.parents[1])
    users(file.parent)
    os.chown(home / closed, 0, 0)
    (home / closed).chmod(0o700)
    os.seteuid(home.stat().st_uid)
    try:
        with pytest.raises(ConfigError) as caught:
            toml.text_of(file)
    finally:
        os.seteuid(0)

    assert f"sudo chown 12345 {home / closed}; or let --config" in str(caught.value)
    assert "sudo -u" not in str(caught.value)


@root_only
@pytest.mark.parametrize(
    ("there", "remedy"),
    [
        ("a file of root's", "it is closed to this user: sudo chown 12345 {file}"),
        ("a file of root's with another name", "it is for user root: sudo -u root dispatcher"),
        ("a link to a directory of root's", "it is for user root: sudo -u root dispatcher"),
        ("a directory of another user's", "it is for user #4242: sudo -u '#4242' dispatcher"),
    ],
)
def test_no_advice_gives_the_user_a_file_that_may_be_anothers(
    place: Path, there: str, remedy: str
) -> None:
    """`chown` follows a link, to /etc/dispatcher for example."""
    place.chmod(0o755)
    home = users(place / "home")
    file = home / "dispatcher" / "dispatcher.toml"
    (roots := place / "roots").mkdir(mode=0o700)
    if "link" in there:
        file.parent.symlink_to(roots)
        os.chown(file.parent, 12345, 12346, follow_symlinks=False)
    elif "directory" in there:
        file.parent.mkdir(mode=0o700)
        os.chown(file.parent, 4242, -1)
    else:
        users(file.parent)
        file.touch(mode=0o600)
        if "another name" in there:
            (roots / "file").hardlink_to(file)
    os.seteuid(12345)
    try:
        with pytest.raises(ConfigError) as caught:
            toml.text_of(file)
    finally:
        os.seteuid(0)

    assert f"Permission denied; {remedy.format(file=file)}" in str(caught.value)
    assert ("chown" in remedy) == ("chown" in str(caught.value))


@root_only
def test_root_that_became_a_user_is_not_advised_to_become_root(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.chmod(0o755)
    (closed := place / "closed").mkdir(mode=0o700)
    os.seteuid(12345)
    try:
        remedy = owner.remedy_if_foreign(closed / "file")
        assert remedy == f"{closed} belongs to user root; run this as that user: sudo -u root"
        monkeypatch.setattr(owner, "_became", [owner.Owner(12345, 12345, place)])
        assert owner.remedy_if_foreign(closed / "file") is None
        assert owner.intended_reader(closed / "file") is None
    finally:
        os.seteuid(0)


def test_a_user_without_a_name_is_named_as_each_command_takes_it() -> None:
    """A shell takes an unquoted #4999 as the beginning of a comment."""
    assert "sudo -u '#4999'" == owner.sudo(4999)
    assert "chown 4999 '/srv/a b'" == owner.change_owner(4999, Path("/srv/a b"))
    assert ("4999", "root") == (owner.installable_name(4999), owner.installable_name(0))


@root_only
def test_a_configuration_that_only_root_may_read_is_reported(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.chmod(0o755)
    command = Command(place, capsys, monkeypatch)
    command.state_dir.mkdir()
    os.chown(command.state_dir, 1, 1)
    before = os.geteuid(), os.getegid(), os.getgroups()
    assert "ok" in command("check-config").stdout

    command.config_file.chmod(0o600)
    message = command("check-config", exits=78).stderr
    assert (
        f"{command.config_file}: daemon (uid 1), whose state directory it names, may not" in message
    )
    assert before == (os.geteuid(), os.getegid(), os.getgroups())

    command.config_file.chmod(0o640)
    shutil.chown(command.config_file, 0, 1)
    assert "ok" in command("check-config").stdout
