"""The programs of a demo's server, where their user can reach them."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.demo.server import reachable, server_programs, server_user

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root starts the server as another user"
)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that the server's user can get."""
    made = Path(tempfile.mkdtemp(prefix="demo-"))
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("program", ["initdb", "postgres"])
def test_programs_below_a_directory_that_only_root_enters_run_as_the_servers_user(
    directory: Path, tmp_path: Path, program: str
) -> None:
    installed = server_programs(directory).parent.parent
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    for part in (installed, installed.with_name(f"{installed.name}.libs")):
        shutil.copytree(part, hidden / part.name, symlinks=True)
    subprocess.run(["chmod", "-R", "go-rwx", hidden], check=True)  # as with umask 077
    user = server_user(directory)

    (place := directory / "copied").mkdir(mode=0o755)
    programs = reachable(hidden / installed.name / "pginstall" / "bin", place)

    assert place in programs.parents
    done = subprocess.run(
        [programs / program, "--version"],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
        **user,
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert "PostgreSQL" in done.stdout
