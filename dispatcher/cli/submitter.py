"""The shell that submits: what its tasks inherit, and the hints that it gets."""

import os
from collections.abc import Iterable
from pathlib import Path
from stat import S_ISDIR

import click

from dispatcher import control
from dispatcher.client import Client
from dispatcher.config.config import Config
from dispatcher.environment import Environment, is_utf8
from dispatcher.host import owner
from dispatcher.host.utf8 import as_utf8
from dispatcher.new_task import NewTask
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


def report_waiting(store: Client, tasks: Iterable[NewTask]) -> None:
    """Report on stderr that no daemon runs here, and each task that no node may run now."""
    if not control.is_running(store.config):
        start = store.config.start_command()
        _print(f"no daemon runs here, so nothing runs yet; start it: {start}")
    for task in tasks:
        if not task.requires:
            continue
        from dispatcher.nodes import missing_text  # noqa: PLC0415 - few tasks require anything

        views = store.nodes()
        if views and all(view.lacks(task.requires) for view in views):
            _print(f"the task waits: {missing_text(views, task.requires)}")


def report_empty(source: str) -> None:
    """Report on stderr that a file holds no task."""
    _print(f"{'stdin' if source == '-' else as_utf8(source)} holds no task: nothing was submitted")


def report_missing(tasks: Iterable[NewTask]) -> None:
    """Report on stderr a directory or program that is not there now; it may be later."""
    for task in tasks:
        if task.profile is None and task.cwd is not None and not report_no_directory(task.cwd):
            _report_program(task, task.cwd)


def report_no_directory(cwd: str) -> bool:
    """Return whether a directory is missing, or is none, which stderr then reports."""
    if _is_missing(cwd):
        _print(f"no directory {cwd!r} now; make it before the task starts")
    elif _is_other(cwd):
        _print(f"{cwd!r} is not a directory; name one")
    else:
        return False
    return True


def _report_program(task: NewTask, cwd: str) -> None:
    program = task.command[0]
    found = Path(cwd, program)
    if "/" in program:
        if _is_missing(found):
            place = "" if program.startswith("/") else f" in {cwd!r}"
            _print(f"no program {program!r}{place} now")
        elif _is_directory(found):
            _print(f"{program!r} is a directory; name a program")
        elif _is_file(found) and not _is_program(found):
            _print(f"{program!r} is not executable now; chmod +x makes it so")
        return
    path = task.env.get("PATH")
    if path is None and task.environment is not None:
        path = task.environment.variables.get("PATH")
    if path is None or any(_is_program(Path(cwd, one, program)) for one in path.split(":")):
        return
    hint = f"; ./{program}?" if os.path.lexists(found) else ""
    _print(f"no program {program!r} in your PATH now{hint}")


def _is_program(path: Path) -> bool:
    return _is_file(path) and os.access(path, os.X_OK)


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - that of Path raises where a directory is closed


def _is_directory(path: str | Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - as in `_is_file`


def _is_other(path: str) -> bool:
    """Return whether a path leads to something other than a directory."""
    try:
        return not S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116 - as in `_is_missing`
    except OSError:
        return False


def _is_missing(path: str | Path) -> bool:
    try:
        os.stat(path)  # noqa: PTH116 - an unreadable directory proves nothing
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _print(text: str) -> None:
    click.echo(f"dispatcher: {text}", err=True)
