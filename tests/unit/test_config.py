import errno
import os
import shlex
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from dispatcher.config import config as config_module
from dispatcher.config import unit_files
from dispatcher.config.config import Config, Mistaken, find, load
from dispatcher.config.settings import ExecutorSection
from dispatcher.errors import ConfigError
from dispatcher.exit_codes import ExitCode
from dispatcher.host import owner
from dispatcher.quantities import durations
from dispatcher.service.units import argument


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dispatcher.toml"


def read(file: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    file.write_text(text, "utf-8")
    return load(str(file), environ or {})


# Values without a file ------------------------------------------------------------------------


@pytest.fixture
def no_system_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config_module, "SYSTEM_FILE", tmp_path / "not-there.toml")
    monkeypatch.setenv("HOME", "/home/somebody")


@pytest.mark.usefixtures("no_system_file")
def test_without_a_file_the_documented_defaults_hold() -> None:
    config = load(None, {})

    assert config.file is None
    assert Path("/home/somebody/.local/state/dispatcher") == config.state_dir
    assert config.state_dir / "run" == config.runtime_dir
    assert f"sqlite://{config.state_dir}/tasks.db" == config.store_url
    assert len(os.sched_getaffinity(0)) == config.slots
    assert (60_000, 1_000) == (config.daemon.drain_timeout_ms, config.daemon.poll_ms)
    assert ("embedded", None) == (config.executor.mode, config.executor.absence_limit_ms)
    leases = config.leases
    assert (60_000, 900_000, 5_000) == (
        leases.ttl_ms,
        leases.worker_ttl_ms,
        leases.reap_interval_ms,
    )
    graces = (leases.kill_grace_ms, leases.exit_grace_ms, leases.leftover_grace_ms)
    assert (10_000, 10_000, 2_000) == graces
    retry = config.retry
    assert (3, 100, 5) == (retry.max_attempts, retry.max_deferrals, retry.max_orphans)
    assert (10_000, 900_000, 60_000) == (
        retry.backoff_min_ms,
        retry.backoff_max_ms,
        retry.cooldown_ms,
    )
    assert durations.parse("30d") == config.output.retention_ms
    assert ("default", 0) == (config.defaults.queue, config.defaults.priority)
    assert ("info", "auto") == (config.logs.level, config.logs.format)


@pytest.mark.usefixtures("no_system_file")
def test_an_empty_file_is_as_good_as_none(file: Path) -> None:
    expected = load(None, {})

    config = read(file, "")

    assert file == config.file
    assert expected.leases == config.leases
    assert expected.state_dir == config.state_dir


def test_the_named_file_goes_before_the_environments_and_that_before_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, of_environment, of_system = (tmp_path / f"{name}.toml" for name in "abc")
    for file in (named, of_environment, of_system):
        file.write_text("")
    monkeypatch.setattr(config_module, "SYSTEM_FILE", of_system)
    environ = {"DISPATCHER_CONFIG": str(of_environment)}

    assert named == load(str(named), environ).file
    assert of_environment == load(None, environ).file
    assert of_system == load(None, {"DISPATCHER_CONFIG": ""}).file


@pytest.fixture
def users_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of an ordinary user, in addition to the system's."""
    of_system = tmp_path / "system.toml"
    of_system.write_text("[node]\nstate_dir = '/of/system'\n")
    monkeypatch.setattr(config_module, "SYSTEM_FILE", of_system)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = tmp_path / "home" / ".config" / "dispatcher" / "dispatcher.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[node]\nstate_dir = '/of/user'\n")
    if os.geteuid() == 0:
        os.chown(file.parent, 4711, -1)
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
    return file


def test_an_ordinary_users_own_file_goes_before_the_systems(
    users_file: Path, tmp_path: Path
) -> None:
    assert users_file == load(None, {}).file
    assert users_file == load(None, {"XDG_CONFIG_HOME": str(users_file.parents[1])}).file
    assert config_module.SYSTEM_FILE == load(None, {"XDG_CONFIG_HOME": str(tmp_path)}).file
    other = tmp_path / "other.toml"
    other.write_text("[node]\nstate_dir = '/of/other'\n")
    assert other == load(None, {"DISPATCHER_CONFIG": str(other)}).file

    users_file.unlink()
    assert config_module.SYSTEM_FILE == load(None, {}).file


