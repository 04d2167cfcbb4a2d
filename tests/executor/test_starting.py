"""Starting a run: what its leader gets, and the report when none starts (protocol 2.6)."""

import os
import resource
import signal
import sys
from pathlib import Path

import pytest

from dispatcher import wire, worker_api
from tests.executor.conftest import Home
from tests.executor.daemon import Daemon

PYTHON = sys.executable


@pytest.fixture
def home(shared: Home) -> Home:
    return shared


@pytest.fixture
def daemon(next_daemon: Daemon) -> Daemon:
    return next_daemon


def run(daemon: Daemon, command: list[str], output: Path, **settings: object) -> wire.Exit:
    uid = daemon.start(command, output, **settings)
    return daemon.expect(wire.Exited, uid).exit


def fails(daemon: Daemon, command: list[str], output: Path, **settings: object) -> wire.StartFailed:
    uid = daemon.start(command, output, **settings)
    return daemon.expect(wire.StartFailed, uid)


@pytest.mark.parametrize("code", [0, 1, 75, 78, 130, 143, 255])
def test_r32_the_exit_code_is_reported_unchanged(home: Home, daemon: Daemon, code: int) -> None:
    assert code == run(daemon, ["sh", "-c", f"exit {code}"], home.output()).exit_code


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_r32_a_signal_is_reported_as_a_signal(home: Home, daemon: Daemon, signum: int) -> None:
    exit_ = run(daemon, ["sh", "-c", f"kill -{signum} $$"], home.output())

    assert (None, signum) == (exit_.exit_code, exit_.signal)


def test_started_names_the_leader_by_pid_and_start_ticks(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["sleep", "1000"], home.output())

    started = daemon.expect(wire.Started, uid)

    stat = Path(f"/proc/{started.pid}/stat").read_text()
    assert started.start_ticks == int(stat.rpartition(")")[2].split()[19])
    assert 1 <= started.at


def test_r29_output_is_captured_from_the_first_byte_and_its_tail_reported(
    home: Home, daemon: Daemon
) -> None:
    program = "import sys; sys.stdout.write('x' * 9000); sys.stdout.flush(); raise ValueError('ü')"

    exit_ = run(daemon, [PYTHON, "-c", program], home.output())

    assert 1 == exit_.exit_code
    assert "ValueError: ü" in exit_.tail
    assert len(exit_.tail.encode()) <= 4096
    assert home.output().read_text().startswith("x" * 9000 + "Traceback")
    assert 0o600 == home.output().stat().st_mode & 0o777


def test_the_resources_that_a_run_used_are_reported(home: Home, daemon: Daemon) -> None:
    """More than the parent of the executor ever had: that mark is inherited."""
    program = "x = bytearray(500_000_000); x[::4096] = x[::4096]; sum(range(2_000_000))"

    exit_ = run(daemon, [PYTHON, "-c", program], home.output())

    assert exit_.max_rss_bytes is not None
    assert 500_000_000 <= exit_.max_rss_bytes <= 700_000_000
    assert exit_.cpu_seconds is not None
    assert exit_.cpu_seconds >= 0.01


def test_memory_below_the_executors_own_is_not_reported(home: Home, daemon: Daemon) -> None:
    """A spawned process inherits its parent's high-water mark, which is not its own."""
    assert run(daemon, ["true"], home.output()).max_rss_bytes is None


@pytest.mark.parametrize("payload", ["", '{"ü": 1}\n', "x" * 1_000_000])
def test_the_payload_is_on_stdin_from_its_start(home: Home, daemon: Daemon, payload: str) -> None:
    run(daemon, ["cat"], home.output(), payload=payload)

    assert payload == home.output().read_text()


def test_the_payload_cannot_be_changed(home: Home, daemon: Daemon) -> None:
    program = "import os; os.write(os.open('/dev/stdin', os.O_WRONLY), b'more')"

    exit_ = run(daemon, [PYTHON, "-c", program], home.output(), payload="x")

    assert "Operation not permitted" in exit_.tail


def test_long_parents_are_read_from_a_descriptor_of_their_own(home: Home, daemon: Daemon) -> None:
    text = "x" * 100_000

    run(daemon, ["sh", "-c", "cat /proc/self/fd/3; cat"], home.output(), parents=text, payload="y")

    assert text + "y" == home.output().read_text()


def test_a_run_without_long_parents_has_no_such_descriptor(home: Home, daemon: Daemon) -> None:
    run(daemon, ["sh", "-c", "readlink /proc/$$/fd/3 || echo none"], home.output())

    assert "none\n" == home.output().read_text()


def test_without_a_payload_stdin_is_empty(home: Home, daemon: Daemon) -> None:
    run(daemon, ["readlink", "/proc/self/fd/0"], home.output())

    assert "/dev/null\n" == home.output().read_text()


