"""The verbs under the headings of `--help`; each has a module of its name in `cli/verbs/`."""

from collections.abc import Mapping
from typing import NamedTuple


class Verb(NamedTuple):
    """What is known of a verb before its module is imported."""

    help: str
    changes: bool = False
    """Whether it may have changed something when its answer cannot be printed."""
    is_service: bool = False
    """Whether it runs until it is stopped."""


GROUPS: Mapping[str, Mapping[str, Verb]] = {
    "Tasks": {
        "submit": Verb("Submit a command as a task, or many from a file.", changes=True),
        "list": Verb("List tasks: what runs, needs you, waits, is over."),
        "show": Verb("Show a task with all its runs, and its events."),
        "why": Verb("Explain why a task is where it is, and what happens next."),
        "logs": Verb("Print what a task's run wrote."),
        "events": Verb("Print what happened, by whom and why."),
        "wait": Verb("Wait until tasks are done; fails unless all succeed."),
        "edit": Verb("Change tasks that do not run.", changes=True),
        "cancel": Verb("Cancel tasks; running ones are ended.", changes=True),
        "retry": Verb("Make failed, cancelled or held tasks ready again.", changes=True),
        "hold": Verb("Park tasks until they are released.", changes=True),
        "release": Verb("Make held tasks ready again.", changes=True),
        "inbox": Verb("List what waits for people: held tasks and their questions."),
        "answer": Verb("Answer a held task's question, and release the task.", changes=True),
    },
    "Queues": {
        "pause": Verb("Stop all claims from queues.", changes=True),
        "resume": Verb("Allow claims from paused queues again.", changes=True),
    },
    "Limits": {
        "limits": Verb("List the named limits: who holds them, and which are closed."),
        "limit": Verb("Close a named limit, or open it again.", changes=True),
    },
    "Schedules": {
        "schedules": Verb("List schedules; pause one, or let it go on.", changes=True),
    },
    "Nodes": {
        "nodes": Verb("List the nodes of the store, and what runs on each."),
        "node": Verb("Drain a node, let it take work again, or forget it.", changes=True),
    },
    "Being the worker": {
        "claim": Verb("Claim a task to work on it from a shell."),
        "heartbeat": Verb("Renew a claim's lease.", changes=True),
        "complete": Verb("Declare that a claimed task succeeded.", changes=True),
        "fail": Verb("Declare that a claimed task failed.", changes=True),
    },
    "The service": {
        "run": Verb("Run the daemon.", is_service=True),
        "executor": Verb("Run the executor (mode external; its own unit).", is_service=True),
        "stop": Verb("Stop the running daemon.", changes=True),
        "restart": Verb("Replace the running daemon.", changes=True, is_service=True),
        "reload": Verb("Make the running daemon read its configuration again."),
        "status": Verb("Show the state of daemon, executor and queues."),
        "metrics": Verb("Print figures for Prometheus."),
        "doctor": Verb("Look for faults of this host and its store."),
        "prune": Verb("Delete tasks that finished long ago.", changes=True),
        "migrate": Verb("Bring the database up to date.", changes=True),
        "backup": Verb("Copy the database while everything runs.", changes=True),
        "restore": Verb("Replace the database with a backup.", changes=True),
        "install-service": Verb("Install dispatcher as a service of systemd."),
        "uninstall-service": Verb("Remove what install-service wrote."),
    },
    "Configuration": {
        "check-config": Verb("Check the configuration and report every mistake."),
        "config": Verb("Print every key's value, and where it comes from."),
    },
    "More": {
        "demo": Verb("Watch the main job on real files, with a kill in the middle."),
        "completion": Verb("Print lines that make a shell complete verbs and names."),
    },
}

VERBS: Mapping[str, Verb] = {
    name: verb for verbs in GROUPS.values() for name, verb in verbs.items()
}
