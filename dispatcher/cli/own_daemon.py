"""The daemon of people without a service manager: started in the background, stopped, awaited."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import click

from dispatcher import control
from dispatcher.cli import render
from dispatcher.config.config import Config
from dispatcher.daemon_report import DaemonReport, ExecutorState
from dispatcher.errors import AlreadyHeld, DispatcherError, HostTrouble, cannot_write
from dispatcher.exit_codes import ExitCode
from dispatcher.host import background, files, locks, owner
from dispatcher.host.background import Child
from dispatcher.host.node import node_id
from dispatcher.logs.lean import without_rich
from dispatcher.quantities import signal_names
from dispatcher.times import instant

#: The log of a daemon in the background, in its state directory.
LOG = "daemon.log"

#: Seconds between two looks whether a daemon answers, and the most that it is waited for.
LOOK = 0.05
PATIENCE = 60.0

#: Seconds that the executor of a daemon that answers is waited for: it takes less than one.
EXECUTOR_PATIENCE = 5.0

#: Lines and bytes of the end of the log of a daemon that could not start.
MOST_LINES = 20
_MOST_BYTES = 1 << 16


def run_detached(config: Config, *, drain: bool) -> int:
    """Run the daemon in the background; return an exit code once it answers, or has ended.

    In the new process, return the daemon's own exit code. Raises `AlreadyHeld` if one runs.
    """
    if (running := report(config)) is not None:
        replaces = "dispatcher restart replaces it"
        raise AlreadyHeld(f"the daemon runs already (pid {running.pid}); {replaces}")
    node_id(config.state_dir)  # makes the directory
    log = config.state_dir / LOG
    try:
        child = background.fork(log)
    except OSError as error:
        raise cannot_write(f"cannot use {log}", error, "move away what is there") from error
    if child is None:
        with without_rich():  # imported here, not for the one that waits
            from dispatcher.daemon.duties import bound_log  # noqa: PLC0415
            from dispatcher.daemon.run import run  # noqa: PLC0415
        return run(config, drain=drain, onlooker=bound_log(log))
    try:
        with _end_of(child.pid) as end:
            return _await_answer(config, child, log, end)
    except KeyboardInterrupt:
        _print(f"it goes on starting (pid {child.pid}): dispatcher status")
        raise click.Abort from None


def report(config: Config) -> DaemonReport | None:
    """Return a running daemon's report; None if none runs. Raises `DispatcherError`.

    It is an error if one runs that does not answer, or that does not answer this user.
    """
    with _answers():
        if (found := control.report(config)) is not None:
            return found
    whose = owner.remedy_if_foreign(config.state_dir)
    if (why := whose or control.why_unreachable(config)) is not None:
        raise DispatcherError(why)
    return None


def stop(config: Config, running: DaemonReport, how: Literal["leave", "at_once"] | None) -> None:
    """Stop the running daemon and wait for its end; without a `how`, as configured."""
    if running.managed:
        raise DispatcherError(
            f"a service manager started this daemon (pid {running.pid}), and may start it again:"
            f" {_managers_command(config)}"
        )
    pid = locks.holder_of(config.state_dir / locks.DAEMON_LOCK)
    with _end_of(pid) as end:
        with _answers():
            answer = control.stop(config, how)
        if answer is None:
            return  # it has ended by itself
        if not answer["ok"]:
            raise DispatcherError(
                f"this daemon is of an earlier release, which knows no such request:"
                f" kill {running.pid}"
            )
        try:
            _await_end(config, end)
        except KeyboardInterrupt:
            _print("it goes on stopping: dispatcher status")
            raise click.Abort from None


def stopped(was: DaemonReport, *, leaves: bool) -> str:
    """Return that a daemon has stopped, and whether it `leaves` runs that go on."""
    runs = "its run goes on" if was.busy == 1 else f"its {was.busy} runs go on"
    return f"the daemon has stopped (pid {was.pid}){f'; {runs}' if leaves and was.busy else ''}"


def _managers_command(config: Config) -> str:
    """Return the command that stops or restarts the unit of a configuration, if it is known."""
    start = config.start_command()
    if start.startswith("systemctl"):
        return start.replace(" start ", " stop ") + " (or restart)"
    return "stop or restart it there"


def _await_end(config: Config, end: select.poll | None) -> None:
    with suppress(DispatcherError):  # it may be gone by now
        if (now := report(config)) is not None and now.ends_runs_in_s is not None and now.busy:
            waits = f"waits up to {now.ends_runs_in_s:.0f} s for its {now.busy} runs"
            _print(f"{waits}, then ends them, and they run again; --now ends them at once")
    if end is None:
        _print("it is in another pid namespace; dispatcher status shows when it has stopped")
    else:
        end.poll()


def _await_answer(config: Config, child: Child, log: Path, end: select.poll | None) -> int:
    give_up_at = instant() + PATIENCE
    while end is None or not end.poll(LOOK * 1000):
        with suppress(TimeoutError):
            if (found := control.report(config)) is not None and found.pid == child.pid:
                click.echo(f"the daemon runs: pid {child.pid}, log {render.plain(str(log))}")
                _await_executor(config, end)
                return ExitCode.OK
        if instant() >= give_up_at:
            raise HostTrouble(
                f"the daemon (pid {child.pid}) has not answered for {PATIENCE:.0f} s; see {log}"
            )
    code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    for line in _plain_lines(log, child.log_began)[-MOST_LINES:]:
        click.echo(render.plain(line), err=True)
    if code < 0:
        raise DispatcherError(f"{signal_names.name_of(-code)} ended the daemon; see {log}")
    return code


def _await_executor(config: Config, end: select.poll | None) -> None:
    """Wait until the executor greets its daemon, but not for long, and not longer than both live.

    A status would report the first moments as degraded.
    """
    give_up_at = instant() + EXECUTOR_PATIENCE
    while instant() < give_up_at and (end is None or not end.poll(LOOK * 1000)):
        with suppress(TimeoutError):
            found = control.report(config)
            if found is None or found.executor is not ExecutorState.WAITING:
                return


def _plain_lines(log: Path, began: int) -> list[str]:
    """Return the lines since an offset that are not records: messages for people."""
    with suppress(OSError), files.opened(log) as file:
        file.seek(max(began, os.fstat(file.fileno()).st_size - _MOST_BYTES))
        lines = file.read(_MOST_BYTES).decode(errors="replace").splitlines()
        return [line for line in lines if not line.startswith("{")]
    return []


@contextmanager
def _end_of(pid: int | None) -> Iterator[select.poll | None]:
    """Give a poll object that is ready when a process ends; None for an invisible process."""
    try:
        process = None if pid is None else os.pidfd_open(pid)
    except ProcessLookupError:
        process = None
    if process is None:
        yield None
        return
    end = select.poll()
    end.register(process, select.POLLIN)
    try:
        yield end
    finally:
        os.close(process)


@contextmanager
def _answers() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise DispatcherError("the daemon does not answer; see: dispatcher status") from None


def _print(text: str) -> None:
    click.echo(f"dispatcher: {text}", err=True)
