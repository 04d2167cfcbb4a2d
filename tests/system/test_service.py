"""The service on a host that booted: installed by its verb, started, reloaded, shut down."""

import json
from functools import partial
from typing import Any

from tests.eventually import eventually
from tests.system.booted import Machine

UNITS = ("dispatcher-executor", "dispatcher")

FILE = "/etc/dispatcher/dispatcher.toml"

#: Declares to its daemon on SIGTERM, and ends when it has an answer: accepted, or that its
#: claim is over, as the daemon has just written that the run is ended.
SPEAKS_ON_SIGTERM = """
import signal, time
from worker_stub import Refused, Worker
def on_sigterm(*_):
    raise SystemExit
signal.signal(signal.SIGTERM, on_sigterm)
with Worker() as worker:
    print("up", flush=True)
    try:
        while True:
            time.sleep(1)
    except SystemExit:
        try:
            worker.succeed({"word": "goodbye"})
        except Refused:
            pass
        print("answered", flush=True)
"""


def dispatcher(machine: Machine, *words: object, exits: int = 0) -> Any:
    """Run a verb as the service's user; return what it prints, which is JSON."""
    printed = machine.run("dispatcher", *map(str, words), user="dispatcher", exits=exits).stdout
    return json.loads(printed) if printed.strip() else None


def configure(machine: Machine, old: str, new: str, file: str = FILE) -> None:
    path = machine.path(file)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def serve(machine: Machine) -> None:
    """Install the service for any command, and start it."""
    machine.run("dispatcher", "install-service")
    configure(machine, "allow_commands = false", "allow_commands = true")
    machine.systemctl("daemon-reload")
    machine.systemctl("enable", "--now", *UNITS)


def test_r88_an_installed_service_runs_tasks_and_is_taken_back_whole(machine: Machine) -> None:
    serve(machine)

    task_id = dispatcher(machine, "submit", "--wait", "--", "true")
    assert "succeeded" == dispatcher(machine, "show", task_id, "--json")["state"]
    found = dispatcher(machine, "doctor", "--json")
    assert [] == [look for look in found if look["level"] == "bad"]

    refused = machine.run("dispatcher", "uninstall-service", exits=1).stderr
    assert "still running or enabled: dispatcher-executor.service, dispatcher.service" in refused
    machine.systemctl("disable", "--now", *UNITS)
    machine.run("dispatcher", "uninstall-service")
    machine.systemctl("daemon-reload")
    assert [] == list(machine.path("/etc/systemd/system").rglob("dispatcher*"))
    assert machine.path("/var/lib/dispatcher/tasks.db").exists()
    assert machine.path(FILE).exists()


def test_a_reload_fails_on_a_mistaken_file_and_the_old_settings_stay(
    machine: Machine,
) -> None:
    serve(machine)
    configure(machine, "#slots = 4", "slots = 7")
    machine.systemctl("reload", "dispatcher")
    assert 7 == dispatcher(machine, "status", "--json")["node"]["slots"]

    configure(machine, "slots = 7", "slots = 'many'")
    machine.systemctl("reload", "dispatcher", exits=1)

    logged = machine.run("journalctl", "--unit=dispatcher", "--output=cat").stdout
    assert f"{FILE}:" in logged
    assert "node.slots: " in logged
    assert "active" == machine.systemctl("is-active", "dispatcher").strip()
    configure(machine, "slots = 'many'", "slots = 7")
    assert 7 == dispatcher(machine, "status", "--json")["node"]["slots"]


def test_a_directory_of_figures_that_is_missing_keeps_no_unit_down(machine: Machine) -> None:
    serve(machine)
    named = 'textfile = "/srv/figures/d.prom"'
    example = '#textfile = "/var/lib/node_exporter/dispatcher.prom"'
    configure(machine, example, named)
    machine.run("dispatcher", "install-service")
    machine.run("rmdir", "/srv/figures")
    machine.systemctl("daemon-reload")

    machine.systemctl("restart", *UNITS)

    def reported() -> None:
        shown = machine.run("dispatcher", "status", user="dispatcher").stdout
        assert "[metrics] textfile is not written: cannot write /srv/figures/d.prom" in shown

    eventually(reported, every=0.2)
    (advice,) = [
        line.rpartition("the daemon: ")[2]
        for line in machine.run(
            "dispatcher", "doctor", user="dispatcher", exits=1
        ).stdout.splitlines()
        if "/srv/figures" in line
    ]
    machine.run(*advice.split())
    machine.systemctl("restart", "dispatcher")
    eventually(lambda: machine.run("test", "-s", "/srv/figures/d.prom"), every=0.2)


def test_r61_at_a_shutdown_workers_are_answered_and_every_run_is_settled(
    machine: Machine,
) -> None:
    serve(machine)
    machine.path("/opt/speaks.py").write_text(SPEAKS_ON_SIGTERM)
    configure(machine, "#slots = 4", "slots = 4")
    machine.systemctl("reload", "dispatcher")
    speaks = dispatcher(machine, "submit", "--liveness=worker", "--", "python3", "/opt/speaks.py")
    sleeps = dispatcher(machine, "submit", "--", "sleep", "1000")

    def both_run() -> None:
        assert "up\n" == machine.run("dispatcher", "logs", str(speaks), user="dispatcher").stdout
        assert "running" == dispatcher(machine, "show", sleeps, "--json")["state"]

    eventually(both_run)

    machine.systemctl("disable", *UNITS)  # so that the next boot changes nothing
    machine.power_off()
    machine.boot()

    (spoke,), (slept,) = (
        dispatcher(machine, "show", task_id, "--json")["runs"] for task_id in (speaks, sleeps)
    )
    assert "up\nanswered\n" == spoke["output_tail"]
    assert spoke["outcome"] in {"succeeded", "released"}
    assert "released" == slept["outcome"]


