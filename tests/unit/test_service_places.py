"""The files and directories of a host's service: root's, seen by its units, open to its user."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.config import of_service, unit_files
from dispatcher.errors import ConfigError
from dispatcher.service import places, systemd, units
from dispatcher.service.install import Place, configuration_for, install

pytestmark = pytest.mark.skipif(
    not shutil.which("systemctl"), reason="there is no systemctl (Debian: apt install systemd)"
)


@pytest.mark.parametrize("hidden", ["/home/me/x", "/root/x", "/tmp/x", "/run/user/1/x"])
def test_a_program_that_a_service_of_the_host_does_not_see_is_refused(
    hidden: str, tmp_path: Path
) -> None:
    at = Place(instance=None, user=False, units=tmp_path / "units", file=Path("/etc/d.toml"))

    with pytest.raises(ConfigError, match=f"{hidden} is below /"):
        list(install(at, [hidden], force=False))


@pytest.mark.parametrize("key", ["state_dir", "runtime_dir"])
def test_a_directory_that_a_service_of_the_host_does_not_see_is_refused(
    key: str, tmp_path: Path
) -> None:
    file = tmp_path / "d.toml"
    file.write_text(f'[node]\n{key} = "/home/me/x"\n[executor]\nmode = "external"\n')
    at = Place(instance=None, user=False, units=tmp_path / "units", file=file)

    with pytest.raises(ConfigError, match="/home/me/x is below /home"):
        configuration_for(at)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may enter."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def of_nobody(public: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A service of this host that runs as a user that each host has."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it gives files to another user")
    monkeypatch.setattr(of_service, "HIDDEN", ())
    file = public / "etc" / "gpu.toml"
    return Place(instance="gpu", user=False, units=public / "units", file=file, run_as="nobody")


def test_a_service_of_another_user_may_have_its_file_next_to_the_first_ones(
    of_nobody: Place,
) -> None:
    before = os.umask(0o077)
    try:
        steps = list(install(of_nobody, ["/bin/sh"], force=False))
    finally:
        os.umask(before)

    file = of_nobody.file
    assert (0o755, 0o640) == tuple(path.stat().st_mode & 0o777 for path in (file.parent, file))
    assert not [what for did, what in steps if did == "warning" and str(file.parent) in what]

    file.parent.chmod(0o750)  # as an earlier release made it
    steps = list(install(of_nobody, ["/bin/sh"], force=False))
    assert [f"chmod a+x {file.parent}"] == [
        what.partition("needs it: ")[2] for did, what in steps if str(file.parent) in what
    ]


def test_a_directory_of_figures_is_open_to_readers_and_one_closed_to_the_service_is_named(
    of_nobody: Place, public: Path
) -> None:
    figures = public / "figures"
    of_nobody.file.parent.mkdir()
    of_nobody.file.write_text(
        f'executor.mode = "external"\nmetrics.textfile = "{figures}/d.prom"\n'
        'node.state_dir = "/var/lib/d"\nnode.runtime_dir = "/run/d"\n'
    )

    assert ("made", str(figures)) in list(install(of_nobody, ["/bin/sh"], force=False))
    assert (0o755, "nobody") == (figures.stat().st_mode & 0o777, figures.owner())
    assert not [what for _, what in install(of_nobody, ["/bin/sh"], force=False) if "write" in what]

    os.chown(figures, 0, 0)
    written = [what for _, what in install(of_nobody, ["/bin/sh"], force=False) if "write" in what]
    assert [
        f"the user nobody may not write in {figures}; the service needs it: chown nobody {figures}"
    ] == written


@pytest.mark.parametrize(
    ("closed", "uid", "group", "mode"),
    [
        ("etc", "root", "nogroup", 0o640),
        ("etc/gpu.toml", "root", "root", 0o600),
        ("figures", "root", "root", 0o755),
        ("figures", "root", "root", 0o555),
        ("figures", "nobody", "nogroup", 0o555),
        ("above", "root", "nogroup", 0o740),
    ],
)
def test_the_advice_opens_a_directory_closed_to_the_service(
    of_nobody: Place, public: Path, closed: str, uid: str, group: str, mode: int
) -> None:
    """Of a directory of the user's group, `chmod o+x` changed nothing, and was advised again."""
    for made in ("etc", "figures", "above/figures"):
        (public / made).mkdir(parents=True)
    shutil.chown(public / "above" / "figures", "nobody")
    figures = "above/figures" if closed == "above" else "figures"
    of_nobody.file.write_text(f'{EXTERNAL}metrics.textfile = "{public}/{figures}/d.prom"\n')
    if not closed.startswith("figures"):
        shutil.chown(public / "figures", "nobody")
    shutil.chown(public / closed, uid, group)
    (public / closed).chmod(mode)

    def advised() -> list[str]:
        steps = install(of_nobody, ["/bin/sh"], force=False)
        warnings = [what for did, what in steps if did == "warning" and str(public) in what]
        return [warning.partition("needs it: ")[2] for warning in warnings]

    (command,) = advised()
    assert ("chown" in command) == (closed == "figures" and uid != "nobody")
    subprocess.run(["/bin/sh", "-c", command], check=True)

    assert [] == advised()


