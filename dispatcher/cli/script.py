"""`submit --script`: a script whose first comments hold options, in lines with a mark."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from dispatcher.cli import lines
from dispatcher.cli.contradictions import parsed
from dispatcher.errors import InvalidTask

#: The first word of a line with options.
MARK = "#DISPATCHER"

#: Bytes of a script that may hold options.
_MOST = 64 * 1024

#: What no script can give: other tasks, and what concerns the caller alone.
_NOT_IN_SCRIPTS = ("--from", "--script", "--help", "--config", "--wait", "--json")


class ScriptCommand(click.Command):
    """A command whose --script puts the options of the script before those that were typed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the script's options first, so that those of the command line win."""
        if not ctx.resilient_parsing:
            typed, *_ = parsed(ctx, args)
            if isinstance(path := typed.get("script"), str):
                args = [*self._options_of(ctx, path), *args]
        return super().parse_args(ctx, args)

    def _options_of(self, ctx: click.Context, path: str) -> list[str]:
        """Return the options of a script. Raises `InvalidTask`, which names the line."""
        found: list[str] = []
        for number, words in options_of(path):
            try:
                found = _checked(ctx, [*found, *words])
            except click.UsageError as error:
                raise InvalidTask(f"script: {path}:{number}: {error.format_message()}") from None
            except InvalidTask as error:
                raise InvalidTask(f"script: {path}:{number}: {error}") from None
        return found


def _checked(ctx: click.Context, words: list[str]) -> list[str]:
    """Return the words of a script so far. Raises `InvalidTask`, and `UsageError` as click does."""
    given, rest, order = parsed(ctx, words)
    options = [option for param in order for option in param.opts]
    if wrong := [option for option in options if option in _NOT_IN_SCRIPTS]:
        problem = f"{wrong[0]!r} does not belong into a script"
        raise InvalidTask(f"{problem}; give it on the command line")
    command = given.get("command")
    wrong = [*(command if isinstance(command, tuple) else ()), *rest]
    if wrong or "--" in words:
        problem = f"{(*wrong, '--')[0]!r} does not belong into this line"
        raise InvalidTask(f"{problem}; write options in it")
    for param in order:
        if isinstance(param, click.Option):
            param.type_cast_value(ctx, given[param.name])
    lines.variables(given.get("env", ()), os.environ)
    lines.named(given.get("name"), lines.pairs("label", given.get("label", ())))
    lines.pairs("require", given.get("require", ()))
    lines.units(given.get("limit", ()))
    return words


def options_of(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and words of each marked line before the first command of a script."""
    import shlex  # noqa: PLC0415 - for scripts alone

    for number, line in enumerate(_head(path), start=1):
        if line.strip() and not line.startswith("#"):
            return
        if line.split()[:1] == [MARK]:
            try:
                yield number, shlex.split(line.removeprefix(MARK), comments=True)
            except ValueError as error:
                problem = str(error).lower()
                raise InvalidTask(f"script: {path}:{number}: {problem}; close it") from None


def command_of(path: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the command that runs a script by the interpreter of its first line.

    Raises `InvalidTask` if it names none.
    """
    first = next(iter(_head(path)), "")
    interpreter = first.removeprefix("#!").strip().split(maxsplit=1)
    if not first.startswith("#!") or not interpreter:
        remedy = "begin it with one, for example #!/bin/sh"
        raise InvalidTask(f"script: {path} has no #! line; {remedy}")
    return (*interpreter, str(Path(path).absolute()), *arguments)


def _head(path: str) -> list[str]:
    """Return the first lines of a script. Raises `InvalidTask`."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MOST)
    except OSError as error:
        raise InvalidTask(f"script: {path}: {error.strerror}; name a file to read") from None
    if b"\r\n" in text.partition(b"\n")[0] + b"\n":
        remedy = f"save it with those of Unix, for example: sed -i 's/\\r$//' {path}"
        raise InvalidTask(f"script: {path} has line ends of Windows; {remedy}")
    return text.decode(errors="surrogateescape").splitlines()