@pytest.mark.parametrize(
    ("closed", "number"),
    [(0, errno.EACCES), (1, errno.EACCES), (2, errno.EACCES), (0, errno.EIO), (2, errno.ESTALE)],
)
def test_an_own_file_that_cannot_be_looked_at_is_read_and_reported(
    users_file: Path, monkeypatch: pytest.MonkeyPatch, closed: int, number: int
) -> None:
    """A closed directory, or a home on a server that fails."""
    unseen = users_file.parents[closed]
    home = users_file.parents[2]
    if home.stat().st_uid != os.geteuid():
        owned = (home, *home.rglob("*"))
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        for path in owned:
            os.chown(path, 4711, -1)
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
    stat = os.stat

    def refuses(path: Path | str, *words: object, **options: object) -> os.stat_result:
        if Path(path).is_relative_to(unseen) and (number != errno.EACCES or Path(path) != unseen):
            raise OSError(number, os.strerror(number), str(path))
        return stat(path, *words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", refuses)
    monkeypatch.setattr(os, "lstat", lambda path: refuses(path, follow_symlinks=False))

    assert users_file == config_module.find(None, {})[0]


def test_a_directory_of_roots_in_an_own_home_is_an_own_one(
    users_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = 4711
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    if os.getuid() == 0:
        os.chown(users_file.parents[1], owner, -1)
        os.chown(users_file.parent, 0, 0)
        assert users_file == load(None, {}).file


@pytest.mark.parametrize("uid", [0, 4712])
def test_a_file_in_the_home_of_another_user_is_not_read_by_root_or_others(
    users_file: Path, monkeypatch: pytest.MonkeyPatch, uid: int
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)

    assert config_module.SYSTEM_FILE == load(None, {}).file


# Root's own file ----------------------------------------------------------------------------


@pytest.fixture
def roots_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Root's file, in addition to the system's; root owns all directories on the way to it."""
    if os.geteuid() != 0:
        pytest.skip("only root has root's own file")
    of_system = tmp_path / "system.toml"
    of_system.write_text("")
    monkeypatch.setattr(config_module, "SYSTEM_FILE", of_system)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = tmp_path / "home" / ".config" / "dispatcher" / "dispatcher.toml"
    file.parent.mkdir(parents=True)
    file.write_text("")
    return file


def test_roots_own_file_goes_before_the_systems(roots_file: Path) -> None:
    assert roots_file == find(None, {})[0]
    assert roots_file == find(None, {"XDG_CONFIG_HOME": str(roots_file.parents[1])})[0]

    roots_file.unlink()
    assert config_module.SYSTEM_FILE == find(None, {})[0]


@pytest.mark.parametrize("part", range(4))
def test_a_file_of_which_another_user_owns_a_part_of_the_way_is_not_roots(
    roots_file: Path, part: int
) -> None:
    """As `sudo` and `su` keep HOME or XDG_CONFIG_HOME: root obeys no file that another may make."""
    os.chown((roots_file, *roots_file.parents)[part], 4711, 4711)

    assert config_module.SYSTEM_FILE == find(None, {})[0]
    assert (
        config_module.SYSTEM_FILE == find(None, {"XDG_CONFIG_HOME": str(roots_file.parents[1])})[0]
    )


@pytest.mark.parametrize("part", range(3))
def test_a_file_that_a_link_of_another_user_leads_to_is_not_roots(
    roots_file: Path, part: int
) -> None:
    """The target is root's own file, and where the link leads tomorrow is that user's choice."""
    place = (roots_file, *roots_file.parents)[part]
    target = place.rename(place.with_name("roots"))
    place.symlink_to(target)
    assert roots_file == find(None, {})[0]

    os.lchown(place, 4711, 4711)

    assert config_module.SYSTEM_FILE == find(None, {})[0]


def test_a_link_of_roots_to_the_file_of_another_user_is_not_read(
    roots_file: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs.toml"
    theirs.touch()
    os.chown(theirs, 4711, 4711)
    roots_file.unlink()
    roots_file.symlink_to(theirs)

    assert config_module.SYSTEM_FILE == find(None, {})[0]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_root_reads_no_file_that_it_cannot_look_at(
    roots_file: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As the home of another user on a server may be, which `sudo` has kept."""
    stat = os.stat

    def refuses(path: Path | str, *words: object, **options: object) -> os.stat_result:
        if Path(path).is_relative_to(roots_file.parents[2]):
            raise OSError(number, os.strerror(number), str(path))
        return stat(path, *words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", refuses)

    assert config_module.SYSTEM_FILE == find(None, {})[0]


# --------------------------------------------------------------------------------------------


def test_a_worker_uses_its_dispatchers_file_although_the_user_has_one(
    users_file: Path, file: Path
) -> None:
    file.write_text("")

    assert (file, Path("/s")) == (
        load(None, _places(file)).file,
        load(None, _places(file)).state_dir,
    )
    without = {**_places(""), "DISPATCHER_CONFIG": ""}
    assert config_module.SYSTEM_FILE == load(None, without).file != users_file
    theirs = load(None, _places(users_file))
    assert (users_file, Path("/s")) == (theirs.file, theirs.state_dir)


def test_a_system_file_in_a_closed_directory_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_module, "SYSTEM_FILE", tmp_path / ("x" * 300))

    with pytest.raises(ConfigError, match="x: File name too long; "):
        load(None, {})


def test_a_closed_directory_of_the_systems_file_is_an_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever `Path.exists` makes of it: the defaults would be another dispatcher's."""
    of_system = tmp_path / "closed" / "dispatcher.toml"
    monkeypatch.setattr(config_module, "SYSTEM_FILE", of_system)
    monkeypatch.setattr(Path, "exists", lambda _: False)
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(of_system))
    path_stat = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        if path == of_system:
            raise denied
        return path_stat(path, **options)

    def read_nothing(*_: object) -> bytes:
        raise denied

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr("dispatcher.host.files.read", read_nothing)

    with pytest.raises(ConfigError, match=r"Permission denied; .*let --config or") as caught:
        load(None, {"XDG_CONFIG_HOME": str(tmp_path)})
    assert ExitCode.CONFIG == caught.value.exit_code


@pytest.mark.usefixtures("no_system_file")
@pytest.mark.parametrize("environ", [{}, {"DISPATCHER_CONFIG": "elsewhere.toml"}])
def test_a_named_file_that_is_missing_is_an_error(environ: dict[str, str]) -> None:
    named = None if environ else "/not/there.toml"

    with pytest.raises(ConfigError, match=r"(there|elsewhere)\.toml: No such file or directory;"):
        load(named, environ)


def test_a_directory_and_a_file_that_is_not_utf8_are_errors(tmp_path: Path, file: Path) -> None:
    file.write_bytes(b"# fine\n# \xff\n")

    with pytest.raises(ConfigError, match="Is a directory"):
        load(str(tmp_path), {})
    with pytest.raises(ConfigError, match=r"dispatcher\.toml:2: not UTF-8"):
        load(str(file), {})


# Directories ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_system_file")
@pytest.mark.parametrize(
    ("environ", "state_dir"),
    [
        ({"STATE_DIRECTORY": "/var/lib/dispatcher"}, "/var/lib/dispatcher"),
        ({"STATE_DIRECTORY": "/var/lib/one:/var/lib/two"}, "/var/lib/one"),
        ({"STATE_DIRECTORY": "/v", "XDG_STATE_HOME": "/x"}, "/v"),
        ({"XDG_STATE_HOME": "/x"}, "/x/dispatcher"),
        ({"XDG_STATE_HOME": "relative"}, "/home/somebody/.local/state/dispatcher"),
    ],
)
def test_the_state_directory_follows_the_environment(
    environ: dict[str, str], state_dir: str
) -> None:
    assert Path(state_dir) == load(None, environ).state_dir


@pytest.mark.usefixtures("no_system_file")
@pytest.mark.parametrize(
    "text",
    [
        "",
        '[node]\nstate_dir = "~/s"',
        '[node]\nstate_dir = "/new"\nruntime_dir = "/new"\n[store]\nurl = "sqlite:///new/t.db"',
    ],
)
def test_a_worker_finds_the_places_of_its_dispatcher_after_a_change_of_the_file(
    file: Path, text: str
) -> None:
    file.write_text(text)
    theirs = _places(file)

    config = load(None, theirs)

    assert theirs == config.environment == load(str(file), theirs).environment
    assert "sqlite:///d/tasks.db" == config.store_url


def test_a_shared_store_has_a_server_and_a_schema_and_no_file(file: Path) -> None:
    url = "postgresql://me@db.example,db2.example/jobs?sslmode=verify-full&target_session_attrs=any"
    file.write_text(f'[store]\nurl = "{url}"\nschema = "night"')

    config = load(str(file), {})

    assert (url, "night") == (config.store_url, config.store_schema)
    assert url == config.environment["DISPATCHER_STORE_URL"]
    assert {"runtime directory"} == config.other_places.keys()
    assert not config.carries_environments


def test_a_link_to_the_own_file_means_no_other_dispatcher(file: Path) -> None:
    file.write_text('[node]\nstate_dir = "/new"')
    (alias := file.with_name("alias.toml")).symlink_to(file)

    assert Path("/s") == load(str(alias), _places(file)).state_dir


def _places(file: Path | str) -> dict[str, str]:
    return {
        "DISPATCHER_CONFIG": str(file),
        "DISPATCHER_RUN_CONFIG": str(file),
        "DISPATCHER_STATE_DIR": "/s",
        "DISPATCHER_RUNTIME_DIR": "/r",
        "DISPATCHER_STORE_URL": "sqlite:///d/tasks.db",
    }


@pytest.mark.usefixtures("no_system_file")
@pytest.mark.parametrize("own", ["outer.toml", ""], ids=["a file", "no file"])
def test_another_file_has_places_of_its_own_however_it_is_named(
    file: Path, tmp_path: Path, own: str
) -> None:
    file.write_text('[node]\nstate_dir = "/inner"')
    theirs = {name: value for name, value in _places(own and str(tmp_path / own)).items() if value}
    theirs["DISPATCHER_RUN_CONFIG"] = own and str(tmp_path / own)

    by_option = load(str(file), theirs)
    by_variable = load(None, {**theirs, "DISPATCHER_CONFIG": str(file)})

    assert by_option == by_variable == load(str(file), {})
    assert Path("/s") == load(None, {**theirs, "DISPATCHER_CONFIG": ""}).state_dir


@pytest.mark.usefixtures("no_system_file")
def test_a_worker_of_an_older_release_finds_the_directory_in_its_environment(file: Path) -> None:
    file.write_text('[store]\nurl = "sqlite:///d/tasks.db"')
    theirs = _places(file)
    del theirs["DISPATCHER_RUN_CONFIG"], theirs["DISPATCHER_STORE_URL"]

    config = load(None, theirs)

    assert (Path("/s"), "sqlite:///d/tasks.db") == (config.state_dir, config.store_url)


def test_a_worker_knows_the_places_also_of_a_mistaken_file(file: Path) -> None:
    file.write_text("[node]\nstate_dir = 5\n[store]\nurl = 'sqlite:///'\n")

    with pytest.raises(Mistaken) as caught:
        load(None, _places(file))

    assert caught.value.places_certain
    assert _places(file) == caught.value.rest.environment


@pytest.mark.usefixtures("no_system_file")
def test_the_state_directory_of_one_file_is_not_that_of_another(file: Path) -> None:
    file.write_text("")
    other = file.with_name("other.toml")
    other.write_text("")
    theirs = {"DISPATCHER_CONFIG": str(file), "DISPATCHER_STATE_DIR": "/s", "STATE_DIRECTORY": "/v"}

    assert Path("/v") == load(str(other), theirs).state_dir
    assert Path("/v") == load(None, {**theirs, "DISPATCHER_STATE_DIR": "s"}).state_dir
    assert {
        "DISPATCHER_RUN_CONFIG": "",
        "DISPATCHER_STATE_DIR": "/v",
        "DISPATCHER_RUNTIME_DIR": "/v/run",
        "DISPATCHER_STORE_URL": "sqlite:///v/tasks.db",
    } == load(None, {"STATE_DIRECTORY": "/v"}).environment


def test_the_file_goes_before_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    environ = {"STATE_DIRECTORY": "/v", "RUNTIME_DIRECTORY": "/r"}

    config = read(file, '[node]\nstate_dir = "~/s"\nruntime_dir = "/tmp/../tmp/r2"', environ)

    assert Path("/home/somebody/s") == config.state_dir
    assert Path("/tmp/r2") == config.runtime_dir


@pytest.mark.usefixtures("no_system_file")
def test_the_runtime_directory_is_systemds_or_the_users_or_in_the_state_directory() -> None:
    state = {"STATE_DIRECTORY": "/v"}
    name = sha256(b"/v").hexdigest()[:8]

    assert Path("/r") == load(None, {**state, "RUNTIME_DIRECTORY": "/r:/q"}).runtime_dir
    of_user = load(None, {**state, "XDG_RUNTIME_DIR": "/run/user/7"})
    assert Path(f"/run/user/7/dispatcher-{name}") == of_user.runtime_dir
    assert Path("/v/run") == load(None, state).runtime_dir
    assert Path("/v/run/control.sock") == load(None, state).control_socket


@pytest.mark.usefixtures("no_system_file")
@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"HOME": "/h\udcff"}, r"node\.state_dir: '/h\\udcff.* set \[node\] state_dir to another"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/s\n"}, r"node\.state_dir: '/s\\n/dispatcher' is not"),
        (
            {"HOME": "/h", "XDG_RUNTIME_DIR": "/r\udcff"},
            r"node\.runtime_dir: .* runtime_dir to ano",
        ),
    ],
)
def test_a_directory_whose_name_no_message_could_carry_is_refused(
    environ: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", environ["HOME"])

    with pytest.raises(ConfigError, match=message):
        load(None, environ)


def test_every_spelling_of_a_state_directory_has_the_same_runtime_directory(
    tmp_path: Path, file: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    environ = {"XDG_RUNTIME_DIR": "/run/user/7"}

    real, link = (
        read(file, f'[node]\nstate_dir = "{tmp_path}/{name}"', environ) for name in ("real", "link")
    )

    assert real.runtime_dir == link.runtime_dir


@pytest.mark.parametrize("longest", [True, False])
def test_a_socket_path_has_at_most_107_bytes(file: Path, *, longest: bool) -> None:
    name = f"notify/{'0' * 32}"  # the longest: a run's, by its uid
    directory = "/" + "x" * (107 - len(f"//{name}") + (not longest))
    text = f'[node]\nruntime_dir = "{directory}"'

    if longest:
        assert 107 == len(str(read(file, text).runtime_dir / name))
    else:
        with pytest.raises(
            ConfigError, match=r"108 bytes .* set \[node\] runtime_dir to a shorter"
        ):
            read(file, text)


@pytest.mark.parametrize("slashes", ["///", "////"])
def test_a_store_url_names_a_whole_path_with_three_or_four_slashes(
    file: Path, slashes: str
) -> None:
    config = read(file, f'[store]\nurl = "sqlite:{slashes}var/lib/d/tasks.db"')

    assert "sqlite:///var/lib/d/tasks.db" == config.store_url


# Values derived from other keys --------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "reap_interval_ms"),
    [
        ('ttl = "4s"', 2_000),
        ('ttl = "200ms"', 100),
        ('worker_ttl = "1.5s"', 750),
        ('ttl = "1h"', 5_000),
        ('ttl = "4s"\nreap_interval = "2s"', 2_000),
        ('reap_interval = "50ms"', 50),
    ],
)
def test_ac11_the_reaper_looks_twice_in_the_shortest_lease(
    file: Path, keys: str, reap_interval_ms: int
) -> None:
    assert reap_interval_ms == read(file, f"[leases]\n{keys}").leases.reap_interval_ms


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ('backoff_min = "20m"', (1_200_000, 1_200_000)),
        ('backoff_max = "200ms"', (200, 200)),
        ('backoff_min = "50ms"\nbackoff_max = "1s"', (50, 1_000)),
        ('backoff_min = "0s"', (0, 900_000)),
    ],
)
def test_a_bound_of_the_backoff_that_is_left_out_follows_the_other(
    file: Path, keys: str, expected: tuple[int, int]
) -> None:
    retry = read(file, f"[retry]\n{keys}").retry

    assert expected == (retry.backoff_min_ms, retry.backoff_max_ms)


