"""What a daemon says of itself when `status` asks, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from dispatcher import wire
from dispatcher.executor_api import Processes
from dispatcher.supervisor.turn import Memory
from dispatcher.times import Instant


def of_memory(memory: Memory, at: Instant) -> Mapping[str, object]:
    """Return how its slots are used, and when what last happened."""
    figures, pause = memory.figures, memory.pause
    return {
        "node": memory.settings.node_id,
        "hostname": memory.settings.hostname,
        "release": wire.RELEASE,
        "slots": memory.settings.slots,
        "busy": len(memory.live),
        "unkillable": sum(live.unkillable is not None for live in memory.live.values()),
        "unkillable_because": {
            str(live.task_id): live.unkillable
            for live in memory.live.values()
            if live.unkillable is not None
        },
        "unsignalled_because": {
            str(live.task_id): live.unsignalled
            for live in memory.live.values()
            if live.unsignalled is not None and live.unkillable is None
        },
        "unknown_runs": len(memory.surplus),
        "stranded": [asdict(one) for one in memory.stranded.values()],
        "workers_shut_out": memory.shut,
        "paused": pause.reason,
        "paused_for_s": round(max(0.0, pause.until - at), 3),
        "bears": pause.borne,
        "bears_because": pause.fault if pause.borne is not None else None,
        "reap_age_s": since(figures.reaped_at, at),
        "claim_age_s": since(figures.claimed_at, at),
        "start_age_s": since(figures.started_at, at),
        "uptime_s": since(figures.began_at, at),
        "figures": figures.report(),
    }


def of_executor(
    hello: wire.Hello | None, processes: Processes, at: Instant
) -> Mapping[str, object]:
    """Return how its executor is: the one that greeted, or none."""
    stranger = processes.incompatible
    if stranger is not None:
        state = "incompatible"
    elif processes.silent or (hello is not None and not processes.answering):
        state = "silent"
    else:
        state = "waiting" if hello is None else "connected"
    return {
        "executor": state,
        "executor_pid": hello and hello.pid,
        "executor_release": hello and hello.release,
        "executor_marks": hello and hello.marks,
        "executor_heard_s": hello and since(processes.heard_at, at),
        "executor_error": processes.last_error,
        "executor_incompatible": stranger
        and {"pid": stranger.pid, "version": stranger.version, "wanted": wire.VERSION},
    }


def since(moment: Instant | None, at: Instant) -> float | None:
    """Return the seconds that have passed; None: it never happened."""
    return None if moment is None else round(at - moment, 3)