def test_r28_the_environment_is_an_allow_list_and_what_the_task_names(own: Home) -> None:
    mine = {"HOME": "/home/me", "LC_TIME": "de_AT", "SECRET": "s3cret", "PATH": os.environ["PATH"]}
    own.executor(env={**dict.fromkeys(os.environ, ""), **mine})
    daemon = own.daemon()

    uid = daemon.start(["env"], own.output(), env={"COLOUR": "blue", "HOME": "/elsewhere"})
    daemon.expect(wire.Exited, uid)

    got = dict(line.partition("=")[::2] for line in own.output().read_text().splitlines())
    assert {"COLOUR": "blue", "HOME": "/elsewhere", worker_api.MARKER: uid} == {
        name: got[name] for name in ("COLOUR", "HOME", worker_api.MARKER)
    }
    assert "de_AT" == got["LC_TIME"]
    others = {name for name in got if not name.startswith("LC_")}
    assert others <= {"COLOUR", worker_api.MARKER, *worker_api.ENVIRONMENT_ALLOWED}


def test_a_run_that_does_not_inherit_gets_what_is_sent_and_the_outer_markers(own: Home) -> None:
    own.executor(env={"PATH": "/bin", "TZ": "UTC", "LC_TIME": "C", worker_api.MARKER: "outer"})
    daemon = own.daemon()

    uid = daemon.start(["/usr/bin/env"], own.output(), env={"COLOUR": "blue"}, inherits=False)
    daemon.expect(wire.Exited, uid)

    assert {"COLOUR=blue", f"{worker_api.OUTER_MARKER}=outer", f"{worker_api.MARKER}={uid}"} == set(
        own.output().read_text().splitlines()
    )


def test_a_nested_dispatcher_passes_the_outer_markers_through(own: Home) -> None:
    own.executor(env={worker_api.MARKER: "outer", worker_api.OUTER_MARKER: "outermost"})
    daemon = own.daemon()

    uid = daemon.start(["env"], own.output())
    daemon.expect(wire.Exited, uid)

    lines = own.output().read_text().splitlines()
    assert f"{worker_api.OUTER_MARKER}=outer:outermost" in lines
    assert f"{worker_api.MARKER}={uid}" in lines