@pytest.mark.parametrize(
    ("text", "on_stop"),
    [
        ("", "drain"),
        ('[executor]\nmode = "external"', "leave"),
        ('[executor]\nmode = "external"\n[daemon]\non_stop = "drain"', "drain"),
        ('[daemon]\non_stop = "leave"', "leave"),
    ],
)
def test_the_default_stop_depends_on_the_mode_of_the_executor(
    file: Path, text: str, on_stop: str
) -> None:
    assert on_stop == read(file, text).on_stop


TEMPLATE = "etc/%i.toml"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files of a host: `etc`, `units`, `lib` for packages, `u` for a user."""
    monkeypatch.delenv("DISPATCHER_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "u"))
    monkeypatch.setattr(config_module, "SYSTEM_FILE", tmp_path / "etc" / "dispatcher.toml")
    monkeypatch.setattr(config_module, "SYSTEM_UNITS", tmp_path / "units")
    monkeypatch.setattr(unit_files, "PACKAGED", tmp_path / "lib")
    return tmp_path


def external(file: Path) -> Config:
    config = load(os.devnull, {"HOME": "/home/me"})
    return msgspec.structs.replace(config, file=file, executor=ExecutorSection(mode="external"))


@pytest.mark.parametrize(
    ("name", "units", "command"),
    [
        ("etc/dispatcher.toml", {}, "systemctl start dispatcher"),
        ("etc/dispatcher.toml", {"units/dispatcher.service": "etc/gpu.toml"}, None),
        ("etc/dispatcher.toml", {"units/dispatcher.service": None}, "systemctl start dispatcher"),
        ("etc/gpu.toml", {"units/dispatcher@gpu.service": None}, None),
        (
            "etc/dispatcher.toml",
            {"lib/system/dispatcher.service": "etc/dispatcher.toml"}
            | {"lib/system/dispatcher@.service": TEMPLATE},
            "systemctl start dispatcher",
        ),
        (
            "etc/gpu.toml",
            {"units/dispatcher@gpu.service": "etc/gpu.toml"},
            "systemctl start dispatcher@gpu",
        ),
        ("etc/gpu.toml", {"units/dispatcher@.service": TEMPLATE}, "systemctl start dispatcher@gpu"),
        ("etc/gpu.conf", {"units/dispatcher@.service": TEMPLATE}, None),
        ("etc/a b.toml", {"units/dispatcher@.service": TEMPLATE}, None),
        (
            "etc/gpu.toml",
            {"lib/system/dispatcher@.service": TEMPLATE},
            "systemctl start dispatcher@gpu",
        ),
        (
            "etc/gpu.toml",
            {"units/dispatcher@gpu.service": "a.toml", "lib/system/dispatcher@.service": TEMPLATE},
            None,
        ),
        (
            "etc/gpu.toml",
            {"units/dispatcher.service": "etc/gpu.toml"},
            "systemctl start dispatcher",
        ),
        ("etc/gpu.toml", {"units/dispatcher.service": "etc/a.toml"}, None),
        ("etc/gpu.toml", {}, None),
        ("srv/dispatcher.toml", {}, None),
        ("srv/d.toml", {"units/dispatcher.service": "srv/d.toml"}, "systemctl start dispatcher"),
        (
            "srv/a b.toml",
            {"units/dispatcher.service": "srv/a b.toml"},
            "systemctl start dispatcher",
        ),
        (
            "srv/jobs.toml",
            {"units/dispatcher@z.service": "srv/jobs.toml"},
            "systemctl start dispatcher@z",
        ),
        ("etc/z.toml", {"units/dispatcher@z.service": "srv/jobs.toml"}, None),
        ("u/dispatcher/dispatcher.toml", {}, "systemctl --user start dispatcher"),
        (
            "u/dispatcher/a.toml",
            {"u/systemd/user/dispatcher@.service": "%E/dispatcher/%i.toml"},
            "systemctl --user start dispatcher@a",
        ),
        ("u/dispatcher/a.toml", {"units/dispatcher@a.service": "etc/a.toml"}, None),
    ],
)
def test_a_dispatcher_is_started_by_the_unit_that_reads_its_file_or_with_that_file(
    host: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    units: Mapping[str, str | None],
    command: str | None,
) -> None:
    executor = "dispatcher-executor"
    for unit, file in units.items():
        option = "" if file is None else f" --config {argument(str(host / file))}"
        if file is not None and "%" in file:
            option = f" --config {file if file.startswith('%') else host / file}"
        for path in (host / unit, host / unit.replace("/dispatcher", f"/{executor}")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"ExecStart=/x run{option}\nExecReload=/x\n")
    config = external(host / name)
    embedded = msgspec.structs.replace(config, executor=ExecutorSection())
    by_hand = f"--config {shlex.quote(str(config.file))}"

    assert f"dispatcher run --detach {by_hand}" == embedded.start_command()
    assert (command or f"dispatcher run {by_hand}") == config.start_command()
    of_executor = command and command.replace("dispatcher", executor)
    assert (of_executor or f"dispatcher executor {by_hand}") == config.start_command(executor)

    monkeypatch.setenv("DISPATCHER_CONFIG", str(config.file))
    assert "dispatcher run --detach" == embedded.start_command()


@pytest.mark.parametrize("there", ["a queue", "a link to nothing to run"])
def test_a_unit_that_starts_nothing_reads_no_file(host: Path, there: str) -> None:
    """A FIFO without a writer kept `status` waiting."""
    unit = host / "units" / "dispatcher.service"
    unit.parent.mkdir()
    if there == "a queue":
        os.mkfifo(unit)
    else:
        unit.symlink_to(os.devnull)  # a masked unit

    config = external(host / "etc" / "dispatcher.toml")

    assert f"dispatcher run --config {config.file}" == config.start_command()


def test_root_that_became_a_user_is_given_commands_of_root(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that user it would look in the user's home, and name root's own service."""
    monkeypatch.setattr(owner, "_became", [owner.Owner(4999, 4999, host)])
    own = host / "u" / "dispatcher" / "dispatcher.toml"
    own.parent.mkdir(parents=True)
    own.touch()
    config = external(own)
    embedded = msgspec.structs.replace(config, executor=ExecutorSection())

    assert f"dispatcher run --detach --config {own}" == embedded.start_command()
    assert (
        "sudo -u '#4999' env XDG_RUNTIME_DIR=/run/user/4999 systemctl --user start dispatcher"
    ) == config.start_command()
    system = external(host / "etc" / "dispatcher.toml")
    assert "systemctl start dispatcher" == system.start_command()


