"""The checks of daemon and executor: answers, releases, descriptors, stuck runs."""

import resource
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from dispatcher import control, wire
from dispatcher.config.config import Config
from dispatcher.daemon.executor_client import PING_INTERVAL
from dispatcher.daemon_report import DaemonReport, ExecutorState
from dispatcher.doctor.finding import Finding, bad, from_error, ok, warning
from dispatcher.host import locks

#: Descriptors of the executor itself, and of each run: pidfd, notify socket, and those of a start.
OWN_DESCRIPTORS = 64
DESCRIPTORS_PER_RUN = 4

#: Runs that are stranded or could not be ended that are named one by one.
MOST_STRANDED = 5

#: Seconds by which a process's start may seem early: it is counted from the boot in whole seconds.
BOOT_ROUNDING = 2.0


#: Seconds that an executor may take to answer a ping before a warning.
ANSWERED_WITHIN = 1.0


def how_to_restart(config: Config, *, managed: bool = False) -> str:
    """Return how to restart the daemon so that no work is lost: where a SIGTERM drains, runs end.

    `managed`: a service manager started it, and sends that signal.
    """
    if config.on_stop == "leave":
        return "restart it: workers go on"
    if not managed:
        restart = config.start_command().replace(" run --detach", " restart")
        return f"{restart}: workers go on"
    return (
        f"restart it when nothing runs: its stop waits up to {config.daemon.drain_timeout_ms} for"
        " its runs and ends the rest, which start anew; so that workers go on, set [daemon] on_stop"
        ' = "leave" first, and: dispatcher reload'
    )


def _how_to_kill(config: Config) -> str:
    """Return how to replace a daemon that answers no signal; no run ends for a SIGKILL."""
    if config.on_stop == "leave":
        return "restart it: workers go on"
    pid = locks.holder_of(config.state_dir / locks.DAEMON_LOCK) or "PID"
    return f"kill -KILL {pid}, then {config.start_command()}: workers go on"


def processes(config: Config) -> Iterator[Finding]:
    """Check the daemon's report, also of the executor: a second connection would end the first."""
    try:
        report = control.report(config)
    except control.ForeignDaemon as error:
        yield from_error("daemon", error)
        return
    except TimeoutError:
        remedy = f"see its log; if its loop hangs, {_how_to_kill(config)}"
        yield bad("daemon", "one runs and does not answer", remedy)
        return
    if report is None and (why := control.why_unreachable(config)) is not None:
        text, _, remedy = why.partition("; ")
        yield warning("daemon", text, remedy)
        yield ok("executor", "not checked: it answers only a daemon")
        return
    if report is None:
        yield warning("daemon", "none runs", config.start_command())
        yield ok("executor", "not checked: it answers only a daemon")
        return
    restart = how_to_restart(config, managed=report.managed)
    yield check_release("daemon", report.pid, report.release, restart)
    yield from check_executor(config, report)
    pid = report.executor_pid or report.pid
    yield from check_descriptors(pid, report.slots)
    yield from check_marks(config, report)
    yield from check_pause(report)
    yield from check_unended(report)
    yield from check_stranded(report)
    if (locked := report.rows_locked) is not None:
        remedy = "let it commit, or end it: SELECT pg_terminate_backend(PID)"
        yield warning("locked rows", locked.describe(), remedy)
    if (shut := report.workers_shut_out) is not None:
        text = f"workers cannot connect, and their leases wait: {shut}"
        yield bad(
            "worker sockets", text, "make the runtime directory writable; the sockets come back"
        )


def _how_to_replace_executor(config: Config) -> str:
    replace = "restart it" if config.executor.mode == "external" else "end it"
    then = "" if config.executor.mode == "external" else "; the daemon starts another"
    return f"{replace} when nothing runs: its end ends all runs{then}"


