"""What a worker cannot do under the unit, by the page for operators, and what allows it."""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.system.booted import Machine
from tests.system.test_service import serve

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"

DROP_IN = "/etc/systemd/system/dispatcher-executor.service.d/allow.conf"


@dataclass(frozen=True)
class Limit:
    """A row of the page's table."""

    cannot: str
    allowed_by: tuple[str, ...]
    """The lines of the drop-in."""


def limits() -> list[Limit]:
    table = PAGE.read_text("utf-8").partition("| a worker cannot | allow it |\n|---|---|\n")[2]
    rows = table.partition("\n\n")[0].splitlines()
    cells = [row.strip("| ").split(" | ") for row in rows]
    return [
        Limit(cannot, tuple(re.findall(r"`([A-Za-z]+=[^`]*)`", allow))) for cannot, allow in cells
    ]


def python(program: str) -> str:
    return f"python3 -c '{program}'"


#: Tries what a row names by its first words: a line of shell that fails where it is not allowed.
TRIALS: Mapping[str, str] = {
    "become another user": "[ $(/opt/root-id -u) = 0 ] && [ $(/opt/root-group-id -g) = 0 ]",
    "open raw sockets": python(
        "import socket as s; s.socket(s.AF_INET, s.SOCK_RAW, 1); s.socket(s.AF_PACKET, s.SOCK_RAW)"
    ),
    "open sockets but": python("import socket as s; s.socket(s.AF_VSOCK)"),
    "write below": "touch /etc/app/file",
    "see processes": "test -e /proc/1/comm",
    "make control groups": "mkdir /sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/mine",
    "name a container": "unshare --user --map-root-user --uts hostname x",
    "schedule in real time": "chrt --fifo 1 true",
    "run programs for another": "/opt/small",
    # modify_ldt(2), to read.
    "rely on `HOME`": '[ "$HOME" != /var/lib/dispatcher/home ]',
    "change segments": python(
        "import ctypes; kept = ctypes.create_string_buffer(64);"
        " raise SystemExit(ctypes.CDLL(None).syscall(154, 0, kept, 64) < 0)"
    ),
}

#: What works all the same, according to the page.
ALLOWED: Mapping[str, str] = {
    # ptrace(2), PTRACE_TRACEME: what each program does that a debugger starts.
    "a debugger": python(
        "import ctypes; raise SystemExit(ctypes.CDLL(None).ptrace(0, 0, 0, 0) != 0)"
    ),
    "a JIT": python("import mmap; mmap.mmap(-1, 4096, prot=7)"),
    "a user namespace": "unshare --user --map-root-user --pid --fork --mount-proc true",
    "set-gid bits": "touch it && chmod 2755 it && test -g it",
    "setarch -R": "setarch --addr-no-randomize true",
    "nice": "nice true",
    "its own home directory": 'touch "$HOME/file" && test "$(stat -c %a "$HOME")" = 700',
    "the network": python("import socket as s; s.socket(s.AF_INET)"),
    "a home directory": "touch /home/dispatcher/file",
}


def elf32() -> bytes:
    """Return a program of 32 bits that exits with 0."""
    code = bytes.fromhex("31db31c040cd80")  # xor ebx, ebx; xor eax, eax; inc eax; int 0x80
    base, head = 0x08048000, 84
    of_file = struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, base + head, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    size = head + len(code)
    of_segment = struct.pack("<IIIIIIII", 1, 0, base, base, size, size, 5, 4096)
    return b"\x7fELF\x01\x01\x01".ljust(16, b"\0") + of_file + of_segment + code


def prepare(machine: Machine) -> None:
    serve(machine)
    for directory in ("/etc/app", "/home/dispatcher"):
        machine.run("install", "--directory", "--owner=dispatcher", directory)
    machine.run("install", "--mode=4755", "/usr/bin/id", "/opt/root-id")
    machine.run("install", "--mode=2755", "/usr/bin/id", "/opt/root-group-id")
    small = machine.path("/opt/small")
    small.write_bytes(elf32())
    small.chmod(0o755)


def can(machine: Machine, trial: str) -> bool:
    """Run a trial as a task; return whether it did what it tried."""
    shell = ("--max-attempts=1", "--cwd=/home/dispatcher", "--", "sh", "-c", trial)
    words = ("dispatcher", "submit", "--wait", *shell)
    return machine.run(*words, user="dispatcher", exits=None).returncode == 0


def test_a_worker_cannot_do_what_the_page_forbids_and_its_drop_in_allows_it(
    machine: Machine,
) -> None:
    prepare(machine)
    trials = {
        each: next(t for name, t in TRIALS.items() if each.cannot.startswith(name))
        for each in limits()
    }
    assert len(TRIALS) == len(trials)

    assert [] == [each.cannot for each, trial in trials.items() if can(machine, trial)]

    for each, trial in trials.items():
        drop_in = machine.path(DROP_IN)
        drop_in.parent.mkdir(exist_ok=True)
        drop_in.write_text("\n".join(["[Service]", *each.allowed_by, ""]))
        machine.systemctl("daemon-reload")
        machine.systemctl("restart", "dispatcher-executor")
        assert can(machine, trial), each


def test_a_worker_can_do_what_the_page_allows_under_the_unit(machine: Machine) -> None:
    prepare(machine)

    assert [] == [what for what, trial in ALLOWED.items() if not can(machine, trial)]