ON_A_SERVER = '[store]\nurl = "postgresql://db.example/tasks"\n'


@pytest.mark.parametrize(
    ("written", "limit"),
    [
        ("", 300_000),
        ('[executor]\nabsence_limit = "never"', None),
        ('[executor]\nabsence_limit = "2s"', 2_000),
    ],
)
def test_runs_of_a_store_on_a_server_go_on_unconfirmed_for_5_minutes_by_default(
    file: Path, written: str, limit: int | None
) -> None:
    config = read(file, ON_A_SERVER + written)

    assert limit == config.absence_limit_ms
    assert read(file, "").absence_limit_ms is None


@pytest.mark.parametrize(
    ("written", "mistakes"),
    [
        ('[executor]\nabsence_limit = "1.9s"', ["executor.absence_limit: 1900ms is less than 2s"]),
        ('[leases]\ntakeover_margin = "3s"', ["leases.takeover_margin: 3s is less than 3300ms"]),
        ('[leases]\ntakeover_margin = "3300ms"', []),
        ('[executor]\nabsence_limit = "1d"', ["leases.takeover_margin: 15s is less than 89400ms"]),
        ('[executor]\nabsence_limit = "never"\n[leases]\ntakeover_margin = "0s"', []),
    ],
)
def test_times_with_which_two_nodes_might_run_one_task_are_mistakes_on_a_server_alone(
    file: Path, written: str, mistakes: list[str]
) -> None:
    """An executor may give a daemon that returns 2 s more, and its clock may be slower."""
    found = []
    try:
        read(file, ON_A_SERVER + written)
    except Mistaken as error:
        found = [line.removeprefix(f"{file}: ") for line in error.mistakes]

    assert len(mistakes) == len(found)
    for mistake, line in zip(mistakes, found, strict=True):
        assert line.startswith(mistake)
    read(file, written)


def test_an_absence_limit_is_a_duration_or_never(file: Path) -> None:
    assert read(file, '[executor]\nabsence_limit = "never"').executor.absence_limit_ms is None
    limit = read(file, '[executor]\nabsence_limit = "1.5s"').executor.absence_limit_ms
    assert 1_500 == limit
