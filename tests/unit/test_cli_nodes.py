"""`nodes`, `node`, and the verbs that show labels, on the command line."""

from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.execution import KILL_GRACE_MS
from dispatcher.host.node import node_id
from dispatcher.model import Node
from dispatcher.times import StoreTime
from tests.command import Command
from tests.unit.test_nodes import HERE, THERE


def record(command: Command, *rows: Node, **changes: Any) -> None:
    """Let nodes have written their rows just now."""
    with command.client() as client, client.store.transaction() as now:
        for row in rows:
            client.store.record_node(replace(row, **{"seen_at": now, "session": "", **changes}))


@pytest.fixture
def two(command: Command) -> Command:
    record(command, HERE, labels={"gpu": "a100"}, release="1.2", listen="tls://web-1:7373")
    record(command, THERE)
    return command


def test_nodes_of_a_store_on_which_nothing_ran(command: Command) -> None:
    assert [] == command("nodes", "--json").json
    assert "no daemon has worked on this store yet" in command("nodes").stderr


def test_nodes_for_programs(two: Command) -> None:
    first, second = two("nodes", "--json").json

    seen_at = first.pop("seen_at")
    assert seen_at.endswith("Z")
    assert first == {
        "id": HERE.id,
        "hostname": "web-1",
        "name": "web-1",
        "here": False,
        "state": "up",
        "draining": None,
        "listen": "tls://web-1:7373",
        "slots": 2,
        "running": 0,
        "labels": {"gpu": "a100"},
        "release": "1.2",
    }
    assert "web-2" == second["hostname"]
    assert ["web-1", "web-2"] == [one["hostname"] for one in two("status", "--json").json["nodes"]]


def test_nodes_for_people(two: Command) -> None:
    two("node", "drain", "web-2", "--reason", "new kernel")

    heading, first, second = two("nodes").stdout.splitlines()

    assert ["HOST", "ID", "STATE", "RUNNING", "SLOTS", "SEEN"] == heading.split()[:6]
    assert ["web-1", HERE.id[:8], "up", "0", "2"] == first.split()[:5]
    assert ["1.2", "gpu=a100"] == first.split()[-2:]
    assert ["web-2", THERE.id[:8], "draining"] == second.split()[:3]
    assert second.endswith("new kernel")
    assert "nodes     1 up, 1 draining; dispatcher nodes lists them\n" in two("status").stdout


def test_a_node_is_drained_and_resumed(two: Command) -> None:
    assert "web-2 takes no more work; nothing runs there\n" == two("node", "drain", "web-2").stdout
    assert "drained by an operator" == two("nodes", "--json").json[1]["draining"]

    resumed = two("node", "resume", "web-2", "web-1", "--json").json

    assert [{"node": "web-2", "done": True}, {"node": "web-1", "done": False}] == resumed
    assert "web-1 was not draining\n" == two("node", "resume", "web-1").stdout


def test_a_node_that_is_gone_is_forgotten(command: Command) -> None:
    record(command, HERE)
    record(command, THERE, seen_at=1)

    assert "0a1b00 on web-2 is forgotten\n" == command("node", "forget", "0a1b00").stdout
    refused = command("node", "forget", "web-1", exits=1).stderr

    assert "web-1 was seen lately; stop its daemon" in refused
    assert ["web-1"] == [one["hostname"] for one in command("nodes", "--json").json]


def test_a_node_with_claims_is_not_forgotten(command: Command) -> None:
    command("submit", "--", "true")
    record(command, THERE, seen_at=1)
    with command.client() as client, client.store.transaction() as now:
        client.store.claim("default", limit=1, node=THERE.id, output_dir="/o", now=now)

    refused = command("node", "forget", "web-2", exits=1).stderr

    assert "web-2 holds the claims of a run; wait until they are over" in refused
    assert "dispatcher node forget --dead" in refused
    assert "a run goes on" in command("node", "drain", "web-2").stdout


def test_a_dead_node_is_forgotten_with_its_claims(command: Command) -> None:
    task = command("submit", "--", "true").id
    record(command, THERE)
    with command.client() as client, client.store.transaction() as now:
        client.store.claim("default", limit=1, node=THERE.id, output_dir="/o", now=now)

    refused = command("node", "forget", "--dead", "web-2", exits=1).stderr
    assert "web-2 was seen lately; stop its daemon" in refused
    assert "running" == command("show", task, "--json").json["state"]
    record(command, THERE, seen_at=1)

    assert "web-2 is forgotten\n" == command("node", "forget", "--dead", "web-2").stdout

    shown = command("show", task, "--json").json
    assert ["ready", "orphaned"] == [shown["state"], shown["runs"][0]["outcome"]]
    assert [] == command("nodes", "--json").json


