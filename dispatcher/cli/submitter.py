"""The shell that submits: what its tasks inherit, and the hints that it gets."""

import os

import click

from dispatcher import control
from dispatcher.config.config import Config
from dispatcher.environment import Environment, is_utf8
from dispatcher.host import owner
from dispatcher.host.utf8 import as_utf8
from dispatcher.submission import TaskOptions


def shell_options(config: Config) -> TaskOptions:
    """Return the environment and umask of this process, if tasks get them.

    Those of root are of no use to the user that it became. A variable that is not UTF-8 cannot be
    stored: it is named on stderr.
    """
    if not config.carries_environments or owner.became() is not None:
        return {}
    variables = {name: os.environ[name] for name in os.environ}
    for name in [name for name, value in variables.items() if not is_utf8(name, value)]:
        del variables[name]
        _print(f"the task does not get the variable {as_utf8(name)}: it is not UTF-8")
    return {"environment": Environment(variables), "umask": _umask()}


def report_idle(config: Config) -> None:
    """Report on stderr that nothing runs yet, if no daemon does."""
    if not control.is_running(config):
        _print(f"no daemon runs here, so nothing runs yet; start it: {config.start_command()}")


def report_empty(source: str) -> None:
    """Report on stderr that a file holds no task."""
    _print(f"{'stdin' if source == '-' else as_utf8(source)} holds no task: nothing was submitted")


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _print(text: str) -> None:
    click.echo(f"dispatcher: {text}", err=True)
