"""`dispatcher doctor`: each thing that may be wrong is found, and nothing is changed."""

import ctypes
import errno
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs
from pysqlite3 import dbapi2

from dispatcher import control, wire
from dispatcher.config import config as config_module
from dispatcher.config import of_service
from dispatcher.config.config import load
from dispatcher.daemon_report import StrandedReport
from dispatcher.doctor import checks, free_space, named_files, processes
from dispatcher.doctor.checks import findings
from dispatcher.doctor.finding import Finding, Level
from dispatcher.host import holes, locks, node, owner
from dispatcher.store import migrations
from dispatcher.store.examine import examine
from tests.command import Command
from tests.listeners import certified, peers
from tests.postgres import Postgres
from tests.reports import report


@pytest.fixture
def used(command: Command) -> Command:
    """A store with a task in it."""
    command("submit", "--", "true")
    return command


def found(command: Command, check: str) -> Finding:
    """Return the one finding of a check."""
    (finding,) = [one for one in findings(load(str(command.config_file))) if one.check == check]
    return finding


def test_on_a_healthy_host_nothing_is_bad(used: Command) -> None:
    printed = used("doctor").stdout.splitlines()

    assert [] == [line for line in printed if line.startswith("bad")]
    assert "ok       integrity        every page was read, and is whole" in printed
    assert "warning  daemon           none runs; dispatcher run --detach" in printed


def test_a_directory_of_figures_that_is_not_there_is_bad(used: Command, tmp_path: Path) -> None:
    directory = tmp_path / "figures"
    used.configure(f'[metrics]\ntextfile = "{directory}/d.prom"')
    finding = found(used, "metrics")
    user = pwd.getpwuid(os.geteuid()).pw_name
    remedy = f"make it: install -d -m 755 -o {user} {directory}"
    assert (Level.BAD, remedy) == (finding.level, finding.remedy)

    directory.symlink_to(directory)
    assert finding == found(used, "metrics"), "a link in a circle"
    directory.unlink()
    directory.mkdir()
    assert Level.OK is found(used, "metrics").level


def test_the_token_and_certificates_of_other_nodes_are_checked(
    used: Command, tmp_path: Path
) -> None:
    section = peers(tmp_path, **certified())
    used.configure(f"[peers]\n{''.join(f'{k} = {v!r}{chr(10)}' for k, v in certified().items())}")
    assert [] == [one for one in findings(load(str(used.config_file))) if one.check == "peers"]
    keys = {**certified(), "listen": section.listen, "token_file": section.token_file}
    used.configure("\n".join(("[peers]", *(f"{key} = {value!r}" for key, value in keys.items()))))
    good = found(used, "peers")
    assert (Level.OK, True) == (good.level, f"listens at {section.announced}" in good.text)

    (tmp_path / "token").chmod(0o644)
    bad = found(used, "peers")
    assert (Level.BAD, True) == (bad.level, "every user may open it" in bad.text)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes another user")
def test_a_directory_of_figures_below_a_closed_one_is_bad_and_no_user_needs_a_name(
    used: Command,
) -> None:
    """It ended `doctor` with EACCES, and without any finding."""
    with tempfile.TemporaryDirectory() as public:
        Path(public).chmod(0o755)
        (closed := Path(public) / "closed").mkdir(mode=0o700)
        used.configure(f'[metrics]\ntextfile = "{closed}/figures/d.prom"')
        config = load(str(used.config_file))
        remedies = []
        os.seteuid(4999)
        try:
            (sockets,) = checks._sockets(structs.replace(config, runtime_dir=closed / "run"))
        finally:
            os.seteuid(0)
        for command in (f"chmod a+x {closed}", f"install -d -o 4999 {closed}/figures"):
            os.seteuid(4999)
            try:
                (finding,) = named_files.textfile(config)
            finally:
                os.seteuid(0)
            remedies.append(finding.remedy)
            subprocess.run(command.split(), check=True)

    assert f"chmod a+x {closed}" == sockets.remedy
    anew = f"make it: install -d -m 755 -o 4999 {closed}/figures"
    assert [f"chmod a+x {closed}", anew] == remedies