def test_this_node_is_not_dead(command: Command) -> None:
    with command.client() as client:
        record(command, replace(HERE, id=node_id(client.config.state_dir)), seen_at=1)

    refused = command("node", "forget", "--dead", "web-1", exits=1).stderr

    assert "web-1 is this node, which is not dead" in refused


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("drain", "web-3"), 1, "no node 'web-3'; did you mean"),
        (("drain", "printer"), 1, "no node 'printer'; `dispatcher nodes` lists them"),
        (("drain", "0a1b"), 1, "'0a1b' may be any of web-1 (up), web-2 (up); give"),
        (("resume", "web-1", "--reason", "x"), 2, "--reason: resume has none; leave it out"),
        (("drain", "web-1", "--dead"), 2, "--dead: drain has none; leave it out"),
        (("drain", "web-1", "--reason", " "), 2, "--reason: is empty"),
        (("stop", "web-1"), 2, "'stop' is not one of 'drain', 'resume', 'forget'"),
        (("drain",), 2, "Missing argument 'NODE...'"),
    ],
)
def test_mistakes_about_nodes_name_the_remedy(
    two: Command, arguments: tuple[str, ...], code: int, text: str
) -> None:
    assert text in two("node", *arguments, exits=code).stderr


def test_a_task_that_requires_labels_is_submitted_shown_and_edited(command: Command) -> None:
    task = command("submit", "--require", "gpu=a100", "--require", "zone=b", "--", "true").id

    assert {"gpu": "a100", "zone": "b"} == command("show", task, "--json").json["requires"]
    assert "  requires   gpu=a100 zone=b\n" in command("show", task).stdout
    command("edit", task, "--require", "gpu=v100", "--unset-require", "zone")
    assert {"gpu": "v100"} == command("show", task, "--json").json["requires"]
    command("edit", task, "--unset-require", "gpu")
    assert {} == command("show", task, "--json").json["requires"]
    assert "  requires " not in command("show", task).stdout


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--require", "gpu"), "require: 'gpu' has no value; write gpu=VALUE"),
        (("--require", "a=b", "--require", "a=c"), "require: a is given twice; give it once"),
        (("--require", "a b=c"), "require: 'a b' is not a name"),
        (("--require", f"a={'x' * 256}"), "require a: 256 bytes are more than 255"),
    ],
)
def test_mistakes_about_labels_name_the_option(
    command: Command, words: tuple[str, ...], text: str
) -> None:
    assert text in command("submit", *words, "--", "true", exits=2).stderr


def test_lines_scripts_and_profiles_require_labels(command: Command) -> None:
    command.configure(
        '[profiles.train]\ncommand = ["true"]\nrequires = {gpu = "a100"}\n'
        '[queues.night]\nrequires = {zone = "b"}\n'
    )
    lines = b"""{"command": ["true"], "require": {"gpu": "v100"}}
    {"command": ["true"], "requires": ["gpu=t4"]}
    {"profile": "train"}
    {"profile": "train", "queue": "night", "require": {"disk": "ssd"}}
    """
    script = command.state_dir.parent / "train.sh"
    script.write_text("#!/bin/sh\n#DISPATCHER --require gpu=l4\ntrue\n")

    ids = [*command("submit", "--from", "-", stdin=lines).stdout.split()]
    ids.append(str(command("submit", "--script", str(script)).id))

    assert [
        {"gpu": "v100"},
        {"gpu": "t4"},
        {"gpu": "a100"},
        {"gpu": "a100", "zone": "b", "disk": "ssd"},
        {"gpu": "l4"},
    ] == [command("show", one, "--json").json["requires"] for one in ids]


def test_why_names_the_labels_that_each_node_lacks(two: Command) -> None:
    task = two("submit", "--require", "gpu=h100", "--", "true").id

    explained = two("why", task, "--json").json

    first, second = explained["obstacles"]
    assert ("labels_missing", "daemon_not_running") == (first["obstacle"], second["obstacle"])
    assert first["text"].endswith("web-1 has gpu=a100; web-2 has no gpu")
    (shown,) = two("list", "--json").json
    assert "labels_missing" == shown["obstacle"]


