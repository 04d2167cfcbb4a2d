"""The trees that hosts boot from in these tests: a Debian with the wheel of this project."""

import os
import re
import shutil
import subprocess
import sys
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: A Debian is kept here once it was made, which takes half a minute: 200 MB each.
CACHE = Path("/var/cache/dispatcher-tests")

#: Packages that the smallest bootable Debian lacks.
PACKAGES = "systemd,systemd-sysv,dbus,libpam-systemd,python3,procps"

#: Settings that keep a test from waiting for anything it does not need.
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
    targets = run("apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)").stdout
    sites = [
        site for site, _, name in (line.partition(" ") for line in targets.splitlines()) if name
    ]
    return next(
        (site for site in sites if site.endswith("/debian")), "http://deb.debian.org/debian"
    )


def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that all processes of one run of the tests have."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def installed(tree: Path, directory: Path) -> Path:
    """Install the wheel, and what it needs, for the Python of a tree; return where.

    A test that needs it meanwhile waits: tests run side by side.
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


def run(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, (command, done.stdout, done.stderr)
    return done
