"""The console blocks of a page: typed into one shell in a throw-away world, in their order.

A line that begins with `$ ` is typed, what follows it is what it prints: `…` stands for anything,
no line at all for whatever it is. A line that begins with `# ` is typed by root.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.world import World
from tests.eventually import PATIENCE

#: The separator of the outputs of a shell's commands.
_MARK = "<<the next command>>"

_BLOCK = re.compile(r"^```(console|toml)\n(.*?)^```", re.DOTALL | re.MULTILINE)

_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*Z?")


@dataclass
class Typed:
    """One command of a block, and the output that the page shows."""

    command: str
    shown: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Block:
    """A fenced block: a console, or a piece of configuration."""

    language: str
    text: str

    @property
    def name(self) -> str:
        """Its first line."""
        return self.text.splitlines()[0]

    def typed(self) -> Sequence[Typed]:
        """Return the commands of a console."""
        found: list[Typed] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append(Typed(line.removeprefix("$ ")))
            elif found and found[-1].command.endswith("\\"):
                found[-1].command += f"\n{line}"
            else:
                assert found, f"{line!r} is printed by no command"
                found[-1].shown.append(line)
        return found


def blocks(page: Path) -> Iterator[Block]:
    """Yield the consoles and pieces of configuration of a page."""
    for language, text in _BLOCK.findall(page.read_text("utf-8")):
        yield Block(language, text)


def configure(world: World, text: str) -> None:
    """Add the tables that a page shows to the world's configuration, unless it has one like it.

    All of what is shown has to be right in any case.
    """
    alone = world.directory / "shown.toml"
    alone.write_text(text)
    short = {"RUNTIME_DIRECTORY": str(world.runtime_dir)}
    world.cli("check-config", "--config", alone, env=short)
    there = world.config_file.read_text()
    tables = re.split(r"^(?=\[)", text, flags=re.MULTILINE)
    new = [table for table in tables if table.partition("\n")[0] not in there]
    world.config_file.write_text("\n".join((there, *new)))


def type_all(world: World, typed: Sequence[Typed], env: Mapping[str, str]) -> None:
    """Type commands into one shell; each exits 0 and prints what the page shows."""
    paths = {
        "/etc/dispatcher/": f"{world.directory}/",
        "/var/lib/dispatcher": str(world.state_dir),
    }
    script = "".join(f"{one.command}\necho '{_MARK}' $?\n" for one in typed)
    for named, real in paths.items():
        script = script.replace(named, real)
    done = subprocess.run(
        ["bash", "-c", script],
        env={**world.env, **env},
        cwd=world.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    printed = re.split(rf"{_MARK} (\d+)\n", done.stdout)
    assert len(typed) == len(printed) // 2, done.stdout
    for one, text, code in zip(typed, printed[::2], printed[1::2], strict=False):
        for named, real in paths.items():
            text = text.replace(real, named)  # noqa: PLW2901 - the same text, as the page has it
        assert "0" == code, f"$ {one.command}\n{text}"
        if one.shown:
            expect(one, text)


def expect(one: Typed, printed: str) -> None:
    """Compare what a command printed with what the page shows of it."""
    shown = re.escape(_TIME.sub("TIME", "\n".join(one.shown)))
    lines = [line.rstrip() for line in _TIME.sub("TIME", printed).splitlines()]
    there = re.fullmatch(shown.replace("…", ".*"), "\n".join(lines), re.DOTALL)
    assert there, f"$ {one.command}\n{printed}\nis not what the page shows:\n{shown}"
