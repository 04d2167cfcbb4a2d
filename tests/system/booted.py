"""A host with systemd as its first process: a Debian that boots within a second, in a container.

What is installed in it is the wheel, not this checkout.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Self

import pytest

from tests.eventually import PATIENCE, eventually

ROOT = Path(__file__).parents[2]

#: Where a Debian is kept once it was made, which takes half a minute: 200 MB each.
CACHE = Path("/var/cache/dispatcher-tests")

#: What is not in the smallest Debian that boots.
PACKAGES = "systemd,systemd-sysv,dbus,libpam-systemd,python3,procps"

#: What a command in it has.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

#: What makes a test wait for nothing that it does not ask for.
MASKED = ("getty.target", "console-getty.service", "apt-daily.timer", "apt-daily-upgrade.timer")

#: Starts what was installed from the wheel.
_COMMAND = """\
#!/usr/bin/python3
import sys
from dispatcher.__main__ import main
sys.exit(main())
"""

#: Compiles what was installed by the Python that will run it, as the machines only read it.
_COMPILE = 'mount --bind "$1" "$0/mnt" && chroot "$0" python3 -m compileall -q /mnt'

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


def debian(suite: str) -> Path:
    """Return the tree of a Debian that boots; it is only read."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        flock(lock, LOCK_EX)
        tree = CACHE / suite
        if not tree.exists():
            draft = CACHE / f"{suite}.new"
            shutil.rmtree(draft, ignore_errors=True)
            included = ["--variant=minbase", f"--include={PACKAGES}", suite, str(draft)]
            run("mmdebstrap", "--quiet", *included, mirror())
            for unit in MASKED:
                (draft / "etc/systemd/system" / unit).symlink_to(os.devnull)
            for name in ("etc/hostname", "etc/resolv.conf"):
                (draft / name).unlink(missing_ok=True)
            (draft / "etc/machine-id").write_text("")  # each boot of a fresh layer has its own
            draft.rename(tree)
        return tree


def mirror() -> str:
    """Return where this host's apt finds Debian."""
    told = run("apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)").stdout
    sites = [site for site, _, name in (line.partition(" ") for line in told.splitlines()) if name]
    return next(
        (site for site in sites if site.endswith("/debian")), "http://deb.debian.org/debian"
    )


def installed(tree: Path, directory: Path) -> Path:
    """Install the wheel, and what it needs, for the Python of a tree; return where.

    Whoever needs it meanwhile waits: tests run side by side.
    """
    with (directory / "installing").open("w") as lock:
        flock(lock, LOCK_EX)
        return _installed(tree, directory)


def _installed(tree: Path, directory: Path) -> Path:
    (python,) = {
        found[1]
        for path in (tree / "usr/bin").iterdir()
        if (found := re.fullmatch(r"python(3\.\d+)", path.name))
    }
    site = directory / f"site-{python}"
    if not site.exists():
        draft = directory / f"{site.name}.new"
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        if not (wheels := list(directory.glob("dispatcher-*.whl"))):
            run(*pip, "wheel", "--no-deps", f"--wheel-dir={directory}", str(ROOT))
            wheels = list(directory.glob("dispatcher-*.whl"))
        (wheel,) = wheels
        fitting = [f"--python-version={python}", "--only-binary=:all:", f"--target={draft}"]
        run(*pip, "install", "--no-compile", *fitting, str(wheel))
        run(
            "unshare",
            "--mount",
            "--propagation=private",
            "sh",
            "-ec",
            _COMPILE,
            str(tree),
            str(draft),
        )
        draft.rename(site)
    return site


def control_groups() -> list[Path]:
    """Return where groups are made: in the tree of v2, and in systemd's own of v1, if any."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        where, kind, options = before.split()[4], after.split()[0], after.split()[2]
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            found.append(Path(where))
    return found


def make_layer(directory: Path) -> Path:
    """Make what an overlay needs, with the command in its upper layer; return that one."""
    for name in ("upper", "work", "root"):
        (directory / name).mkdir()
    upper = directory / "upper"
    add(upper, "usr/local/bin/dispatcher", _COMMAND).chmod(0o755)
    add(upper, "usr/lib/python3/dist-packages/dispatcher.pth", "/opt/dispatcher\n")
    return upper


def add(upper: Path, name: str, text: str) -> Path:
    file = upper / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


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
        told = self._directory / "ready"
        told.unlink(missing_ok=True)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening,
            (self._directory / "console").open("ab") as console,
        ):
            listening.bind(str(told))
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
                    "NOTIFY_SOCKET": str(told),
                    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                },
            )
            heard: dict[str, str] = {}
            eventually(lambda: self._expect_up(listening, heard))
            self._leader = int(heard["X_NSPAWN_LEADER_PID"])

    def _command(self) -> list[str]:
        return [
            *("systemd-nspawn", "--boot", "--register=no", "--keep-unit", "--console=pipe"),
            *("--notify-ready=yes", "--private-users=no", "--private-network", "--timezone=off"),
            *("--link-journal=no", "--resolv-conf=off", "--system-call-filter=modify_ldt"),
            *(f"--directory={self._directory}/root", f"--machine={self._directory.name}"),
            f"--bind-ro={self._site}:/opt/dispatcher",
        ]

    def _expect_up(self, listening: socket.socket, heard: dict[str, str]) -> None:
        with suppress(BlockingIOError):
            while said := listening.recv(1 << 16).decode():
                heard.update(line.partition("=")[::2] for line in said.splitlines())
        if self._nspawn is not None and self._nspawn.poll() is not None:
            pytest.fail(f"it does not boot:\n{self._console()}")
        assert {"READY", "X_NSPAWN_LEADER_PID"} <= heard.keys(), self._console()

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


def run(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, (command, done.stdout, done.stderr)
    return done