def test_signals_are_default_and_unblocked_in_the_child(home: Home, daemon: Daemon) -> None:
    run(daemon, ["cat", "/proc/self/status"], home.output())

    status = dict(line.split(":\t") for line in home.output().read_text().splitlines())
    sets = [int(status[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")]
    of_the_c_library = 1 << 31 | 1 << 32  # numbers 32 and 33: posix_spawn itself ignores them
    assert [0, 0, 0] == [found & ~of_the_c_library for found in sets]


def test_the_child_has_three_descriptors_and_its_own_session(home: Home, daemon: Daemon) -> None:
    program = "import os; print(sorted(os.listdir('/proc/self/fd')), os.getsid(0) == os.getpid())"

    run(daemon, [PYTHON, "-c", program], home.output())

    assert "['0', '1', '2', '3'] True\n" == home.output().read_text()  # 3 is the listing's


def test_cwd_and_umask_are_the_tasks_and_those_of_the_executor_stay(
    home: Home, daemon: Daemon, tmp_path: Path
) -> None:
    outputs = [home.output(name) for name in ("first", "second", "third")]
    run(daemon, ["sh", "-c", "pwd; umask"], outputs[0], cwd=str(tmp_path), umask=0o000)
    run(daemon, ["sh", "-c", "pwd; umask"], outputs[1])
    fails(daemon, ["no-such-program"], outputs[2], umask=0o000)

    assert f"{tmp_path}\n0000\n" == outputs[0].read_text()
    assert "/\n0022\n" == outputs[1].read_text()
    assert {0o600} == {output.stat().st_mode & 0o777 for output in outputs}
    (status,) = Path(f"/proc/{daemon.hello.pid}/status").read_text().split("Umask:\t")[1:]
    assert status.startswith("0077\n")


def test_children_get_the_limits_that_the_executor_was_started_with(own: Home) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (777, hard))
    try:
        process = own.executor()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    daemon = own.daemon()

    uid = daemon.start(["sh", "-c", "ulimit -Sn; ulimit -Hn"], own.output())
    daemon.expect(wire.Exited, uid)

    assert f"777\n{hard}\n" == own.output().read_text()
    assert (hard, hard) == resource.prlimit(process.pid, resource.RLIMIT_NOFILE)


def test_the_program_is_found_in_the_childs_path_and_cwd(
    home: Home, daemon: Daemon, tmp_path: Path
) -> None:
    program = tmp_path / "here"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o700)
    searched = {"PATH": f"/nowhere:{tmp_path}:/bin"}

    by_path = run(daemon, ["here"], home.output("a"), env=searched)
    by_cwd = run(daemon, ["./here"], home.output("b"), cwd=str(tmp_path))
    by_empty_entry = run(daemon, ["here"], home.output("c"), cwd=str(tmp_path), env={"PATH": ""})

    assert ["found\n"] * 3 == [by_path.tail, by_cwd.tail, by_empty_entry.tail]


def script(path: Path, text: str, mode: int = 0o700) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_the_executors_own_path_is_shown_shortened_and_a_given_one_never(own: Home) -> None:
    own.executor(env={"PATH": "/a:" * 500})
    daemon = own.daemon()

    shown = fails(daemon, ["nonesuch"], own.output("a"))
    given = fails(daemon, ["nonesuch"], own.output("b"), env={"PATH": "/sekret"}, inherits=False)

    assert f"no such program: 'nonesuch' (not in PATH '{'/a:' * 26}/a…')" == shown.error
    assert "sekret" not in given.error


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            "unknown",
            ["no such program: 'no-such-program'", "not in the PATH of its submitter or profile)"],
        ),
        ("missing", ["no such program: ", "/missing"]),
        ("cwd", ["no such working directory: /no/such/directory"]),
        ("cwd_file", ["the working directory is not a directory: /dev/null"]),
        ("mode", ["not executable: ", "/mode"]),
        ("mode_in_path", ["not executable: 'mode' (in the PATH of its submitter or profile)"]),
        ("directory", ["not a program but a directory: ", "/etc"]),
        ("interpreter", ["missing interpreter: ", "needs /no/such/sh"]),
        ("windows", ["ends with a carriage return: ", r"needs '/bin/sh\r'; save"]),
        ("second", ["missing interpreter: ", "/interpreter, the int", "needs /no/such/sh"]),
        ("second_windows", ["carriage return: ", "/windows, the interpreter of "]),
        ("second_format", ["(a script needs a #! line): ", "/format"]),
        ("second_mode", ["not executable: ", "/mode, the interpreter of "]),
        ("row", ["too many interpreters in a row: ", "/row7 needs "]),
        ("mark", ["a byte order mark stands before its #! line: ", "save it without"]),
        ("format", ["not in an executable format", "#! line"]),
        ("size", ["argument 1 is too large", "one may have 131071"]),
        ("value", ["variable TOO_LARGE is too large: 131082 bytes, one may have 131071"]),
        ("sizes", ["arguments and environment are too large", "they may have"]),
        ("nul", ["cannot be a command line", "null"]),
        ("variable", ["cannot be a command line", "environment variable"]),
        ("empty", ["cannot be a command line: it is empty"]),
    ],
)
def test_r27_the_mistake_of_a_task_is_named(
    home: Home, daemon: Daemon, tmp_path: Path, case: str, words: list[str]
) -> None:
    no_mode = script(tmp_path / "mode", "#!/bin/sh\n", 0o600)
    no_interpreter = script(tmp_path / "interpreter", "#!/no/such/sh -x\n")
    windows = script(tmp_path / "windows", "#! /bin/sh\r\necho\r\n")
    no_format = script(tmp_path / "format", "echo\n")
    second = {
        f"second{name}": script(tmp_path / f"second{name}", f"#!{first}\n")
        for name, first in {
            "": no_interpreter,
            "_windows": windows,
            "_format": no_format,
            "_mode": no_mode,
        }.items()
    }
    marked = script(tmp_path / "mark", "\ufeff#!/bin/sh\n")
    row = "/bin/sh"
    for number_in_row in range(8):
        row = script(tmp_path / f"row{number_in_row}", f"#!{row}\n")
    cases: dict[str, tuple[list[str], dict[str, object]]] = {
        "unknown": (["no-such-program"], {"env": {"PATH": "/a:/b"}}),
        "long_path": (["no-such-program"], {"env": {"PATH": "/a:" * 500}}),
        "missing": ([str(tmp_path / "missing")], {}),
        "cwd": (["true"], {"cwd": "/no/such/directory"}),
        "cwd_file": (["true"], {"cwd": "/dev/null"}),
        "mode": ([no_mode], {}),
        "mode_in_path": (["mode"], {"env": {"PATH": str(tmp_path)}}),
        "directory": (["/etc"], {}),
        "interpreter": ([no_interpreter], {}),
        "windows": ([windows], {}),
        "format": ([no_format], {}),
        **{name: ([path], {}) for name, path in second.items()},
        "row": ([row], {}),
        "mark": ([marked], {}),
        "size": (["true", "x" * 200_000], {}),
        "value": (["true"], {"env": {"FITS": "x" * 130_000, "TOO_LARGE": "x" * 131_072}}),
        "sizes": (["true", *["x" * 100_000] * 30], {}),
        "nul": (["true", "a\0b"], {}),
        "variable": (["true"], {"env": {"A=B": "c"}}),
        "empty": ([], {}),
    }
    command, settings = cases[case]

    failed = fails(daemon, command, home.output(), **settings)

    assert wire.Fault.TASK is failed.fault
    for word in words:
        assert word in failed.error
    assert 0 == run(daemon, ["true"], home.output("next")).exit_code  # nothing stayed behind