def check_executor(config: Config, report: DaemonReport) -> Iterator[Finding]:
    """Check that the executor answers, and runs a release that fits."""
    pid, answered_ago = report.executor_pid, report.executor_answer_age_s
    restart = _how_to_replace_executor(config)
    if (other := report.executor_incompatible) is not None:
        text = f"pid {other.pid} speaks version {other.version}, {other.wanted} is wanted"
        yield bad("executor", text, restart)
    elif report.executor is ExecutorState.WAITING:
        text = "none is there, and the daemon waits for it"
        remedy = f"see {config.state_dir}/executor.log: the daemon starts one again and again"
        if config.executor.mode == "external":
            remedy = f"start it: {config.start_command('dispatcher-executor')}"
        elif (last_error := report.executor_error) is not None:
            why, _, what = last_error.partition("; ")
            text, remedy = f"none stays: {why}", what or remedy
        yield bad("executor", text, remedy)
    elif pid is None:
        text = "one holds the daemon's connection, and has not greeted it"
        yield bad("executor", text, _look_at(f"$(cat {config.state_dir}/executor.lock)"))
    elif report.executor is ExecutorState.SILENT:
        text = f"pid {pid} is silent: it answered {answered_ago or 0:.0f} s ago"
        yield bad("executor", text, _look_at(pid))
    elif answered_ago is not None and answered_ago > PING_INTERVAL + ANSWERED_WITHIN:
        text = (
            f"pid {pid} answered {answered_ago:.0f} s ago, and is pinged each {PING_INTERVAL:g} s"
        )
        yield warning("executor", text, _look_at(pid))
    else:
        yield check_release("executor", pid, report.executor_release, restart)


def _look_at(pid: int | str) -> str:
    return f"see whether it is stopped, or waits for a disk: ps -o pid,stat,wchan {pid}"


def check_release(
    check: str, pid: int, release: str | None, remedy: str, installed: str = wire.RELEASE
) -> Finding:
    """Check that a process runs the code that is installed now."""
    if release != installed:
        text = f"pid {pid} answers and runs release {release or 'of before'}, not {installed}"
        return warning(check, text, remedy)
    if started_before_install(pid):
        return warning(check, f"pid {pid} answers and runs an earlier installation", remedy)
    return ok(check, f"pid {pid} answers, release {release}")


def started_before_install(pid: int, started: Callable[[int], float] | None = None) -> bool:
    """Return whether a process is older than this package's files; False if unknown."""
    import psutil  # noqa: PLC0415 - no other check needs it

    installed = Path(wire.__file__).stat().st_ctime
    try:
        return (started or _create_time)(pid) < installed - BOOT_ROUNDING
    except psutil.Error:
        return False


def _create_time(pid: int) -> float:
    import psutil  # noqa: PLC0415

    return float(psutil.Process(pid).create_time())


def check_descriptors(pid: int, slots: int) -> Iterator[Finding]:
    """Check that the executor may open the descriptors of so many slots."""
    needed = OWN_DESCRIPTORS + DESCRIPTORS_PER_RUN * slots
    try:
        _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    except OSError:  # another user's process
        return
    text = f"{'no limit' if most < 0 else most} for the executor, {needed} for {slots} slots"
    if 0 <= most < needed:
        yield bad("descriptors", text, "raise LimitNOFILE= or `ulimit -Hn`, or lower [node] slots")
    else:
        yield ok("descriptors", text)


def check_pause(report: DaemonReport) -> Iterator[Finding]:
    """Report a node that cannot start workers, and claims nothing meanwhile."""
    if (reason := report.paused) is not None:
        text = f"workers cannot be started, and nothing is claimed: {reason}"
        yield bad("node", text, "fix that; the node tries again within a minute")


def check_unended(report: DaemonReport) -> Iterator[Finding]:
    """Report runs that could not be ended, and keep their slots."""
    unended = {**report.unsignalled_because, **report.unkillable_because}
    for task_id, why in islice(unended.items(), MOST_STRANDED):
        remedy = f"end them as their user, or see what they wait for: dispatcher why {task_id}"
        yield bad("unended run", f"task {task_id}: {why}", remedy)
    if len(unended) > MOST_STRANDED:
        text = f"{len(unended) - MOST_STRANDED} more runs could not be ended"
        yield bad("unended run", text, "dispatcher status names them")


def check_stranded(report: DaemonReport) -> Iterator[Finding]:
    """Report open runs that no executor knows."""
    stranded = report.stranded
    for one in stranded[:MOST_STRANDED]:
        found = one.describe(f"task {one.task_id}", awaited=not report.is_connected)
        text, _, remedy = found.partition("; ")
        yield warning("stranded run", text, remedy or f"dispatcher why {one.task_id}")
    if len(stranded) > MOST_STRANDED:
        text = f"{len(stranded) - MOST_STRANDED} more runs that no executor knows"
        yield warning("stranded run", text, "dispatcher status names them")


def check_marks(config: Config, report: DaemonReport) -> Iterator[Finding]:
    marks = report.executor_marks
    if marks:
        yield ok("marks", "the processes of each run carry its mark")
    elif marks is not None:
        text = "runs have no mark: escaped processes are found by their environment or output alone"
        older = f"its release marks no runs: {_how_to_replace_executor(config)}"
        same = report.executor_release == wire.RELEASE
        yield warning(
            "marks", text, "see why: mark.unavailable in the executor's log" if same else older
        )
