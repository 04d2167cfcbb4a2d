"""The command line: verbs imported when they are called, errors told in one line each."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
from click.exceptions import Abort, ClickException, NoArgsIsHelpError, UsageError

from dispatcher.cli.options import config_option, examples
from dispatcher.cli.printing import forget_stdout
from dispatcher.errors import (
    AlreadyHeld,
    CommitUnknown,
    ConfigError,
    DispatcherError,
    HostTrouble,
    InvalidTask,
    NoLock,
    StoreUnavailable,
    StoreUnusable,
    did_you_mean,
    in_trouble,
)
from dispatcher.exit_codes import ExitCode
from dispatcher.host import owner
from dispatcher.wire import RELEASE

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Verb(NamedTuple):
    """Where a verb lives, and what the list of verbs says of it."""

    module: str
    function: str
    help: str


VERBS: Mapping[str, Verb] = {
    "run": Verb("service", "run", "Run the daemon."),
    "submit": Verb("submit", "submit", "Submit a command as a task, or many from a file."),
    "list": Verb("inspect", "list_tasks", "List tasks, newest first."),
    "show": Verb("inspect", "show", "Show a task with all its runs."),
    "why": Verb("why", "why", "Say why a task is where it is, and what happens next."),
    "logs": Verb("inspect", "logs", "Print what a task's run wrote."),
    "status": Verb("status", "status", "Show how daemon, executor and queues stand."),
    "metrics": Verb("metrics", "metrics", "Print figures for Prometheus."),
    "cancel": Verb("operate", "cancel", "Cancel tasks; running ones are ended."),
    "retry": Verb("operate", "retry", "Make failed, cancelled or held tasks ready again."),
    "hold": Verb("operate", "hold", "Park tasks until they are released."),
    "release": Verb("operate", "release", "Let held tasks go on."),
    "pause": Verb("queues", "pause", "Let nobody claim from queues."),
    "resume": Verb("queues", "resume", "Let tasks of paused queues be claimed again."),
    "claim": Verb("drive", "claim", "Claim a task to work on it from a shell."),
    "heartbeat": Verb("speak", "heartbeat", "Renew a claim's lease."),
    "complete": Verb("speak", "complete", "Say that a claimed task is done."),
    "fail": Verb("speak", "fail", "Say that a claimed task could not be done."),
    "prune": Verb("operate", "prune", "Delete what finished long ago."),
    "check-config": Verb(
        "configure", "check_config", "Check the configuration and say every mistake."
    ),
    "config": Verb("configure", "config", "Print what the configuration holds, and why."),
    "migrate": Verb("migrate", "migrate", "Bring the database up to date."),
    "backup": Verb("backup", "backup", "Copy the database while everything runs."),
    "restore": Verb("backup", "restore", "Put a backup in the place of the database."),
    "doctor": Verb("doctor", "doctor", "Look for what is wrong with this host and its store."),
    "reload": Verb("service", "reload", "Let the running daemon read its configuration again."),
    "demo": Verb("demo", "demo", "Watch the main job on real files, with a kill in the middle."),
    "executor": Verb("service", "executor", "Run the executor (mode external; its own unit)."),
    "install-service": Verb(
        "install", "install_service", "Install dispatcher as a service of systemd."
    ),
    "uninstall-service": Verb(
        "install", "uninstall_service", "Take back what install-service wrote."
    ),
    "completion": Verb("completion", "completion", "Let a shell complete what is typed."),
}

#: Under which heading the list of verbs shows them; what stands in none comes last.
GROUPS: Mapping[str, Sequence[str]] = {
    "Tasks": ("submit", "list", "show", "why", "logs", "cancel", "retry", "hold", "release"),
    "Queues": ("pause", "resume"),
    "Being the worker": ("claim", "heartbeat", "complete", "fail"),
    "The service": (
        "run",
        "executor",
        "reload",
        "status",
        "metrics",
        "doctor",
        "prune",
        "migrate",
        "backup",
        "restore",
        "install-service",
        "uninstall-service",
    ),
    "Configuration": ("check-config", "config"),
}

#: Exit codes of errors, the first that fits; any other error is "not so".
EXIT_CODES: Mapping[type[DispatcherError], ExitCode] = {
    InvalidTask: ExitCode.USAGE,
    NoLock: ExitCode.USAGE,
    ConfigError: ExitCode.CONFIG,
    StoreUnusable: ExitCode.CONFIG,
    HostTrouble: ExitCode.TEMPORARY,
    StoreUnavailable: ExitCode.STORE_UNAVAILABLE,
    CommitUnknown: ExitCode.COMMIT_UNKNOWN,
    AlreadyHeld: ExitCode.TEMPORARY,
}


#: Verbs that may have changed something when what they did cannot be printed.
CHANGING = frozenset(
    {
        *("submit", "cancel", "retry", "hold", "release", "pause", "resume", "prune"),
        *("heartbeat", "complete", "fail", "migrate", "backup", "restore"),
    }
)

#: Verbs that run until they are stopped. They leave also where the reader of stderr has stopped:
#: after so many seconds, without their last message.
SERVICES = frozenset({"run", "executor"})
LAST_MESSAGE_WITHIN = 2

#: What goes wrong with a file that was open already: stdout's.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


#: What the kernel answers who may not.
_DENIED = (errno.EACCES, errno.EPERM)


class Verbs(click.Group):
    """The verbs, each imported when it is called: a submit loads nothing of the daemon's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of a task's life."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        del ctx
        if cmd_name not in VERBS:
            return None
        verb = VERBS[cmd_name]
        module = importlib.import_module(f"dispatcher.cli.{verb.module}")
        command: click.Command = getattr(module, verb.function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without importing them."""
        del ctx
        wide = max(map(len, VERBS))
        rest = dict(VERBS)
        for heading, names in (*GROUPS.items(), ("More", tuple(VERBS))):
            shown = [(f"{name:{wide}}", rest.pop(name).help) for name in names if name in rest]
            with formatter.section(heading):
                formatter.write_dl(shown)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the verbs that begin so, without importing them, and this command's options."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - one pressed a key

        fitting = (name for name in VERBS if name.startswith(incomplete))
        verbs = [CompletionItem(name, help=VERBS[name].help) for name in fitting]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or say which one was meant."""
        known = ctx.resilient_parsing or not args or args[0] in VERBS
        if not known and not args[0].startswith("-"):
            raise UsageError(f"no verb {args[0]!r}{did_you_mean(args[0], VERBS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "dispatcher run                      # the daemon, in the foreground",
        "dispatcher submit -- gzip big.log   # prints the task's id",
        "dispatcher show 1",
        "dispatcher logs 1",
    ),
)
@click.version_option(RELEASE, prog_name="dispatcher", message="%(prog)s %(version)s")
@config_option
def dispatcher() -> None:
    """Run commands as tasks: one owner each, clean kills, honest recovery.

    Exit codes: 0 ok, 1 not so, 2 usage, 69 store unavailable (nothing was written), 74 it was
    written or may have been: look before you do it again, 75 somebody else holds it or the host is
    in trouble: try again, 78 the configuration or the store cannot be used, 79 the lease is lost,
    130 interrupted.
    """


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; whatever goes wrong is said on stderr."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed, and nobody wants to know
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - as long as we live
        # Names and outputs of others may hold anything; a message must not fail on them.
        getattr(sys, name).reconfigure(errors="backslashreplace")
    verb = next((word for word in arguments if word in VERBS), None)
    try:
        code: int | None = dispatcher.main(arguments, prog_name="dispatcher", standalone_mode=False)
        sys.stdout.flush()
    except Abort:
        return 130
    except NoArgsIsHelpError as error:
        error.show()
        return ExitCode.USAGE
    except BrokenPipeError:  # who read it has seen enough
        forget_stdout()
        return ExitCode.COMMIT_UNKNOWN if verb in CHANGING else ExitCode.NOT_SO
    except (ClickException, DispatcherError, OSError) as error:
        message, failure = _told(error, verb)
        message += _as_whom(message)
        _bound_last_message(verb, failure)
        _say(message)
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.filename is None:
            forget_stdout()
        return failure
    except Exception as error:
        if os.environ.get("DISPATCHER_TRACEBACK"):
            raise
        _bound_last_message(verb, ExitCode.NOT_SO)
        _tell_bug(error, verb)
        return ExitCode.NOT_SO
    return code or ExitCode.OK