def test_a_task_that_runs_elsewhere_says_where(command: Command) -> None:
    task = command("submit", "--", "true").id
    record(command, THERE)
    with command.client() as client, client.store.transaction() as now:
        until = StoreTime(now + 30_000)
        client.store.claim("default", limit=1, node=THERE.id, output_dir="/o", until=until, now=now)
    with command.client() as client:
        takeover_at = client.calendar().iso(StoreTime(until + KILL_GRACE_MS))

    assert "on web-2" in command("list").stdout
    because = command("why", task, "--json").json["because"]
    assert [one for one in because if one.startswith("it is on web-2, which was last seen ")]
    assert not [one for one in because if "daemon" in one]

    record(command, THERE, seen_at=1)
    why = command("why", task).stdout
    assert f"another node takes it over at {takeover_at} (in " in why
    assert "unless web-2 confirms it\n" in why
    assert "its lease expires" not in why


def test_show_names_the_host_of_each_run_where_the_store_has_several_nodes(
    command: Command,
) -> None:
    task = command("submit", "--", "true").id
    record(command, THERE)
    with command.client() as client, client.store.transaction() as now:
        client.store.claim("default", limit=1, node=THERE.id, output_dir="/o", now=now)

    assert " HOST " not in command("show", task).stdout
    record(command, HERE)
    shown = [line.split() for line in command("show", task).stdout.splitlines()]
    heading = next(number for number, words in enumerate(shown) if words[:1] == ["RUN"])
    assert ["RUN", "ATTEMPT", "OUTCOME", "HOST"] == shown[heading][:4]
    assert ["1", "1", "running", "web-2"] == shown[heading + 1][:4]
    assert ["claim", "ready", "->", "running", "web-2"] == shown[-1][-5:]


def test_a_claim_by_hand_takes_what_its_host_may_run(command: Command) -> None:
    command.configure('labels = {gpu = "a100"}')
    first = command("submit", "--require", "gpu=h100", "--", "true").id
    second = command("submit", "--require", "gpu=a100", "--", "true").id

    assert second == command("claim", "--json").json["task_id"]
    command("claim", exits=1)
    assert first == command("claim", "--task", first, "--json").json["task_id"]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ('labels = {"a b" = "c"}', "node.labels: 'a b' is not a name"),
        ("labels = {gpu = 1}", "node.labels"),
        (f'labels = {{gpu = "{"x" * 256}"}}', "node.labels: gpu: 256 bytes are more than 255"),
        ("[queues.q]\nglobal_concurrency = 0", "queues.q.global_concurrency"),
        ('[queues.q]\nrequires = {"" = "x"}', "queues.q.requires: '' is not a name"),
    ],
)
def test_mistakes_of_the_file_name_the_key(command: Command, text: str, mistake: str) -> None:
    command.configure(text)

    assert mistake in command("check-config", exits=78).stderr


def test_nodes_that_share_a_hostname_are_told_apart(command: Command) -> None:
    record(command, HERE, replace(THERE, hostname="web-1"))

    lines = command("nodes").stdout.splitlines()[1:]
    assert ["web-1/0a1b0000", "web-1/0a1b2c3d"] == [line.split()[0] for line in lines]
    refused = command("node", "drain", "web-1", exits=1).stderr
    assert "may be any of web-1/0a1b0000 (up), web-1/0a1b2c3d (up)" in refused
    command("node", "drain", "web-1/0a1b2c3d", "--reason", "new kernel")
    assert ["up", "draining"] == [one["state"] for one in command("nodes", "--json").json]


def test_a_submit_says_that_no_node_has_a_label(two: Command) -> None:
    text = (
        "the task waits: it requires gpu=v100, and no node that takes work has that:"
        " web-1 has gpu=a100; web-2 has no gpu"
    )

    assert text in two("submit", "--require", "gpu=v100", "true").stderr
    assert "the task waits" not in two("submit", "--require", "gpu=a100", "true").stderr
    assert "the task waits" not in two("submit", "true").stderr
    assert "" == two("submit", "--require", "gpu=v100", "--json", "true").stderr


def test_a_submit_to_a_store_without_nodes_says_nothing_of_labels(command: Command) -> None:
    assert "the task waits" not in command("submit", "--require", "gpu=v100", "true").stderr
