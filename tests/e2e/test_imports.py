"""What a command imports, which is most of the time that a short one takes. No clock is read."""

import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.e2e.world import World

SCRIPT = """
import sys
from dispatcher.__main__ import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""

#: Libraries that no command imports whose answer is short; together they cost more than a submit.
SLOW = {
    *("structlog", "rich", "psutil", "prometheus_client", "logging", "asyncio", "concurrent"),
    *("dataclasses", "difflib", "random", "subprocess", "tempfile", "unittest", "json", "email"),
    *("argparse", "pydoc", "traceback", "ssl", "hashlib", "multiprocessing", "sqlite3", "http"),
    "psycopg",
}

#: Rooms of which a client needs nothing.
OTHERS = {
    *("daemon", "supervisor", "logs", "config.unit_files", "metrics"),
    *("executor", "demo", "doctor", "service", "peers"),
}

#: Rooms that a command without a store needs none of.
STORES = {"client", "store.open", "store.sql", "store.sqlite", "operations"}

#: What only other verbs than a submit need: shutil measures a terminal.
READERS = {
    *("shutil", "shlex", "policy", "outlook", "obstacles", "overview", "bulk", "config.reference"),
    *("cli.tables", "cli.render", "cli.progress"),
}


def modules_of(world: World, words: Sequence[str], **variables: str) -> set[str]:
    """Return the modules that a process has after a command."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        env={**world.env, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return {*done.stderr.splitlines()[-1].split()}


def names_of(modules: set[str]) -> set[str]:
    """Return the packages, and the modules of the dispatcher without its name."""
    packages = {name.partition(".")[0] for name in modules}
    return packages | {name.removeprefix("dispatcher.") for name in modules}


@pytest.mark.parametrize(
    ("words", "most", "needless"),
    [
        (("submit", "--", "true"), 132, READERS | {"cli.offers", "cli.waiting", "cli.follow"}),
        (("hold", "1"), 142, {"cli.offers", "cli.waiting", "cli.follow", "bulk"}),
        (("show", "1"), 147, {"cli.offers", "cli.waiting", "cli.follow", "bulk"}),
        (("wait", "1", "--timeout", "0s"), 143, {"cli.offers", "cli.follow", "bulk"}),
        (("list",), 145, {"cli.offers", "cli.waiting", "bulk"}),
        (("config",), 64, STORES),
        (("completion", "bash"), 57, STORES | READERS | {"cli.offers"}),
        (("--version",), 55, STORES | READERS | {"cli.offers"}),
        (("--help",), 55, STORES | {"cli.offers"}),
    ],
    ids=lambda one: one[0] if isinstance(one, tuple) else "",
)
def test_a_short_command_imports_only_what_it_needs(
    world: World, words: tuple[str, ...], most: int, needless: set[str]
) -> None:
    world.cli("submit", "--", "true")

    modules = modules_of(world, words)

    assert set() == (SLOW | OTHERS | needless) & names_of(modules)
    own = sorted(name for name in modules if name.startswith("dispatcher"))
    assert len(own) <= most, own


def test_the_tab_key_imports_no_store_for_the_name_of_a_verb(world: World) -> None:
    modules = modules_of(
        world,
        (),
        _DISPATCHER_COMPLETE="bash_complete",
        COMP_WORDS="dispatcher sub",
        COMP_CWORD="1",
    )

    assert "click.shell_completion" in modules
    assert set() == (SLOW | STORES | OTHERS | {"cli.offers"}) & names_of(modules)