def test_a_configuration_that_the_user_whom_root_became_may_not_read_is_bad(
    used: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, access = used.config_file, os.access
    monkeypatch.setattr(os, "access", lambda p, m, **of: p != closed and access(p, m, **of))

    finding = found(used, "configuration")

    assert Level.BAD is finding.level
    assert f"{closed}: the daemon's user may not read it" in finding.text


def test_a_directory_that_hides_the_configuration_from_the_daemons_user_is_to_be_opened(
    used: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No mode of the file itself changes anything: /etc/dispatcher was 750."""
    hidden = {used.config_file, used.config_file.parent}
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, m, **of: p not in hidden and access(p, m, **of))

    assert f"chmod a+x {used.config_file.parent}" == found(used, "configuration").remedy


@pytest.mark.parametrize("file", ["/x.prom", "/var/lib/x.prom", "link/x.prom"])
def test_a_directory_of_the_whole_system_is_not_to_be_given_to_the_daemons_user(
    used: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    (tmp_path / "link").symlink_to("/var/lib")
    file = str(tmp_path / file)
    used.configure(f'[metrics]\ntextfile = "{file}"')
    config = load(str(used.config_file))
    monkeypatch.setattr(os, "access", lambda _, mode, **__: not mode & os.W_OK)

    (finding,) = named_files.textfile(config)

    directory = Path(file).parent
    assert Level.BAD is finding.level
    assert str(finding.remedy).startswith("name a subdirectory of it in the configuration, as")
    assert str(directory / "dispatcher-data") in str(finding.remedy)


def test_as_json(used: Command) -> None:
    printed = {one["check"]: one for one in used("doctor", "--json").json}

    assert {"configuration", "host", "sqlite", "store", "daemon", "room"} <= printed.keys()
    assert {"check", "level", "finding", "remedy"} == printed["store"].keys()
    assert ("ok", None) == (printed["store"]["level"], printed["store"]["remedy"])


def test_before_the_first_use_it_makes_nothing(command: Command) -> None:
    shutil.rmtree(command.state_dir)

    printed = command("doctor").stdout

    assert (
        f"{command.state_dir} is not there; the daemon makes it: dispatcher run --detach" in printed
    )
    assert not command.state_dir.exists()


def test_a_look_changes_nothing(used: Command) -> None:
    database = used.state_dir / "tasks.db"
    before = (database.read_bytes(), sorted(os.listdir(used.state_dir)))

    used("doctor")

    assert before == (database.read_bytes(), sorted(os.listdir(used.state_dir)))


def test_each_mistake_of_the_configuration_is_a_line(command: Command) -> None:
    command.configure("slotz = 1\n[leases]\nttl = 5")

    printed = command("doctor", exits=1).stdout.splitlines()

    assert ["bad      configuration"] * 2 == [line[:22] for line in printed]


def test_a_state_directory_that_others_may_enter(used: Command) -> None:
    used.state_dir.chmod(0o755)

    finding = found(used, "state directory")

    assert (Level.WARNING, True) == (finding.level, "mode 0755: others may enter" in finding.text)
    assert f"chmod 700 {used.state_dir}" in str(finding.remedy)


def test_a_filesystem_without_holes(used: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Level.OK is found(used, "output budget").level

    def refuse(*_: int) -> int:
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    monkeypatch.setattr(holes, "_fallocate", refuse)
    finding = found(used, "output budget")

    assert (Level.WARNING, True) == (finding.level, "not supported" in finding.text)
    assert "ext4, xfs, btrfs or tmpfs" in str(finding.remedy)


def test_an_unusable_output_directory_is_bad(
    used: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = used.state_dir / "output"
    output.touch()

    finding = found(used, "output")

    assert (Level.BAD, f"{output} is not a directory") == (finding.level, finding.text)
    output.unlink()
    for number, remedy in ((errno.ENOSPC, "make room"), (errno.EROFS, "chown it")):
        why = OSError(number, os.strerror(number))
        monkeypatch.setattr(holes, "try_punching", lambda _, why=why: why)
        finding = found(used, "output")
        assert (Level.BAD, True) == (finding.level, remedy in str(finding.remedy))
        assert os.strerror(number) in finding.text


@pytest.mark.parametrize(
    ("mode", "level"),
    [(0o600, Level.OK), (0o640, Level.OK), (0o644, Level.WARNING), (0o666, Level.WARNING)],
)
def test_secrets_that_every_user_may_read(used: Command, mode: int, level: Level) -> None:
    secrets = used.state_dir / "secrets"
    secrets.write_text("TOKEN=x\n")
    secrets.chmod(mode)
    used.configure(f'[profiles.deploy]\ncommand = ["true"]\nenv_file = "{secrets}"')

    finding = found(used, "env_file")

    assert (level, True) == (finding.level, f"mode {mode:04o}" in finding.text)


@pytest.mark.parametrize(
    ("mode", "of_group", "remedy"),
    [
        (0o644, False, "chgrp {group} {file} && chmod 640 {file}"),
        (0o604, True, "chgrp {group} {file} && chmod 640 {file}"),
        (0o644, True, "chmod o= {file}"),
    ],
)
def test_the_advice_about_secrets_keeps_them_readable_for_the_daemon(
    used: Command, monkeypatch: pytest.MonkeyPatch, mode: int, of_group: bool, remedy: str
) -> None:
    """Its user is neither root nor the file's owner."""
    file = used.state_dir / "secrets"
    file.write_text("TOKEN=x\n")
    file.chmod(mode)
    used.configure(f'[profiles.deploy]\ncommand = ["true"]\nenv_file = "{file}"')
    config = load(str(used.config_file))
    group = file.stat().st_gid if of_group else 4711
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(os, "getegid", lambda: group)
    monkeypatch.setattr(os, "getgroups", lambda: [group])

    (finding,) = named_files.secrets(config)

    name = owner.group_name(group)
    assert remedy.format(group=name, file=file) == finding.remedy


def read_by_a_unit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a unit of this host read a file."""
    units = file.parent / "units"
    units.mkdir()
    (units / "dispatcher.service").write_text(f"ExecStart=/x run --config {file}\n")
    monkeypatch.setattr(config_module, "SYSTEM_UNITS", units)


def test_a_path_hidden_by_the_hosts_unit_is_bad_if_the_unit_reads_the_file(
    used: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_service, "HIDDEN", (tmp_path,))
    figures = f'[metrics]\ntextfile = "{tmp_path}/d.prom"'
    checks = ("configuration", "metrics")

    def levels() -> list[Level]:
        return [found(used, check).level for check in checks]

    used.configure(f'[executor]\nmode = "external"\n{figures}')
    assert [Level.OK, Level.OK] == levels(), "as in a container"
    read_by_a_unit(used.config_file, monkeypatch)
    assert [Level.BAD, Level.BAD] == levels()
    for check in checks:
        assert f"is below {tmp_path}, which the daemon's unit hides" in found(used, check).text
    used.configure(figures)
    assert [Level.OK, Level.OK] == levels(), "no external executor"


def test_a_place_that_the_file_leaves_to_the_unit_is_not_judged_by_this_users_own(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login has its $XDG_RUNTIME_DIR below /run/user, and the unit one of its own."""
    read_by_a_unit(command.config_file, monkeypatch)
    command.config_file.write_text(
        '[node]\nstate_dir = "/var/lib/d"\n[executor]\nmode = "external"\n'
    )

    config = load(str(command.config_file), {"XDG_RUNTIME_DIR": "/run/user/4999"})

    assert config.runtime_dir.is_relative_to("/run/user/4999")
    assert Level.OK is named_files.configuration(config).level


@pytest.mark.parametrize("way", ["link", "home/../home/big"])
def test_a_path_below_a_directory_that_the_hosts_unit_hides_is_bad(
    used: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    (home := tmp_path / "home").symlink_to(tmp_path / "var-home")
    (tmp_path / "var-home" / "big").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "var-home" / "big")
    read_by_a_unit(used.config_file, monkeypatch)
    monkeypatch.setattr(of_service, "HIDDEN", (home,))
    external = '[executor]\nmode = "external"\n'
    used.configure(f'{external}[metrics]\ntextfile = "{tmp_path}/x/../{way}/d.prom"')
    (tmp_path / "x").mkdir()
    config = load(str(used.config_file))
    state_dir = tmp_path / "x" / ".." / way

    (figures,) = named_files.textfile(config)
    whole = named_files.configuration(structs.replace(config, state_dir=state_dir))

    below = f"is below {home} (as {tmp_path}/var-home/big), which the daemon's unit hides"
    assert (Level.BAD, Level.BAD) == (figures.level, whole.level)
    assert below in figures.text
    assert below in whole.text


def test_secrets_with_which_a_profile_cannot_be_used(used: Command) -> None:
    secrets = used.state_dir / "secrets"
    used.configure(f'[profiles.deploy]\ncommand = ["true"]\nenv_file = "{secrets}"')

    finding = found(used, "env_file")

    assert Level.BAD is finding.level
    assert f"profiles.deploy.env_file: {secrets} is missing" in finding.text
    assert "make it" in str(finding.remedy)


def test_a_damaged_node_id(used: Command) -> None:
    (used.state_dir / "node-id").write_text("me")

    printed = used("doctor", exits=1).stdout

    assert "damaged, it holds 'me' instead of a UUID; restore it from a backup" in printed


def test_r54_a_database_on_a_network_filesystem(used: Command, tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("22 1 254:0 / / rw - nfs4 server:/export rw\n")
    config = load(str(used.config_file))

    finding = {one.check: one for one in findings(config, mountinfo=mountinfo)}["filesystem"]

    assert Level.BAD is finding.level
    assert "is on nfs4, a network filesystem, where SQLite loses data" in finding.text
    assert Level.OK is found(used, "filesystem").level


def test_r49_a_damaged_page_that_no_start_reads_is_found(used: Command) -> None:
    lines = "\n".join('{"command": ["echo", "%s"]}' % ("x" * 3000) for _ in range(40))
    used("submit", "--from", "-", stdin=lines.encode())
    database = used.state_dir / "tasks.db"
    content = database.read_bytes()
    of_a_task = content.index(b"x" * 3000, len(content) * 3 // 4) // 4096
    with database.open("r+b") as file:
        file.seek(of_a_task * 4096)
        file.write(bytes(range(256)) * 16)
    used("show", 1)  # works: it does not come by there

    printed = used("doctor", exits=1).stdout
    quick = used("doctor", "--quick").stdout.splitlines()

    assert "bad      integrity " in printed
    assert "; stop the daemon, then: dispatcher restore FILE" in printed
    assert "skipped  integrity        no page was checked; without --quick, all are" in quick


def test_quick_leaves_out_the_checks_of_pages_and_counts_alone(used: Command) -> None:
    whole = [(one["check"], one["level"]) for one in used("doctor", "--json").json]
    quick = [(one["check"], one["level"]) for one in used("doctor", "--json", "--quick").json]

    both = ("integrity", "counts")
    assert [(check, "ok") for check in both] == [one for one in whole if one not in quick]
    assert [(check, "skipped") for check in both] == [one for one in quick if one not in whole]


def test_wrong_counts_are_found_with_the_way_to_mend_them(used: Command) -> None:
    with closing(dbapi2.connect(used.state_dir / "tasks.db")) as connection:
        connection.execute("UPDATE counts SET many = 3")
        connection.execute("INSERT INTO counts VALUES ('', 'lost', -2)")
        connection.commit()
    finding = found(used, "counts")

    assert (Level.WARNING, "dispatcher migrate") == (finding.level, finding.remedy)
    assert "count 2 too few lost runs, 2 too many ready tasks in default" in finding.text
    assert "the counts of tasks were wrong; they are right now" in used("migrate").stderr
    assert Level.OK is found(used, "counts").level
    assert "" == used("migrate").stderr


def test_a_check_reports_its_pages_as_it_goes(used: Command) -> None:
    used("submit", "--from", "-", stdin=b"true\n" * 500)
    with closing(dbapi2.connect(used.state_dir / "tasks.db")) as connection:
        ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
    reports: list[tuple[int, int]] = []

    examined = examine(
        used.state_dir / "tasks.db", patience=0, check=lambda *one: reports.append(one)
    )

    assert () == examined.problems
    assert [(number, pages) for number in range(1, len(reports) + 1)] == reports
    assert 1 < len(reports) <= pages


def test_ctrl_c_ends_a_check_and_is_no_damage(used: Command) -> None:
    used("submit", "--from", "-", stdin=b"true\n" * 500)

    def interrupted(_checked: int, _pages: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(used.state_dir / "tasks.db", patience=0, check=interrupted)


def test_a_store_that_is_missing_or_another_one(used: Command) -> None:
    identity = used.state_dir / "store-id"
    identity.write_text("another\n")
    printed = used("doctor", exits=1).stdout
    assert "and this state directory worked with another; let store.url name that one" in printed

    (used.state_dir / "tasks.db").unlink()
    assert "tasks.db is missing, and it was there" in used("doctor", exits=1).stdout


def test_a_store_restored_as_advised_is_not_bad(used: Command, tmp_path: Path) -> None:
    used("backup", tmp_path / "copy.db")
    identity = "5f3d2c1b-of-a-store-that-is-lost"
    (used.state_dir / "store-id").write_text(f"{identity}\n")
    (used.state_dir / "tasks.db").write_text("damaged")

    for _ in range(2):  # of which the state directory knows none before a daemon starts
        used("restore", tmp_path / "copy.db")

    printed = used("doctor").stdout
    assert f", restored in the place of {identity}; the next daemon takes it" in printed
    assert Level.OK is found(used, "store identity").level


def test_a_file_that_is_not_a_database(used: Command) -> None:
    (used.state_dir / "tasks.db").write_text("hello" * 1000)

    printed = used("doctor", exits=1).stdout

    assert (
        "is damaged, or not a dispatcher database (file is not a database); restore it" in printed
    )


@pytest.mark.parametrize(
    ("more", "text"),
    [(1, "schema {0}, older than {1}; start the"), (-3, "schema {0}, newer than {1}; upg")],
)
def test_a_schema_of_another_release(
    used: Command, more: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = len(migrations.MIGRATIONS)
    monkeypatch.setattr(migrations, "MIGRATIONS", ("",) * (schema + more))

    assert text.format(schema, schema + more) in used("doctor", exits=1).stdout


def test_little_room_and_none(used: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    used.configure('[output]\nfree_floor = "1000TiB"')
    assert Level.WARNING is found(used, "room").level
    assert "dispatcher prune" in str(found(used, "room").remedy)

    monkeypatch.setattr(free_space, "LEAST_ROOM", 1 << 60)
    assert (Level.BAD, 1) == (found(used, "room").level, used("doctor", exits=1).exit_code)


@pytest.mark.parametrize(
    ("free", "level"),
    [(5 << 20, Level.OK), (free_space.LEAST_FOR_SOCKETS - 4096, Level.BAD)],
)
def test_a_small_run_has_room_enough_for_sockets(
    used: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: Level
) -> None:
    """`/run` is a tenth of the memory; nothing there grows, and no prune makes room in it."""
    run = Path("/dev/shm")
    if run.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is not a filesystem of its own here")
    used.configure(f'runtime_dir = "{run}"')
    whole = os.statvfs

    def small(path: Path) -> os.statvfs_result:
        found = [*whole(path)]
        if path == run:
            found[1], found[4] = 4096, free // 4096  # f_frsize, f_bavail
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", small)
    rooms = [one for one in findings(load(str(used.config_file))) if one.check == "room"]

    (its,) = [one for one in rooms if "runtime directory" in one.text]
    assert level is its.level
    assert "prune" not in (its.remedy or "")


def test_a_process_of_another_release_is_named() -> None:
    of_before = processes.check_release("executor", 4711, "0.0.9", "restart it")
    of_now = processes.check_release("executor", 2**22 + 1, wire.RELEASE, "restart it")

    text = f"pid 4711 answers and runs release 0.0.9, not {wire.RELEASE}"
    assert Finding("executor", Level.WARNING, text, "restart it") == of_before
    assert Level.OK is of_now.level


@pytest.mark.parametrize(
    ("mode", "changes", "level", "text", "remedy"),
    [
        (
            "external",
            {"executor": "waiting"},
            Level.BAD,
            "none is there",
            "start it: dispatcher executor",
        ),
        ("embedded", {"executor": "waiting"}, Level.BAD, "none is there", "executor.log"),
        (
            "embedded",
            {"executor": "waiting", "executor_error": "the journal is a FIFO; move it away"},
            Level.BAD,
            "none stays: the journal is a FIFO",
            "move it away",
        ),
        (
            "embedded",
            {"executor": "waiting", "executor_error": "KeyError: 5"},
            Level.BAD,
            "none stays: KeyError: 5",
            "executor.log",
        ),
        (
            "embedded",
            {"executor_incompatible": {"pid": 4711, "version": 2, "wanted": 4}},
            Level.BAD,
            "pid 4711 speaks version 2, 4 is wanted",
            "end it when nothing runs: its end ends all runs; the daemon starts another",
        ),
        (
            "external",
            {"executor_incompatible": {"pid": 4711, "version": 2, "wanted": 4}},
            Level.BAD,
            "pid 4711 speaks version 2, 4 is wanted",
            "restart it when nothing runs: its end ends all runs",
        ),
        (
            "embedded",
            {"executor": "silent", "executor_answer_age_s": 15.2},
            Level.BAD,
            "is silent: it answered 15 s ago",
            "ps -o pid,stat,wchan",
        ),
        (
            "embedded",
            {"executor_answer_age_s": 11.3},
            Level.WARNING,
            "answered 11 s ago, and is pinged each 5 s",
            "ps -o pid,stat,wchan",
        ),
        ("embedded", {"executor_answer_age_s": 5.1}, Level.OK, "answers, release", "None"),
    ],
)
def test_the_daemon_reports_the_state_of_the_executor(
    command: Command, mode: str, changes: dict[str, object], level: Level, text: str, remedy: str
) -> None:
    command.configure(f'[executor]\nmode = "{mode}"')
    facts = {
        "executor_pid": 2**22 + 1,
        "executor_release": wire.RELEASE,
        "executor_answer_age_s": 0.2,
        **changes,
    }

    (finding,) = processes.check_executor(load(str(command.config_file)), report(**facts))

    assert (level, True, True) == (
        finding.level,
        text in finding.text,
        remedy in str(finding.remedy),
    ), finding


def test_a_process_older_than_the_files_runs_what_was_there_before() -> None:
    assert processes.started_before_install(1, lambda _: 0.0)
    assert not processes.started_before_install(1, lambda _: time.time())


def test_fewer_descriptors_than_slots_need() -> None:
    (few,) = processes.check_descriptors(os.getpid(), 10**9)
    (enough,) = processes.check_descriptors(os.getpid(), 1)

    assert (Level.BAD, Level.OK) == (few.level, enough.level)
    assert "LimitNOFILE=" in str(few.remedy)


def test_stranded_runs_are_named_with_the_remedy_and_many_are_counted() -> None:
    living = "its processes live on this host: sleep (20816)"
    stranded = tuple(
        StrandedReport(task_id=task_id, fence=1, why=f"{living}; end them", is_ours=False)
        for task_id in range(1, 8)
    )

    first, *_, last = found = list(processes.check_stranded(report(stranded=stranded)))

    text = f"no executor ends task 1: {living}"
    assert Finding("stranded run", Level.WARNING, text, "end them") == first
    assert (6, "2 more runs that no executor knows") == (len(found), last.text)
    assert [] == list(processes.check_stranded(report()))


def test_runs_that_could_not_be_ended_are_named_once_and_many_are_counted() -> None:
    unended = report(
        unsignalled_because={1: "sleep (7) belongs to root"},
        unkillable_because=dict.fromkeys(range(2, 8), "it survived SIGKILL"),
    )

    first, *_, last = found = list(processes.check_unended(unended))

    remedy = "end them as their user, or see what they wait for: dispatcher why 1"
    text = "task 1: sleep (7) belongs to root"
    assert Finding("unended run", Level.BAD, text, remedy) == first
    assert (6, "2 more runs could not be ended") == (len(found), last.text)
    assert [] == list(processes.check_unended(report()))


@pytest.mark.parametrize(("executor", "when"), [("connected", ""), ("silent", " once it is back")])
def test_a_stranded_run_that_the_executor_ends_needs_no_operator(executor: str, when: str) -> None:
    living = "its processes live on this host: sleep (20816)"
    stranded = [{"task_id": 1, "fence": 1, "why": living, "is_ours": True}]

    (found,) = processes.check_stranded(report(stranded=stranded, executor=executor))

    text = f"the executor does not know task 1, and ends what lives of it{when}: {living}"
    assert Finding("stranded run", Level.WARNING, text, "dispatcher why 1") == found


@pytest.mark.parametrize(
    ("facts", "level", "remedy"),
    [
        ({"executor_marks": True}, Level.OK, ""),
        (
            {"executor_marks": False, "executor_release": wire.RELEASE},
            Level.WARNING,
            "mark.unavailable",
        ),
        (
            {"executor_marks": False, "executor_release": "0.0.9"},
            Level.WARNING,
            "end it when nothing runs",
        ),
    ],
)
def test_an_executor_that_does_not_mark_its_runs_is_worth_a_warning(
    command: Command, facts: dict[str, object], level: Level, remedy: str
) -> None:
    (found,) = processes.check_marks(load(str(command.config_file)), report(**facts))

    assert level is found.level
    assert remedy in (found.remedy or "")


def test_nothing_is_known_of_marks_without_an_executor(command: Command) -> None:
    assert [] == list(processes.check_marks(load(str(command.config_file)), report()))


@pytest.mark.parametrize(
    ("text", "managed", "restart", "if_it_hangs"),
    [
        (
            "",
            False,
            "dispatcher restart: workers go on",
            "kill -KILL PID, then dispatcher run --detach: workers go on",
        ),
        (
            "",
            True,
            "restart it when nothing runs: its stop waits up to 1m for its runs and ends the rest",
            "kill -KILL PID, then dispatcher run --detach: workers go on",
        ),
        *(
            (text, managed, "restart it: workers go on", "restart it: workers go on")
            for text in ('[daemon]\non_stop = "leave"', '[executor]\nmode = "external"')
            for managed in (False, True)
        ),
    ],
)
def test_no_advice_about_a_daemon_costs_work(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    *,
    managed: bool,
    restart: str,
    if_it_hangs: str,
) -> None:
    command.configure(text)
    config = load(str(command.config_file))

    def hang(_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(control, "report", lambda _: report(release="0.0.9", managed=managed))
    older = next(iter(processes.processes(config)))
    monkeypatch.setattr(control, "report", hang)
    (hanging,) = processes.processes(config)

    assert (Level.WARNING, True) == (older.level, str(older.remedy).startswith(restart))
    assert f"see its log; if its loop hangs, {if_it_hangs}" == hanging.remedy


def test_a_store_that_an_older_daemon_uses_is_upgraded_at_no_cost(
    used: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = (*migrations.MIGRATIONS, "")
    monkeypatch.setattr(migrations, "MIGRATIONS", more)
    assert "start the daemon, or run: dispatcher migrate" == found(used, "store").remedy

    with closing(locks.lock_file(used.state_dir / locks.DAEMON_LOCK, "the store")):
        remedy = str(found(used, "store").remedy)

    assert "the daemon works with the older one; dispatcher restart: workers go on" == remedy


def test_the_identity_of_a_copy_whose_original_runs_is_no_success(
    used: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(node_id: str, state_dir: Path) -> None:
        node.expect_same(node_id, state_dir, Path("/original"), 42)

    node.node_id(used.state_dir)
    monkeypatch.setattr(checks, "refuse_copy", refuse)

    copy = found(used, "node id")
    assert Level.BAD is copy.level
    assert f"{used.state_dir} is a copy of /original" in copy.text
    assert str(copy.remedy).startswith("to use both, delete ")


def test_a_server_is_looked_for_and_nothing_is_made_there(
    command: Command, postgres: Postgres
) -> None:
    command.configure(f'[store]\nurl = "{postgres.url()}"\nschema = "doctors"')
    (command.state_dir / "store-id").unlink(missing_ok=True)  # of the store that is ready to use

    missing = found(command, "store")
    assert "schema=doctors) holds no store (" in missing.text
    assert "make a store here: `dispatcher run` or `dispatcher migrate`" in str(missing.remedy)
    assert "sqlite" not in {one.check for one in findings(load(str(command.config_file)))}
    command("submit", "--", "true", exits=78)
    assert [] == postgres.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'doctors'")
    assert "made a store in PostgreSQL (" in command("migrate").stderr
    assert f"{postgres.url()}, schema doctors, " in found(command, "store").text
    command.configure('[store]\nurl = "postgresql://127.0.0.1:1/"')
    assert "refused" in found(command, "store").text
    postgres.sql("DROP SCHEMA doctors CASCADE")


def test_verbs_for_files_name_the_tools_of_the_server(command: Command, tmp_path: Path) -> None:
    command.configure('[store]\nurl = "postgresql://127.0.0.1:1/"')

    for verb in ("backup", "restore"):
        report = command(verb, tmp_path / "b", exits=78).stderr
        assert "pg_dump --schema=dispatcher, and to restore pg_restore, then `dispatcher" in report
