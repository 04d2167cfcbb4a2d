"""The command line: a group of verbs, each imported when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.exceptions import Abort, ClickException, NoArgsIsHelpError, UsageError

from dispatcher.cli import failures
from dispatcher.cli.options import config_option, examples
from dispatcher.cli.printing import forget_stdout
from dispatcher.cli.verb_list import GROUPS, VERBS
from dispatcher.errors import DispatcherError
from dispatcher.exit_codes import ExitCode
from dispatcher.wire import RELEASE

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class VerbGroup(click.Group):
    """The verbs, each imported when it is called: a submit imports nothing of the daemon's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the help."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"dispatcher.cli.verbs.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without importing them."""
        del ctx
        wide = max(map(len, VERBS))
        for heading, verbs in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:{wide}}", verb.help) for name, verb in verbs.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the verbs that begin so, without importing them, and this command's options."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - for the Tab key alone

        fitting = (name for name in VERBS if name.startswith(incomplete))
        verbs = [CompletionItem(name, help=VERBS[name].help) for name in fitting]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb. Raises a usage error that names the nearest one."""
        known = ctx.resilient_parsing or not args or args[0] in VERBS
        if not known and not args[0].startswith("-"):
            from dispatcher.cli.foreign_verbs import meant  # noqa: PLC0415 - for mistakes alone

            raise UsageError(f"no verb {args[0]!r}{meant(args[0])}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=VerbGroup,
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

    Exit codes: 0 ok; 1 refused, or not found; 2 usage; 69 the store is unavailable, nothing was
    written; 74 written, or perhaps written: check before you repeat it; 75 another process holds
    it, or the host is in trouble: try again; 78 the configuration or the store cannot be used; 79
    the lease is lost; 130 interrupted.
    """


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; failures are printed on stderr."""
    _prepare_streams()
    verb = next((word for word in arguments if word in VERBS), None)
    try:
        code: int | None = dispatcher.main(arguments, prog_name="dispatcher", standalone_mode=False)
        sys.stdout.flush()
    except Abort:
        return 130
    except NoArgsIsHelpError as error:
        error.show()
        return ExitCode.USAGE
    except BrokenPipeError:  # the reader has seen enough
        forget_stdout()
        return ExitCode.COMMIT_UNKNOWN if failures.changes(verb) else ExitCode.REFUSED
    except (ClickException, DispatcherError, OSError) as error:
        return failures.report(error, verb)
    except Exception as error:
        if os.environ.get("DISPATCHER_TRACEBACK"):
            raise
        return failures.report_bug(error, verb)
    return code or ExitCode.OK


def _prepare_streams() -> None:
    if sys.stdin is None:  # closed: it holds nothing
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - as long as we live
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: its text is not wanted
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - as long as we live
        # Names and outputs of others may hold anything; a message must not fail on them.
        getattr(sys, name).reconfigure(errors="backslashreplace")