def test_r70_the_journal_finds_the_log_lines_about_a_task_and_its_output(machine: Machine) -> None:
    serve(machine)
    path = machine.path(FILE)
    path.write_text(
        path.read_text() + '[profiles.greet]\ncommand = ["echo", "hi"]\noutput = "journal"\n'
    )
    machine.systemctl("reload", "dispatcher")
    task_id = dispatcher(machine, "submit", "--wait", "--profile=greet")
    dispatcher(machine, "submit", "--wait", "--", "true")

    def probe() -> None:
        of_it = journal(machine, f"DISPATCHER_TASK_ID={task_id}")
        events = {record.get("DISPATCHER_EVENT") for record in of_it}
        assert {"task.claimed", "run.settled", None} <= events  # None: its output
        assert {"dispatcher.service", "dispatcher-executor.service"} == {
            record["_SYSTEMD_UNIT"] for record in of_it
        }
        (wrote,) = journal(machine, f"SYSLOG_IDENTIFIER=dispatcher-task-{task_id}")
        assert ("hi", str(task_id)) == (wrote["MESSAGE"], wrote["DISPATCHER_TASK_ID"])

    eventually(probe, every=0.2)


def journal(machine: Machine, *matches: str) -> list[dict[str, str]]:
    """Return the records of a machine's journal that have these fields."""
    printed = machine.run("journalctl", "--output=json", *matches).stdout
    return [json.loads(line) for line in printed.splitlines()]


def expect_own_names(machine: Machine, instance: str) -> None:
    for program in ("dispatcher", "dispatcher-executor"):
        unit = f"_SYSTEMD_UNIT={program}@{instance}.service"
        names = {record["SYSLOG_IDENTIFIER"] for record in journal(machine, unit)}
        assert {f"{program}@{instance}"} == names


def test_instances_run_side_by_side_and_one_is_taken_back_alone(machine: Machine) -> None:
    for name in ("a", "b-1"):
        machine.run("dispatcher", "install-service", "--instance", name)
        file = f"/etc/dispatcher/{name}.toml"
        configure(machine, "allow_commands = false", "allow_commands = true", file)
        machine.systemctl("daemon-reload")
        machine.systemctl("enable", "--now", f"dispatcher-executor@{name}", f"dispatcher@{name}")
        own = f'test -d "$HOME" && test "$HOME" = /var/lib/dispatcher-{name}/home'
        dispatcher(machine, "--config", file, "submit", "--wait", "--", "sh", "-c", own)
        eventually(partial(expect_own_names, machine, name), every=0.2)

    machine.systemctl("disable", "--now", "dispatcher-executor@a", "dispatcher@a")
    machine.run("dispatcher", "uninstall-service", "--instance", "a")
    machine.systemctl("daemon-reload")

    assert "active" == machine.systemctl("is-active", "dispatcher@b-1").strip()
    file = "/etc/dispatcher/b-1.toml"
    dispatcher(machine, "--config", file, "submit", "--wait", "--", "true")


def test_a_users_service_goes_on_when_its_user_is_not_there(machine: Machine) -> None:
    """With lingering its manager starts at boot, and nobody logs in."""
    machine.run("useradd", "--create-home", "ada")
    # As a unit: logind wants to know of which one its caller is.
    machine.run("systemd-run", "--quiet", "--wait", "loginctl", "enable-linger", "ada")
    uid = machine.run("id", "--user", "ada").stdout.strip()
    own = {"HOME": "/home/ada", "XDG_RUNTIME_DIR": f"/run/user/{uid}"}

    def ada(*command: str, exits: int = 0) -> str:
        return machine.run(*command, user="ada", exits=exits, env=own).stdout

    eventually(lambda: ada("systemctl", "--user", "is-system-running", "--wait"))
    ada("dispatcher", "install-service", "--user")
    ada("systemctl", "--user", "daemon-reload")
    ada("systemctl", "--user", "enable", "--now", *UNITS)
    task_id = ada("dispatcher", "submit", "--wait", "--", "sh", "-c", "id -un").strip()
    assert "ada\n" == ada("dispatcher", "logs", task_id)

    without = {"HOME": "/home/ada"}  # as `runuser` leaves it
    words = ("dispatcher", "uninstall-service", "--user")
    refused = machine.run(*words, user="ada", exits=1, env=without).stderr
    assert "still running or enabled: dispatcher-executor.service, dispatcher.service" in refused

    path = machine.path("/home/ada/.config/dispatcher/dispatcher.toml")
    path.write_text(path.read_text().replace("#slots = 4", "slots = 0"))
    ada("systemctl", "--user", "reload", "dispatcher", exits=1)
    path.write_text(path.read_text().replace("slots = 0", "slots = 3"))
    ada("systemctl", "--user", "reload", "dispatcher")
    machine.power_off()
    machine.boot()

    eventually(lambda: ada("systemctl", "--user", "is-active", *UNITS))
    ada("dispatcher", "submit", "--wait", "--", "true")