def _tell_bug(error: Exception, verb: str | None) -> None:
    """Report a bug: of a service all of it, for who reads its journal."""
    if verb in SERVICES:
        import traceback  # noqa: PLC0415 - after a bug alone

        _write("".join(traceback.format_exception(error)))
    else:
        _say(f"{_where(error)}; a bug: DISPATCHER_TRACEBACK=1 shows all of it")


def _bound_last_message(verb: str | None, code: int) -> None:
    """Let a service exit with `code` also while its last write waits for the reader of stderr."""
    if verb in SERVICES:
        signal.signal(signal.SIGALRM, lambda *_: os._exit(code))
        signal.alarm(LAST_MESSAGE_WITHIN)


def _say(message: str) -> None:
    """Say it on stderr, if anybody hears it."""
    _write("\n".join(f"dispatcher: {line}" for line in message.splitlines()))


def _write(text: str) -> None:
    """Write the lines of an error to stderr, as such where that is systemd's journal."""
    with suppress(OSError):
        prefix = _priority() if os.environ.get("JOURNAL_STREAM") else ""
        for line in text.splitlines():
            click.echo(f"{prefix}{line}", err=True)


def _priority() -> str:
    """Return what an error's line begins with in the journal; "" if stderr leads elsewhere."""
    from dispatcher.logs import journald  # noqa: PLC0415 - for services, which rarely fail

    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):  # a stream in memory, or a closed one
        return ""
    return journald.PREFIX["error"] if journald.leads_to(descriptor, os.environ) else ""


