"""The executor's unit under `MemoryMax=`, on a host that has a memory controller."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system import emulated, trees
from tests.system.emulated import SLOW, Emulated
from tests.system.test_service import FILE, UNITS

#: Bytes for the executor and all its workers.
ROOM = 150 << 20

#: Forks until the kernel ends one of its children, each smaller than an executor, and then exits
#: as a shell does that reports it.
HOG = """
import os, time
for _ in range(300):
    if os.fork() == 0:
        held = b"x" * (4 << 20)
        time.sleep(1000)
_, status = os.wait()
raise SystemExit(128 + os.WTERMSIG(status))
"""

#: Works until the go file appears.
INNOCENT = "until [ -e /run/dispatcher/go ]; do sleep 1; done"


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    if (reason := emulated.lacks()) is not None:
        pytest.skip(reason)
    tree = trees.debian("bookworm")
    with Emulated(tree, trees.installed(tree, trees.shared(tmp_path_factory))) as host:
        yield host


def dispatcher(host: Emulated, *words: object) -> Any:
    printed = host.run("dispatcher", *map(str, words), user="dispatcher").stdout
    return json.loads(printed) if printed.strip() else None


def until(host: Emulated, task: int, state: str) -> list[dict[str, Any]]:
    """Wait until a task is in a state; return its runs."""

    def probe() -> list[dict[str, Any]]:
        now = dispatcher(host, "show", task, "--json")
        assert state == now["state"]
        return list(now["runs"])

    return eventually(probe, patience=SLOW, every=0.5)


def test_r37_r61_a_forking_hog_costs_no_executor_and_no_other_task(host: Emulated) -> None:
    host.run("dispatcher", "install-service")
    host.run("sed", "-i", "-e", "s/^allow_commands = .*/allow_commands = true/", FILE)
    host.run("sed", "-i", "-e", "s/^#slots = .*/slots = 4/", FILE)
    host.systemctl("daemon-reload")
    host.systemctl("start", *UNITS)
    limits = (f"MemoryMax={ROOM}", "MemorySwapMax=0")
    host.systemctl("set-property", "--runtime", "dispatcher-executor", *limits)
    innocents = [dispatcher(host, "submit", "--", "sh", "-c", INNOCENT) for _ in range(2)]
    for innocent in innocents:
        until(host, innocent, "running")
    executor = host.systemctl("show", "--property=InvocationID", "dispatcher-executor")

    hog = dispatcher(host, "submit", "--max-attempts=1", "--", "python3", "-c", HOG)

    (run,) = until(host, hog, "failed")
    assert ("oom_killed", 137) == (run["outcome"], run["exit_code"])
    assert "killed for lack of memory" in run["error"]
    assert executor == host.systemctl("show", "--property=InvocationID", "dispatcher-executor")
    host.run("touch", "/run/dispatcher/go", user="dispatcher")
    for innocent in innocents:
        assert 1 == len(until(host, innocent, "succeeded"))
