"""The two units under twenty workers: restarts, kills, hangs, shutdowns, crashes."""

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic

import pytest

from tests.eventually import eventually
from tests.system.booted import Machine
from tests.system.crew import KILL_GRACE, SIZE, Crew
from tests.system.test_service import FILE, UNITS, configure, serve

ROUNDS = 5

#: Seconds of silence after which systemd ends a unit here, where it is to end one that hangs: more
#: than a busy host keeps a loop waiting.
HANG = 10

#: Seconds of an interval that a unit does not wait for, and of which a third is past any doubt.
LONG = 120


def report(machine: Machine, what: str) -> None:
    """Print a figure, which `make test-system` shows."""
    version = machine.systemctl("--version").split()[1]
    print(f"systemd {version}: {what}")  # noqa: T201


def watchdog(machine: Machine, seconds: int, *units: str) -> None:
    for unit in units:
        drop_in = machine.path(f"/run/systemd/system/{unit}.service.d/watchdog.conf")
        drop_in.parent.mkdir(parents=True, exist_ok=True)
        drop_in.write_text(f"[Service]\nWatchdogSec={seconds}\n")
    machine.systemctl("daemon-reload")


def shown(machine: Machine, unit: str, *names: str) -> list[str]:
    lines = machine.systemctl("show", unit, "--property", ",".join(names)).splitlines()
    values = dict(line.partition("=")[::2] for line in lines)
    return [values[name] for name in names]


def readiness(machine: Machine, unit: str) -> float:
    """Return the seconds from its start to its readiness, by systemd's own stamps."""
    stamps = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    started, ready = map(int, shown(machine, unit, *stamps))
    return (ready - started) / 1e6


@pytest.mark.parametrize("seconds", [LONG, 0])
def test_r60_a_unit_with_nothing_to_do_is_ready_before_its_watchdog_expires(
    machine: Machine, seconds: int
) -> None:
    serve(machine)
    watchdog(machine, seconds, *UNITS)

    for unit in UNITS:
        machine.systemctl("restart", unit)  # which comes back when it is ready
        took = readiness(machine, unit)
        report(machine, f"{unit} READY {took:.3f} s after its start (WatchdogSec={seconds})")
        assert 0 <= took < LONG / 3


def restarted(machine: Machine, unit: str) -> None:
    machine.systemctl("restart", unit)


def come_back(machine: Machine, unit: str, harm: Callable[[], object]) -> None:
    """Do harm to a unit, and wait until systemd has it up again."""
    before = shown(machine, unit, "InvocationID")
    harm()

    def probe() -> None:
        state, *now = shown(machine, unit, "ActiveState", "InvocationID")
        assert "active" == state
        assert before != now

    eventually(probe, every=0.2)


def signalled(machine: Machine, unit: str, signal: str) -> None:
    harm = partial(machine.systemctl, "kill", "--kill-who=main", f"--signal={signal}", unit)
    come_back(machine, unit, harm)


def in_rounds(crew: Crew, unit: str, what: str, once: Callable[[], object]) -> None:
    """Do it to a unit with all at work, each time."""
    began = monotonic()
    for _ in range(ROUNDS):
        once()
        crew.expect_at_work()
    report(crew.machine, f"{ROUNDS} {what} of {unit}: {monotonic() - began:.1f} s")


def disturb(crew: Crew, unit: str) -> None:
    machine = crew.machine
    in_rounds(crew, unit, "restarts", partial(restarted, machine, unit))
    in_rounds(crew, unit, "kills", partial(signalled, machine, unit, "KILL"))
    watchdog(machine, HANG, unit)
    come_back(machine, unit, partial(restarted, machine, unit))  # with that watchdog
    crew.expect_at_work()
    in_rounds(crew, unit, "hangs", partial(signalled, machine, unit, "STOP"))
    lines = machine.run("journalctl", "--unit", unit, "--output=cat", "_PID=1").stdout
    assert ROUNDS <= lines.count("Watchdog timeout"), lines


