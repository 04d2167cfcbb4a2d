"""A host with a kernel of its own, emulated: for the controllers that a container does not have.

Debian's kernel for clouds has the disk's driver and its filesystem built in, so it boots from them
alone.
"""

import json
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from tests.eventually import PATIENCE, eventually
from tests.system.booted import ENVIRONMENT, as_user, lacking
from tests.system.trees import CACHE, add, make_layer, run

#: Seconds after which an answer of an emulated host is taken for lost: it is ten times slower.
SLOW = 10 * PATIENCE

#: Units masked on the disk of an emulated host, as no test needs them.
_MASKED = (
    *("systemd-udevd.service", "systemd-udev-trigger.service", "systemd-networkd.service"),
    *("systemd-timesyncd.service", "systemd-hwdb-update.service", "serial-getty@ttyS0.service"),
)

#: Runs the commands that come in on the second serial line, one after the other.
_AGENT = """\
import json, os, subprocess, tty
line = open("/dev/ttyS1", "r+b", buffering=0)
tty.setraw(line)
def answer(**facts):
    left = json.dumps(facts).encode() + b"\\n"
    while left:
        left = left[line.write(left):]
answer(up=True)
unread = b""
while True:
    unread += os.read(line.fileno(), 65536)
    while b"\\n" in unread:
        request, unread = unread.split(b"\\n", 1)
        request = json.loads(request)
        done = subprocess.run(request["command"], env=request["env"], cwd="/", text=True,
                              stdin=subprocess.DEVNULL, capture_output=True)
        answer(code=done.returncode, out=done.stdout, err=done.stderr)
"""

_UNIT = """\
[Unit]
After=multi-user.target dbus.service
[Service]
Type=idle
ExecStart=/usr/bin/python3 /usr/local/lib/agent.py
[Install]
WantedBy=multi-user.target
"""

#: Makes a disk of a tree with a layer over it.
_MAKE_DISK = """
mount -t overlay overlay -o "lowerdir=$0,upperdir=$1/upper,workdir=$1/work" "$1/root"
truncate --size=1G "$1/disk"
mkfs.ext4 -q -F -O ^has_journal -d "$1/root" "$1/disk"
"""

_KERNEL_OPTIONS = (
    "console=ttyS0 root=/dev/nvme0n1 rw rootfstype=ext4 panic=-1 quiet mitigations=off"
    " tsc=reliable audit=0 random.trust_cpu=on systemd.show_status=0"
)


def lacks() -> str | None:
    """Return what is missing on this host, if anything."""
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("mkfs.ext4", "e2fsprogs")):
        if shutil.which(program) is None:
            return f"there is no {program} (Debian: apt install {package})"
    return lacking()


def kernel() -> Path:
    """Return Debian's kernel, which is fetched and not installed; skip where there is none."""
    kept = CACHE / "vmlinuz"
    if kept.exists():
        return kept
    with tempfile.TemporaryDirectory(dir=CACHE) as draft:
        fetch = (
            "set -e; name=$(apt-cache depends linux-image-cloud-amd64"
            " | sed -n 's/.*Depends: \\(linux-image-[0-9].*\\)/\\1/p');"
            " apt-get -qq download $name; dpkg-deb -x *.deb ."
        )
        done = subprocess.run(
            ["sh", "-c", fetch], cwd=draft, capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no kernel can be fetched: {done.stderr.strip()}")
        (image,) = Path(draft, "boot").glob("vmlinuz-*")
        image.rename(kept)
    return kept


class Emulated:
    """An emulated host that booted. A context manager; its disk goes with it."""

    def __init__(self, tree: Path, site: Path) -> None:
        self._kernel = kernel()
        self._directory = Path(tempfile.mkdtemp(prefix="emulated-"))
        self._qemu: subprocess.Popen[bytes] | None = None
        self._line = socket.socket(socket.AF_UNIX)
        upper = make_layer(self._directory)
        add(upper, "usr/local/lib/agent.py", _AGENT)
        add(upper, "etc/fstab", "/dev/nvme0n1 / ext4 defaults 0 0\n")
        unit = add(upper, "etc/systemd/system/agent.service", _UNIT)
        wants = unit.with_name("multi-user.target.wants")
        wants.mkdir()
        (wants / unit.name).symlink_to(f"../{unit.name}")
        for masked in _MASKED:
            unit.with_name(masked).symlink_to("/dev/null")
        shutil.copytree(site, upper / "opt/dispatcher")
        made = ("sh", "-ec", _MAKE_DISK, str(tree), str(self._directory))
        run("unshare", "--mount", "--propagation=private", *made)

    def __enter__(self) -> Self:
        try:
            self.boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait(PATIENCE)
        shutil.rmtree(self._directory)

    def boot(self) -> None:
        """Boot, and wait until its agent answers."""
        with (self._directory / "errors").open("wb") as errors:
            self._qemu = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stderr=errors, stdout=errors
            )
        eventually(self._expect_line)
        self._line.settimeout(SLOW)
        self._answers = self._line.makefile("rb")
        assert {"up": True} == self._answer(), self._output()

    def _command(self) -> list[str]:
        here = self._directory
        return [
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-M", "q35,hpet=off"),
            *("-cpu", "max", "-m", "1024", "-smp", "2", "-display", "none", "-nodefaults"),
            *("-no-reboot", "-kernel", str(self._kernel), "-append", _KERNEL_OPTIONS),
            *("-drive", f"file={here}/disk,if=none,id=disk,format=raw"),
            *("-device", "nvme,drive=disk,serial=disk"),
            *("-chardev", f"file,id=console,path={here}/console", "-serial", "chardev:console"),
            *("-chardev", f"socket,id=agent,path={here}/agent,server=on,wait=off"),
            *("-serial", "chardev:agent"),
        ]

    def _expect_line(self) -> None:
        if self._qemu is not None and self._qemu.poll() is not None:
            pytest.fail(f"it does not start:\n{self._output()}")
        refused = self._line.connect_ex(str(self._directory / "agent"))
        assert 0 == refused, self._output()

    def _output(self) -> str:
        files = (self._directory / name for name in ("errors", "console"))
        return "".join(file.read_text("utf-8", "replace") for file in files if file.exists())

    def _answer(self) -> dict[str, Any]:
        while line := self._answers.readline():
            with suppress(ValueError):  # whatever the line had in it before
                return dict(json.loads(line))
        pytest.fail(f"it has ended:\n{self._output()}")

    def run(
        self, *command: str, user: str = "root", exits: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it to its end, which is this exit code; None: any."""
        request = {"command": [*as_user(user), *command], "env": ENVIRONMENT}
        self._line.sendall(json.dumps(request).encode() + b"\n")
        answer = self._answer()
        done = subprocess.CompletedProcess(command, answer["code"], answer["out"], answer["err"])
        assert exits in {None, done.returncode}, done
        return done

    def systemctl(self, *words: str, exits: int = 0) -> str:
        return self.run("systemctl", "--no-pager", *words, exits=exits).stdout
