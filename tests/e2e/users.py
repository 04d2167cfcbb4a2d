"""The product as an ordinary user runs it, and what such a user may not read.

Debian's `ssh-agent` is set-gid: who started it may signal it, and reads neither its environment nor
what it has open, nor its limits.
"""

import os
import shutil

import pytest

from tests.e2e.helpers import as_user, ordinary_user
from tests.e2e.world import World

#: Starts an agent, which leaves for a session and outputs of its own, and notes its pid.
AGENT = "eval $(ssh-agent) > /dev/null; echo $SSH_AGENT_PID > agent.new; mv agent.new agent"

#: In a run after the first: notes whether the agent of the first one lives, and succeeds.
LOOKS_FOR_A_TWIN = """
    if [ $DISPATCHER_FENCE != 1 ]; then
        kill -0 $(cat agent) 2> /dev/null && echo twin > twin
        exit 0
    fi
"""


def needs(program: str, package: str) -> str:
    """Return the path of a program; skip the test where there is none."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"there is no {program} (Debian: apt install {package})")
    return found


def needs_guarded_agent() -> None:
    """Skip the test where `ssh-agent` is a program like any other: its owner may read of it."""
    if not os.stat(needs("ssh-agent", "openssh-client")).st_mode & 0o2000:
        pytest.skip("ssh-agent is not set-gid here, so nothing of it is hidden")


def as_root() -> tuple[str, ...]:
    """Return what a command begins with that root types in another user's directory.

    It has the rights that it takes to become a user, and once it has become one, none but to read
    everything, as Python may lie where others cannot go: the kernel leaves it that one.
    """
    readers = "-all,+dac_read_search"
    rights = f"{readers},+setuid,+setgid"
    privileges = [f"--bounding-set={rights}", f"--inh-caps={readers}", f"--ambient-caps={readers}"]
    return ("setpriv", "--securebits=+no_setuid_fixup", *privileges)


def owned_by(world: World, user: int) -> None:
    """Give a world's directories to a user."""
    for path in (world.state_dir, world.runtime_dir):
        os.chown(path, user, user)


def belongs_to_a_user(world: World) -> None:
    """Let an ordinary user, who has no other process, own a world and run every command in it."""
    user = ordinary_user()
    if user == os.geteuid():
        return
    world.directory.chmod(0o755)
    for path in (world.directory, world.runtime_dir, world.config_file):
        os.chown(path, user, user)
    world.env |= {"USER": str(user)}
    world.prefix += (*as_user(user), f"--regid={user}")
