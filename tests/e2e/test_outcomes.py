"""Outcomes of real processes, and their reports."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e.helpers import expect_settled, listed, python, shell, submit_all
from tests.e2e.world import World


class End(NamedTuple):
    """How a task with one attempt ended, in the words of `show`."""

    state: str
    outcome: str
    exit_code: int | None
    signal: int | None
    attempts_used: int
    reason: str


#: Scripts, and what becomes of them.
EXITS: Mapping[str, End] = {
    "exit 0": End("succeeded", "succeeded", 0, None, 0, "exit code 0"),
    "exit 1": End("failed", "failed", 1, None, 1, "exit code 1 (attempt 1 of 1)"),
    "exit 3": End("failed", "failed", 3, None, 1, "exit code 3 (attempt 1 of 1)"),
    "exit 79": End("failed", "failed", 79, None, 1, "exit code 79 (attempt 1 of 1)"),
    "exit 130": End("failed", "failed", 130, None, 1, "exit code 130 (attempt 1 of 1)"),
    "exit 143": End("failed", "failed", 143, None, 1, "exit code 143 (attempt 1 of 1)"),
    "exit 75": End(
        "scheduled", "deferred", 75, None, 0, "cool-down after deferral 1 of 100: exit code 75"
    ),
    "exit 78": End("held", "held", 78, None, 0, "exit code 78"),
    "kill -TERM $$": End("failed", "failed", None, 15, 1, "killed by SIGTERM (attempt 1 of 1)"),
    "kill -KILL $$": End("failed", "failed", None, 9, 1, "killed by SIGKILL (attempt 1 of 1)"),
    "ulimit -c 0; kill -SEGV $$": End(
        "failed", "failed", None, 11, 1, "killed by SIGSEGV (attempt 1 of 1)"
    ),
    "echo 'HTTP 429 unauthorized author, exit code 75'; exit 1": End(
        "failed", "failed", 1, None, 1, "exit code 1 (attempt 1 of 1)"
    ),
}


def test_r32_r36_exit_codes_and_signals_give_exactly_their_outcomes(world: World) -> None:
    world.configure(retry={"cooldown": "1h"})
    ids = submit_all(world, *({"command": shell(s), "max_attempts": 1} for s in EXITS))

    _run_until_settled(world, ids)

    found = {}
    for script, task_id in zip(EXITS, ids, strict=True):
        task = world.show(task_id)
        (run,) = task["runs"]
        codes = (run["outcome"], run["exit_code"], run["signal"])
        found[script] = End(task["state"], *codes, task["attempts_used"], task["reason"])
    assert EXITS == found


def test_r27_the_reason_of_a_command_that_cannot_be_started_names_the_file_and_the_cause(
    world: World,
) -> None:
    here = world.directory
    cases = _unstartable(here)
    ids = submit_all(world, *({"max_attempts": 1, **task} for task, _ in cases))

    with world.daemon() as daemon:
        for task_id in ids:
            daemon.expect("run.settled", task_id=task_id, outcome="spawn_failed")
        assert [] == daemon.executor().children()
        assert 0 == world.cli("status", "--json").json["node"]["busy"]

    reasons = [task["reason"] for task in listed(world).values()]
    assert [(text, True) for _, text in cases] == [
        (text, text in reason) for (_, text), reason in zip(cases, reasons, strict=True)
    ], reasons
    (run,) = world.show(ids[0])["runs"]
    assert (reasons[0].removesuffix(" (attempt 1 of 1)"), None, None, None) == tuple(
        run[key] for key in ("error", "pid", "exit_code", "signal")
    )


def _unstartable(here: Path) -> list[tuple[dict[str, Any], str]]:
    """Return tasks and the expected reason of each; the files they need are made."""
    (here / "plain").write_text("echo hello\n")
    (here / "garbage").write_bytes(b"\0\1garbage")
    (here / "script").write_text("#!/no/such/interpreter -x\n")
    for name in ("garbage", "script"):
        (here / name).chmod(0o755)
    return [
        ({"command": ["nonesuch"], "env": {"PATH": "/a:/b"}},
         "no such program: 'nonesuch' (not in the PATH of its submitter or profile)"),
        ({"command": ["/no/such/program"]}, "no such program: /no/such/program"),
        ({"command": ["plain/program"]}, f"no such program: {here}/plain/program"),
        ({"command": ["./script"]},
         f"missing interpreter: {here}/script needs /no/such/interpreter, which does not exist"),
        ({"command": ["true"], "cwd": f"{here}/nowhere"},
         f"no such working directory: {here}/nowhere"),
        ({"command": ["true"], "cwd": f"{here}/plain"},
         f"the working directory is not a directory: {here}/plain"),
        ({"command": [f"{here}/plain"]}, f"not executable: {here}/plain"),
        ({"command": ["plain"], "env": {"PATH": str(here)}},
         "not executable: 'plain' (in the PATH of its submitter or profile)"),
        ({"command": [str(here)]}, f"not a program but a directory: {here}"),
        ({"command": ["./garbage"]},
         f"not in an executable format (a script needs a #! line): {here}/garbage"),
    ]  # fmt: skip


def test_r29_a_worker_that_dies_at_once_leaves_its_traceback_where_show_finds_it(
    world: World,
) -> None:
    task_id = world.submit(*python("raise RuntimeError('no license')"), max_attempts=1)

    _run_until_settled(world, [task_id])

    printed = world.cli("logs", task_id).stdout
    assert printed.startswith("Traceback (most recent call last)")
    assert printed.endswith("RuntimeError: no license\n")
    (world.state_dir / "output").rename(world.directory / "cleaned up")
    (run,) = world.show(task_id)["runs"]
    assert ("failed", 1, printed) == (run["outcome"], run["exit_code"], run["output_tail"])
    assert "RuntimeError: no license" in world.cli("show", task_id).stdout


def test_a_failed_attempt_is_repeated_after_its_back_off_until_the_attempts_are_used_up(
    world: World,
) -> None:
    task_id = world.submit(*shell("exit $((10 + DISPATCHER_ATTEMPT))"), max_attempts=3)

    with world.daemon("--drain") as daemon:
        assert 0 == daemon.wait()

    task = world.show(task_id)
    assert ("failed", 3, 3) == (task["state"], task["attempts_used"], task["fence"])
    assert "exit code 13 (attempt 3 of 3)" == task["reason"]
    assert [(1, 11), (2, 12), (3, 13)] == [(r["attempt"], r["exit_code"]) for r in task["runs"]]


def test_r24_every_attempt_gets_the_whole_time_however_short_the_lease(world: World) -> None:
    world.configure(leases={"ttl": "200ms", "kill_grace": "10s"})
    script = """
        [ $DISPATCHER_ATTEMPT = 1 ] && exit 1
        trap 'sleep 0.3; echo cleaned up; exit 3' TERM
        echo > second
        while :; do sleep 0.01; done
    """
    with world.daemon() as daemon:
        task_id = world.submit(*shell(script), max_attempts=2)
        daemon.expect("run.started", task_id=task_id, attempt=2)
        world.until(task_id, "running")
        world.cli("cancel", task_id)
        daemon.expect("run.settled", task_id=task_id, outcome="cancelled")

    task = world.show(task_id)
    assert ["failed", "cancelled"] == [run["outcome"] for run in task["runs"]]
    assert "cleaned up\n" in task["runs"][1]["output_tail"]


def _run_until_settled(world: World, ids: list[int]) -> None:
    with world.daemon() as daemon:
        for task_id in ids:
            daemon.expect("run.settled", task_id=task_id)


def test_leftovers_and_truncated_output_of_a_run_stay_known(world: World) -> None:
    script = "sleep 1000 & echo before; sleep 0.5; echo note > /dev/stderr; sleep 0.5; exit 1"
    with world.daemon() as daemon:
        task_id = world.submit(*shell(script), max_attempts=1)
        expect_settled(daemon, [task_id], outcome="failed")

    (run,) = world.show(task_id)["runs"]
    assert (["sleep"], len("before\n")) == (run["leftovers"], run["output_truncated"])
    shown = world.cli("show", task_id).stdout
    assert "left processes behind, which were ended: sleep" in shown
    assert "its output was truncated; at least 7 bytes are lost" in shown
    assert "its output was truncated" in world.cli("logs", task_id).stderr
    assert (
        "its last run left processes behind, which were ended: sleep"
        in world.cli("why", task_id).stdout
    )


def test_logs_of_an_output_that_somebody_emptied_show_the_end_that_was_kept(world: World) -> None:
    task_id = world.submit("echo", "hello")
    world.cli("run", "--drain")
    path = world.show(task_id)["runs"][0]["output_path"]
    os.truncate(path, 0)

    logs = world.cli("logs", task_id)

    message = f"dispatcher: {path} was emptied or replaced by another process; this was its end:\n"
    assert ("hello\n", message) == (logs.stdout, logs.stderr)


def test_bytes_dropped_by_the_budget_are_in_the_json_of_their_run(world: World) -> None:
    world.configure(output={"run_budget": "64KiB"})
    task_id = world.submit(*shell("yes | head -c 1000000"))
    world.cli("run", "--drain")

    (run,) = world.show(task_id)["runs"]

    assert run["output_dropped"] > 0
    assert f"{run['output_dropped']} bytes of its output were dropped" in (
        world.cli("show", task_id).stdout
    )
