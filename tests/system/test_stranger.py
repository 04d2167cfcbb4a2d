"""Another user of the host, who tries every verb, file, socket and unit of the service."""

from collections.abc import Iterator, Mapping, Sequence

import pytest

from dispatcher.cli.verb_list import VERBS
from tests.eventually import eventually
from tests.system.booted import Machine
from tests.system.test_service import FILE, UNITS, dispatcher, serve

THEIRS = "/home/eve/own.toml"

#: What it holds: it names the service's directories.
NAMES_THEM = """\
[node]
state_dir = "/var/lib/dispatcher"
runtime_dir = "/run/dispatcher"
[executor]
mode = "external"
"""

#: The arguments of each verb in addition to `--config`, if any.
TRIED: Mapping[str, Sequence[str]] = {
    "submit": ["--", "true"],
    **dict.fromkeys(("show", "why", "logs", "cancel", "retry", "hold", "release"), ("1",)),
    "wait": ["1"],
    "edit": ["1", "--priority=1"],
    **dict.fromkeys(("pause", "resume"), ("default",)),
    "node": ["drain", "here"],
    "claim": ["--ttl=1m"],
    "heartbeat": ["--task=1", "--lock=0123456789abcdef"],
    "complete": ["--task=1", "--lock=0123456789abcdef"],
    "fail": ["--task=1", "--lock=0123456789abcdef", "--reason=none"],
    "backup": ["/tmp/backup"],
    "restore": ["/tmp/copy"],
}

#: Verbs that have nothing to do with a service that runs.
OF_NO_SERVICE = {"demo", "completion", "check-config", "config"}

#: The refusals: they name whose it is, or the file that this user may not read.
AS_USER = "belongs to user dispatcher; run this as that user: sudo -u dispatcher"
NOT_YOURS = f"/var/lib/dispatcher {AS_USER}"
NOT_YOUR_DAEMON = f"/run/dispatcher {AS_USER}"
NOT_YOUR_FILE = f"{FILE}: Permission denied; it is for user dispatcher: sudo -u dispatcher"
NOT_YOUR_HOST = "only root changes the services of this host"

#: The refusal of each verb, by its configuration; `NOT_YOURS` by default.
REFUSALS = {
    FILE: dict.fromkeys(VERBS, NOT_YOUR_FILE),
    THEIRS: dict.fromkeys(("reload", "stop", "restart"), NOT_YOUR_DAEMON),
}

#: Tries all that can be done to each path, and to each socket without one; prints what it could.
INTRUDES = """
import os, socket, sys
could = []
def attempt(what, path, act):
    try:
        act(path)
    except (PermissionError, NotADirectoryError):
        return
    except OSError as error:
        what += f" ({error})"
    could.append(f"{what} {path}")
def connect(path):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        socket.socket(socket.AF_UNIX, kind).connect(path)
for path in sys.argv[1:]:
    attempt("see", path, os.lstat)
    attempt("read", path, lambda path: os.open(path, os.O_RDONLY))
    attempt("write to", path, lambda path: os.open(path, os.O_WRONLY))
    attempt("list", path, os.listdir)
    attempt("add to", path, lambda path: os.mkdir(path + "/new"))
    attempt("remove", path, os.unlink)
    attempt("rename", path, lambda path: os.rename(path, path + "-"))
    attempt("open up", path, lambda path: os.chmod(path, 0o777))
    attempt("connect to", path, connect)
print(could)
"""

#: Connects to each socket that has no path, and so no owner, and requests everything.
KNOCKS = """
import socket
for line in open("/proc/net/unix"):
    if "@dispatcher" in line:
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(1)
        try:
            one.connect("\\0" + line.rstrip().rpartition("@")[2])
            one.send(b'{"op": "shutdown"}\\n')
            print("answered", one.recv(100))
        except OSError:
            pass
"""

PLACES = ("/var/lib/dispatcher", "/run/dispatcher", "/etc/dispatcher")


def as_it_is(machine: Machine) -> tuple[object, ...]:
    """Return what a stranger could have changed: the task, the units, all names and their modes."""
    task = dispatcher(machine, "show", "1", "--json")
    units = machine.systemctl("show", "--property=ActiveState,InvocationID", *UNITS)
    # Readers of a database make and remove the further files that SQLite needs.
    ours = ("!", "-name", "*-wal", "!", "-name", "*-shm", "-printf", "%p %u %m\n")
    names = machine.run("find", *PLACES, *ours).stdout
    runs = [(run["uid"], run["pid"], run["outcome"]) for run in task["runs"]]
    return task["state"], runs, units, sorted(names.splitlines())


@pytest.fixture
def served(machine: Machine) -> Iterator[Machine]:
    """A service at work, and another user; in the end it works as before."""
    serve(machine)
    machine.run("useradd", "--create-home", "eve")
    machine.path(THEIRS).write_text(NAMES_THEM)
    dispatcher(machine, "submit", "--", "sleep", "1000")

    def at_work() -> None:
        assert "running" == dispatcher(machine, "show", "1", "--json")["state"]

    eventually(at_work)
    before = as_it_is(machine)
    yield machine
    assert before == as_it_is(machine)
    dispatcher(machine, "submit", "--wait", "--", "true")


def eve(machine: Machine, *words: str) -> tuple[int, str]:
    """Have the stranger try something; return its exit code, and what was printed."""
    done = machine.run(*words, user="eve", exits=None, env={"HOME": "/home/eve"})
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("config", [FILE, THEIRS])
def test_a_stranger_is_refused_every_verb_with_the_reason(served: Machine, config: str) -> None:
    served.run("touch", "/tmp/copy")
    for verb in VERBS.keys() - OF_NO_SERVICE:
        of_host = verb.endswith("install-service")
        own = () if of_host else (f"--config={config}",)

        code, message = eve(served, "dispatcher", verb, *own, *TRIED.get(verb, ()))

        refusal = NOT_YOUR_HOST if of_host else REFUSALS[config].get(verb, NOT_YOURS)
        assert refusal in message, (verb, message)
        assert code in {1, 78}, (verb, code)
        lines = [line for line in message.splitlines() if line.startswith("dispatcher: ")]
        assert len(lines) <= 1, message
        assert "Traceback" not in message


def test_a_stranger_can_neither_see_nor_touch_files_and_sockets_of_the_service(
    served: Machine,
) -> None:
    paths = served.run("find", *PLACES, "-mindepth", "1").stdout.split()
    assert {"/var/lib/dispatcher/tasks.db", "/run/dispatcher/executor.sock", FILE} <= set(paths)

    paths.remove(FILE)
    assert (0, "[]\n") == eve(served, "python3", "-c", INTRUDES, *paths)
    assert (0, f"['see {FILE}']\n") == eve(served, "python3", "-c", INTRUDES, FILE)
    assert (0, "") == eve(served, "python3", "-c", KNOCKS)


def test_a_stranger_can_neither_signal_processes_nor_manage_units(served: Machine) -> None:
    for unit in UNITS:
        pid = served.systemctl("show", "--value", "--property=MainPID", unit).strip()
        for signal in ("TERM", "HUP", "KILL"):
            code, message = eve(served, "kill", f"-{signal}", pid)
            assert (1, True) == (code, "not permitted" in message), message
        for verb in ("stop", "restart", "reload", "kill"):
            code, message = eve(served, "systemctl", "--no-ask-password", verb, unit)
            assert code != 0, message
            assert "denied" in message or "authentication required" in message, message