def _as_whom(message: str) -> str:
    """Return the line to add where something was denied to the user that root became."""
    user = owner.became()
    if user is None or not any(
        os.strerror(denied).lower() in message.lower() for denied in _DENIED
    ):
        return ""
    return f"\nthis process became {user}, because {user.place} belongs to that user"


def _where(error: Exception) -> str:
    """Return what went wrong and the place in the code."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = trace and f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    return f"{type(error).__name__}: {error} ({place})"


def _told(
    error: ClickException | DispatcherError | OSError, verb: str | None = None
) -> tuple[str, int]:
    """Return what to say of a verb's error, and the exit code."""
    if isinstance(error, UsageError):
        path = " ".join(filter(None, ("dispatcher", verb)))
        if error.ctx is not None:
            path = error.ctx.command_path
        return f"{error.format_message().rstrip('.')} (see: {path} --help)", ExitCode.USAGE
    if isinstance(error, ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, DispatcherError):
        fitting = (code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        return str(error), next(fitting, ExitCode.NOT_SO)
    return _told_of_os(error, verb)


def _told_of_os(error: OSError, verb: str | None) -> tuple[str, int]:
    told = error.strerror or str(error)
    if error.filename is not None:
        told = f"{error.filename}: {told}"
        if isinstance(error, PermissionError) and (whose := owner.of_another(error.filename)):
            told += f"; {whose}"
        trouble = in_trouble(told, error.errno)
        return _told(trouble) if trouble else (told, ExitCode.NOT_SO)
    if error.errno in _FULL and verb in CHANGING:
        told = f"cannot write: {told}; look whether it was done before you repeat it"
        return told, ExitCode.COMMIT_UNKNOWN
    return f"cannot write: {told}" if error.errno in _FULL else told, ExitCode.NOT_SO