@pytest.mark.parametrize(
    ("named", "target", "remedy"),
    [
        ("link", "figures", "chown nobody {}"),
        ("/", None, "name a subdirectory of it in the configuration, as /dispatcher-data"),
        ("/var/lib", None, "name a subdirectory of it in the configuration, as {}/dispatcher-data"),
    ],
)
def test_a_directory_closed_to_the_service_is_opened_by_what_opens_it(
    of_nobody: Place, public: Path, named: str, target: str | None, remedy: str
) -> None:
    directory = public / named
    if target is not None:
        (public / target).mkdir()
        directory.symlink_to(public / target)
    of_nobody.file.parent.mkdir()
    of_nobody.file.write_text(f'{EXTERNAL}metrics.textfile = "{directory / "d.prom"}"\n')

    written = [what for _, what in install(of_nobody, ["/bin/sh"], force=False) if "write" in what]

    assert [remedy.format(directory)] == [what.partition("needs it: ")[2] for what in written]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root gives directories away")
def test_no_directory_is_made_where_another_user_decides_what_its_path_leads_to(
    of_nobody: Place, public: Path
) -> None:
    """A link to a directory of root's: files made there were given to the user."""
    (victim := public / "victim").mkdir()
    (theirs := public / "theirs").mkdir()
    (theirs / "link").symlink_to(victim)
    os.chown(theirs, pwd.getpwnam("nobody").pw_uid, -1)
    of_nobody.file.parent.mkdir()
    of_nobody.file.write_text(
        f'executor.mode = "external"\nmetrics.textfile = "{theirs}/link/new/d.prom"\n'
        'node.state_dir = "/var/lib/d"\nnode.runtime_dir = "/run/d"\n'
    )

    steps = list(install(of_nobody, ["/bin/sh"], force=False))

    assert [] == list(victim.iterdir())
    (written,) = [what for kind, what in steps if kind == "warning" and "missing" in what]
    assert f"make it: sudo -u nobody mkdir -p {theirs}/link/new" in written


def theirs(directory: Path) -> Path:
    """Return a directory, made for nobody."""
    directory.mkdir()
    os.chown(directory, pwd.getpwnam("nobody").pw_uid, -1)
    return directory


EXTERNAL = (
    'executor.mode = "external"\nnode.state_dir = "/var/lib/d"\nnode.runtime_dir = "/run/d"\n'
)