@pytest.mark.parametrize(
    ("text", "mode", "error"),
    [
        ("#!/bin/sh\n", 0o600, "not executable: 'tool' (in the PATH of its submitter or profile)"),
        ("#!/no/such/sh\n", 0o700, "missing interpreter: tool needs /no/such/sh, which does not"),
        ("#!/etc/passwd\n", 0o700, "not executable: /etc/passwd, the interpreter of tool"),
        ("#!/bin/sh\r\n", 0o700, "its first line ends with a carriage return: tool needs"),
        ("echo\n", 0o700, "not in an executable format (a script needs a #! line): tool"),
        ("\ufeff#!/bin/sh\n", 0o700, "a byte order mark stands before its #! line: tool; save"),
    ],
)
def test_a_program_that_a_sent_path_led_to_is_named_without_the_path(
    home: Home, daemon: Daemon, tmp_path: Path, text: str, mode: int, error: str
) -> None:
    secret = tmp_path / "sekret"
    secret.mkdir()
    script(secret / "tool", text, mode)

    failed = fails(daemon, ["tool"], home.output(), env={"PATH": str(secret)})

    assert failed.error.startswith(error)
    assert "sekret" not in failed.error


def test_r35_a_missing_output_directory_is_the_hosts_fault(home: Home, daemon: Daemon) -> None:
    failed = fails(daemon, ["true"], home.outputs / "no" / "no" / "out.log")

    assert wire.Fault.HOST is failed.fault
    assert "cannot open the output file" in failed.error


def test_r35_running_out_of_descriptors_is_the_hosts_fault(home: Home, daemon: Daemon) -> None:
    executor = home.processes[0].pid
    used = len(os.listdir(f"/proc/{executor}/fd"))
    limits = resource.prlimit(executor, resource.RLIMIT_NOFILE)
    resource.prlimit(executor, resource.RLIMIT_NOFILE, (used, limits[1]))

    failed = fails(daemon, ["true"], home.output())
    resource.prlimit(executor, resource.RLIMIT_NOFILE, limits)

    assert wire.Fault.HOST is failed.fault
    assert "Too many open files" in failed.error
    assert 0 == run(daemon, ["true"], home.output()).exit_code


def test_a_known_uid_is_not_started_again(home: Home, daemon: Daemon) -> None:
    uid = daemon.start(["sh", "-c", "echo once"], home.output())
    daemon.expect(wire.Exited, uid)

    daemon.start(["sh", "-c", "echo twice"], home.output(), uid=uid)

    assert [] == [m for m in daemon.ping() if not isinstance(m, wire.Started)]
    assert "once\n" == home.output().read_text()


def test_a_start_of_another_epoch_is_late(home: Home, daemon: Daemon) -> None:
    failed = fails(daemon, ["true"], home.output(), epoch=daemon.hello.epoch - 1)

    assert wire.Fault.LATE == failed.fault
    assert not home.output().exists()


def test_a_start_after_its_deadline_is_late(home: Home, daemon: Daemon) -> None:
    failed = fails(daemon, ["true"], home.output(), deadlines={"absence": 1.0})

    assert wire.Fault.LATE == failed.fault
    assert "absence" in failed.error
    assert not home.output().exists()


def test_nothing_starts_while_any_earlier_run_still_writes(home: Home, daemon: Daemon) -> None:
    """Protocol 2.8: the lock on an output outlives everything but its last holder."""
    first = daemon.start(["sleep", "1000"], home.output("first"))
    daemon.expect(wire.Started, first)
    previous = {
        "previous_output_path": str(home.output("latest")),
        "earlier_output_paths": (str(home.output("between")), str(home.output("first"))),
    }

    failed = fails(daemon, ["true"], home.output("second"), **previous)
    daemon.send(wire.End(uid=first, reason="cancelled", at_once=True))
    daemon.expect(wire.Exited, first)

    assert wire.Fault.PREDECESSOR == failed.fault
    assert str(home.output("first")) in failed.error
    assert 0 == run(daemon, ["true"], home.output("second"), **previous).exit_code


def test_a_previous_output_that_is_gone_does_not_prevent_the_start(
    home: Home, daemon: Daemon
) -> None:
    previous = {"previous_output_path": str(home.output("never"))}

    assert 0 == run(daemon, ["true"], home.output(), **previous).exit_code
