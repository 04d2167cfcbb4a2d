"""Refuses options that set one thing twice: otherwise the last one would win unseen."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from dispatcher.cli import lines
from dispatcher.errors import InvalidTask

#: Names of stdin for `--from`, and for `--payload` after its "@".
_STDIN = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")

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
    if given.get("source") in _STDIN and _names_stdin(given.get("payload")):
        raise click.UsageError("--from and --payload both read stdin; give one a file", ctx)
    try:
        _refuse_repeated(given)
    except InvalidTask as error:
        raise click.UsageError(str(error), ctx) from None
    return given, rest, order


def _names_stdin(payload: object) -> bool:
    return isinstance(payload, str) and (
        payload == "-" or (payload.startswith("@") and payload[1:] in _STDIN)
    )


def _refuse_repeated(given: Mapping[str, Any]) -> None:
    for option in ("label", "env"):
        texts = [*given.get(option, ()), *given.get(f"unset_{option}", ())]
        lines.refuse_repeated(option, texts, given.get("name") if option == "label" else None)
    for unset in given.get("unset", ()):
        if unset.replace("-", "_") in given:
            raise click.UsageError(f"--unset {unset} and --{unset} contradict; give one of them")