@pytest.mark.parametrize("there", ["nothing", "a file of theirs", "a file of root's", "a link"])
def test_a_configuration_that_another_user_decides_about_is_refused(
    of_nobody: Place, public: Path, there: str
) -> None:
    """It names directories that root makes and gives to the service's user."""
    conf = theirs(public / "theirs") / "conf"
    file = conf / "d.toml"
    text = f'{EXTERNAL}metrics.textfile = "{public}/victim/x.prom"\n'
    if there == "a link":
        (public / "roots").mkdir()
        (public / "roots" / "d.toml").write_text(text)
        conf.symlink_to(public / "roots")
        os.chown(conf, pwd.getpwnam("nobody").pw_uid, -1, follow_symlinks=False)
    elif there != "nothing":
        conf.mkdir()
        file.write_text(text)
        if there == "a file of theirs":
            os.chown(file, pwd.getpwnam("nobody").pw_uid, -1)
    before = sorted(public.rglob("*"))

    with pytest.raises(ConfigError, match=r"belongs to nobody .* move it, for example to"):
        list(install(replace(of_nobody, file=file), ["/bin/sh"], force=False))

    assert before == sorted(public.rglob("*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root gives files away")
@pytest.mark.parametrize(
    "given", ["etc", "etc/gpu.toml", "units", "srv/d.toml", "etc/link.toml", "."]
)
def test_a_place_of_roots_own_that_was_given_away_is_to_be_given_back(
    of_nobody: Place, public: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setattr(places, "SYSTEM_FILE", public / "etc" / "dispatcher.toml")
    monkeypatch.setattr(places, "SYSTEM_UNITS", public / "units")
    for made in ("etc", "units", "srv"):
        (public / made).mkdir()
    for file in ("etc/gpu.toml", "srv/d.toml"):
        (public / file).write_text(EXTERNAL)
    (public / "etc" / "link.toml").symlink_to(public / "srv" / "d.toml")
    os.chown(public / given, pwd.getpwnam("nobody").pw_uid, -1, follow_symlinks=False)
    at = replace(of_nobody, file=public / given) if given.endswith(".toml") else of_nobody

    with pytest.raises(ConfigError) as refused:
        list(install(at, ["/bin/sh"], force=False))

    option = "-h " if "link" in given else ""
    assert f"own files only: chown {option}root {public / given}" in str(refused.value)
    assert ("move it" in str(refused.value)) == given.startswith("srv")


def test_a_directory_that_another_user_got_hold_of_gets_no_configuration(
    of_nobody: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = places.make_directory

    def and_lose_it(path: Path, **options: Any) -> None:
        make(path, **options)
        os.chown(path, pwd.getpwnam("nobody").pw_uid, -1)

    monkeypatch.setattr(places, "make_directory", and_lose_it)

    with pytest.raises(ConfigError, match="belongs to nobody"):
        list(install(of_nobody, ["/bin/sh"], force=False))

    assert [] == list(of_nobody.file.parent.iterdir())


def test_a_link_put_where_a_directory_was_made_gets_neither_mode_nor_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (victim := tmp_path / "victim").mkdir(mode=0o700)
    mkdir = Path.mkdir

    def and_swap(path: Path, mode: int = 0o777) -> None:
        mkdir(path, mode)
        path.rmdir()
        path.symlink_to(victim)

    monkeypatch.setattr(Path, "mkdir", and_swap)

    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        places.make_directory(tmp_path / "new", mode=0o755)

    assert 0o700 == victim.stat().st_mode & 0o777


def test_a_user_that_a_drop_in_sets_is_reported(of_nobody: Place) -> None:
    for name in ("dispatcher@gpu.service.d", "dispatcher-executor@.service.d"):
        (of_nobody.units / name).mkdir(parents=True)
        (of_nobody.units / name / "user.conf").write_text("[Service]\nUser = ada \n")

    written = [
        what for did, what in install(of_nobody, ["/bin/sh"], force=False) if did == "warning"
    ]

    found = [what for what in written if "sets User=ada" in what and "--run-as ada" in what]
    assert 2 == len(found)
    assert "dispatcher-executor@.service.d/user.conf" in found[0]
    assert "dispatcher@gpu.service.d/user.conf" in found[1]


@pytest.mark.parametrize("line", ["User=ada ", " User = ada\t", "User=bob\nUser=ada"])
def test_a_user_in_a_unit_is_found_as_systemd_finds_it(line: str) -> None:
    assert "ada" == unit_files.installed(f"[Service]\n{line}\nGroup=x\n").user


@pytest.mark.parametrize("key", ["metrics.textfile", "store.url"])
def test_a_file_that_the_daemon_would_not_see_is_refused(key: str, tmp_path: Path) -> None:
    scheme = "sqlite://" if key == "store.url" else ""
    file = tmp_path / "d.toml"
    file.write_text(f'{EXTERNAL}{key} = "{scheme}/home/me/x/d.prom"\n')
    at = Place(instance=None, user=False, units=tmp_path / "units", file=file)

    with pytest.raises(ConfigError, match=r"/home/me/x\S* is below /home"):
        configuration_for(at)


@pytest.mark.parametrize("way", ["link", "../home/me/x"])
@pytest.mark.parametrize("key", ["metrics.textfile", "node.state_dir"])
def test_a_place_that_leads_where_the_daemon_would_not_see_it_is_refused(
    key: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_service, "HIDDEN", (Path("/home"),))
    (tmp_path / "link").symlink_to("/home/me/x")
    up = "/".join([".."] * (len(tmp_path.parts) - 2))
    named = tmp_path / (way if way == "link" else f"{up}/{way}")
    file = tmp_path / "d.toml"
    text = EXTERNAL.replace("/var/lib/d", str(named)) if key == "node.state_dir" else EXTERNAL
    figures = f'metrics.textfile = "{named}/d.prom"\n' if key == "metrics.textfile" else ""
    file.write_text(text + figures)
    at = Place(instance=None, user=False, units=tmp_path / "units", file=file)

    with pytest.raises(ConfigError, match=r" is below /home\b"):
        configuration_for(at)


@pytest.mark.parametrize("below", ["", "/a", "/a/b"])
def test_a_directory_below_a_file_is_refused_before_anything_is_written(
    of_nobody: Place, public: Path, below: str
) -> None:
    (public / "file").touch()
    of_nobody.file.parent.mkdir()
    of_nobody.file.write_text(f'{EXTERNAL}metrics.textfile = "{public}/file{below}/d.prom"\n')

    with pytest.raises(ConfigError, match=f"{public}/file is not a directory"):
        list(install(of_nobody, ["/bin/sh"], force=False))

    assert not of_nobody.units.exists()


def test_a_directory_that_systemd_would_make_in_the_place_of_a_file_is_refused(
    of_nobody: Place, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = {"StateDirectory": public, "RuntimeDirectory": Path("/run")}
    monkeypatch.setattr(units, "_MADE_BELOW", below)
    (public / "file").touch()
    of_nobody.file.parent.mkdir()
    of_nobody.file.write_text(EXTERNAL.replace("/var/lib/d", f"{public}/file"))

    with pytest.raises(ConfigError, match=f"{public}/file is not a directory"):
        list(install(of_nobody, ["/bin/sh"], force=False))

    assert not of_nobody.units.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: its files are closed to another user")
def test_the_first_part_of_a_path_that_a_user_may_not_enter_is_found(public: Path) -> None:
    (public / "closed" / "in").mkdir(parents=True)
    (public / "closed").chmod(0o700)

    assert public / "closed" == systemd.unreadable(public / "closed" / "in", "nobody")
    assert systemd.unreadable(Path("/bin/sh"), "nobody") is None
