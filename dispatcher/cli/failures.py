"""What a verb's failure prints on stderr, and its exit code."""

import errno
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import click
from click.exceptions import ClickException, UsageError

from dispatcher.cli.printing import forget_stdout
from dispatcher.cli.verb_list import VERBS
from dispatcher.errors import DispatcherError, in_trouble
from dispatcher.exit_codes import ExitCode
from dispatcher.host import owner

#: Seconds after which a service exits without its last message if nobody reads stderr.
LAST_MESSAGE_WITHIN = 2

#: Errors of writing to a file that was open already: stdout.
_CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

_DENIED = (errno.EACCES, errno.EPERM)


def changes(verb: str | None) -> bool:
    """Return whether a verb may have changed something when its answer cannot be printed."""
    return verb is not None and VERBS[verb].changes


def _is_service(verb: str | None) -> bool:
    return verb is not None and VERBS[verb].is_service


def report(error: ClickException | DispatcherError | OSError, verb: str | None) -> int:
    """Print a verb's error on stderr; return the exit code."""
    message, code = explained(error, verb)
    _bound_last_message(verb, code)
    _print(message + _denied_to_owner(message))
    cause = error.__cause__ or error
    if isinstance(cause, OSError) and cause.filename is None:
        forget_stdout()
    return code


def report_bug(error: Exception, verb: str | None) -> int:
    """Print a bug on stderr, of a service with the traceback for its journal; return the code."""
    _bound_last_message(verb, ExitCode.REFUSED)
    if _is_service(verb):
        import traceback  # noqa: PLC0415 - after a bug alone

        _write("".join(traceback.format_exception(error)))
    else:
        _print(f"{_error_with_place(error)}; a bug: DISPATCHER_TRACEBACK=1 shows all of it")
    return ExitCode.REFUSED


def _bound_last_message(verb: str | None, code: int) -> None:
    """Let a service exit with `code` even while its last write waits for the reader of stderr."""
    if _is_service(verb):
        signal.signal(signal.SIGALRM, lambda *_: os._exit(code))
        signal.alarm(LAST_MESSAGE_WITHIN)


def _print(message: str) -> None:
    _write("\n".join(f"dispatcher: {line}" for line in message.splitlines()))


def _write(text: str) -> None:
    """Write lines to stderr, with the level of an error where that is systemd's journal."""
    with suppress(OSError):
        prefix = _priority() if os.environ.get("JOURNAL_STREAM") else ""
        for line in text.splitlines():
            click.echo(f"{prefix}{line}", err=True)


def _priority() -> str:
    """Return the journal's prefix of an error; "" if stderr leads elsewhere."""
    from dispatcher.logs import journald  # noqa: PLC0415 - for services, which rarely fail

    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):  # a stream in memory, or a closed one
        return ""
    return journald.PREFIX["error"] if journald.leads_to(descriptor, os.environ) else ""


def _denied_to_owner(message: str) -> str:
    """Return the line to add where something was denied to the user that root became."""
    user = owner.became()
    if user is None or not any(
        os.strerror(denied).lower() in message.lower() for denied in _DENIED
    ):
        return ""
    return f"\nthis process became {user}, because {user.place} belongs to that user"


def _error_with_place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = trace and f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    return f"{type(error).__name__}: {error} ({place})"


def explained(
    error: ClickException | DispatcherError | OSError, verb: str | None = None
) -> tuple[str, int]:
    """Return the message of a verb's error, and the exit code."""
    if isinstance(error, UsageError):
        path = " ".join(filter(None, ("dispatcher", verb)))
        if error.ctx is not None:
            path = error.ctx.command_path
        return f"{error.format_message().rstrip('.')} (see: {path} --help)", ExitCode.USAGE
    if isinstance(error, ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, DispatcherError):
        return str(error), error.exit_code
    return _explained_os_error(error, verb)


def _explained_os_error(error: OSError, verb: str | None) -> tuple[str, int]:
    message = error.strerror or str(error)
    if error.filename is not None:
        message = f"{error.filename}: {message}"
        if isinstance(error, PermissionError) and (
            remedy := owner.remedy_if_foreign(error.filename)
        ):
            message += f"; {remedy}"
        trouble = in_trouble(message, error.errno)
        return explained(trouble) if trouble else (message, ExitCode.REFUSED)
    if error.errno not in _CANNOT_WRITE:
        return message, ExitCode.REFUSED
    if not changes(verb):
        return f"cannot write: {message}", ExitCode.REFUSED
    remedy = "check whether it was done before you repeat it"
    return f"cannot write: {message}; {remedy}", ExitCode.COMMIT_UNKNOWN