def test_r61_no_run_is_touched_whatever_happens_to_the_daemon(machine: Machine) -> None:
    crew = Crew.employ(machine)

    disturb(crew, "dispatcher")
    configure(machine, f"slots = {SIZE}", f"slots = {SIZE + 1}")
    machine.systemctl("reload", "dispatcher")
    configure(machine, f"slots = {SIZE + 1}", "slots = 'many'")
    machine.systemctl("reload", "dispatcher", exits=1)
    configure(machine, "slots = 'many'", f"slots = {SIZE}")

    crew.expect_at_work({1})
    crew.expect_outcomes(lambda before: not before)


def test_r61_each_run_is_settled_and_repeated_whatever_happens_to_the_executor(
    machine: Machine,
) -> None:
    crew = Crew.employ(machine)

    disturb(crew, "dispatcher-executor")

    def fits(before: Sequence[str]) -> bool:
        """Restarts release; kills and hangs orphan, one more wherever the host was too slow."""
        stopped = ["released"] * ROUNDS
        killed = ["orphaned"] * ROUNDS
        hung = ["orphaned"] * (len(before) - 2 * ROUNDS - 1)
        return [*stopped, *killed, "released", *hung] == before and len(hung) >= ROUNDS

    crew.expect_outcomes(fits)


def test_r61_a_power_off_settles_every_run_and_the_next_boot_goes_on(machine: Machine) -> None:
    crew = Crew.employ(machine)
    machine.systemctl("disable", *UNITS)  # so that the next boot changes nothing

    began = monotonic()
    machine.power_off()
    took = monotonic() - began
    machine.boot()

    report(machine, f"powered off in {took:.2f} s with {SIZE} workers, kill_grace {KILL_GRACE} s")
    outcomes = {task: [run["outcome"] for run in runs] for task, runs in crew.runs().items()}
    assert {task: ["released"] for task in crew.kinds} == outcomes
    machine.systemctl("start", *UNITS)
    crew.expect_at_work({2})
    crew.expect_outcomes(lambda before: before == ["released"])


def test_r61_after_a_crash_the_runs_of_the_boot_before_are_settled_at_once(
    machine: Machine,
) -> None:
    """Their leases last for an hour yet."""
    for unit in UNITS:  # a /proc of its own has the container host's boot id, with systemd 252
        drop_in = machine.path(f"/etc/systemd/system/{unit}.service.d/proc.conf")
        drop_in.parent.mkdir(parents=True, exist_ok=True)
        drop_in.write_text("[Service]\nProtectProc=default\n")
    crew = Crew.employ(machine)
    boot = machine.run("cat", "/proc/sys/kernel/random/boot_id").stdout

    machine.pull_the_plug()
    machine.boot()

    assert boot != machine.run("cat", "/proc/sys/kernel/random/boot_id").stdout
    crew.expect_at_work({2})
    crew.expect_outcomes(lambda before: before == ["orphaned"])


def test_r59_a_unit_that_found_another_daemon_takes_over_when_that_one_is_gone(
    machine: Machine,
) -> None:
    serve(machine)
    machine.systemctl("stop", "dispatcher")
    by_hand = ("--property=Type=notify", "--property=User=dispatcher", "--unit=by-hand")
    run = ("dispatcher", "run", "--config", FILE)
    machine.run("systemd-run", "--quiet", *by_hand, *run)

    machine.systemctl("start", "--no-block", "dispatcher")
    eventually(lambda: expect_tries(machine), every=0.2)
    machine.systemctl("kill", "--signal=KILL", "by-hand")

    def taken_over() -> None:
        assert ["active"] == shown(machine, "dispatcher", "ActiveState")

    eventually(taken_over, every=0.2)
    machine.run("dispatcher", "submit", "--wait", "--", "true", user="dispatcher")


def expect_tries(machine: Machine) -> None:
    (tries,) = shown(machine, "dispatcher", "NRestarts")
    assert 2 <= int(tries)
