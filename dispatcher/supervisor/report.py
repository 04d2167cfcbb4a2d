"""The daemon's report about itself, as `status` shows it."""

import os

from msgspec.structs import replace

from dispatcher import wire
from dispatcher.daemon_report import DaemonReport, ExecutorState, IncompatibleExecutor
from dispatcher.executor_api import ExecutorApi
from dispatcher.supervisor.turn import Memory
from dispatcher.times import Instant


def daemon_report(memory: Memory, executor: ExecutorApi, at: Instant) -> DaemonReport:
    """Return what memory and executor show at this instant."""
    figures, pause, lives = memory.figures, memory.pause, memory.live.values()
    unkillable = {one.task_id: one.unkillable for one in lives if one.unkillable is not None}
    unsignalled = {one.task_id: one.unsignalled for one in lives if one.unsignalled is not None}
    report = DaemonReport(
        pid=os.getpid(),
        node=memory.settings.node_id,
        hostname=memory.settings.hostname,
        release=wire.RELEASE,
        slots=memory.settings.slots,
        busy=len(lives),
        unkillable=len(unkillable),
        unkillable_because=unkillable,
        unsignalled_because={
            task_id: why for task_id, why in unsignalled.items() if task_id not in unkillable
        },
        unknown_runs=len(memory.surplus),
        stranded=tuple(memory.stranded.values()),
        workers_shut_out=memory.workers_unreachable,
        claims_postponed=memory.claims_postponed,
        rows_locked=memory.locked,
        paused=pause.reason,
        paused_for_s=round(max(0.0, pause.until - at), 3),
        bears=pause.capacity,
        bears_because=pause.fault if pause.capacity is not None else None,
        reap_age_s=age(figures.reaped_at, at),
        claim_age_s=age(figures.claimed_at, at),
        start_age_s=age(figures.started_at, at),
        uptime_s=age(figures.began_at, at),
        figures=figures.report(),
        executor=executor_state(memory.hello, executor),
        executor_error=executor.last_error,
        stopping=memory.stopping.how,
        ends_runs_in_s=memory.stopping.left(at),
    )
    return _with_executor(report, memory.hello, executor, at)


def _with_executor(
    report: DaemonReport, hello: wire.Hello | None, executor: ExecutorApi, at: Instant
) -> DaemonReport:
    if hello is not None:
        report = replace(
            report,
            executor_pid=hello.pid,
            executor_release=hello.release,
            executor_marks=hello.marks,
            executor_answer_age_s=age(executor.last_read_at, at),
        )
    if (other := executor.incompatible) is not None:
        unfit = IncompatibleExecutor(pid=other.pid, version=other.version, wanted=wire.VERSION)
        report = replace(report, executor_incompatible=unfit)
    return report


def executor_state(hello: wire.Hello | None, executor: ExecutorApi) -> ExecutorState:
    if executor.incompatible is not None:
        return ExecutorState.INCOMPATIBLE
    if executor.silent or (hello is not None and not executor.answering):
        return ExecutorState.SILENT
    return ExecutorState.WAITING if hello is None else ExecutorState.CONNECTED


def age(moment: Instant | None, at: Instant) -> float | None:
    """Return the seconds since a moment; None: it never came."""
    return None if moment is None else round(at - moment, 3)
