"""A host with systemd as its first process: a Debian that boots within a second, in a container.

The wheel is installed in it, not this checkout.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from tests.eventually import PATIENCE, eventually
from tests.system.trees import make_layer

#: The environment of a command in it.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

#: Joins the machine's control groups, and sees its own layer over the kept Debian.
_ENTER = """
for group in $GROUPS_OF_IT; do echo $$ > "$group/cgroup.procs"; done
mount -t overlay overlay -o "lowerdir=$0,upperdir=$1/upper,workdir=$1/work" "$1/root"
shift
exec "$@"
"""


def lacking() -> str | None:
    """Return what is missing on this host, if anything."""
    if os.geteuid() != 0:
        return "needs root: it boots a container"
    for program, package in (("systemd-nspawn", "systemd-container"), ("mmdebstrap",) * 2):
        if shutil.which(program) is None:
            return f"there is no {program} (Debian: apt install {package})"
    return None if control_groups() else "no control groups (v2) are mounted here"


def control_groups() -> list[Path]:
    """Return where groups are made: in the tree of v2, and in systemd's own of v1, if any."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        where, kind, options = before.split()[4], after.split()[0], after.split()[2]
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            found.append(Path(where))
    return found


def as_user(user: str) -> tuple[str, ...]:
    """Return what a command begins with so that this user runs it."""
    who = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups")
    return () if user == "root" else who


class Machine:
    """A booted host, its disk a layer that goes with it. A context manager."""

    def __init__(self, tree: Path, site: Path) -> None:
        self._tree, self._site = tree, site
        # Named like a host, with no underscore; and not in a directory of pytest's, whose paths are
        # too long for a socket.
        self._directory = Path(tempfile.gettempdir(), f"machine-{secrets.token_hex(4)}")
        self._directory.mkdir(mode=0o700)
        self._groups = [where / self._directory.name for where in control_groups()]
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        make_layer(self._directory)

    def __enter__(self) -> Self:
        try:
            self.boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.pull_the_plug()
        for group in self._groups:
            eventually(lambda group=group: remove_group(group))  # type: ignore[misc]
        shutil.rmtree(self._directory)

    def boot(self) -> None:
        """Boot, on the disk as it is, and wait until systemd is up."""
        for group in self._groups:
            group.mkdir(exist_ok=True)
        ready = self._directory / "ready"
        ready.unlink(missing_ok=True)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening,
            (self._directory / "console").open("ab") as console,
        ):
            listening.bind(str(ready))
            listening.setblocking(False)
            self._nspawn = subprocess.Popen(
                [
                    *("unshare", "--mount", "--propagation=private", "sh", "-ec", _ENTER),
                    *(str(self._tree), str(self._directory), *self._command()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={
                    "PATH": os.environ["PATH"],
                    "GROUPS_OF_IT": " ".join(map(str, self._groups)),
                    "NOTIFY_SOCKET": str(ready),
                    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                },
            )
            received: dict[str, str] = {}
            eventually(lambda: self._expect_up(listening, received))
            self._leader = int(received["X_NSPAWN_LEADER_PID"])

    def _command(self) -> list[str]:
        return [
            *("systemd-nspawn", "--boot", "--register=no", "--keep-unit", "--console=pipe"),
            *("--notify-ready=yes", "--private-users=no", "--private-network", "--timezone=off"),
            *("--link-journal=no", "--resolv-conf=off", "--system-call-filter=modify_ldt"),
            *(f"--directory={self._directory}/root", f"--machine={self._directory.name}"),
            f"--bind-ro={self._site}:/opt/dispatcher",
        ]

    def _expect_up(self, listening: socket.socket, received: dict[str, str]) -> None:
        with suppress(BlockingIOError):
            while text := listening.recv(1 << 16).decode():
                received.update(line.partition("=")[::2] for line in text.splitlines())
        if self._nspawn is not None and self._nspawn.poll() is not None:
            pytest.fail(f"it does not boot:\n{self._console()}")
        assert {"READY", "X_NSPAWN_LEADER_PID"} <= received.keys(), self._console()

    def _console(self) -> str:
        return (self._directory / "console").read_text("utf-8", "replace")

    def power_off(self) -> None:
        """Let systemd stop every unit, and wait for the end."""
        assert self._nspawn is not None
        os.kill(self._leader, signal.SIGRTMIN + 4)  # systemd(1): start poweroff.target
        self._nspawn.wait(PATIENCE)

    def pull_the_plug(self) -> None:
        """End it as a loss of power does. Idempotent."""
        if self._nspawn is not None:
            if self._leader and self._nspawn.poll() is None:
                os.kill(self._leader, signal.SIGKILL)
            else:
                self._nspawn.kill()
            self._nspawn.wait(PATIENCE)

    def path(self, inside: str) -> Path:
        """Return where a file of the running machine is seen from here."""
        return Path(f"/proc/{self._leader}/root") / inside.lstrip("/")

    def run(
        self,
        *command: str,
        user: str = "root",
        exits: int | None = 0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it to its end, which is this exit code; None: any."""
        enter = ("nsenter", f"--target={self._leader}", "--all", "--wdns=/")
        done = subprocess.run(
            [*enter, *as_user(user), *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**ENVIRONMENT, **(env or {})},
        )
        assert exits in {None, done.returncode}, (command, done)
        return done

    def systemctl(self, *words: str, exits: int = 0) -> str:
        return self.run("systemctl", "--no-pager", *words, exits=exits).stdout


def remove_group(group: Path) -> None:
    """Remove a control group with those in it, once nobody is there any more."""
    for directory, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            os.rmdir(directory)
    assert not group.exists(), group
