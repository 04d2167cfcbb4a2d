"""`dispatcher reload`: make the daemon read its configuration again."""

import shlex
from collections.abc import Mapping
from typing import Any

import click

from dispatcher import control
from dispatcher.cli import render
from dispatcher.cli.configuration import config_as_owner
from dispatcher.cli.opening import open_client
from dispatcher.cli.options import config_option, examples, json_option
from dispatcher.cli.printing import print_json
from dispatcher.config.config import Config
from dispatcher.errors import ConfigError, DispatcherError
from dispatcher.exit_codes import ExitCode
from dispatcher.operations.limits import gone_text


@click.command(epilog=examples("dispatcher reload"))
@json_option
@config_option
def command(*, as_json: bool) -> int:
    """Make the running daemon read its configuration again, and print what changed.

    If the file has a mistake, the old configuration stays in force; exit code 78. A mistake in a
    profile concerns that profile alone, which stays as it was. A daemon that started without a file
    reads the one that is there now. If it reads another file than this command, nothing changes;
    exit code 1.
    """
    config = config_as_owner()
    answer = _answer(config)
    for mistake in answer.get("mistakes", ()):
        if mistake not in config.mistakes:  # those were printed, or are in `status`
            click.echo(f"dispatcher: {render.plain(mistake)}", err=True)
    if any(key.startswith("limits.") for key in answer["changed"]):
        _print_gone()
    if as_json:
        print_json({"changed": answer["changed"], "kept": answer["kept"]})
        return ExitCode.OK
    for key, change in answer["changed"].items():
        click.echo(f"{key}: {change['old'] or '(none)'} -> {change['new'] or '(none)'}")
    for key, change in answer["kept"].items():
        click.echo(f"{key}: still {change['old']}; restart the daemon for {change['new']}")
    if not answer["changed"] and not answer["kept"]:
        click.echo("nothing changed")
    return ExitCode.OK


def _print_gone() -> None:
    """Print which limits are not configured any more, although unfinished tasks take them."""
    with open_client() as store:
        for name in store.unconfigured_limits():
            click.echo(f"dispatcher: {render.plain(gone_text(name))}", err=True)


def _answer(config: Config) -> Mapping[str, Any]:
    try:
        answer = control.reload(config)
    except TimeoutError:
        raise DispatcherError("the daemon does not answer; see: dispatcher status") from None
    if answer is None and (why := control.why_unreachable(config)) is not None:
        raise DispatcherError(why)
    if answer is None:
        raise DispatcherError("no daemon runs here; it reads its file when it starts")
    if not answer["ok"]:
        raise _refused(answer, config)
    return answer


def _refused(answer: Mapping[str, Any], config: Config) -> DispatcherError:
    if answer["error"] != "other_file":
        return ConfigError(answer["message"])
    reads, restart = "no file", f"dispatcher restart --config {shlex.quote(str(config.file))}"
    if (theirs := answer["file"]) is not None:
        reads = f"{theirs} (dispatcher reload --config {shlex.quote(theirs)})"
    return DispatcherError(
        f"nothing was reloaded: the daemon reads {reads}, not {config.file}; to change that:"
        f" {restart}"
    )
