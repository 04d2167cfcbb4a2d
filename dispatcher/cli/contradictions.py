"""Refuses options that set one thing twice: otherwise the last one would win unseen."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dispatcher.cli import lines
from dispatcher.errors import InvalidTask

#: Links in a row that the kernel follows.
_MOST_LINKS = 40

#: Pairs of options that exclude each other, and what both set.
_EITHER = (
    ("--urgent", "--priority", "the priority"),
    ("--at", "--delay", "when the task starts"),
)


def parsed(
    ctx: click.Context, words: Sequence[str]
) -> tuple[Mapping[str, Any], Sequence[str], Sequence[click.Parameter]]:
    """Return the options, the other words and the order, as the parser does.

    Raises `UsageError` for words that set one thing twice, and for what the parser refuses.
    """
    given, rest, order = ctx.command.make_parser(ctx).parse_args([*words])
    options = {option for param in order for option in param.opts}
    for one, other, what in _EITHER:
        if one in options and other in options:
            raise click.UsageError(f"{one} and {other} both set {what}; give one of them", ctx)
    if _is_stdin(given.get("source")) and _names_stdin(given.get("payload")):
        raise click.UsageError("--from and --payload both read stdin; give one a file", ctx)
    try:
        _refuse_repeated(given)
    except InvalidTask as error:
        raise click.UsageError(str(error), ctx) from None
    return given, rest, order


def _names_stdin(payload: object) -> bool:
    return isinstance(payload, str) and (
        payload == "-" or (payload.startswith("@") and _is_stdin(payload[1:]))
    )


def _is_stdin(path: object) -> bool:
    """Return whether a name leads to descriptor 0 of this process, such as `/dev/stdin`."""
    if not isinstance(path, str) or "\0" in path or path == "-":
        return path == "-"
    here = Path(path)
    for _ in range(_MOST_LINKS):
        here = Path(os.path.realpath(here.parent), here.name)
        if here == Path(f"/proc/{os.getpid()}/fd/0"):
            return True
        if not here.is_symlink():
            return False
        here = here.parent / here.readlink()
    return False


def _refuse_repeated(given: Mapping[str, Any]) -> None:
    for option in ("label", "require", "env"):
        texts = [*given.get(option, ()), *given.get(f"unset_{option}", ())]
        lines.refuse_repeated(option, texts, given.get("name") if option == "label" else None)
    for unset in given.get("unset", ()):
        if unset.replace("-", "_") in given:
            raise click.UsageError(f"--unset {unset} and --{unset} contradict; give one of them")
